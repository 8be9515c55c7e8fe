//! Promises of a mixer by itself.

use super::subjects::Subject;
use super::{PACKED, assert_close};
use burn::tensor::{Device, Tensor, TensorData};
use recast_models::mixers::{Call, Shared};
use recast_models::param::values;
use recast_models::random::Random;
use recast_models::sight::Sight;
use recast_models::state::Documents;

/// Standard normal numbers.
pub fn random<const D: usize>(shape: [usize; D], name: &str) -> Tensor<D> {
    let mut random = Random::new(23, name);
    let count = shape.iter().product();
    let data: Vec<f32> = (0..count).map(|_| random.normal() as f32).collect();
    Tensor::from_data(TensorData::new(data, shape), &Device::flex())
}

/// Outputs of packed documents are those of each alone, and neither they nor their gradients reach
/// over a boundary.
pub fn packed_documents_equal_separate_ones(subject: &Subject, layer: usize) {
    let (mixer, context) = subject.mixer(layer);
    const LENGTH: usize = 45;
    let starts = [0, 4, 5, 40];
    let flags = (0..LENGTH).map(|t| starts.contains(&t)).collect();
    let documents = Documents::new(1, LENGTH, flags);
    let x = random([1, LENGTH, context.hidden], &subject.name).autodiff().require_grad();
    let first = random([1, LENGTH, context.heads, context.head_size], "first values");
    let run = |x: Tensor<3>, first: Tensor<4>, documents: Option<&Documents>| {
        // Layers above the first get values from below, as some mixers want them.
        let mut shared = Shared { first_value: (layer > 0).then_some(first) };
        mixer.forward(Call {
            x,
            states: None,
            shared: &mut shared,
            positions: &[],
            documents,
            sight: Sight::Causal,
            lengths: None,
        })
    };
    let packed = run(x.clone(), first.clone(), Some(&documents));
    for (i, &start) in starts.iter().enumerate() {
        let length = starts.get(i + 1).copied().unwrap_or(LENGTH) - start;
        let alone = run(x.clone().inner().narrow(1, start, length), first.clone().narrow(1, start, length), None);
        let part = packed.clone().inner().narrow(1, start, length);
        assert_close(
            &values(part),
            &values(alone),
            PACKED,
            &subject.name,
            &format!("layer {layer}: document {i} of a packed row"),
        );
    }
    let (start, length) = (starts[1], starts[2] - starts[1]);
    let weights = random([1, length, context.hidden], "weights");
    let mut gradients = (packed.narrow(1, start, length) * weights).sum().backward();
    let gradient = values(x.grad_remove(&mut gradients).expect("gradient"));
    let c = context.hidden;
    assert!(gradient.iter().all(|g| !g.is_nan()), "{}: layer {layer}: a gradient is not a number", subject.name);
    let inside = gradient[start * c..(start + length) * c].iter().fold(0f32, |m, g| m.max(g.abs()));
    let outside = gradient[..start * c].iter().chain(&gradient[(start + length) * c..]).fold(0f32, |m, g| m.max(g.abs()));
    assert!(inside > 1e-3, "{}: layer {layer}: no gradient inside the document", subject.name);
    // Not zero: the gradient of decays is a difference of sums over a chunk .
    assert!(outside < 1e-6 * inside, "{}: layer {layer}: a gradient of {outside:e} leaves its document", subject.name);
}
