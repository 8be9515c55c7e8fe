//! Every fused operator against its reference: outputs and all gradients, at odd sizes, and a few
//! gradients against finite differences, which share no code with either.

#![allow(clippy::unwrap_used)]

mod support;

use burn::tensor::Tensor;
use support::*;

mod vocab_loss {
    use super::*;
    use recast_ops::vocab_loss::{VocabLossError, cross_entropy, reference, teacher_kl, token_log_probabilities};
    use std::sync::Arc;

    fn scaled(n: usize, seed: u32, by: f32) -> Vec<f32> {
        values(n, seed).iter().map(|v| v * by).collect()
    }

    fn targets(rows: usize, vocabulary: usize) -> Arc<[u32]> {
        (0..rows).map(|i| (i * 31 % vocabulary) as u32).collect()
    }

    /// Weights with zeros among them.
    fn weights(rows: usize) -> Arc<[f32]> {
        (0..rows).map(|i| if i % 3 == 1 { 0.0 } else { 0.5 + (i % 5) as f32 }).collect()
    }

    #[test]
    fn cross_entropy_equals_reference() {
        // 600 rows are three blocks; 30 000 words are several blocks of the f64 sum.
        for (rows, width, vocabulary) in [(1, 3, 5), (7, 5, 33), (65, 16, 30_001), (600, 5, 19)] {
            let inputs = [scaled(rows * width, 1, 4.0), values(vocabulary * width, 2)];
            let targets = targets(rows, vocabulary);
            let split = |x: &[Tensor<1>]| (x[0].clone().reshape([rows, width]), x[1].clone().reshape([vocabulary, width]));
            let fast = |x: &[Tensor<1>]| {
                let (hidden, weight) = split(x);
                cross_entropy(hidden, weight, targets.clone(), None, None).unwrap()
            };
            let slow = |x: &[Tensor<1>]| {
                let (hidden, weight) = split(x);
                reference::cross_entropy(hidden, weight, &targets, &vec![1.0; rows], rows as f32)
            };
            compare(&format!("cross_entropy {rows} {vocabulary}"), &inputs, &fast, &slow);
            let weights = weights(rows);
            let fast = |x: &[Tensor<1>]| {
                let (hidden, weight) = split(x);
                cross_entropy(hidden, weight, targets.clone(), Some(weights.clone()), Some(9.0)).unwrap() * 3.0
            };
            let slow = |x: &[Tensor<1>]| {
                let (hidden, weight) = split(x);
                reference::cross_entropy(hidden, weight, &targets, &weights, 3.0)
            };
            compare(&format!("cross_entropy weighted {rows} {vocabulary}"), &inputs, &fast, &slow);
            if rows == 7 {
                differences("cross_entropy", &inputs, &fast);
            }
        }
    }

    #[test]
    fn no_rows_lose_nothing() {
        let device = tested().autodiff();
        let weight = flat(&values(6, 1), &device).require_grad();
        let hidden = Tensor::<2>::zeros([0, 2], &device);
        let loss = cross_entropy(hidden, weight.clone().reshape([3, 2]), Arc::from([]), None, Some(1.0)).unwrap();
        assert_eq!(numbers(loss.clone()), [0.0]);
        let gradients = loss.backward();
        assert_eq!(numbers(weight.grad(&gradients).unwrap()), [0.0; 6]);
    }

    #[test]
    fn teacher_kl_equals_reference() {
        for (rows, width, other, vocabulary) in
            [(1, 3, 2, 5), (7, 5, 8, 33), (65, 16, 9, 30_001), (600, 5, 4, 19), (4100, 3, 2, 7)]
        {
            let inputs = [scaled(rows * width, 1, 4.0), values(vocabulary * width, 2)];
            let (teacher_hidden, teacher_weight) = (scaled(rows * other, 3, 3.0), values(vocabulary * other, 4));
            let split = |x: &[Tensor<1>]| {
                let device = x[0].device();
                (
                    x[0].clone().reshape([rows, width]),
                    x[1].clone().reshape([vocabulary, width]),
                    flat(&teacher_hidden, &device).reshape([rows, other]),
                    flat(&teacher_weight, &device).reshape([vocabulary, other]),
                )
            };
            let weights = weights(rows);
            let total: f32 = weights.iter().sum();
            let fast = |x: &[Tensor<1>]| {
                let (a, b, c, d) = split(x);
                teacher_kl(a, b, c, d, Some(weights.clone()), None).unwrap()
            };
            let slow = |x: &[Tensor<1>]| {
                let (a, b, c, d) = split(x);
                reference::teacher_kl(a, b, c, d, &weights, total)
            };
            compare(&format!("teacher_kl {rows} {vocabulary}"), &inputs, &fast, &slow);
            if rows == 7 {
                differences("teacher_kl", &inputs, &fast);
            }
        }
    }

    #[test]
    fn a_frozen_head_and_a_teacher_outside_the_graph() {
        let (plain, tracked) = (tested(), tested().autodiff());
        let hidden = flat(&values(12, 1), &tracked).require_grad();
        let weight = flat(&values(20, 2), &plain).reshape([5, 4]);
        let teacher = flat(&values(12, 3), &tracked).require_grad();
        let loss = teacher_kl(
            hidden.clone().reshape([3, 4]),
            weight.clone(),
            teacher.clone().reshape([3, 4]),
            weight.clone(),
            None,
            None,
        )
        .unwrap();
        let gradients = loss.backward();
        assert!(hidden.grad(&gradients).is_some() && teacher.grad(&gradients).is_none());
        let loss = cross_entropy(hidden.clone().reshape([3, 4]), weight, targets(3, 5), None, None).unwrap();
        assert!(hidden.grad(&loss.backward()).is_some());
    }

    #[test]
    fn agreement_has_no_divergence() {
        let device = tested();
        let hidden = flat(&scaled(40, 1, 5.0), &device).reshape([10, 4]);
        let weight = flat(&scaled(4000, 2, 5.0), &device).reshape([1000, 4]);
        let kl = teacher_kl(hidden.clone(), weight.clone(), hidden, weight, None, None).unwrap();
        assert_eq!(numbers(kl), [0.0]);
    }

    #[test]
    fn scores_of_tokens() {
        let device = tested();
        for (rows, vocabulary) in [(1, 5), (7, 33), (600, 19)] {
            let hidden = flat(&scaled(rows * 4, 1, 4.0), &device).reshape([rows, 4]);
            let weight = flat(&values(vocabulary * 4, 2), &device).reshape([vocabulary, 4]);
            let targets = targets(rows, vocabulary);
            let scores = token_log_probabilities(hidden.clone(), weight.clone(), targets.clone()).unwrap();
            let slow = reference::token_log_probabilities(hidden.clone(), weight.clone(), &targets);
            close("scores", &numbers(scores.log_probabilities), &numbers(slow), 1e-5);
            let best = hidden.matmul(weight.transpose()).argmax(1).into_data().iter::<i64>().collect::<Vec<_>>();
            let hits: Vec<f32> = best.iter().zip(&*targets).map(|(&b, &t)| f32::from(u8::from(b == i64::from(t)))).collect();
            assert_eq!(numbers(scores.greedy), hits);
            assert!(rows < 600 || hits.contains(&1.0) && hits.contains(&0.0));
        }
        // Of equals the first is greedy.
        let scores = token_log_probabilities(Tensor::ones([2, 1], &device), Tensor::ones([3, 1], &device), [0, 1].into());
        assert_eq!(numbers(scores.unwrap().greedy), [1.0, 0.0]);
    }

    #[test]
    fn refusals() {
        let device = tested();
        let (hidden, weight) = (Tensor::<2>::zeros([2, 3], &device), Tensor::<2>::zeros([5, 3], &device));
        let ask = |targets: &[u32], weights: Option<&[f32]>, denominator| {
            cross_entropy(hidden.clone(), weight.clone(), targets.into(), weights.map(Into::into), denominator)
                .map(numbers)
                .unwrap_err()
        };
        assert_eq!(ask(&[4, 5], None, None), VocabLossError::Target { row: 1, target: 5, vocabulary: 5 });
        assert_eq!(ask(&[4], None, None), VocabLossError::Length { what: "targets", expected: 2, found: 1 });
        assert_eq!(ask(&[4, 4], Some(&[0.0, 0.0]), None), VocabLossError::Denominator(0.0));
        assert!(matches!(ask(&[4, 4], Some(&[0.0, f32::NAN]), None), VocabLossError::Weight { row: 1, .. }));
        assert!(matches!(ask(&[4, 4], None, Some(-1.0)), VocabLossError::Denominator(_)));
        let other = Tensor::<2>::zeros([4, 3], &device);
        let kl = teacher_kl(hidden.clone(), weight.clone(), hidden.clone(), other, None, None).unwrap_err();
        assert_eq!(kl, VocabLossError::Length { what: "teacher's vocabulary", expected: 5, found: 4 });
        // No weighted row, but a denominator: a part of a batch that has nothing to say.
        let nothing = cross_entropy(hidden, weight, [0, 0].into(), Some([0.0, 0.0].into()), Some(2.0)).unwrap();
        assert_eq!(numbers(nothing), [0.0]);
    }
}

mod attention {
    use super::*;
    use recast_ops::attention::{AttentionOptions, Mask, attention, reference};
    use std::sync::Arc;

    /// `[batch, time, heads, keys, groups, size]`
    type Sizes = [usize; 6];

    fn inputs([batch, time, heads, keys, groups, size]: Sizes) -> [Vec<f32>; 3] {
        let scaled = |n, seed| values(n, seed).iter().map(|v| v * 2.0).collect();
        [scaled(batch * time * heads * size, 1), scaled(batch * keys * groups * size, 2), scaled(batch * keys * groups * size, 3)]
    }

    fn split(x: &[Tensor<1>], [batch, time, heads, keys, groups, size]: Sizes) -> [Tensor<4>; 3] {
        let k = [batch, keys, groups, size];
        [x[0].clone().reshape([batch, time, heads, size]), x[1].clone().reshape(k), x[2].clone().reshape(k)]
    }

    fn check(name: &str, sizes: Sizes, options: &AttentionOptions) {
        let fast = |x: &[Tensor<1>]| {
            let [q, k, v] = split(x, sizes);
            attention(q, k, v, options.clone()).reshape([-1])
        };
        let slow = |x: &[Tensor<1>]| {
            let [q, k, v] = split(x, sizes);
            reference::attention(q, k, v, options).reshape([-1])
        };
        compare(&format!("attention {name} {sizes:?}"), &inputs(sizes), &fast, &slow);
        if sizes[1] == 7 {
            differences(&format!("attention {name}"), &inputs(sizes), &fast);
        }
    }

    #[test]
    fn equals_reference() {
        let sizes = [[2, 1, 3, 1, 1, 8], [2, 1, 4, 300, 2, 8], [2, 7, 4, 9, 2, 5], [1, 65, 3, 65, 3, 16], [2, 130, 6, 400, 2, 8]];
        let processor = recast_ops::quantised::on_processor(&tested());
        for sizes in sizes {
            for mask in [Mask::Causal, Mask::Window(1), Mask::Window(40), Mask::Bidirectional, Mask::Blocks(1), Mask::Blocks(6)] {
                // A minute each on a software device, whose kernels do the same at smaller sizes.
                if !processor && sizes[1] == 130 && !matches!(mask, Mask::Window(40) | Mask::Blocks(6)) {
                    continue;
                }
                check(&format!("{mask:?}"), sizes, &AttentionOptions { mask, ..Default::default() });
            }
            check("scaled", sizes, &AttentionOptions { scale: Some(0.7), ..Default::default() });
        }
    }

    #[test]
    fn documents() {
        for sizes in [[2, 7, 4, 9, 2, 5], [2, 130, 2, 400, 1, 8]] {
            let [batch, time, _, keys, ..] = sizes;
            // Documents of 17 keys; each query sees its own from the start.
            let position = |row: usize| keys - time + row % time;
            let first: Arc<[u32]> = (0..batch * time).map(|row| (position(row) / 17 * 17) as u32).collect();
            let end: Arc<[u32]> = first.iter().map(|first| first + 17).collect();
            let options = AttentionOptions { first_visible: Some(first.clone()), ..Default::default() };
            check("causal documents", sizes, &options);
            let mask = Mask::Bidirectional;
            check("documents", sizes, &AttentionOptions { mask, end_visible: Some(end), ..options });
        }
    }

    /// Noisy tokens of block diffusion: earlier blocks of the first half of the keys, their own of the
    /// second.
    #[test]
    fn a_second_run_of_keys() {
        if !recast_ops::quantised::on_processor(&tested()) {
            return;
        }
        for (sizes, block) in [([2, 7, 4, 14, 2, 5], 3), ([1, 130, 2, 260, 1, 8], 16), ([2, 300, 2, 600, 1, 4], 1)] {
            let [batch, time, ..] = sizes;
            let start = |row: usize| row % time / block * block;
            let end: Arc<[u32]> = (0..batch * time).map(|row| start(row) as u32).collect();
            let own = |row: usize| [(time + start(row)) as u32, (time + (start(row) + block).min(time)) as u32];
            let also = Some((0..batch * time).map(own).collect());
            let mask = Mask::Bidirectional;
            check(
                "two runs",
                sizes,
                &AttentionOptions { mask, end_visible: Some(end), also_visible: also, ..Default::default() },
            );
        }
    }

    /// New tokens over the pages of their sequence, which came in pieces, are new tokens over its keys and values;
    /// over rounded pages nearly so.
    #[test]
    fn pages_of_a_cache() {
        use recast_ops::attention::{Cache, attention_over, attention_step};
        let small = [[1, 1, 2, 1, 1, 8], [1, 7, 4, 9, 2, 5], [1, 16, 4, 48, 2, 8], [1, 70, 6, 333, 2, 8]];
        // Of sizes that can be rounded.
        let whole = [
            ([1, 70, 6, 333, 2, 64], 64),
            ([1, 33, 2, 97, 2, 32], 32),
            ([1, 130, 4, 130, 1, 64], 64),
            ([1, 8, 6, 200, 1, 96], 64),
            ([1, 40, 4, 20_000, 2, 64], 64),
        ];
        for (sizes, page) in small.map(|sizes| (sizes, 16)).into_iter().chain(whole) {
            let [_, time, _, keys, _, size] = sizes;
            let device = tested();
            // Pages are read in place on the processor alone.
            if keys > 1000 && !recast_ops::quantised::on_processor(&device) {
                continue;
            }
            let leaves = inputs(sizes).map(|x| flat(&x, &device));
            let end: Arc<[u32]> = (0..time).map(|t| ((keys - time + t) / 6 * 6 + 6).min(keys) as u32).collect();
            let blocks = AttentionOptions { mask: Mask::Bidirectional, end_visible: Some(end), ..Default::default() };
            let masks = [Mask::Causal, Mask::Window(20), Mask::Bidirectional];
            // Two runs of keys, of which some queries see nothing of the first.
            let few: Arc<[u32]> = (0..time).map(|t| (t % (keys / 3 + 1)) as u32).collect();
            let also = (0..time).map(|t| [2 * keys / 3, (2 * keys / 3 + t % 9 + 1).min(keys)].map(|key| key as u32)).collect();
            let two = AttentionOptions { end_visible: Some(few), also_visible: Some(also), ..blocks.clone() };
            let two = Some(two).filter(|_| recast_ops::quantised::on_processor(&device));
            let all: Vec<_> = masks
                .map(|mask| AttentionOptions { mask, ..Default::default() })
                .into_iter()
                .chain([blocks])
                .chain(two)
                .collect();
            let [q, k, v] = split(&leaves, sizes);
            for rounded in [false, true] {
                if rounded && !Cache::can_round(&device, page, size) {
                    continue;
                }
                let (mut pages, mut held) = (Vec::new(), 0);
                for count in [1, 1, 2, 5, page, 3].into_iter().cycle() {
                    let count = count.min(keys - held);
                    if count == 0 {
                        break;
                    }
                    let part = |x: &Tensor<4>| x.clone().narrow(1, held, count);
                    Cache::append(&mut pages, held, page, part(&k), part(&v), rounded);
                    held += count;
                }
                let cache = Cache { pages: &pages, length: keys };
                assert_eq!((pages.len(), cache.tokens_a_page()), (2 * keys.div_ceil(page), Some(page)));
                let bf16 = |x: &Tensor<4>| -> Vec<f32> {
                    numbers(x.clone()).into_iter().map(|x| if rounded { recast_ops::cpu::round_to_bf16(x) } else { x }).collect()
                };
                assert!(numbers(cache.keys()) == bf16(&k) && numbers(cache.values()) == bf16(&v), "what was written comes back");
                let exact = slack("attention") * 2e-5;
                let bound = if rounded { 1.2e-2 } else { exact };
                for options in &all {
                    let expected = reference::attention(q.clone(), k.clone(), v.clone(), options);
                    let found = attention_over(q.clone(), cache, options.clone());
                    close(
                        &format!("{sizes:?} {:?}, rounded {rounded}", options.mask),
                        &numbers(found),
                        &numbers(expected),
                        bound,
                    );
                }
                // The newest token alone, with f32 queries over what the pages hold.
                let newest = || q.clone().narrow(1, time - 1, 1);
                for window in [None, Some(20)] {
                    let options = AttentionOptions { mask: window.map_or(Mask::Causal, Mask::Window), ..Default::default() };
                    let expected = reference::attention(newest(), cache.keys(), cache.values(), &options);
                    let found = attention_step(newest(), &[cache], window);
                    close(&format!("{sizes:?}, a step, rounded {rounded}"), &numbers(found), &numbers(expected), exact);
                }
            }
        }
    }

    #[test]
    fn a_query_that_sees_nothing_gives_zeros() {
        let sizes = [1, 3, 2, 3, 1, 4];
        let options = AttentionOptions { end_visible: Some([0, 2, 3].into()), ..Default::default() };
        let (output, gradients) = evaluate(tested(), &inputs(sizes), &|x| {
            let [q, k, v] = split(x, sizes);
            attention(q, k, v, options.clone()).reshape([-1])
        });
        assert!(output[..8].iter().all(|&y| y == 0.0) && output[8..].iter().all(|&y| y != 0.0));
        assert!(gradients[0][..8].iter().all(|&d| d == 0.0));
        assert!(gradients.iter().flatten().all(|d| d.is_finite()));
    }

    #[test]
    fn token_by_token_is_the_same() {
        let sizes = [2, 40, 6, 40, 2, 16];
        let device = tested();
        let x: Vec<_> = inputs(sizes).iter().map(|data| flat(data, &device)).collect();
        let [q, k, v] = split(&x, sizes);
        let whole = attention(q.clone(), k.clone(), v.clone(), AttentionOptions::default());
        for t in [0, 1, 39] {
            let upto = |x: &Tensor<4>| x.clone().slice([0..2, 0..t + 1]);
            let one = attention(q.clone().slice([0..2, t..t + 1]), upto(&k), upto(&v), AttentionOptions::default());
            close("decode", &numbers(one), &numbers(whole.clone().slice([0..2, t..t + 1])), slack("attention") * 1e-5);
        }
    }

    #[test]
    fn large_scores_do_not_overflow() {
        let sizes = [1, 5, 1, 5, 1, 2];
        let device = tested();
        let x: Vec<_> = inputs(sizes).iter().map(|x| flat(&x.iter().map(|x| x * 1e3).collect::<Vec<_>>(), &device)).collect();
        let [q, k, v] = split(&x, sizes);
        assert!(numbers(attention(q, k, v, AttentionOptions::default())).iter().all(|y| y.is_finite()));
    }
}

mod linear {
    use super::*;
    use recast_ops::linear::{linear, linear_in_out, reference};

    #[test]
    fn equals_reference() {
        for (rows, inner, outer) in [(1, 3, 5), (7, 33, 20), (65, 64, 31), (2048, 9, 5)] {
            let inputs = [values(rows * inner, 1), values(outer * inner, 2)];
            let x = |x: &[Tensor<1>]| x[0].clone().reshape([rows, inner]);
            let weight = |x: &[Tensor<1>]| x[1].clone().reshape([outer, inner]);
            let slow = |t: &[Tensor<1>]| reference::linear(x(t), weight(t)).reshape([-1]);
            let fast = |t: &[Tensor<1>]| linear(x(t), weight(t), None).reshape([-1]);
            compare(&format!("linear {rows} {inner} {outer}"), &inputs, &fast, &slow);
            let slow = |t: &[Tensor<1>]| x(t).matmul(t[1].clone().reshape([inner, outer])).reshape([-1]);
            let fast = |t: &[Tensor<1>]| linear_in_out(x(t), t[1].clone().reshape([inner, outer])).reshape([-1]);
            compare(&format!("input-major {rows} {inner} {outer}"), &inputs, &fast, &slow);
        }
    }
}

mod adamw {
    use super::*;
    use recast_ops::adamw::{AdamW, global_norm};

    /// On every device as on slices, which the operator's own tests hold to PyTorch's rule.
    #[test]
    fn steps_of_tensors() {
        let device = tested();
        let optimizer = AdamW { beta1: 0.9, beta2: 0.95, epsilon: 1e-8, weight_decay: 0.1 };
        for n in [1, 37, 1003] {
            let (mut p, mut m, mut v) = (values(n, 1), vec![0.0; n], vec![0.0; n]);
            let mut tensors = [&p, &m, &v].map(|x| flat(x, &device));
            for t in 1..=4 {
                let gradient = values(n, 10 + t as u32);
                optimizer.step(&mut p, &gradient, &mut m, &mut v, 1e-2, t, 0.5);
                // Another holder keeps what it had.
                let before = tensors[0].clone();
                let kept = numbers(before.clone());
                let [parameter, first, second] = &mut tensors;
                let new = optimizer.step_tensors(parameter.clone(), flat(&gradient, &device), first, second, 1e-2, t, 0.5);
                *parameter = new;
                assert_eq!(numbers(before), kept);
            }
            for (name, tensor, slow) in [("p", &tensors[0], &p), ("m", &tensors[1], &m), ("v", &tensors[2], &v)] {
                close(&format!("adamw {n} {name}"), &numbers(tensor.clone()), slow, 2e-6);
            }
        }
    }

    #[test]
    fn norm_of_tensors() {
        let device = tested();
        let (x, y) = (values(40_003, 1), values(64, 2));
        let slow = x.iter().chain(&y).map(|&g| f64::from(g) * f64::from(g)).sum::<f64>().sqrt();
        let mut tensors = [flat(&x, &device), flat(&y, &device)];
        let [first, second] = &mut tensors;
        let norm = f64::from(global_norm(vec![first, second]));
        assert!((norm - slow).abs() < 1e-5 * slow, "{norm} against {slow}");
        assert_eq!(numbers(tensors[1].clone()), y);
    }
}
