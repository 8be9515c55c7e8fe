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

/// Whether a token's bytes begin within a character, and how many characters begin in them.
pub(crate) fn characters(bytes: &[u8]) -> (bool, usize) {
    let begins = |byte: &u8| byte & 0xc0 != 0x80;
    (bytes.first().is_some_and(|byte| !begins(byte)), bytes.iter().filter(|byte| begins(byte)).count())
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
        assert_eq!(characters("a😀".as_bytes()), (false, 2));
        assert_eq!(characters(&[0xf0, 0x9f]), (false, 1));
        assert_eq!(characters(&[0x98, 0x80, b'b']), (true, 1));
        assert_eq!(characters(&[]), (false, 0));
    }
}
