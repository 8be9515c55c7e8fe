//! llama.cpp's tensor names and layouts to those of Hugging Face.

use super::header::Header;
use crate::weights::WeightsError;
use crate::weights::mapped::MappedFile;

/// An architecture that is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Architecture {
    /// Llama, SmolLM2, Mistral.
    Llama,
    /// Qwen 2 and 2.5.
    Qwen2,
    /// Qwen 3.
    Qwen3,
}

impl Architecture {
    /// What `general.architecture` says, if it is read here.
    pub(super) fn of(file: &MappedFile, header: &Header) -> Result<Self, WeightsError> {
        let name = header
            .string(file, "general.architecture")?
            .ok_or_else(|| file.malformed("no general.architecture in the metadata"))?;
        let unsupported = |what: String, advice| WeightsError::Unsupported { path: file.path.clone(), what, advice };
        let this = match name.as_str() {
            "llama" => Self::Llama,
            "qwen2" => Self::Qwen2,
            "qwen3" => Self::Qwen3,
            _ => {
                return Err(unsupported(
                    format!("GGUF architecture \"{name}\""),
                    "llama, qwen2 and qwen3 are read; other models as safetensors",
                ));
            }
        };
        // Mixtral calls itself llama and has another feed-forward.
        if header.unsigned(file, &format!("{name}.expert_count"))?.unwrap_or(0) > 0 {
            return Err(unsupported("a mixture of experts".into(), "dense models are read"));
        }
        Ok(this)
    }

    /// The prefix of its metadata keys, and the `model_type` of its config.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Llama => "llama",
            Self::Qwen2 => "qwen2",
            Self::Qwen3 => "qwen3",
        }
    }

    /// The class its config names.
    pub(super) fn class(self) -> &'static str {
        match self {
            Self::Llama => "LlamaForCausalLM",
            Self::Qwen2 => "Qwen2ForCausalLM",
            Self::Qwen3 => "Qwen3ForCausalLM",
        }
    }
}

/// The GGUF tensor with llama 3's frequency factors, which belongs into the config.
pub(super) const ROPE_FACTORS: &str = "rope_freqs.weight";

/// The Hugging Face name of a GGUF tensor; its own name if it has none. `None` for tensors that
/// are no weights: llama 3's frequency factors and tables of rotary embeddings.
pub(super) fn hugging_face_name(gguf: &str) -> Option<String> {
    let top = match gguf {
        "token_embd.weight" => "model.embed_tokens.weight",
        "output_norm.weight" => "model.norm.weight",
        "output.weight" => "lm_head.weight",
        ROPE_FACTORS => return None,
        _ => "",
    };
    if !top.is_empty() {
        return Some(top.to_owned());
    }
    let in_block = || {
        let (layer, rest) = gguf.strip_prefix("blk.")?.split_once('.')?;
        // Digits only: "blk.+1." would parse as a number and meet layer 1's names.
        if layer.is_empty() || !layer.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        let (part, suffix) = rest.rsplit_once('.')?;
        let part = match part {
            "attn_norm" => "input_layernorm",
            "attn_q" => "self_attn.q_proj",
            "attn_k" => "self_attn.k_proj",
            "attn_v" => "self_attn.v_proj",
            "attn_output" => "self_attn.o_proj",
            "attn_q_norm" => "self_attn.q_norm",
            "attn_k_norm" => "self_attn.k_norm",
            "ffn_norm" => "post_attention_layernorm",
            "ffn_gate" => "mlp.gate_proj",
            "ffn_up" => "mlp.up_proj",
            "ffn_down" => "mlp.down_proj",
            _ => return None,
        };
        matches!(suffix, "weight" | "bias").then(|| format!("model.layers.{layer}.{part}.{suffix}"))
    };
    if gguf.ends_with(".attn_rot_embd") || gguf.ends_with(".attn_rot_embd.weight") {
        return None;
    }
    Some(in_block().unwrap_or_else(|| gguf.to_owned()))
}

/// Whether llama.cpp has interleaved the rows of this tensor (Hugging Face name), and if so by how
/// many heads.
pub(super) fn interleaved_heads(architecture: Architecture, name: &str, heads: usize, kv_heads: usize) -> Option<usize> {
    if architecture != Architecture::Llama {
        return None;
    }
    let stem = name.strip_suffix(".weight").or_else(|| name.strip_suffix(".bias"))?;
    if stem.ends_with("self_attn.q_proj") {
        Some(heads)
    } else if stem.ends_with("self_attn.k_proj") {
        Some(kv_heads)
    } else {
        None
    }
}

/// Undoes the interleaving of rotary pairs that llama.cpp applies to the query and key rows of
/// Llama: within a head of D rows, its row 2 j + s is the model's row s D/2 + j. `values` has
/// `heads` times D rows of `width` elements.
///
/// The caller has checked that the rows divide by twice the heads.
pub(super) fn undo_interleave<T: Copy>(values: &[T], heads: usize, width: usize) -> Vec<T> {
    let head = values.len() / heads;
    let half = head / width / 2;
    let mut out = Vec::with_capacity(values.len());
    for values in values.chunks_exact(head.max(1)) {
        for s in 0..2 {
            for j in 0..half {
                let row = (2 * j + s) * width;
                out.extend_from_slice(&values[row..row + width]);
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_blocks_and_of_the_top() {
        let name = |gguf| hugging_face_name(gguf).expect("a weight");
        assert_eq!(name("token_embd.weight"), "model.embed_tokens.weight");
        assert_eq!(name("blk.12.attn_q.bias"), "model.layers.12.self_attn.q_proj.bias");
        assert_eq!(name("blk.0.attn_k_norm.weight"), "model.layers.0.self_attn.k_norm.weight");
        assert_eq!(name("blk.3.ffn_down.weight"), "model.layers.3.mlp.down_proj.weight");
        assert_eq!(name("blk.+3.ffn_down.weight"), "blk.+3.ffn_down.weight");
        assert_eq!(name("blk.3.ffn_gate_exps.weight"), "blk.3.ffn_gate_exps.weight");
        assert_eq!(hugging_face_name(ROPE_FACTORS), None);
    }

    #[test]
    fn interleaved_rows_go_back() {
        // Two heads of four rows, two elements wide; the model's row r holds r.
        let stored: Vec<f32> = [0, 2, 1, 3, 4, 6, 5, 7].iter().flat_map(|&r| [r as f32, r as f32 + 0.5]).collect();
        let model: Vec<f32> = (0..8).flat_map(|r| [r as f32, r as f32 + 0.5]).collect();
        assert_eq!(undo_interleave(&stored, 2, 2), model);
    }
}
