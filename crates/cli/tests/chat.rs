//! A conversation without a terminal: lines in, an answer a line out.

mod common;

use common::{chat_model, recast, text};
use std::fs::File;
use std::path::Path;
use std::process::Command;

/// The answers, and what was said beside them.
fn talk(model: &Path, more: &[&str], lines: &[&str]) -> (Vec<String>, String) {
    let arguments = [&["chat", text(model), "--temperature", "0", "--max-tokens", "6"], more].concat();
    let output = recast(&arguments, &lines.join("\n"));
    let [answers, said] = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).expect("UTF-8"));
    assert!(output.status.success(), "{said}");
    (answers.lines().map(ToOwned::to_owned).collect(), said)
}

/// Tokens of the prompt that an answer was read for, of each.
fn read(said: &str) -> Vec<usize> {
    let counts = said.lines().filter_map(|line| line.split_once("; read ")?.1.split_once(" of the prompt"));
    counts.map(|(count, _)| count.parse().expect("a number")).collect()
}

#[test]
fn what_is_loaded_goes_on_as_what_was_saved() {
    let model = chat_model();
    let file = model.path().join("talk");
    let [save, load] = ["/save", "/load"].map(|word| format!("{word} {}", text(&file)));
    let lines = ["/system You are", "Hello", &save, "Go on", "/history", "/reset", "Hello", &load, "Go on", "/quit", "Hello"];
    let (answers, said) = talk(model.path(), &[], &lines);
    assert_eq!(answers.len(), 4, "what stands behind /quit is not read: {answers:?}");
    assert_eq!(answers[2], answers[0], "/reset keeps the system turn and nothing else");
    assert_eq!(answers[3], answers[1]);
    assert!(said.contains("saved 3 turns") && said.contains("loaded 3 turns"), "{said}");
    let history = ["system: You are", "user: Hello", &format!("assistant: {}", answers[0]), "user: Go on"];
    assert!(said.contains(&history.join("\n")), "{said}");

    // By another process, which reads the new turn alone.
    let (later, said) = talk(model.path(), &["--load", text(&file)], &["Go on"]);
    assert_eq!(later, answers[1..2]);
    assert!(read(&said).iter().all(|&tokens| tokens < 12) && read(&said).len() == 1, "{said}");

    // A system turn begins again, and an empty one without any.
    let (_, said) = talk(model.path(), &["--system", "You are"], &["Hello", "/system", "/history", "Hello", "/history"]);
    assert!(!said.contains("system:"), "{said}");
    assert_eq!(read(&said), [17, 8]);
}

#[test]
fn a_slip_does_not_end_it() {
    let model = chat_model();
    let lines = ["/save", "/save x", "/load no-such-file", "/nonsense", "", "Hello"];
    let (answers, said) = talk(model.path(), &[], &lines);
    assert_eq!(answers.len(), 1, "{answers:?}");
    for words in ["expected the name of a file", "nothing was said yet", "no-such-file", "/nonsense is no command"] {
        assert!(said.contains(words), "no `{words}` in:\n{said}");
    }
}

#[test]
fn a_line_that_is_no_text_does_not_end_it() {
    let model = chat_model();
    let lines = model.path().join("lines");
    std::fs::write(&lines, b"\xff\xfe\nHello\r\n").expect("writes");
    let output = Command::new(env!("CARGO_BIN_EXE_recast"))
        .args(["chat", text(model.path()), "--temperature", "0", "--max-tokens", "6"])
        .stdin(File::open(&lines).expect("opens"))
        .output()
        .expect("runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("expected a line of UTF-8 text"), "{said}");
    let (answers, _) = talk(model.path(), &[], &["Hello"]);
    assert_eq!(String::from_utf8_lossy(&output.stdout).lines().collect::<Vec<_>>(), answers);
}

#[test]
fn a_conversation_beyond_the_training_is_told_once() {
    let model = chat_model();
    let (_, said) = talk(model.path(), &[], &["Hello", "/reset", &"x".repeat(70), "Hello"]);
    assert!(said.contains("note: up to 79 tokens, and the model was trained on sequences of 64"), "{said}");
    assert_eq!(said.matches("note: ").count(), 1, "{said}");
}
