//! What was measured on held-out text, in words. A model that denoises is judged by its own negative log-likelihood or a
//! bound of it, which stands first; the next token's loss, where it says one, stands beside it.

use super::label;
use recast_eval::metrics::Estimate;
use recast_eval::table::{Align, Table, fixed, with_error};
use recast_train::trainer::TEACHER;
use recast_train::validate::{Bound, HeldOutLoss};

/// What the [`label`] of a student begins with.
const STUDENT: &str = "student, ";

/// What a model that denoises is judged by, in nats a token; none of a next-token model.
pub fn judged(loss: &HeldOutLoss) -> Option<Estimate> {
    let bound = loss.bound?;
    // A likelihood needs no masks, and one mask has no error.
    let std_error = Some(bound.error).filter(|error| !bound.exact && bound.samples > 1 && error.is_finite());
    Some(Estimate { value: bound.loss, std_error })
}

/// Loss of the next token, in nats a token; none of a model that says none.
pub fn next_token(loss: &HeldOutLoss) -> Option<f64> {
    (!loss.bound.is_some_and(|bound| bound.alone)).then_some(loss.loss)
}

/// How a bound was found.
pub fn form(bound: &Bound) -> String {
    match bound {
        Bound { exact: true, .. } => "blocks of one token: no bound, but the likelihood of its own order".into(),
        Bound { uniform: true, samples, .. } => {
            format!("generalised KL of uniform noise, {} a window", many(*samples as u64, "noise"))
        }
        Bound { samples, .. } => format!("exact-count form, {} a window", many(*samples as u64, "mask")),
    }
}

/// `1 mask`, `2 masks`.
pub fn many(count: u64, thing: &str) -> String {
    format!("{count} {thing}{}", if count == 1 { "" } else { "s" })
}

/// The same, with what a masked token costs.
fn how(bound: &Bound) -> String {
    if bound.exact || bound.by_share.iter().all(Option::is_none) {
        return form(bound);
    }
    let text = |nats: &Option<f64>| nats.map_or("none".into(), |nats| format!("{nats:.2}"));
    let shares = bound.by_share.iter().map(text).collect::<Vec<String>>().join(", ");
    format!("{}; nats a masked token, by the quarter masked: {shares}", form(bound))
}

fn kind(bound: &Bound) -> &'static str {
    if bound.exact { "own-order loss" } else { "diffusion bound" }
}

/// A measurement in a line, what the model is judged by first.
pub fn measured(loss: &HeldOutLoss) -> String {
    let kl = loss.kl.map_or_else(String::new, |kl| format!(", KL from the teacher {kl:.4}"));
    let (Some(bound), Some(nats)) = (loss.bound, judged(loss)) else {
        return format!("held-out perplexity {}{kl}", fixed(loss.perplexity(), 3));
    };
    let next = next_token(loss).map_or_else(String::new, |next| format!(", next-token loss {}", fixed(next, 4)));
    let nats = with_error(nats.value, nats.std_error, 4);
    format!("held-out {} {nats} nats a token{next}{kl} ({})", kind(&bound), how(&bound))
}

/// The measurements, a row each; [`notes`] say what has to be said beside them.
pub fn table(held_out: &[(String, HeldOutLoss)]) -> Table {
    let kl = |loss: &HeldOutLoss| loss.kl.map_or_else(String::new, |kl| fixed(kl, 4));
    // The finished student's.
    let Some(bound) = held_out.iter().rev().find_map(|(_, loss)| loss.bound) else {
        let columns = [("model", Align::Left), ("held-out perplexity", Align::Right), ("KL from teacher", Align::Right)];
        let mut table = Table::new(&columns);
        for (name, loss) in held_out {
            table.row([label(name), fixed(loss.perplexity(), 3), kl(loss)]);
        }
        return table.without_empty();
    };
    let columns = [
        ("model", Align::Left),
        (kind(&bound), Align::Right),
        ("next-token loss", Align::Right),
        // With its whole name there would be no room for a sample in 80 columns.
        ("KL", Align::Right),
    ];
    let mut table = Table::new(&columns);
    for (name, loss) in held_out {
        let nats = judged(loss).map(|nats| with_error(nats.value, nats.std_error, 4)).unwrap_or_default();
        let next = next_token(loss).map(|next| fixed(next, 4)).unwrap_or_default();
        table.row([label(name), nats, next, kl(loss)]);
    }
    table.without_empty()
}

/// How the bounds were found, a line for those found alike; without names where that is all of them.
fn ways(bounds: &[(&String, Bound)]) -> Vec<String> {
    let mut ways: Vec<(String, Vec<String>)> = Vec::new();
    for (name, bound) in bounds {
        let (how, name) = (how(bound), label(name));
        match ways.iter_mut().find(|(known, _)| *known == how) {
            Some((_, names)) => names.push(name),
            None => ways.push((how, vec![name])),
        }
    }
    match ways.as_slice() {
        [(how, _)] => vec![how.clone()],
        ways => ways.iter().map(|(how, names)| format!("{}: {how}", listed(names))).collect(),
    }
}

/// `student, before and after align`.
fn listed(names: &[String]) -> String {
    let mut out = String::new();
    for (i, name) in names.iter().enumerate() {
        // Once said, it need not be said again.
        let student = i > 0 && names[i - 1].starts_with(STUDENT);
        let name = name.strip_prefix(STUDENT).filter(|_| student).unwrap_or(name);
        let joined = if i == 0 {
            ""
        } else if i + 1 == names.len() {
            " and "
        } else {
            ", "
        };
        out.push_str(joined);
        out.push_str(name);
    }
    out
}

/// What has to be said beside [`table`], a line each; nothing of next-token models.
pub fn notes(held_out: &[(String, HeldOutLoss)]) -> Vec<String> {
    let bounds: Vec<(&String, Bound)> = held_out.iter().filter_map(|(name, loss)| Some((name, loss.bound?))).collect();
    if bounds.is_empty() {
        return Vec::new();
    }
    let mut units = String::from("in nats a token of held-out text");
    if bounds.iter().any(|(_, bound)| !bound.exact) {
        units.push_str("; a diffusion bound is an upper bound of the negative log-likelihood");
    }
    if held_out.iter().any(|(_, loss)| judged(loss).is_some_and(|nats| nats.std_error.is_some())) {
        units.push_str(", ± a standard error over draws");
    }
    if held_out.iter().any(|(_, loss)| loss.kl.is_some()) {
        units.push_str("; KL is from the teacher's next-token distribution");
    }
    let mut lines = vec![units];
    lines.extend(ways(&bounds));
    let judged_by_bound = bounds.last().is_some_and(|(_, bound)| !bound.exact);
    if judged_by_bound && held_out.iter().any(|(name, loss)| name == TEACHER && loss.bound.is_none()) {
        lines.push("the teacher says the next token and has no bound: its loss is no comparison with one".into());
    }
    if bounds.iter().any(|(_, bound)| bound.uniform) && bounds.iter().any(|(_, bound)| !bound.uniform) {
        lines.push("bounds of masks and of uniform noise are of different processes and no comparison either".into());
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use recast_train::trainer::BEFORE;

    fn denoiser(alone: bool, bound: Bound) -> HeldOutLoss {
        let bound = Bound { loss: 2.5, error: 0.0125, samples: 8, alone, ..bound };
        HeldOutLoss { loss: if alone { 2.5 } else { 1.75 }, bound: Some(bound), ..HeldOutLoss::default() }
    }

    fn run(student: HeldOutLoss) -> [(String, HeldOutLoss); 3] {
        let teacher = HeldOutLoss { loss: 1.5, ..HeldOutLoss::default() };
        [(TEACHER.into(), teacher), (BEFORE.into(), student), ("denoise".into(), student)]
    }

    #[test]
    fn a_bound_stands_first_and_the_next_token_beside_it() {
        let shares = Bound { by_share: [Some(1.0), None, Some(3.0), Some(4.5)], ..Bound::default() };
        let joint = HeldOutLoss { kl: Some(0.25), ..denoiser(false, shares) };
        assert_eq!(
            measured(&joint),
            "held-out diffusion bound 2.5000 ± 0.0125 nats a token, next-token loss 1.7500, KL from the teacher 0.2500 \
             (exact-count form, 8 masks a window; nats a masked token, by the quarter masked: 1.00, none, 3.00, 4.50)"
        );
        assert_eq!(
            table(&run(joint)).plain(),
            "model                   diffusion bound  next-token loss      KL\n\
             ──────────────────────  ───────────────  ───────────────  ──────\n\
             teacher                                           1.5000\n\
             student, before         2.5000 ± 0.0125           1.7500  0.2500\n\
             student, after denoise  2.5000 ± 0.0125           1.7500  0.2500\n"
        );
        let notes = notes(&run(joint)).join("\n");
        for words in [
            "an upper bound of the negative log-likelihood, ± a standard error over draws",
            "\nexact-count form, 8 masks a window; nats a masked token, by the quarter masked: 1.00",
            "no comparison",
            "KL is from",
        ] {
            assert!(notes.contains(words), "{words}: {notes}");
        }
        assert_eq!(notes.matches("exact-count form").count(), 1, "{notes}");
    }

    #[test]
    fn bounds_found_alike_share_a_line() {
        let [masks, uniform] = [false, true].map(|uniform| denoiser(false, Bound { uniform, ..Bound::default() }));
        let of = |name: &str, loss| (name.to_owned(), loss);
        let (mask, noise) = ("exact-count form, 8 masks a window", "generalised KL of uniform noise, 8 noises a window");
        let said = notes(&[of(TEACHER, uniform), of(BEFORE, masks), of("a", masks), of("b", masks), of("c", uniform)]);
        assert_eq!(
            said[1..3],
            [format!("teacher and student, after c: {noise}"), format!("student, before, after a and after b: {mask}")]
        );
        let said = notes(&[of(TEACHER, masks), of("a", masks)]);
        assert_eq!(said[1..], [mask]);
    }

    #[test]
    fn each_kind_is_named_as_what_it_is() {
        let uniform = Bound { uniform: true, ..Bound::default() };
        let words = "held-out diffusion bound 2.5000 ± 0.0125 nats a token (generalised KL of uniform noise, 8 noises a window)";
        assert_eq!(measured(&denoiser(true, uniform)), words);
        let exact = denoiser(true, Bound { exact: true, ..Bound::default() });
        assert!(measured(&exact).starts_with("held-out own-order loss 2.5000 nats a token (blocks of one token: no bound"));
        let said = notes(&run(exact));
        assert!(
            !said.iter().any(|line| line.contains("upper") || line.contains("no comparison"))
                && table(&run(exact)).plain().contains("  own-order loss  "),
            "{said:?}"
        );
        // One mask has no error.
        let mut one = denoiser(true, Bound::default());
        one.bound = one.bound.map(|bound| Bound { error: 0.0, samples: 1, ..bound });
        assert_eq!(judged(&one), Some(Estimate { value: 2.5, std_error: None }));
        let said = notes(&run(one)).join("\n");
        assert!(
            said.contains("an upper bound") && said.contains("1 mask a window") && !said.contains("standard error"),
            "{said}"
        );
    }

    #[test]
    fn next_token_models_are_judged_by_perplexity() {
        let loss = HeldOutLoss { loss: 2.0, kl: Some(0.5), ..HeldOutLoss::default() };
        assert_eq!(measured(&loss), "held-out perplexity 7.389, KL from the teacher 0.5000");
        let all = [(BEFORE.to_owned(), loss)];
        assert_eq!(
            table(&all).plain(),
            "model            held-out perplexity  KL from teacher\n\
             ───────────────  ───────────────────  ───────────────\n\
             student, before                7.389           0.5000\n"
        );
        assert!(notes(&all).is_empty() && judged(&loss).is_none() && next_token(&loss) == Some(2.0));
        let scratch = [(BEFORE.to_owned(), HeldOutLoss { kl: None, ..loss })];
        assert!(!table(&scratch).plain().contains("KL"), "nothing to be near to");
    }
}
