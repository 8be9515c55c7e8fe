//! What `docs/adding-a-mixer.md` says: its code is the code that is compiled, and Gated DeltaNet computes its
//! equations. A mixer from another crate is in `examples/retention`.

use recast_conformance::{Body, Subject, assert_close, random};
use recast_models::mixers::{Call, Shared};
use recast_models::sight::Sight;
use recast_models::{MixerSpec, param};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Gated DeltaNet against its equations, token by token in f64 and in the order in which the paper
/// writes them: decay, read, overwrite.
#[test]
fn gated_deltanet_computes_its_equations() {
    for largest in [1.0, 2.0] {
        let spec = MixerSpec::new("gated_deltanet").with("rope", false).with("negative_eigenvalues", largest > 1.0);
        let (mixer, layer) = Subject::new("equations", &[spec], Body::Plain).mixer(0);
        const TOKENS: usize = 40;
        let (c, h, n) = (layer.hidden, layer.heads, layer.head_size);
        let x = random([1, TOKENS, c], "x");
        let mut shared = Shared::default();
        let y = mixer.forward(Call {
            x: x.clone(),
            states: None,
            shared: &mut shared,
            positions: &[],
            documents: None,
            sight: Sight::Causal,
            lengths: None,
        });
        let y = param::values(y);

        let params: HashMap<String, Vec<f64>> =
            mixer.parameters().into_iter().map(|(name, p)| (name, p.read().into_iter().map(f64::from).collect())).collect();
        let product = |name: &str, x: &[f64]| -> Vec<f64> { params[name].chunks(x.len()).map(|row| dot(row, x)).collect() };
        let unit = |x: &[f64]| -> Vec<f64> { x.iter().map(|v| v / dot(x, x).sqrt()).collect() };
        let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
        let x: Vec<f64> = param::values(x).into_iter().map(f64::from).collect();
        let mut states = vec![vec![vec![0.0; n]; n]; h];
        for (t, x) in x.chunks(c).enumerate() {
            let [q, k, v, step, write, gate] =
                ["q_proj", "k_proj", "v_proj", "a_proj", "b_proj", "g_proj"].map(|name| product(&format!("{name}.weight"), x));
            let mut gated = Vec::new();
            for (head, state) in states.iter_mut().enumerate() {
                let part = |x: &[f64], head: usize| x[head * n..(head + 1) * n].to_vec();
                let group = head / (h / layer.kv_heads);
                let (q, k, v) = (unit(&part(&q, head)), unit(&part(&k, group)), part(&v, group));
                let softplus = (step[head] + params["dt_bias"][head]).exp().ln_1p();
                let alpha = (-params["A_log"][head].exp() * softplus).exp();
                let beta = largest * sigmoid(write[head]);
                state.iter_mut().flatten().for_each(|s| *s *= alpha);
                let read = |key: &[f64], state: &[Vec<f64>]| -> Vec<f64> {
                    (0..n).map(|column| (0..n).map(|row| key[row] * state[row][column]).sum()).collect()
                };
                let old = read(&k, state);
                for row in 0..n {
                    for column in 0..n {
                        state[row][column] += k[row] * beta * (v[column] - old[column]);
                    }
                }
                let o: Vec<f64> = read(&q, state).into_iter().map(|o| o / (n as f64).sqrt()).collect();
                let size = (dot(&o, &o) / n as f64 + layer.norm_epsilon).sqrt();
                let weight = &params["o_norm.weight"];
                gated.extend((0..n).map(|i| o[i] / size * weight[i] * sigmoid(gate[head * n + i])));
            }
            let expected: Vec<f32> = product("o_proj.weight", &gated).into_iter().map(|y| y as f32).collect();
            assert_close(&y[t * c..(t + 1) * c], &expected, 1e-5, "Gated DeltaNet", &format!("token {t}"));
        }
    }
}

fn dot(x: &[f64], y: &[f64]) -> f64 {
    x.iter().zip(y).map(|(x, y)| x * y).sum()
}

/// The document's code blocks, each under a comment that names its file.
fn code_blocks(document: &str) -> Vec<(String, String)> {
    let mut blocks = Vec::new();
    let mut lines = document.lines().peekable();
    while let Some(line) = lines.next() {
        let Some(file) = line.strip_prefix("<!-- ").and_then(|l| l.strip_suffix(" -->")) else {
            assert!(!line.starts_with("```rust"), "a block of Rust without a comment that names its file");
            continue;
        };
        assert_eq!(lines.next(), Some("```rust"), "{file}: a block of Rust follows the comment");
        let code: Vec<&str> = lines.by_ref().take_while(|l| *l != "```").collect();
        blocks.push((file.to_string(), code.join("\n")));
    }
    blocks
}

#[test]
fn the_document_is_the_code() {
    const WHOLE: &str = "crates/models/src/mixers/gated_deltanet.rs";
    let read = |path: &str| std::fs::read_to_string(root().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"));
    let blocks = code_blocks(&read("docs/adding-a-mixer.md"));
    let pieces: Vec<&str> = blocks.iter().filter(|(file, _)| file == WHOLE).map(|(_, code)| code.as_str()).collect();
    assert_eq!(pieces.join("\n\n") + "\n", read(WHOLE), "the document's pieces are the file");
    let others: Vec<_> = blocks.iter().filter(|(file, _)| file != WHOLE).collect();
    assert!(others.len() >= 3, "the lines that register it, and the test");
    for (file, code) in others {
        assert!(read(file).contains(code), "{file} does not contain this:\n{code}");
    }
}
