//! CPU: block by block, both models' logits, the divergence and the student's gradients.

use super::Options;
use crate::cpu::{Array, View, exp, simd, split_rows};
use crate::vocab_loss::blocks::{Head, active_rows, block_rows, log_sum_exp, room};

pub fn forward(options: &Options, [hidden, weight, teacher_hidden, teacher_weight]: [View<'_>; 4]) -> (Array, Array) {
    let vocabulary = weight.shape[0];
    let active = active_rows(hidden.shape[0], options.weights.as_deref());
    let size = block_rows(vocabulary).min(active.len());
    let mut student = Head::new(hidden, weight, None, size);
    let mut teacher = Head::new(teacher_hidden, teacher_weight, options.teacher_packed.clone(), size);
    let mut gradients = room(options.track, [hidden, weight]);
    let tracked = options.track != [false; 2];
    let mut total = 0.0f64;
    for block in active.chunks(size.max(1)) {
        let teacher_logits = &*teacher.logits(block);
        let logits = student.logits(block);
        let losses = split_rows(block.len(), 1, [(logits, vocabulary)], |range, [logits]| {
            let mut total = 0.0f64;
            let teacher_logits = &teacher_logits[range.start * vocabulary..];
            let both = logits.chunks_exact_mut(vocabulary.max(1)).zip(teacher_logits.chunks_exact(vocabulary.max(1)));
            for ((logits, teacher_logits), &row) in both.zip(&block[range]) {
                let row_weight = options.weights.as_ref().map_or(1.0, |weights| weights[row]);
                let (log_sum, _) = log_sum_exp(logits);
                let (teacher_log_sum, _) = log_sum_exp(teacher_logits);
                let scale = row_weight / options.denominator;
                total += f64::from(row_weight) * divergence(logits, log_sum, teacher_logits, teacher_log_sum, scale);
            }
            total
        });
        total += losses.into_iter().sum::<f64>();
        if tracked {
            student.gradients(block, &mut gradients);
        }
    }
    if tracked {
        options.waiting.put(gradients);
    }
    (Array::new(vec![(total / f64::from(options.denominator)) as f32], &[1]), Array::nothing())
}

pub fn backward(
    options: &Options,
    needs: [bool; 4],
    [hidden, weight, ..]: [View<'_>; 4],
    _output: View<'_>,
    _saved: View<'_>,
    upstream: View<'_>,
) -> [Option<Array>; 4] {
    let [dhidden, dweight] = options.waiting.take([needs[0], needs[1]], [hidden, weight], upstream.data[0]);
    [dhidden, dweight, None, None]
}

simd! {
    // Returns sum p (ln p - ln q) and leaves scale (q - p) in place of the student's logits.
    // Logarithms are subtracted element by element: the difference of two log-sum-exps would
    // cancel where student and teacher agree.
    fn divergence(logits: &mut [f32], log_sum: f32, teacher: &[f32], teacher_log_sum: f32, scale: f32) -> f64 {
        const LANES: usize = 16;
        let mut total = 0.0f64;
        for (logits, teacher) in logits.chunks_mut(4096).zip(teacher.chunks(4096)) {
            let mut lanes = [0.0f32; LANES];
            let mut term = |x: &mut f32, t: f32, lane: usize| {
                let (ln_p, ln_q) = (t - teacher_log_sum, *x - log_sum);
                let (p, q) = (exp::<FMA>(ln_p), exp::<FMA>(ln_q));
                lanes[lane] += p * (ln_p - ln_q);
                *x = scale * (q - p);
            };
            let whole = logits.len() - logits.len() % LANES;
            let (logits, logits_rest) = logits.split_at_mut(whole);
            let (teacher, teacher_rest) = teacher.split_at(whole);
            for (x, t) in logits.chunks_exact_mut(LANES).zip(teacher.chunks_exact(LANES)) {
                for l in 0..LANES {
                    term(&mut x[l], t[l], l);
                }
            }
            for (l, (x, &t)) in logits_rest.iter_mut().zip(teacher_rest).enumerate() {
                term(x, t, l);
            }
            total += f64::from(crate::cpu::sum(&lanes));
        }
        total
    }
}
