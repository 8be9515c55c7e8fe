//! What trains and what does not, shown on values.
use recast_models::Model;
use recast_train::objectives::{MicroBatch, Objective};
use recast_train::optimizer::Gradients;
use std::path::Path;

fn model(name: &str) -> Model {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/train").join(name);
    Model::open(&path, &burn::tensor::Device::flex()).expect("golden model")
}

/// Gradients of a subset do not depend on what else trains: with only the decay trained, layer 0's
/// values are outside the graph but still reach the later layers.
#[test]
fn a_subset_has_the_gradients_of_the_whole() {
    let (teacher, student) = (model("teacher"), model("student"));
    let inputs: Vec<u32> = (0..24).map(|i| i * 5 % 40).collect();
    let batch = MicroBatch {
        rows: 2,
        targets: inputs.clone().into(),
        denominator: inputs.len() as f32,
        inputs,
        documents: None,
        weights: None,
        prompt: None,
        response_share: None,
        lengths: None,
        draw: Default::default(),
    };
    let all = student.parameters();
    let some: Vec<_> = all.iter().filter(|(n, _)| n.contains(".self_attn.w")).cloned().collect();
    assert_eq!(some.len(), 3 * teacher.config.layers);
    for (objective, recompute) in [
        (Objective::OutputAlignment, false),
        (Objective::LogitKl, false),
        (Objective::LogitKl, true),
        (Objective::NextToken, false),
        (Objective::NextToken, true),
    ] {
        let mut gradients = [Gradients::default(), Gradients::default()];
        for (list, out) in [&all, &some].into_iter().zip(&mut gradients) {
            objective.gradients(&student, Some(&teacher), &batch, list, recompute, None, out).expect("loss");
        }
        for (name, _) in &all {
            let trains = some.iter().any(|(n, _)| n == name);
            assert_eq!(gradients[1].get(name).is_some(), trains, "{objective:?}: {name}");
            if trains {
                let (a, b) = (gradients[0].get(name).expect("gradient"), gradients[1].get(name).expect("gradient"));
                let scale = a.iter().fold(1e-9f32, |m, x| m.max(x.abs()));
                let worst = a.iter().zip(b).map(|(x, y)| (x - y).abs()).fold(0.0, f32::max) / scale;
                assert!(worst < 1e-4, "{objective:?}: {name} differs by {worst:e}");
            }
        }
    }
}
