//! What the page promises, on a full, an empty and a hostile report.

use super::*;
use crate::metrics::{Estimate, MetricKind};
use crate::results::Comparison;

const HOSTILE: &str = "</style><script>alert(1)</script>\"'&<img src=x onerror=y>\u{0}\u{202e}";

/// A report of a next-token student with every field filled; `word` stands wherever text can.
fn full(word: &str, value: f64) -> Report {
    let w = || word.to_string();
    let fact = || Fact { label: w(), value: w() };
    let estimate = Estimate { value, std_error: Some(value) };
    let points = vec![Point { tokens: 0, value }, Point { tokens: 10, value: value / 2.0 }];
    Report {
        format: FORMAT,
        title: w(),
        summary: w(),
        provenance: Provenance {
            teacher: w(),
            teacher_hash: w(),
            student: w(),
            recipe: w(),
            recipe_hash: w(),
            command: w(),
            versions: vec![fact()],
            machine: w(),
            started: w(),
            finished: w(),
            more: vec![fact()],
        },
        plan: vec![StagePlan {
            name: w(),
            objective: w(),
            trains: w(),
            trainable_parameters: 5,
            total_parameters: 10,
            tokens: 1,
            steps: 1,
            sequence_length: 1,
            learning_rate: w(),
        }],
        curves: vec![StageCurves {
            stage: w(),
            quantity: w(),
            training: points.clone(),
            held_out: points.clone(),
            layers: vec![LayerCurve { layer: 3, points }],
        }],
        perplexity: PerplexityTable {
            sets: vec![w()],
            rows: [Role::Teacher, Role::Student]
                .map(|role| PerplexityRow { label: w(), role, tokens: Some(1), values: vec![Some(estimate)], bound: false })
                .into(),
            conditions: w(),
        },
        bound: BoundTable::default(),
        positions: PositionTable {
            rows: vec![PositionRow { first: 0, last: 63, tokens: 5, student: value, teacher: Some(value) }],
            conditions: w(),
        },
        tasks: vec![Comparison {
            task: w(),
            title: w(),
            metric: MetricKind::Acc,
            conditions: w(),
            chance: Some(0.25),
            teacher: estimate,
            student: estimate,
            relative: Some(estimate),
        }],
        samples: vec![Sample { prompt: w(), texts: vec![SampleText { model: w(), role: Role::Student, text: w() }] }],
        memory: [Role::Teacher, Role::Student]
            .map(|role| MemoryCurve { label: w(), role, points: vec![(1024, 4096), (2048, 8192)] })
            .into(),
        speed: [Role::Teacher, Role::Student]
            .map(|role| Speed { label: w(), role, context: 1024, tokens_per_second: value })
            .into(),
        notes: vec![w()],
    }
}

/// The same of a student that denoises, whose teacher says the next token.
fn denoiser(word: &str, value: f64) -> Report {
    let estimate = Some(Estimate { value, std_error: Some(value) });
    let row = |role, nats, by_share| BoundRow {
        label: word.to_string(),
        role,
        tokens: Some(1),
        nats,
        kind: BoundKind::Masked,
        by_share,
        next_token: estimate,
    };
    let student = row(Role::Student, estimate, [Some(value); 4]);
    let curve = vec![Point { tokens: 0, value }, Point { tokens: 10, value: value / 2.0 }];
    let bound = BoundTable {
        rows: vec![row(Role::Teacher, None, [None; 4]), student.clone(), student],
        curve: curve.clone(),
        next_token: curve,
        conditions: word.to_string(),
    };
    Report { bound, ..full(word, value) }
}

/// A report of each kind of student.
fn both(word: &str, value: f64) -> [Report; 2] {
    [full(word, value), denoiser(word, value)]
}

fn count(page: &str, needle: &str) -> usize {
    page.matches(needle).count()
}

#[test]
fn hostile_text_stays_text() {
    for (page, tame) in both(HOSTILE, 2.0).iter().zip(&both("wordword", 2.0)) {
        let (page, tame) = (render(page), render(tame));
        assert!(!page.contains("<script") && !page.contains("<img") && !page.contains('\0'));
        assert_eq!(count(&page, "</style>"), 1);
        // As often as a tame word, so every place escapes.
        assert_eq!(count(&page, "&lt;script&gt;alert(1)"), count(&tame, "wordword"), "every place escapes");
        assert!(count(&tame, "wordword") >= 40, "{}", count(&tame, "wordword"));
        // Same markup, whatever the text.
        assert_eq!(count(&page, "<"), count(&tame, "<"));
        assert_eq!(count(&page, "\""), count(&tame, "\""));
    }
}

#[test]
fn the_page_needs_nothing_from_outside() {
    let page = both("w", 2.0).iter().map(render).collect::<String>();
    for outside in ["http:", "https:", "url(", "@import", "<link", "<script", "src="] {
        assert!(!page.contains(outside), "{outside}");
    }
    assert!(page.contains("default-src 'none'"));
}

#[test]
fn drawings_and_tables_are_labelled_and_ids_differ() {
    for (report, least) in both("w", 2.0).iter().zip([5, 7]) {
        let page = render(report);
        let drawings = count(&page, "role=\"img\"");
        assert!(drawings >= least, "{drawings}");
        assert_eq!(count(&page, "<title id="), drawings);
        assert_eq!(count(&page, "<desc id="), drawings);
        assert_eq!(count(&page, "<table>"), count(&page, "<caption>"));
        let mut ids: Vec<&str> = page.split(" id=\"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
        let all = ids.len();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), all);
        for (open, close) in [("<svg", "</svg>"), ("<section", "</section>"), ("<table", "</table>"), ("<div", "</div>")] {
            assert_eq!(count(&page, open), count(&page, close), "{open}");
        }
    }
}

#[test]
fn any_part_may_be_missing() {
    let page = render(&Report::default());
    assert!(page.contains("Untitled run"));
    assert!(
        page.contains(
            "Not in this report: perplexity, tasks, samples, memory, speed, plan, training, layer by layer, provenance."
        )
    );
    assert_eq!(count(&page, "<section"), 0);
    let whole = serde_json::to_value(denoiser("w", 2.0)).unwrap();
    for key in whole.as_object().unwrap().keys() {
        let mut part = whole.clone();
        part.as_object_mut().unwrap().remove(key);
        let report: Report = serde_json::from_value(part).unwrap();
        assert!(render(&report).ends_with("</html>\n"), "{key}");
    }
}

#[test]
fn odd_numbers_do_not_reach_the_drawing() {
    for value in [f64::NAN, f64::INFINITY, 0.0, -1.0, 1e300, f64::MAX, 5e-324] {
        for report in both("w", value) {
            let page = render(&report);
            assert!(!page.contains("NaN") && !page.contains("inf\""), "{value}");
        }
    }
}

#[test]
fn report_json_is_the_report() {
    let folder = tempfile::tempdir().unwrap();
    let report = denoiser("é <b>", 2.0);
    write(folder.path(), &report).unwrap();
    assert_eq!(read(&folder.path().join("report.json")).unwrap(), report);
    let page = std::fs::read_to_string(folder.path().join("report.html")).unwrap();
    assert_eq!(page, render(&report));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);
    // A diverged run can still be written and read.
    write(folder.path(), &full("w", f64::NAN)).unwrap();
    let back = read(&folder.path().join("report.json")).unwrap();
    assert!(back.curves[0].training[0].value.is_nan());
    std::fs::write(folder.path().join("report.json"), "{\"format\": 9}").unwrap();
    let error = read(&folder.path().join("report.json")).unwrap_err().to_string();
    assert!(error.contains("found 9"), "{error}");
}

#[test]
fn headline_numbers_are_those_of_the_tables() {
    let mut report = full("w", 2.0);
    report.perplexity.rows[1].values[0] = Some(Estimate { value: 12.345, std_error: None });
    report.tasks[0].relative = Some(Estimate { value: 0.934, std_error: Some(0.02) });
    report.memory[1].points = vec![(1024, 589_824), (2048, 589_824)];
    report.speed[1].tokens_per_second = 41.3;
    let page = render(&report);
    for shown in ["12.35", "93 %", "576 KiB", "8 KiB", "41.3", "6.17"] {
        assert!(page.contains(shown), "{shown}");
    }
}

/// What stands in the figures' largest letters, in order.
fn largest(page: &str) -> Vec<&str> {
    page.split("class=\"big\">").skip(1).filter_map(|rest| rest.split('<').next()).collect()
}

#[test]
fn a_model_that_denoises_is_judged_by_its_bound() {
    let mut report = denoiser("w", 2.0);
    let of = |value, std_error| Some(Estimate { value, std_error });
    let next = |perplexity: f64| of(perplexity.ln(), None);
    report.bound.rows[0].next_token = next(6.25);
    report.bound.rows[1].nats = of(6.47, Some(0.03));
    let student = &mut report.bound.rows[2];
    (student.nats, student.next_token) = (of(2.345, Some(0.012)), next(7.75));
    let page = render(&report);
    assert_eq!(largest(&page)[0], "2.345", "the bound first, and no perplexity as large");
    let detail = "± 0.012; 6.470 at first; perplexity at most 10.43; next-token perplexity 7.75 (teacher 6.25)";
    assert!(page.contains(detail) && page.contains("diffusion bound, nats a token</th>"));
    assert!(page.contains("Held-out text over the run: diffusion bound") && page.contains("next-token loss, which is no bound"));
    // One of the next token is no comparison with a bound.
    assert!(page.contains("is no comparison with one") && !page.contains("× teacher"));
    assert!(!page.contains("id=\"perplexity\"") && !page.contains("held-out perplexity"));

    // A teacher that denoises is one: exp(2.345 - 2.0) = 1.41.
    (report.bound.rows[0].nats, report.bound.rows[0].next_token) = (of(2.0, Some(0.01)), None);
    let page = render(&report);
    assert!(page.contains("× teacher") && page.contains(">1.41<") && page.contains("teacher 2.000"));
    assert!(!page.contains("is no comparison with one"));

    for (kind, words) in [
        (BoundKind::UniformNoise, "diffusion bound, generalised KL of uniform noise"),
        (BoundKind::Exact, "nats a token of held-out text, in the model&#39;s own order"),
    ] {
        report.bound.rows[2].kind = kind;
        let page = render(&report);
        assert!(page.contains(words) && page.contains("perplexity at most") == (kind != BoundKind::Exact), "{words}");
    }

    // Before there was such a table, bounds stood among the perplexities.
    report.bound = BoundTable::default();
    report.perplexity.rows[1].bound = true;
    report.perplexity.rows[1].values[0] = of(4.0, None);
    let page = render(&report);
    assert!(largest(&page)[0] == "1.386" && page.contains("is no comparison with one"), "ln 4");
}

#[test]
fn a_teacher_not_clearly_above_chance_is_told_so() {
    let mut report = full("w", 2.0);
    report.tasks[0].relative = None;
    let page = render(&report);
    assert!(page.contains(">teacher near chance<") && !page.contains("at chance"));
}

#[test]
fn comparisons_are_added_to_what_stands_there_now() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("report.json");
    let [old, new] = [full("old", 2.0), full("new", 3.0)];
    write(folder.path(), &old).unwrap();
    add(folder.path(), &new.tasks).unwrap();
    let both = read(&place).unwrap();
    assert_eq!(both, Report { tasks: [&old.tasks[..], &new.tasks].concat(), ..old.clone() });
    // What somebody else wrote meanwhile stays; a task that was there is replaced.
    write(folder.path(), &Report { title: "changed".into(), ..both }).unwrap();
    let again = Comparison { chance: None, ..new.tasks[0].clone() };
    add(folder.path(), std::slice::from_ref(&again)).unwrap();
    let found = read(&place).unwrap();
    assert_eq!((found.title.as_str(), found.tasks), ("changed", vec![old.tasks[0].clone(), again]));
}
