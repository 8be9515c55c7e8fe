//! Every embedded task on two items: the exact text a model sees.

use super::*;

/// Name, data lines, solved examples' lines, and what must come out: for each item its pairs with
/// `→` between context and continuation (`*` before the right one), or its text.
type Fixture = (&'static str, &'static str, &'static str, [&'static [&'static str]; 2]);

const CHOICES: &str = r#"{"id":"1","query":"Why <b> & {{ x }}?","choices":["so","no more"],"gold":1}
{"id":"2","query":"The sky is","choices":["blue","é","red"],"gold":0}"#;

const QUESTIONS: [&[&str]; 2] = [
    &["Question: Why <b> & {{ x }}?\nAnswer:→ so", "*Question: Why <b> & {{ x }}?\nAnswer:→ no more"],
    &["*Question: The sky is\nAnswer:→ blue", "Question: The sky is\nAnswer:→ é", "Question: The sky is\nAnswer:→ red"],
];

const MMLU: &str = r#"{"id":"1","subject":"high_school_physics","query":" Which?\n","choices":["w","x "," y","z"],"gold":2}
{"id":"2","subject":"law","query":"Who?","choices":["p","q","r","s"],"gold":0}"#;

const MMLU_SHOTS: &str = r#"{"id":"s1","subject":"law","query":"L1","choices":["1","2","3","4"],"gold":3}
{"id":"s2","subject":"high_school_physics","query":"P1","choices":["1","2","3","4"],"gold":0}
{"id":"s3","subject":"law","query":"L2","choices":["1","2","3","4"],"gold":1}
{"id":"s4","subject":"high_school_physics","query":"P2","choices":["1","2","3","4"],"gold":2}
{"id":"s5","subject":"law","query":"L3","choices":["1","2","3","4"],"gold":0}"#;

const FIXTURES: &[Fixture] = &[
    ("arc_easy", CHOICES, "", QUESTIONS),
    ("arc_challenge", CHOICES, "", QUESTIONS),
    ("piqa", CHOICES, "", QUESTIONS),
    ("boolq", CHOICES, "", QUESTIONS),
    (
        "openbookqa",
        CHOICES,
        "",
        [&["Why <b> & {{ x }}?→ so", "*Why <b> & {{ x }}?→ no more"], &["*The sky is→ blue", "The sky is→ é", "The sky is→ red"]],
    ),
    (
        "siqa",
        CHOICES,
        "",
        [
            &["Q: Why <b> & {{ x }}?\nA:→ so", "*Q: Why <b> & {{ x }}?\nA:→ no more"],
            &["*Q: The sky is\nA:→ blue", "Q: The sky is\nA:→ é", "Q: The sky is\nA:→ red"],
        ],
    ),
    (
        "hellaswag",
        r#"{"id":"1","query":"Jump: A man","choices":[" runs."," sits. "],"gold":1}
{"id":"2","query":"Cook: She ","choices":["eats."," goes."],"gold":0}"#,
        "",
        [&["Jump: A man→ runs.", "*Jump: A man→ sits."], &["*Cook: She→ eats.", "Cook: She→ goes."]],
    ),
    (
        "winogrande",
        r#"{"id":"1","query":"Ann paid Bea, so _ was poorer.","choices":["Ann","Bea"],"gold":0}
{"id":"2","query":"_'s cup fell.","choices":["Tom","Jo"],"gold":1}"#,
        "",
        [&["*Ann paid Bea, so Ann→ was poorer.", "Ann paid Bea, so Bea→ was poorer."], &["Tom→'s cup fell.", "*Jo→'s cup fell."]],
    ),
    (
        "mmlu",
        MMLU,
        "",
        [
            &[
                "The following are multiple choice questions (with answers) about high school physics.\n\nWhich?\nA. w\nB. x \nC.  y\nD. z\nAnswer:→ A",
                "The following are multiple choice questions (with answers) about high school physics.\n\nWhich?\nA. w\nB. x \nC.  y\nD. z\nAnswer:→ B",
                "*The following are multiple choice questions (with answers) about high school physics.\n\nWhich?\nA. w\nB. x \nC.  y\nD. z\nAnswer:→ C",
                "The following are multiple choice questions (with answers) about high school physics.\n\nWhich?\nA. w\nB. x \nC.  y\nD. z\nAnswer:→ D",
            ],
            &[
                "*The following are multiple choice questions (with answers) about law.\n\nWho?\nA. p\nB. q\nC. r\nD. s\nAnswer:→ A",
                "The following are multiple choice questions (with answers) about law.\n\nWho?\nA. p\nB. q\nC. r\nD. s\nAnswer:→ B",
                "The following are multiple choice questions (with answers) about law.\n\nWho?\nA. p\nB. q\nC. r\nD. s\nAnswer:→ C",
                "The following are multiple choice questions (with answers) about law.\n\nWho?\nA. p\nB. q\nC. r\nD. s\nAnswer:→ D",
            ],
        ],
    ),
    (
        // Two solved examples here; the count is set by the test.
        "mmlu_5shot",
        MMLU,
        MMLU_SHOTS,
        [
            &[
                "The following are multiple choice questions (with answers) about high school physics.\n\nP1\nA. 1\nB. 2\nC. 3\nD. 4\nAnswer: A\n\nP2\nA. 1\nB. 2\nC. 3\nD. 4\nAnswer: C\n\nWhich?\nA. w\nB. x \nC.  y\nD. z\nAnswer:→ A",
                "The following are multiple choice questions (with answers) about high school physics.\n\nP1\nA. 1\nB. 2\nC. 3\nD. 4\nAnswer: A\n\nP2\nA. 1\nB. 2\nC. 3\nD. 4\nAnswer: C\n\nWhich?\nA. w\nB. x \nC.  y\nD. z\nAnswer:→ B",
                "*The following are multiple choice questions (with answers) about high school physics.\n\nP1\nA. 1\nB. 2\nC. 3\nD. 4\nAnswer: A\n\nP2\nA. 1\nB. 2\nC. 3\nD. 4\nAnswer: C\n\nWhich?\nA. w\nB. x \nC.  y\nD. z\nAnswer:→ C",
                "The following are multiple choice questions (with answers) about high school physics.\n\nP1\nA. 1\nB. 2\nC. 3\nD. 4\nAnswer: A\n\nP2\nA. 1\nB. 2\nC. 3\nD. 4\nAnswer: C\n\nWhich?\nA. w\nB. x \nC.  y\nD. z\nAnswer:→ D",
            ],
            &[
                "*The following are multiple choice questions (with answers) about law.\n\nL1\nA. 1\nB. 2\nC. 3\nD. 4\nAnswer: D\n\nL2\nA. 1\nB. 2\nC. 3\nD. 4\nAnswer: B\n\nWho?\nA. p\nB. q\nC. r\nD. s\nAnswer:→ A",
                "The following are multiple choice questions (with answers) about law.\n\nL1\nA. 1\nB. 2\nC. 3\nD. 4\nAnswer: D\n\nL2\nA. 1\nB. 2\nC. 3\nD. 4\nAnswer: B\n\nWho?\nA. p\nB. q\nC. r\nD. s\nAnswer:→ B",
                "The following are multiple choice questions (with answers) about law.\n\nL1\nA. 1\nB. 2\nC. 3\nD. 4\nAnswer: D\n\nL2\nA. 1\nB. 2\nC. 3\nD. 4\nAnswer: B\n\nWho?\nA. p\nB. q\nC. r\nD. s\nAnswer:→ C",
                "The following are multiple choice questions (with answers) about law.\n\nL1\nA. 1\nB. 2\nC. 3\nD. 4\nAnswer: D\n\nL2\nA. 1\nB. 2\nC. 3\nD. 4\nAnswer: B\n\nWho?\nA. p\nB. q\nC. r\nD. s\nAnswer:→ D",
            ],
        ],
    ),
    (
        "pubmedqa",
        r#"{"id":"1","context":"C.","question":"Q?","choices":["yes","no","maybe"],"gold":2}
{"id":"2","context":"D","question":"R","choices":["yes","no"],"gold":0}"#,
        "",
        [
            &[
                "Abstract: C.\nQuestion: Q?\nAnswer:→ yes",
                "Abstract: C.\nQuestion: Q?\nAnswer:→ no",
                "*Abstract: C.\nQuestion: Q?\nAnswer:→ maybe",
            ],
            &["*Abstract: D\nQuestion: R\nAnswer:→ yes", "Abstract: D\nQuestion: R\nAnswer:→ no"],
        ],
    ),
    (
        "blimp",
        r#"{"id":"1","uid":"u","good":"She runs.","bad":"She run."}
{"id":"2","uid":"u","good":"g","bad":"b"}"#,
        "",
        [&["*→ She runs.", "→ She run."], &["*→ g", "→ b"]],
    ),
    (
        "lambada",
        r#"{"id":"1","context":"He said,\n\n\"no\" to","target":" Ann"}
{"id":"2","context":"a","target":" b"}"#,
        "",
        [&["*He said,\n\n\"no\" to→ Ann"], &["*a→ b"]],
    ),
    (
        "perplexity",
        r#"{"source":"s/1","text":" Plain <b>\n\n"}
{"source":"t","messages":[{"role":"user","content":"Hi"},{"role":"assistant","content":"Yo\n"}]}"#,
        "",
        [&[" Plain <b>\n\n"], &["<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nYo\n<|im_end|>\n"]],
    ),
    (
        "wikitext2",
        " = One = \n \n a <unk> \n \n = Two = \n \n b \n",
        "",
        [&[" = One = \n \n a <unk> \n \n"], &[" = Two = \n \n b \n"]],
    ),
    (
        "gsm8k",
        r#"{"id":"1","question":"2+2?","answer":"4\n#### 4","final":"4"}
{"id":"2","question":"q","answer":"a","final":"7"}"#,
        "",
        [&["Question: 2+2?\nAnswer:⇒4"], &["Question: q\nAnswer:⇒7"]],
    ),
    (
        "xquad_en",
        r#"{"id":"1","context":"C.","question":"Q?","answers":["A","B"]}
{"id":"2","context":"D","question":"R","answers":["E"]}"#,
        "",
        [&["Context: C.\n\nQuestion: Q?\n\nAnswer:⇒A|B"], &["Context: D\n\nQuestion: R\n\nAnswer:⇒E"]],
    ),
];

fn shown(body: &Body) -> Vec<String> {
    match body {
        Body::Pairs { pairs, gold } => pairs
            .iter()
            .enumerate()
            .map(|(index, (context, continuation))| {
                let star = if index == *gold { "*" } else { "" };
                format!("{star}{context}→{continuation}")
            })
            .collect(),
        Body::Text(text) => vec![text.clone()],
        Body::Generate { context, answers } => vec![format!("{context}⇒{}", answers.join("|"))],
    }
}

fn load(name: &str, lines: &str, shots: &str, options: &LoadOptions) -> Result<Loaded> {
    let task = Task::builtin(name)?;
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join(&task.data.file), lines).unwrap();
    if let Some(source) = &task.shots {
        std::fs::write(folder.path().join(&source.file), shots).unwrap();
    }
    task.load(folder.path(), options)
}

#[test]
fn every_task_shows_exactly_this() {
    for (name, lines, shots, expected) in FIXTURES {
        let options = LoadOptions { shots: (!shots.is_empty()).then_some(2), ..LoadOptions::default() };
        let loaded = load(name, lines, shots, &options).unwrap();
        assert_eq!(loaded.items.len(), 2, "{name}");
        for (item, expected) in loaded.items.iter().zip(expected) {
            assert_eq!(&shown(&item.body), expected, "{name}, item {}", item.id);
        }
    }
}

#[test]
fn truthfulqa_puts_its_authors_examples_first() {
    let lines = r#"{"id":"1","question":"Why?","best_answer":"B","incorrect":["x","y"]}
{"id":"2","question":"How?","best_answer":"C","incorrect":["z"]}"#;
    let loaded = load("truthfulqa_mc1", lines, "", &LoadOptions::default()).unwrap();
    let first = shown(&loaded.items[0].body);
    assert_eq!(first.len(), 3);
    assert!(first[0].starts_with("*Q: What is human life expectancy in the United States?\nA: Human life"));
    assert!(first[0].ends_with("held in Barcelona, Spain.\n\nQ: Why?\nA:→ B"), "{}", first[0]);
    assert!(first[2].ends_with("\n\nQ: Why?\nA:→ y"));
    assert_eq!(first[0].matches("Q: ").count(), 7);
    let second = shown(&loaded.items[1].body);
    assert!(second[1].ends_with("\n\nQ: How?\nA:→ z"));
    assert!((loaded.chance().unwrap() - (1.0 / 3.0 + 0.5) / 2.0).abs() < 1e-12);
}

#[test]
fn every_builtin_has_a_fixture() {
    for (name, _) in BUILTIN {
        assert!(*name == "truthfulqa_mc1" || FIXTURES.iter().any(|(known, ..)| known == name), "{name} has no fixture");
    }
}

#[test]
fn ids_and_groups() {
    let loaded = load("mmlu", MMLU, "", &LoadOptions::default()).unwrap();
    assert_eq!(loaded.items[1].id, "2");
    assert_eq!(loaded.items[1].group.as_deref(), Some("law"));
    let (_, lines, ..) = FIXTURES.iter().find(|(n, ..)| *n == "perplexity").unwrap();
    let loaded = load("perplexity", lines, "", &LoadOptions::default()).unwrap();
    assert_eq!(loaded.items[0].id, "line-1");
    assert_eq!(loaded.items[0].group.as_deref(), Some("s"));
}

#[test]
fn missing_examples_are_named() {
    let error = load("mmlu_5shot", MMLU, MMLU_SHOTS, &LoadOptions::default()).unwrap_err();
    let error = error.to_string();
    assert!(error.contains("5 solved examples for `high_school_physics`"), "{error}");
    assert!(error.contains("found 2"), "{error}");
    let options = LoadOptions { shots: Some(3), ..LoadOptions::default() };
    assert!(load("mmlu", MMLU, "", &options).is_err());
}

#[test]
fn a_document_with_neither_text_nor_messages_is_an_error() {
    let error = load("perplexity", r#"{"source":"s"}"#, "", &LoadOptions::default()).unwrap_err();
    let error = error.to_string();
    assert!(error.contains("line 1") && error.contains("no field `messages` and no `text`"), "{error}");
}
