//! Fingerprints of what a recipe only names: whether a run that goes on finds the same model and text.

use recast_models::Model;
use recast_text::TokenStream;
use recast_text::files::hex;
use sha2::{Digest, Sha256};

/// A hash of a model's config and of its values, of some from all over each tensor.
pub fn of_model(model: &Model) -> String {
    const VALUES: usize = 64;
    let mut hash = Sha256::new();
    hash.update(model.fingerprint());
    for (name, param) in model.parameters() {
        let values = param.read();
        hash.update(&name);
        let step = values.len().div_ceil(VALUES).max(1);
        values.iter().step_by(step).for_each(|x| hash.update(x.to_le_bytes()));
    }
    hex(&hash.finalize())
}

/// A hash of the text's lengths and of tokens from all over it.
pub fn of_text(streams: &[&TokenStream]) -> String {
    const PLACES: usize = 1024;
    const TOKENS: usize = 64;
    let mut hash = Sha256::new();
    for stream in streams {
        for count in [stream.len(), stream.document_starts().len()] {
            hash.update((count as u64).to_le_bytes());
        }
        let mut tokens = vec![0; TOKENS.min(stream.len())];
        for place in 0..PLACES {
            let start = (stream.len() - tokens.len()) as u128 * place as u128 / (PLACES - 1) as u128;
            stream.read(start as usize, &mut tokens);
            tokens.iter().for_each(|token| hash.update(token.to_le_bytes()));
        }
    }
    hex(&hash.finalize())
}
