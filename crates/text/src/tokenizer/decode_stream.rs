//! Text out of tokens as they come.

use super::Tokenizer;

/// Tokens held back before what they spell is shown as it is. A character has at most four
/// bytes, so this many tokens that do not end with one are not UTF-8.
const MAX_HELD_TOKENS: usize = 16;
/// Tokens before the sequence among whose last ones a whole character is looked for.
const MAX_ANCHOR_TOKENS: usize = 16;

/// Turns a sequence of tokens into text piece by piece. A piece never ends inside a character: a
/// token that holds only the first bytes of one is kept until the rest has come. The pieces and
/// [`DecodeStream::finish`] together are the text that decoding everything at once gives.
#[derive(Debug, Clone)]
pub struct DecodeStream {
    tokenizer: Tokenizer,
    skip_special: bool,
    /// Whole characters shown before what is held. Decoding starts from them, because some
    /// decoders treat the first token of a text differently from the others.
    anchor: Vec<u32>,
    /// The tokens since then, not all shown.
    held: Vec<u32>,
    /// The part shown of the text of anchor and held together.
    shown: String,
}

impl DecodeStream {
    pub(super) fn new(tokenizer: Tokenizer, skip_special: bool) -> Self {
        Self { tokenizer, skip_special, anchor: Vec::new(), held: Vec::new(), shown: String::new() }
    }

    /// The last tokens of `before` that spell whole characters are the anchor. Where they spell none (special tokens,
    /// a character that only the sequence completes), the sequence is decoded as a text of its own.
    pub(super) fn after(tokenizer: Tokenizer, before: &[u32], skip_special: bool) -> Self {
        let found = (1..=before.len().min(MAX_ANCHOR_TOKENS)).find_map(|count| {
            let anchor = &before[before.len() - count..];
            let shown = tokenizer.decode(anchor, skip_special);
            (!shown.is_empty() && !shown.contains(char::REPLACEMENT_CHARACTER)).then(|| (anchor.to_vec(), shown))
        });
        let (anchor, shown) = found.unwrap_or_default();
        Self { tokenizer, skip_special, anchor, held: Vec::new(), shown }
    }

    /// Takes one token, gives the text it completes, often none.
    pub fn push(&mut self, id: u32) -> String {
        if self.skip_special && self.tokenizer.is_special(id) {
            return String::new();
        }
        self.held.push(id);
        let text = self.text();
        let whole = text.trim_end_matches(char::REPLACEMENT_CHARACTER);
        let forced = self.held.len() >= MAX_HELD_TOKENS;
        if whole.len() < text.len() && !forced {
            let piece = unshown(whole, &self.shown);
            if whole.len() > self.shown.len() {
                self.shown = whole.to_owned();
            }
            return piece;
        }
        let piece = unshown(&text, &self.shown);
        let alone = self.tokenizer.decode(&self.held, self.skip_special);
        if !alone.is_empty() && whole.len() == text.len() {
            self.anchor = std::mem::take(&mut self.held);
            self.shown = alone;
        } else if forced {
            self.held.clear();
            self.shown = self.text();
        } else {
            // A space that is only shown when something follows it.
            self.shown = text;
        }
        piece
    }

    fn text(&self) -> String {
        let window: Vec<u32> = self.anchor.iter().chain(&self.held).copied().collect();
        self.tokenizer.decode(&window, self.skip_special)
    }

    /// The end of the sequence: what was held back, with U+FFFD for an unfinished character.
    pub fn finish(&mut self) -> String {
        let piece = unshown(&self.text(), &self.shown);
        self.anchor.clear();
        self.held.clear();
        self.shown.clear();
        piece
    }
}

/// What `text` has beyond `shown`. Where a decoder changed its mind about bytes already shown
/// (only possible for sequences that are not UTF-8), nothing is taken back.
fn unshown(text: &str, shown: &str) -> String {
    text.get(shown.len()..).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::super::{GgufVocab, Tokenizer, tests::bytes_vocab};
    use proptest::prelude::*;

    fn stream(tokenizer: &Tokenizer, ids: &[u32], skip: bool) -> Vec<String> {
        let mut stream = tokenizer.decode_stream(skip);
        let mut pieces: Vec<String> = ids.iter().map(|id| stream.push(*id)).collect();
        pieces.push(stream.finish());
        pieces
    }

    #[test]
    fn characters_come_whole() {
        let tokenizer = Tokenizer::from_gguf(bytes_vocab()).unwrap();
        let text = "a\u{e9}\u{1f600}b";
        let pieces = stream(&tokenizer, &tokenizer.encode(text, false).unwrap(), true);
        assert_eq!(pieces, ["a", "", "\u{e9}", "", "", "", "\u{1f600}", "b", ""]);
    }

    #[test]
    fn an_unfinished_character_ends_as_a_replacement() {
        let tokenizer = Tokenizer::from_gguf(bytes_vocab()).unwrap();
        let ids = tokenizer.encode("a\u{1f600}", false).unwrap();
        assert_eq!(stream(&tokenizer, &ids[..3], true), ["a", "", "", "\u{fffd}"]);
    }

    #[test]
    fn special_tokens_are_shown_or_skipped() {
        let tokenizer = Tokenizer::from_gguf(bytes_vocab()).unwrap();
        let ids = tokenizer.encode("a<|im_end|>b", false).unwrap();
        assert_eq!(stream(&tokenizer, &ids, true).concat(), "ab");
        assert_eq!(stream(&tokenizer, &ids, false).concat(), "a<|im_end|>b");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn pieces_of_any_text_add_up(text in "\\PC{0,40}") {
            let tokenizer = Tokenizer::from_gguf(bytes_vocab()).unwrap();
            let ids = tokenizer.encode(&text, false).unwrap();
            prop_assert_eq!(stream(&tokenizer, &ids, false).concat(), text);
        }

        #[test]
        fn pieces_of_any_tokens_add_up(ids in prop::collection::vec(0u32..300, 0..200)) {
            let tokenizer = Tokenizer::from_gguf(bytes_vocab()).unwrap();
            prop_assert_eq!(stream(&tokenizer, &ids, true).concat(), tokenizer.decode(&ids, true));
        }
    }

    #[test]
    fn characters_of_byte_tokens_follow_each_other() {
        let mut tokens: Vec<String> = (0..=255u8).map(|byte| format!("<0x{byte:02X}>")).collect();
        tokens.push("\u{2581}".into());
        let tokenizer = Tokenizer::from_gguf(GgufVocab {
            model: "llama".into(),
            scores: Some(vec![0.0; tokens.len()]),
            tokens,
            add_bos: Some(false),
            ..GgufVocab::default()
        })
        .unwrap();
        let text = "\u{e9}\u{e9}\u{65e5}\u{672c} \u{1f600}".repeat(20);
        let ids = tokenizer.encode(&text, false).unwrap();
        let mut stream_of_pieces = stream(&tokenizer, &ids, true);
        assert_eq!(stream_of_pieces.concat(), text);
        stream_of_pieces.retain(|piece| !piece.is_empty());
        assert_eq!(stream_of_pieces.len(), text.chars().count(), "each character as soon as it is whole");
    }

    #[test]
    fn sentence_piece_keeps_the_spaces_between_words() {
        let tokens: Vec<String> = ["<unk>", "\u{2581}a", "\u{2581}b", "c"].map(String::from).to_vec();
        let tokenizer = Tokenizer::from_gguf(GgufVocab {
            model: "llama".into(),
            scores: Some(vec![0.0; 4]),
            tokens,
            unknown: Some(0),
            ..GgufVocab::default()
        })
        .unwrap();
        assert_eq!(stream(&tokenizer, &[1, 2, 3, 2], true), ["a", " b", "c", " b", ""]);
        // Behind a text the first word keeps its blank too, and nothing of the text is shown again.
        for before in [&[1][..], &[1, 3], &[2, 2, 1, 3, 3]] {
            let mut behind = tokenizer.decode_stream_after(before, true);
            assert_eq!([behind.push(2), behind.push(3), behind.push(1), behind.finish()], [" b", "c", " a", ""], "{before:?}");
        }
        let mut behind = tokenizer.decode_stream_after(&[1], true);
        assert_eq!([behind.push(3), behind.push(2)], ["c", " b"]);
        assert_eq!(tokenizer.decode_stream_after(&[1], true).finish(), "");
        assert_eq!(tokenizer.decode_stream_after(&[], true).push(1), "a");
    }

    #[test]
    fn a_character_that_the_text_before_left_open_is_lost_to_both() {
        let tokenizer = Tokenizer::from_gguf(bytes_vocab()).unwrap();
        let ids = tokenizer.encode("a\u{e9}b", false).unwrap();
        let behind = |at: usize| {
            let mut stream = tokenizer.decode_stream_after(&ids[..at], true);
            let mut text: String = ids[at..].iter().map(|id| stream.push(*id)).collect();
            text.push_str(&stream.finish());
            text
        };
        assert_eq!([behind(1), behind(2), behind(3)], ["\u{e9}b", "\u{fffd}b", "b"]);
    }
}
