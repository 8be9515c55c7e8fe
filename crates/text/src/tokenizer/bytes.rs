//! The bytes that tokens stand for, which need not be whole characters.

use super::Tokenizer;
use std::collections::HashMap;

impl Tokenizer {
    /// Bytes of every token, by id; none for an id without a token. Added tokens are their text.
    pub fn token_bytes(&self) -> Vec<Vec<u8>> {
        let decoder = serde_json::to_string(&self.inner.get_decoder()).unwrap_or_default();
        let byte_level = decoder.contains("\"ByteLevel\"");
        let letters = byte_of_letter();
        let added = self.inner.get_added_tokens_decoder();
        (0..self.vocab_size() as u32)
            .map(|id| {
                let token = self.id_to_token(id).unwrap_or_default();
                if added.contains_key(&id) {
                    return token.into_bytes();
                }
                if byte_level {
                    // A letter that stands for no byte spells itself.
                    return token
                        .chars()
                        .flat_map(|c| letters.get(&c).map_or_else(|| c.to_string().into_bytes(), |b| vec![*b]))
                        .collect();
                }
                // Of SentencePiece: a byte on its own, or a word with ▁ for the space before it.
                let byte = token.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>'));
                match byte.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
                    Some(byte) => vec![byte],
                    None => token.replace('▁', " ").into_bytes(),
                }
            })
            .collect()
    }
}

/// GPT-2's letters for bytes: printable ones of Latin-1 are themselves, the others count from U+0100.
fn byte_of_letter() -> HashMap<char, u8> {
    let printable = |byte: u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let mut next = 0x100;
    (0..=255u8)
        .filter_map(|byte| {
            let letter = if printable(byte) {
                u32::from(byte)
            } else {
                next += 1;
                next - 1
            };
            Some((char::from_u32(letter)?, byte))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_are_a_bijection_and_the_space_is_what_everybody_knows() {
        let letters = byte_of_letter();
        assert_eq!(letters.len(), 256);
        assert_eq!((letters[&'Ġ'], letters[&'Ċ'], letters[&'a'], letters[&'Ã']), (b' ', b'\n', b'a', 0xc3));
    }
}
