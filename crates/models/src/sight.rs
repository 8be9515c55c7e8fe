//! What a position sees of the others, which the objective decides and not the mixer.

/// What a position sees. Softmax attention obeys to the letter; a recurrence cannot look ahead token
/// by token, and says in [`Sight::Whole`] what it does instead.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sight {
    /// Itself and what came before: next-token models.
    #[default]
    Causal,
    /// All that is there: the whole sequence, or a block and all that its state holds. A recurrence
    /// runs over the tokens and lets every position read the state after the last one (block-end
    /// readout).
    Whole,
    /// Its own block of so many tokens, later ones included, and those before: the clean tokens of
    /// block diffusion (arXiv 2503.09573). Blocks are counted from position 0. A recurrence stays
    /// causal: what it hands to the next block is the same.
    Blocks(usize),
}
