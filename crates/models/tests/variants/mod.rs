//! Options to try of each mixer of this crate.

use serde_json::{Value, json};

/// The variants of a mixer, the default first. A mixer without an entry is tried with its defaults.
pub fn of(name: &str) -> Vec<Value> {
    let mut list = match name {
        "softmax" => vec![
            json!({}),
            json!({"window": 5}),
            json!({"window": 1}),
            json!({"window": 3, "no_rope": true}),
            json!({"no_rope": true}),
        ],
        "rwkv6" => vec![
            json!({}),
            json!({"balance_state": false}),
            json!({"group_norm": true}),
            json!({"gate": 0}),
            json!({"gate": 2}),
            json!({"token_shift": false}),
            json!({"rope": true}),
            json!({"balance_state": false, "group_norm": true, "gate": 2, "rope": true}),
        ],
        "rwkv7" => vec![
            json!({}),
            json!({"balance_state": false}),
            json!({"group_norm": true}),
            json!({"gate": 0}),
            json!({"gate": 1}),
            json!({"rope": false}),
            json!({"value_residual": false}),
            json!({"balance_state": false, "group_norm": true, "gate": 1, "value_residual_start": -4.0}),
        ],
        "gated_deltanet" => vec![json!({}), json!({"rope": false}), json!({"negative_eigenvalues": true})],
        _ => vec![json!({})],
    };
    list.iter_mut().for_each(|options| small(name, options));
    list
}

/// Small ranks, so that finite differences and files stay small.
fn small(name: &str, options: &mut Value) {
    let ranks: &[(&str, usize)] = match name {
        "rwkv6" => &[("rank_token_shift", 3), ("rank_decay", 5), ("rank_gate", 4)],
        "rwkv7" => &[("rank_decay", 5), ("rank_iclr", 3), ("rank_value_residual", 4), ("rank_gate", 6)],
        _ => &[],
    };
    for &(key, rank) in ranks {
        options[key] = rank.into();
    }
}
