//! What trains and what does not, shown on values.

mod support;

use recast_train::objectives::Objective;
use recast_train::optimizer::Gradients;
use support::{batch, largest, model};

/// Gradients of a subset do not depend on what else trains: with only the decay trained, layer 0's
/// values are outside the graph but still reach the later layers.
#[test]
fn a_subset_has_the_gradients_of_the_whole() {
    let (teacher, student) = (model("teacher"), model("student"));
    let inputs: Vec<u32> = (0..24).map(|i| i * 5 % 40).collect();
    let batch = batch(2, inputs, 24);
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
                let worst = largest(a.iter().zip(b).map(|(x, y)| f64::from((x - y).abs()))) as f32 / scale;
                assert!(worst < 1e-4, "{objective:?}: {name} differs by {worst:e}");
            }
        }
    }
}
