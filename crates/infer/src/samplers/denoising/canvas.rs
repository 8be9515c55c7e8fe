//! What there is to fill: fixed text anywhere, holes anywhere.

use super::denoiser::Shape;
use super::settings::{Denoising, Keep};
use crate::error::InferError;

/// The most positions of a text, prompt included: a longer one is refused, and not laid out.
pub const POSITIONS: usize = 1 << 20;

/// A text with holes; none is a position to fill.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Canvas {
    positions: Vec<Option<u32>>,
}

impl Canvas {
    /// A prompt and so many positions behind it.
    pub fn after(prompt: &[u32], holes: usize) -> Self {
        let mut canvas = Self::default();
        canvas.text(prompt);
        canvas.holes(holes);
        canvas
    }

    /// Adds fixed text.
    pub fn text(&mut self, tokens: &[u32]) {
        self.positions.extend(tokens.iter().copied().map(Some));
    }

    /// Adds positions to fill. One more than [`POSITIONS`] in all are as good as any number of them: [`Canvas::check`]
    /// refuses both.
    pub fn holes(&mut self, count: usize) {
        let room = (POSITIONS + 1).saturating_sub(self.positions.len());
        self.positions.extend(std::iter::repeat_n(None, count.min(room)));
    }

    /// Every position.
    pub fn positions(&self) -> &[Option<u32>] {
        &self.positions
    }

    /// The text before the first hole.
    pub fn prompt(&self) -> usize {
        self.positions.iter().position(Option::is_none).unwrap_or(self.positions.len())
    }

    /// Checks it against a model and the settings.
    ///
    /// # Errors
    /// When it is longer than [`POSITIONS`], holds the mask token or an id outside the vocabulary, when the mask
    /// token itself is outside, the block is longer than what there is to fill, the settings need masks and the
    /// model knows none, or they are of models of whole sequences and it has blocks.
    pub fn check(&self, shape: &Shape, settings: &Denoising) -> Result<(), InferError> {
        let refuse = |name, expected: String, found: String| Err(InferError::Setting { name, expected, found });
        let unfit = |what, expected: String, found: String| Err(InferError::Canvas { what, expected, found });
        settings.check()?;
        if shape.uniform && settings.guidance != 0.0 {
            let expected = "0 (off) of a model of uniform noise, which knows no mask to hide the prompt behind";
            return refuse("guidance", expected.into(), settings.guidance.to_string());
        }
        if shape.uniform && settings.remasks() {
            let expected = "none of a model of uniform noise, any token of which may change in any step";
            return refuse("remasking", expected.into(), "one that masks tokens again".into());
        }
        if shape.uniform && settings.editing.is_some_and(|editing| editing.passes == 0) {
            let expected = "at least 1 of a model of uniform noise, which mends behind its last step and not before";
            return refuse("editing passes", expected.into(), "0".into());
        }
        if shape.block.is_some() && settings.keep != Keep::Nothing {
            let expected = "nothing of a model with blocks, which goes on from the state of what stands before its block; \
                leave it out";
            return refuse("keep", expected.into(), format!("{:?}", settings.keep).to_lowercase());
        }
        if let (Some(_), Some(ahead)) = (shape.block, settings.ahead) {
            let expected = "none of a model with blocks, which sees nothing behind its block; leave it out";
            return refuse("ahead", expected.into(), ahead.to_string());
        }
        if self.positions.len() > POSITIONS {
            let expected = format!("at most {POSITIONS} positions, prompt included; write fewer tokens");
            return unfit("text", expected, "more".into());
        }
        let (mask, vocabulary) = (shape.mask_token, shape.vocabulary);
        if mask as usize >= vocabulary {
            let expected = format!(
                "an id below the model's {vocabulary} tokens; set the mask token in its config.json, or add a row for it"
            );
            return unfit("mask token", expected, mask.to_string());
        }
        for (at, token) in self.positions.iter().enumerate().filter_map(|(at, token)| Some((at, (*token)?))) {
            if token as usize >= vocabulary {
                return unfit("prompt", format!("tokens below {vocabulary}"), format!("{token} at position {at}"));
            }
            if token == mask {
                let expected = format!("no mask token ({mask}), which stands for what is to be written; leave it out");
                return unfit("prompt", expected, format!("one at position {at}"));
            }
        }
        let holes = self.positions.iter().filter(|p| p.is_none()).count();
        let Some(block) = settings.block else { return Ok(()) };
        // A hole more than the text has cannot be settled together with the others.
        let most = self.positions.len() - self.prompt();
        if holes > 0 && block > most {
            return refuse(
                "block",
                format!("at most the {most} positions that are written; give a smaller block or write more tokens"),
                block.to_string(),
            );
        }
        if let Some(trained) = shape.block.filter(|trained| block > *trained) {
            return refuse(
                "block",
                format!("at most {trained}, the positions that the model denoises together"),
                block.to_string(),
            );
        }
        Ok(())
    }
}
