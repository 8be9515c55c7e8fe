//! A conversation at a terminal, which `script` of util-linux makes.
#![cfg(target_os = "linux")]

mod common;

use common::{chat_model, text};
use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

struct Terminal {
    process: Child,
    pieces: Receiver<Vec<u8>>,
    /// What it shows behind what was waited for.
    shown: String,
}

/// No test that fails leaves it behind.
impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Terminal {
    /// One in which the program runs; none where there is no `script`, or it has no terminal to give.
    fn running(arguments: &[&str]) -> Option<Self> {
        let quiet = |line: &str| Command::new("script").args(["-qefc", line, "/dev/null"]).stdin(Stdio::null()).output();
        if !quiet("true").is_ok_and(|output| output.status.success()) {
            return None;
        }
        let line = format!("exec '{}' {}", env!("CARGO_BIN_EXE_recast"), arguments.join(" "));
        let mut command = Command::new("script");
        command.args(["-qefc", &line, "/dev/null"]).env("SHELL", "/bin/sh").env("TERM", "xterm");
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().ok()?;
        let mut output = process.stdout.take().expect("piped");
        let (send, pieces) = channel();
        std::thread::spawn(move || {
            let mut piece = [0; 4096];
            while let Ok(count @ 1..) = output.read(&mut piece) {
                if send.send(piece[..count].to_vec()).is_err() {
                    break;
                }
            }
        });
        Some(Self { process, pieces, shown: String::new() })
    }

    fn press(&mut self, keys: &[u8]) {
        self.process.stdin.as_mut().expect("piped").write_all(keys).expect("it is there");
    }

    fn more(&mut self) {
        let piece = self.pieces.recv_timeout(Duration::from_secs(20));
        let piece = piece.unwrap_or_else(|_| panic!("nothing follows {:?}", self.shown));
        self.shown.push_str(&String::from_utf8_lossy(&piece));
    }

    /// Waits for words. What is shown before them.
    fn until(&mut self, words: &str) -> String {
        loop {
            if let Some((before, rest)) = self.shown.split_once(words) {
                let before = before.to_owned();
                self.shown = rest.to_owned();
                return before;
            }
            self.more();
        }
    }
}

#[test]
fn ctrl_c_ends_every_answer_and_no_conversation() {
    let model = chat_model();
    // Answers do not end by themselves, and nothing is told of their length.
    std::fs::write(model.path().join("generation_config.json"), r#"{"eos_token_id": []}"#).expect("writes");
    let config = model.path().join("config.json");
    let json = std::fs::read_to_string(&config).expect("reads");
    let long = json.replace(r#""max_position_embeddings": 64"#, r#""max_position_embeddings": 100000"#);
    std::fs::write(&config, long).expect("writes");
    let arguments = ["chat", text(model.path()), "--temperature", "0", "--max-tokens", "10000"];
    let Some(mut terminal) = Terminal::running(&arguments) else {
        eprintln!("skipped: there is no `script` that makes a terminal");
        return;
    };
    for _ in 0..2 {
        terminal.until("> ");
        terminal.press(b"Hello\r");
        terminal.until("\n");
        // The first letter of the answer.
        while terminal.shown.is_empty() {
            terminal.more();
        }
        terminal.press(b"\x03");
        terminal.until("; read ");
        let report = terminal.until("]");
        assert!(report.ends_with("; ended by Ctrl-C"), "{report}");
    }
    terminal.until("> ");
    terminal.press(b"/quit\r");
    assert!(terminal.process.wait().expect("ends").success());
}
