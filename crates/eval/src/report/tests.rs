//! What the page promises, on a full, an empty and a hostile report.

use super::*;
use crate::metrics::{Estimate, MetricKind};
use crate::results::Comparison;

const HOSTILE: &str = "</style><script>alert(1)</script>\"'&<img src=x onerror=y>\u{0}\u{202e}";

/// A report with every field filled; `word` stands wherever text can.
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

fn count(page: &str, needle: &str) -> usize {
    page.matches(needle).count()
}

#[test]
fn hostile_text_stays_text() {
    let page = render(&full(HOSTILE, 2.0));
    assert!(!page.contains("<script") && !page.contains("<img") && !page.contains('\0'));
    assert_eq!(count(&page, "</style>"), 1);
    // As often as a tame word, so every place escapes.
    let tame = render(&full("wordword", 2.0));
    assert_eq!(count(&page, "&lt;script&gt;alert(1)"), count(&tame, "wordword"), "every place escapes");
    assert!(count(&tame, "wordword") >= 40, "{}", count(&tame, "wordword"));
    // Same markup, whatever the text.
    assert_eq!(count(&page, "<"), count(&tame, "<"));
    assert_eq!(count(&page, "\""), count(&tame, "\""));
}

#[test]
fn the_page_needs_nothing_from_outside() {
    let page = render(&full("w", 2.0));
    for outside in ["http:", "https:", "url(", "@import", "<link", "<script", "src="] {
        assert!(!page.contains(outside), "{outside}");
    }
    assert!(page.contains("default-src 'none'"));
}

#[test]
fn drawings_and_tables_are_labelled_and_ids_differ() {
    let page = render(&full("w", 2.0));
    let drawings = count(&page, "role=\"img\"");
    assert!(drawings >= 5, "{drawings}");
    assert_eq!(count(&page, "<title id="), drawings);
    assert_eq!(count(&page, "<desc id="), drawings);
    assert_eq!(count(&page, "<table>"), count(&page, "<caption>"));
    let mut ids: Vec<&str> = page.split(" id=\"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
    let all = ids.len();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), all);
    for (open, close) in [("<svg", "</svg>"), ("<section", "</section>"), ("<table", "</table>")] {
        assert_eq!(count(&page, open), count(&page, close));
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
    let whole = serde_json::to_value(full("w", 2.0)).unwrap();
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
        let page = render(&full("w", value));
        assert!(!page.contains("NaN") && !page.contains("inf\""), "{value}");
    }
}

#[test]
fn report_json_is_the_report() {
    let folder = tempfile::tempdir().unwrap();
    let report = full("é <b>", 2.0);
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
