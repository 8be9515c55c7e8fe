//! Tokens as log-probabilities show them: their text, their bytes, their place.

use recast_text::Tokenizer;

/// The bytes that a token stands for. Tokens may hold parts of characters, so their text alone does
/// not tell one from another.
pub(crate) fn bytes(tokenizer: &Tokenizer, token: u32) -> Vec<u8> {
    let text = tokenizer.decode(&[token], false);
    let spelling = tokenizer.id_to_token(token).unwrap_or_default();
    if text.contains('\u{fffd}') {
        return raw(&spelling).unwrap_or_else(|| text.into_bytes());
    }
    // SentencePiece's decoder takes the blank from the first word of a text.
    if spelling.starts_with('▁') && !text.starts_with(' ') {
        return format!(" {text}").into_bytes();
    }
    text.into_bytes()
}

/// A token's text; one that is no whole UTF-8 is spelled as OpenAI does, `bytes:\xe2\x82`.
pub(crate) fn text(bytes: &[u8]) -> String {
    std::str::from_utf8(bytes)
        .map_or_else(|_| bytes.iter().fold("bytes:".to_owned(), |text, byte| format!("{text}\\x{byte:02x}")), ToOwned::to_owned)
}

/// Bytes of a character that the tokens so far have begun and not ended.
#[derive(Clone, Debug, Default)]
pub(crate) struct Begun(Vec<u8>);

impl Begun {
    /// Goes past a token's bytes: whether they begin within that character, and how many characters begin in them,
    /// every U+FFFD counted that a decoder writes for bytes which are none.
    pub fn pass(&mut self, bytes: &[u8]) -> (bool, usize) {
        let may_go_on = |bytes: &[u8]| std::str::from_utf8(bytes).map_or_else(|error| error.error_len().is_none(), |_| true);
        let open = usize::from(!self.0.is_empty());
        let within = open > 0 && bytes.first().is_some_and(|&byte| may_go_on(&[&self.0[..], &[byte]].concat()));
        let all = [&self.0[..], bytes].concat();
        let rest = all.utf8_chunks().last().map(|chunk| chunk.invalid()).filter(|rest| may_go_on(rest));
        self.0 = rest.unwrap_or_default().to_vec();
        (within, String::from_utf8_lossy(&all).chars().count() - open)
    }
}

/// Bytes by their spelling: `<0xE2>`, or GPT-2's letters for bytes.
fn raw(spelling: &str) -> Option<Vec<u8>> {
    let hex = spelling.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>'));
    if let Some(byte) = hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
        return Some(vec![byte]);
    }
    spelling.chars().map(letter_byte).collect()
}

/// GPT-2 shows printable bytes as themselves and the 68 others, in order, from U+0100 on.
fn letter_byte(letter: char) -> Option<u8> {
    let printable = |byte: &u8| matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    let code = u32::from(letter);
    match u8::try_from(code) {
        Ok(byte) => printable(&byte).then_some(byte),
        Err(_) => (0..=u8::MAX).filter(|byte| !printable(byte)).nth(code as usize - 0x100),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_are_bytes() {
        assert_eq!(raw("Ã©"), Some(vec![0xc3, 0xa9]));
        assert_eq!(raw("Ġ"), Some(vec![b' ']));
        assert_eq!(raw("Ċ"), Some(vec![b'\n']));
        assert_eq!(raw("<0xE2>"), Some(vec![0xe2]));
        assert_eq!(raw("€"), None);
        assert_eq!(text(&[0xe2, 0x82]), "bytes:\\xe2\\x82");
        assert_eq!(text("é".as_bytes()), "é");
    }

    #[test]
    fn characters_are_counted_as_decoders_write_them() {
        let passed = |tokens: &[&[u8]]| {
            let mut begun = Begun::default();
            tokens.iter().map(|bytes| begun.pass(bytes)).collect::<Vec<_>>()
        };
        assert_eq!(passed(&["a😀".as_bytes(), b""]), [(false, 2), (false, 0)]);
        assert_eq!(passed(&[&[b'a', 0xf0, 0x9f], &[0x98, 0x80, b'b']]), [(false, 2), (true, 1)]);
        // Bytes that begin nothing, and a character that is not ended.
        assert_eq!(passed(&[&[0x98, 0x80], b"b"]), [(false, 2), (false, 1)]);
        assert_eq!(
            passed(&[&[0xc3], b"b", &[0xc3], &[0xc3], &[0xa9]]),
            [(false, 1), (false, 1), (false, 1), (false, 1), (true, 0)]
        );
    }
}
