//! Large texts in pieces, as the tokenizers crate takes some 240 bytes of memory a byte of text.

/// Texts above this are tokenized in pieces. Part of the key of token files, as it decides tokens.
pub(crate) const PIECE_BYTES: usize = 1 << 20;

/// A text in pieces of at most `most` bytes, which are to be 4 or more, to hold any character. Cut
/// behind a line, where tokens end in nearly every vocabulary, else behind a space, else behind a
/// character. A text that fits is one piece; an empty one is none.
pub(crate) fn pieces(text: &str, most: usize) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let window = &rest[..rest.floor_char_boundary(most)];
        let end = if window.len() == rest.len() {
            window.len()
        } else {
            window.rfind('\n').or_else(|| window.rfind(' ')).map_or(window.len(), |at| at + 1)
        };
        let (piece, behind) = rest.split_at(end);
        rest = behind;
        (!piece.is_empty()).then_some(piece)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(text: &str, most: usize) -> Vec<&str> {
        pieces(text, most).collect()
    }

    #[test]
    fn cuts_are_behind_lines_then_spaces_then_characters() {
        assert_eq!(all("one two\nthree four\nfive", 12), ["one two\n", "three four\n", "five"]);
        assert_eq!(all("one two three", 9), ["one two ", "three"]);
        assert_eq!(all("abcdefgh", 5), ["abcde", "fgh"]);
        assert_eq!(all("\u{1f600}\u{1f600}\u{e9}", 7), ["\u{1f600}", "\u{1f600}\u{e9}"]);
        assert_eq!(all("one two\n", 8), ["one two\n"]);
        assert!(all("", 8).is_empty());
    }

    #[test]
    fn pieces_are_the_text() {
        let text = "a line\nof some \u{65e5}\u{672c}\u{8a9e}words\n\n  and\u{1f600}more ".repeat(5);
        for most in 4..=text.len() + 1 {
            assert_eq!(all(&text, most).concat(), text, "{most}");
            assert!(all(&text, most).iter().all(|piece| piece.len() <= most), "{most}");
        }
    }
}
