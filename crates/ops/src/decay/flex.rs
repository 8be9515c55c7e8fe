//! CPU: the delta rule's code without its rank-one part.

use crate::cpu::{Array, View};
use crate::delta_rule::Options;
use crate::delta_rule::flex::{collect, collect_states, run_backward, run_forward};

pub fn forward(options: &Options, [q, logw, k, v, state]: [View<'_>; 5]) -> (Array, Array) {
    run_forward(options, q, logw, k, v, None, state)
}

pub fn backward(
    options: &Options,
    _needs: [bool; 5],
    [q, logw, k, v, state]: [View<'_>; 5],
    _output: View<'_>,
    saved: View<'_>,
    gradient: View<'_>,
) -> [Option<Array>; 5] {
    let (mut heads, dims) = run_backward(options, q, logw, k, v, None, state, saved, gradient);
    if logw.width() == 1 && dims.key != 1 {
        // One decay for all channels: its gradient is the sum of theirs.
        for g in &mut heads {
            g.logw = g.logw.chunks(dims.key).map(|row| row.iter().sum()).collect();
        }
    }
    [
        collect(&dims, &heads, q, |g| &g.r),
        collect(&dims, &heads, logw, |g| &g.logw),
        collect(&dims, &heads, k, |g| &g.k),
        collect(&dims, &heads, v, |g| &g.v),
        collect_states(&heads, state),
    ]
}
