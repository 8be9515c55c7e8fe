//! Under `--precision bf16` a parameter that nobody trains keeps its panels: products with it are those
//! of fresh ones, a row's does not depend on the others, and a change of the value is seen at once. The
//! precision belongs to the process: a test program of its own. Without instructions for bf16 nothing
//! is kept, and the same holds.

mod differences;

use burn::tensor::{Device, Tensor, TensorData};
use differences::largest_difference;
use recast_models::Weight;
use recast_models::param::{Param, values};
use recast_ops::cpu::bf16;
use recast_ops::linear::{Layout, Precision, linear, linear_in_out, set_precision};
use recast_ops::vocab_loss::{teacher_kl, token_log_probabilities};

fn numbers(n: usize, seed: f32) -> Vec<f32> {
    (0..n).map(|i| ((i as f32 + seed) * 0.731).sin()).collect()
}

fn tensor(shape: [usize; 2], seed: f32) -> Tensor<2> {
    Tensor::from_data(TensorData::new(numbers(shape[0] * shape[1], seed), shape), &Device::flex())
}

#[test]
fn kept_panels_are_those_of_the_value() {
    set_precision(Precision::Bf16);
    for (layout, rows, inner, outer) in
        [(Layout::OutIn, 130, 96, 200), (Layout::InOut, 70, 1100, 33), (Layout::OutIn, 300, 65, 1000)]
    {
        let shape = if layout == Layout::OutIn { [outer, inner] } else { [inner, outer] };
        let param = Param::new(tensor(shape, 0.1), shape.to_vec());
        let weight = Weight::Trained(param.clone(), layout);
        let x = tensor([rows, inner], 7.0);
        let fresh = |weight: Tensor<2>| {
            values(if layout == Layout::OutIn { linear(x.clone(), weight, None) } else { linear_in_out(x.clone(), weight) })
        };
        let kept = || values(weight.apply(x.clone(), None));
        assert_eq!(kept(), fresh(tensor(shape, 0.1)), "packed at first");
        assert_eq!(kept(), fresh(tensor(shape, 0.1)), "and again");
        assert_eq!(param.operand().packed.expect("untrained").is_filled(), bf16::available());
        let whole = kept();
        for count in [1, 5, 17, 64] {
            let some = values(weight.apply(x.clone().slice([0..count, 0..inner]), None));
            let difference = largest_difference(&some, &whole[..some.len()]);
            // Without bf16, few rows are summed in another order.
            assert!(difference <= if bf16::available() { 0.0 } else { 1e-4 }, "{count} rows: off by {difference}");
        }
        param.handle().write(&numbers(inner * outer, 3.0));
        assert_eq!(kept(), fresh(tensor(shape, 3.0)), "after a change");
        param.handle().track();
        assert!(param.operand().packed.is_none(), "training keeps nothing");
        param.handle().untrack(None);
        assert!(!param.operand().packed.expect("untrained").is_filled(), "and leaves nothing");
    }
}

#[test]
fn losses_take_kept_heads() {
    set_precision(Precision::Bf16);
    let (rows, width, vocabulary) = (1100, 64, 300);
    let param = Param::new(tensor([vocabulary, width], 0.5), vec![vocabulary, width]);
    let hidden = tensor([rows, width], 1.0);
    let targets: std::sync::Arc<[u32]> = (0..rows as u32).map(|i| i % 300).collect();
    let scores =
        |weight| values(token_log_probabilities(hidden.clone(), weight, targets.clone()).expect("targets").log_probabilities);
    let fresh = scores(tensor([vocabulary, width], 0.5).into());
    assert_eq!(scores(param.operand()), fresh);
    assert_eq!(scores(param.operand()), fresh);
    let loss = |weight| {
        let student = tensor([vocabulary, width], 2.0);
        values(teacher_kl(hidden.clone(), student, hidden.clone(), weight, None, None).expect("sizes fit"))
    };
    let fresh = loss(tensor([vocabulary, width], 0.5).into());
    assert_eq!(loss(param.operand()), fresh);
    assert_eq!(loss(param.operand()), fresh);
    param.handle().write(&numbers(vocabulary * width, 9.0));
    assert_eq!(loss(param.operand()), loss(tensor([vocabulary, width], 9.0).into()));
}
