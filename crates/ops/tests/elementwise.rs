//! Operators on single elements and rows, against their references: outputs and all gradients, at odd
//! sizes, and a few gradients against finite differences.

#![allow(clippy::unwrap_used)]

mod support;

use burn::tensor::Tensor;
use support::*;

mod rms_norm {
    use super::*;
    use recast_ops::rms_norm::{reference, rms_norm};

    #[test]
    fn equals_reference() {
        for time in TIMES {
            for width in [3, 15, 64] {
                let inputs = [values(2 * time * width, 1), values(width, 2)];
                let fast = |x: &[Tensor<1>]| rms_norm(x[0].clone().reshape([2, time, width]), x[1].clone(), 1e-5).reshape([-1]);
                let slow = |x: &[Tensor<1>]| {
                    reference::rms_norm(x[0].clone().reshape([2, time, width]), x[1].clone(), 1e-5).reshape([-1])
                };
                compare(&format!("rms_norm {time} {width}"), &inputs, &fast, &slow);
                if time == 7 && width == 15 {
                    differences("rms_norm", &inputs, &fast);
                }
            }
        }
    }

    #[test]
    fn only_the_wanted_gradient() {
        let device = tested().autodiff();
        let x = flat(&values(32, 1), &device).require_grad();
        let weight = flat(&values(8, 2), &device);
        let gradients = rms_norm(x.clone().reshape([4, 8]), weight.clone(), 1e-5).sum().backward();
        assert!(x.grad(&gradients).is_some() && weight.grad(&gradients).is_none());
    }

    #[test]
    fn zero_rows() {
        let device = tested();
        let y = rms_norm(Tensor::<2>::zeros([0, 8], &device), Tensor::ones([8], &device), 1e-5);
        assert_eq!(y.dims(), [0, 8]);
        let y = rms_norm(Tensor::<2>::zeros([1, 8], &device), Tensor::ones([8], &device), 1e-5);
        assert!(numbers(y).iter().all(|&v| v == 0.0));
    }
}

mod swiglu {
    use super::*;
    use recast_ops::swiglu::{reference, swiglu};

    #[test]
    fn equals_reference() {
        for time in TIMES {
            let n = time * 331;
            let inputs = [values(n, 3).iter().map(|v| v * 12.0).collect(), values(n, 4)];
            let shaped = |x: &Tensor<1>| x.clone().reshape([time, 331]);
            let fast = |x: &[Tensor<1>]| swiglu(shaped(&x[0]), shaped(&x[1])).reshape([-1]);
            let slow = |x: &[Tensor<1>]| reference::swiglu(shaped(&x[0]), shaped(&x[1])).reshape([-1]);
            compare(&format!("swiglu {time}"), &inputs, &fast, &slow);
            if time == 1 {
                differences("swiglu", &inputs, &fast);
            }
        }
    }

    #[test]
    fn far_ends() {
        let device = tested();
        let gate = flat(&[-1e4, -100.0, 100.0, 1e4], &device);
        let y = numbers(swiglu(gate, Tensor::ones([4], &device)));
        assert!(y[0].abs() < 1e-30 && y[1].abs() < 1e-30, "{y:?}");
        assert_eq!(&y[2..], &[100.0, 1e4]);
    }
}

mod activation {
    use super::*;
    use recast_ops::activation::{Function, reference, sigmoid, tanh};

    #[test]
    fn equals_reference() {
        for time in TIMES {
            let inputs = [values(time * 331, 5).iter().map(|v| v * 7.0).collect()];
            for function in [Function::Tanh, Function::Sigmoid] {
                let fast = |x: &[Tensor<1>]| match function {
                    Function::Tanh => tanh(x[0].clone()),
                    Function::Sigmoid => sigmoid(x[0].clone()),
                };
                let slow = |x: &[Tensor<1>]| reference::apply(function, x[0].clone());
                compare(&format!("{function:?} {time}"), &inputs, &fast, &slow);
                if time == 1 {
                    differences("activation", &inputs, &fast);
                }
            }
        }
    }
}

mod row_distance {
    use super::*;
    use recast_ops::row_distance::{reference, row_distance};

    #[test]
    fn equals_reference_and_a_perfect_row_pulls_nowhere() {
        for time in TIMES {
            let (given, mut wanted) = (values(time * 67, 8), values(time * 67, 9));
            wanted[..67].copy_from_slice(&given[..67]);
            let weights: Vec<f32> = (0..time).map(|i| (i % 3) as f32).collect();
            for weights in [None, Some(weights)] {
                let wanted = |x: &Tensor<1>| flat(&wanted, &x.device().inner()).reshape([1, time, 67]);
                let shaped = |x: &Tensor<1>| x.clone().reshape([1, time, 67]);
                let fast = |x: &[Tensor<1>]| row_distance(shaped(&x[0]), wanted(&x[0]), weights.clone().map(Into::into), 0.3);
                let slow = |x: &[Tensor<1>]| reference::row_distance(shaped(&x[0]), wanted(&x[0]), weights.as_deref(), 0.3);
                compare(&format!("row_distance {time}"), &[given.clone()], &fast, &slow);
            }
        }
    }
}

mod embedding {
    use super::*;
    use recast_ops::embedding::{embedding, reference};

    #[test]
    fn equals_reference_and_repeated_rows_add_up() {
        for time in TIMES {
            for (rows, width) in [(1, 3), (5, 64), (300, 7)] {
                let ids: Vec<u32> = (0..time as u32).map(|i| i * i * 7 % rows).collect();
                let inputs = [values(rows as usize * width, 1)];
                let shaped = |x: &[Tensor<1>]| x[0].clone().reshape([rows as usize, width]);
                let fast = |x: &[Tensor<1>]| embedding(shaped(x), ids.clone().into()).reshape([-1]);
                let slow = |x: &[Tensor<1>]| reference::embedding(shaped(x), &ids).reshape([-1]);
                compare(&format!("embedding {time} {rows} {width}"), &inputs, &fast, &slow);
            }
        }
        let none = embedding(Tensor::<2>::zeros([4, 3], &tested()), [].into());
        assert_eq!(none.dims(), [0, 3]);
    }

    #[test]
    #[should_panic(expected = "embedding: row 4 of 4")]
    fn beyond_the_table() {
        embedding(Tensor::zeros([4, 2], &tested()), [1, 4].into());
    }
}

mod rope {
    use super::*;
    use recast_ops::rope::{RopeTable, reference, rope};
    use std::sync::Arc;

    fn table(half: usize) -> RopeTable {
        let frequencies: Vec<f32> = (0..half).map(|i| 10_000f32.powf(-(i as f32) / half as f32)).collect();
        RopeTable::new(&frequencies, 200, 1.0)
    }

    #[test]
    fn equals_reference() {
        let (batch, heads) = (2, 3);
        for time in TIMES {
            for half in [1, 5, 32] {
                let table = table(half);
                let size = 2 * half;
                let inputs = [values(batch * time * heads * size, 5)];
                let shaped = |x: &[Tensor<1>]| x[0].clone().reshape([batch, time, heads, size]);
                let from = 9u32;
                let running: Vec<u32> = (0..batch).flat_map(|_| (0..time as u32).map(|t| from + t)).collect();
                let fast = |x: &[Tensor<1>]| rope(shaped(x), &table, from as usize, None).reshape([-1]);
                let slow = |x: &[Tensor<1>]| reference::rope(shaped(x), &table, &running).reshape([-1]);
                compare(&format!("rope {time} {size}"), &inputs, &fast, &slow);

                let packed: Vec<u32> = (0..batch * time).map(|i| (i * 37 % 200) as u32).collect();
                let shared: Arc<[u32]> = packed.clone().into();
                let fast = |x: &[Tensor<1>]| rope(shaped(x), &table, 0, Some(shared.clone())).reshape([-1]);
                let slow = |x: &[Tensor<1>]| reference::rope(shaped(x), &table, &packed).reshape([-1]);
                compare(&format!("rope packed {time} {size}"), &inputs, &fast, &slow);
                if time == 7 && half == 5 {
                    differences("rope", &inputs, &fast);
                }
            }
        }
    }

    #[test]
    fn scores_depend_on_distance_alone() {
        let device = tested();
        let (table, q, k) = (table(32), values(64, 6), values(64, 7));
        let turned = |x: &[f32], position| numbers(rope(flat(x, &device).reshape([1, 1, 1, 64]), &table, position, None));
        let score = |a, b| -> f32 { turned(&q, a).iter().zip(turned(&k, b)).map(|(x, y)| x * y).sum() };
        assert!((score(5, 2) - score(105, 102)).abs() < 1e-4);
        assert!((score(5, 2) - score(5, 3)).abs() > 1e-3);
    }

    #[test]
    #[should_panic(expected = "position 200 against a table of 200")]
    fn beyond_the_table() {
        rope(Tensor::zeros([1, 2, 1, 2], &tested()), &table(1), 199, None);
    }
}

mod group_norm {
    use super::*;
    use recast_ops::group_norm::{group_norm, reference};

    #[test]
    fn equals_reference() {
        for time in TIMES {
            for (heads, size) in [(3, 5), (2, 64)] {
                let width = heads * size;
                let inputs = [values(2 * time * width, 1), values(width, 2), values(width, 3)];
                let shaped = |x: &[Tensor<1>]| x[0].clone().reshape([2, time, heads, size]);
                let fast = |x: &[Tensor<1>]| group_norm(shaped(x), x[1].clone(), x[2].clone(), 64e-5).reshape([-1]);
                let slow = |x: &[Tensor<1>]| reference::group_norm(shaped(x), x[1].clone(), x[2].clone(), 64e-5).reshape([-1]);
                compare(&format!("group_norm {time} {heads} {size}"), &inputs, &fast, &slow);
                if time == 7 && heads == 3 {
                    differences("group_norm", &inputs, &fast);
                }
            }
        }
    }

    #[test]
    fn a_constant_head_gives_the_bias() {
        let device = tested();
        let x = Tensor::<4>::full([1, 1, 1, 4], 1000.0, &device);
        let bias = values(4, 1);
        let y = group_norm(x, Tensor::ones([4], &device), flat(&bias, &device), 1e-5);
        assert_eq!(numbers(y), bias);
    }
}

mod key_norm {
    use super::*;
    use recast_ops::key_norm::{key_norm, reference};

    #[test]
    fn equals_reference() {
        for time in TIMES {
            for size in [3, 64] {
                let inputs = [values(2 * time * 3 * size, 1)];
                let shaped = |x: &[Tensor<1>]| x[0].clone().reshape([2, time, 3, size]);
                let fast = |x: &[Tensor<1>]| key_norm(shaped(x)).reshape([-1]);
                let slow = |x: &[Tensor<1>]| reference::key_norm(shaped(x)).reshape([-1]);
                compare(&format!("key_norm {time} {size}"), &inputs, &fast, &slow);
                if time == 7 && size == 64 {
                    differences("key_norm", &inputs, &fast);
                }
            }
        }
    }

    #[test]
    fn a_zero_row_stays_zero() {
        let (y, gradients) = evaluate(tested(), &[vec![0.0; 4]], &|x| key_norm(x[0].clone()));
        assert_eq!(y, [0.0; 4]);
        assert!(gradients[0].iter().all(|d| d.is_finite()));
    }
}

/// On a GPU every thread has a stream of its own, and order is kept within one.
#[cfg(feature = "cube")]
#[test]
fn work_keeps_its_stream() {
    use burn::tensor::StreamId;
    let stream = StreamId::current();
    assert_eq!(recast_ops::cpu::on_worker(StreamId::current), stream);
    let there = std::thread::spawn(recast_ops::device::on_this_stream(StreamId::current)).join();
    assert_eq!(there.unwrap(), stream);
}
