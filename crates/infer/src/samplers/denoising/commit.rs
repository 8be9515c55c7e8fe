//! The rules: which of a step's candidates are committed.

use super::candidate::Candidate;
use super::settings::{Order, Rule};

/// A candidate in its place.
#[derive(Clone, Copy, Debug)]
pub struct Placed {
    /// Position in the sequence.
    pub position: usize,
    /// What is predicted there.
    pub candidate: Candidate,
    /// Whether nothing is written there yet.
    pub open: bool,
    /// To be committed only when nothing else is left (end tokens, where they come last).
    pub last: bool,
    /// A random number, for random order.
    pub random: f64,
}

impl Placed {
    fn score(&self, rule: Rule, order: Order) -> f64 {
        match (rule, order) {
            (Rule::Random { .. }, _) => self.random,
            (_, Order::Probability) => f64::from(self.candidate.confidence),
            (_, Order::Margin) => f64::from(self.candidate.margin),
            (_, Order::Entropy) => -f64::from(self.candidate.entropy),
        }
    }
}

/// Indices into `placed` (rising positions) of what is committed: at least one, if there is any.
/// `quota` is the number for rules of fixed steps. Of equals the lower position comes first.
pub fn commit(rule: Rule, order: Order, placed: &[Placed], quota: usize) -> Vec<usize> {
    let mut best: Vec<usize> = (0..placed.len()).collect();
    let score = |i: usize| placed[i].score(rule, order);
    best.sort_by(|&a, &b| placed[a].last.cmp(&placed[b].last).then(score(b).total_cmp(&score(a))).then(a.cmp(&b)));
    let eligible = best.iter().filter(|&&i| !placed[i].last).count();
    let confidence = |i: usize| f64::from(placed[i].candidate.confidence);
    let count = match rule {
        Rule::Fixed { .. } | Rule::Random { .. } | Rule::Ancestral { .. } => quota,
        Rule::Threshold { at } => {
            let sure = |i: &usize| !placed[*i].last && placed[*i].candidate.confidence >= at;
            // Whatever the order: it decides only which one is committed when none is sure.
            best.sort_by_key(|i| !sure(i));
            best.iter().filter(|i| sure(i)).count()
        }
        Rule::Factor { at } => {
            best[..eligible].sort_by(|&a, &b| confidence(b).total_cmp(&confidence(a)).then(a.cmp(&b)));
            // Strictly above, so that f = 0 is one token a step even where a probability rounds to 1.
            let holds = |n: usize| confidence(best[n - 1]) > 1.0 - f64::from(at) / (n as f64 + 1.0);
            (1..=eligible).take_while(|&n| n == 1 || holds(n)).count()
        }
        Rule::Entropy { at } => {
            let (mut sum, mut largest) = (0.0f64, 0.0f64);
            let within = |&&i: &&usize| {
                let entropy = f64::from(placed[i].candidate.entropy);
                sum += entropy;
                largest = largest.max(entropy);
                // Strictly below, so that a bound of 0 is one token a step.
                sum - largest < f64::from(at)
            };
            best[..eligible].iter().take_while(within).count()
        }
        Rule::Hierarchical { high, low } => {
            let taken = runs(placed)
                .into_iter()
                .filter(|run| placed[run.start].open)
                .filter_map(|run| run.filter(|&i| !placed[i].last).max_by(|&a, &b| score(a).total_cmp(&score(b)).then(b.cmp(&a))))
                .filter(|&i| placed[i].candidate.confidence >= low);
            let mut taken: Vec<usize> = taken.collect();
            taken.extend((0..placed.len()).filter(|&i| !placed[i].last && placed[i].candidate.confidence >= high));
            if taken.is_empty() {
                taken.extend(best.first());
            }
            taken.sort_unstable();
            taken.dedup();
            return taken;
        }
    };
    best.truncate(count.max(1));
    best.sort_unstable();
    best
}

/// What a rule has taken, with the best of the others: `count` in all, as far as there are so many.
pub fn filled_up(mut taken: Vec<usize>, order: Order, placed: &[Placed], count: usize) -> Vec<usize> {
    let rest: Vec<usize> = (0..placed.len()).filter(|i| taken.binary_search(i).is_err()).collect();
    let missing = count.saturating_sub(taken.len()).min(rest.len());
    if missing > 0 {
        let others: Vec<Placed> = rest.iter().map(|&i| placed[i]).collect();
        let more = commit(Rule::Fixed { steps: 1 }, order, &others, missing);
        taken.extend(more.into_iter().map(|i| rest[i]));
        taken.sort_unstable();
    }
    taken
}

/// Index ranges of neighbouring positions that are alike open.
fn runs(placed: &[Placed]) -> Vec<std::ops::Range<usize>> {
    let mut out = Vec::new();
    let mut start = 0;
    for i in 0..placed.len() {
        let goes_on = |next: &Placed| next.position == placed[i].position + 1 && next.open == placed[i].open;
        if !placed.get(i + 1).is_some_and(goes_on) {
            out.push(start..i + 1);
            start = i + 1;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn placed(confidences: &[f32]) -> Vec<Placed> {
        let one = |(position, &confidence): (usize, &f32)| Placed {
            position,
            candidate: Candidate { token: 0, confidence, entropy: 1.0 - confidence, margin: confidence / 2.0 },
            open: true,
            last: false,
            random: (position * 7 % 5) as f64,
        };
        confidences.iter().enumerate().map(one).collect()
    }

    fn by(rule: Rule, placed: &[Placed]) -> Vec<usize> {
        commit(rule, Order::Probability, placed, 2)
    }

    #[test]
    fn each_rule_takes_what_its_formula_says() {
        let all = placed(&[0.5, 0.95, 0.9, 0.2, 0.97]);
        assert_eq!(by(Rule::Fixed { steps: 9 }, &all), [1, 4]);
        assert_eq!(by(Rule::Random { steps: 9 }, &all), [2, 4]);
        assert_eq!(by(Rule::Threshold { at: 0.9 }, &all), [1, 2, 4]);
        // Sorted 0.97 0.95 0.9 0.5: with f = 0.3 the bounds are 0.85, 0.9, 0.925.
        assert_eq!(by(Rule::Factor { at: 0.3 }, &all), [1, 4]);
        // Entropies sorted 0.03 0.05 0.1 0.5 0.8; sums without the largest 0, 0.03, 0.08, 0.18.
        assert_eq!(by(Rule::Entropy { at: 0.1 }, &all), [1, 2, 4]);
        assert_eq!(by(Rule::Entropy { at: f32::INFINITY }, &all), [0, 1, 2, 3, 4]);
    }

    #[test]
    fn at_their_limits_they_are_one_token_a_step() {
        // Oracle (iii), with probabilities that round to 1 and entropies that round to 0.
        let all = placed(&[1.0, 1.0, 0.3, 1.0]);
        for rule in [Rule::Factor { at: 0.0 }, Rule::Entropy { at: 0.0 }, Rule::Threshold { at: 1.001 }] {
            assert_eq!(by(rule, &all), [0], "{rule:?}");
        }
    }

    #[test]
    fn hierarchical_divides_runs() {
        let mut all = placed(&[0.3, 0.6, 0.2, 0.7, 0.95, 0.5]);
        // Positions 0 1 2 and 6 7 8: two runs.
        all[3..].iter_mut().for_each(|p| p.position += 3);
        let rule = |high, low| Rule::Hierarchical { high, low };
        assert_eq!(by(rule(0.9, 0.5), &all), [1, 4]);
        assert_eq!(by(rule(0.7, 0.5), &all), [1, 3, 4]);
        assert_eq!(by(rule(0.99, 0.65), &all), [4]);
        assert_eq!(by(rule(0.999, 0.99), &all), [4]);
    }

    #[test]
    fn what_comes_last_is_left_unless_nothing_else_is_there() {
        let mut all = placed(&[0.5, 0.99, 0.4]);
        all[1].last = true;
        for rule in [
            Rule::Threshold { at: 0.9 },
            Rule::Factor { at: 0.1 },
            Rule::Entropy { at: 0.01 },
            Rule::Hierarchical { high: 0.9, low: 0.9 },
        ] {
            assert_eq!(by(rule, &all), [0], "{rule:?}");
            assert_eq!(by(rule, &all[1..2]), [0], "{rule:?}");
        }
        assert_eq!(by(Rule::Fixed { steps: 9 }, &all), [0, 2]);
    }

    #[test]
    fn ties_go_to_the_lower_position_and_the_order_is_a_choice() {
        let all = placed(&[0.4, 0.8, 0.8]);
        assert_eq!(commit(Rule::Fixed { steps: 1 }, Order::Margin, &all, 1), [1]);
        let mut all = placed(&[0.4, 0.8]);
        all[0].candidate.entropy = 0.0;
        assert_eq!(commit(Rule::Fixed { steps: 1 }, Order::Entropy, &all, 1), [0]);
        assert_eq!(commit(Rule::Threshold { at: 0.7 }, Order::Entropy, &all, 1), [1]);
    }

    #[test]
    fn of_uniform_noise_runs_are_of_what_is_open_and_what_was_taken_stays() {
        let mut all = placed(&[0.5, 0.95, 0.6, 0.3]);
        all[1].open = false;
        // The best of two runs, and not of what is written between them.
        assert_eq!(by(Rule::Hierarchical { high: 0.99, low: 0.4 }, &all), [0, 2]);
        assert_eq!(by(Rule::Hierarchical { high: 0.9, low: 0.4 }, &all), [0, 1, 2]);
        // By another order than the rule's own.
        all[3].candidate.entropy = 0.0;
        assert_eq!(filled_up(vec![0], Order::Entropy, &all, 2), [0, 3]);
        assert_eq!(filled_up(vec![0], Order::Probability, &all, 3), [0, 1, 2]);
        assert_eq!(filled_up(vec![0, 2], Order::Probability, &all, 9), [0, 1, 2, 3]);
        assert_eq!(filled_up(vec![0, 2], Order::Probability, &all, 1), [0, 2]);
    }
}
