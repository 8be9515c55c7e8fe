//! The server from outside, where a signal can end it.
#![cfg(unix)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};

/// Before a model is read: there is none here.
#[test]
fn what_it_cannot_serve_with_is_said_before_the_work() {
    for (arguments, said) in [
        (&["no-model", "--slots", "0"][..], "--slots"),
        (&["no-model", "--chunk", "0"], "--chunk"),
        (&["no-model", "--state-mib", "0"], "--state-mib"),
        (&["no-model", "--connections", "0"], "connections"),
        (&["no-model", "--context", "0"], "context"),
        (&["no-model", "--api-key", ""], "API key"),
        (&["x=no-model", "x=no-other"], "two models are called \"x\""),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_recast")).arg("serve").args(arguments).output().expect("runs");
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(2) && error.contains(said), "{arguments:?}: {error}");
        assert!(output.stdout.is_empty(), "{arguments:?}");
    }
}

/// Who asks much and leaves at once makes the server write to a connection that is gone. Such a write raises SIGPIPE, which
/// tests ignore and programs need not.
#[test]
fn clients_that_leave_do_not_end_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut server = Command::new(env!("CARGO_BIN_EXE_recast"))
        .current_dir(folder.path())
        .args(["serve", "embedded", "--host", "localhost", "--port", "0"])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("starts");
    let mut log = BufReader::new(server.stderr.take().expect("piped"));
    let mut line = String::new();
    while !line.contains("http://") {
        line.clear();
        assert!(log.read_line(&mut line).expect("a line") > 0, "it ended before it served");
    }
    let address = line.trim().rsplit("http://").next().expect("an address").to_owned();
    // From now on nobody reads what it says.
    drop(log);
    for _ in 0..200 {
        let mut rude = TcpStream::connect(&address).expect("it is there");
        // It may have hung up by now.
        let _ = rude.write_all(&b"GET /openapi.json HTTP/1.1\r\nhost: x\r\n\r\n".repeat(40));
    }
    let mut answer = String::new();
    let mut polite = TcpStream::connect(&address).expect("it is still there");
    polite.write_all(b"GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").expect("asks");
    polite.read_to_string(&mut answer).expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(server.try_wait().expect("asks").is_none(), "it ended");
    // SAFETY: the process is a child of ours that was not waited for.
    assert_eq!(unsafe { libc::kill(server.id() as i32, libc::SIGTERM) }, 0);
    assert!(server.wait().expect("ends").success());
}
