//! Where results and errors go.

use anyhow::Context;
use recast_infer::InferError;
use recast_text::files::folder_of;
use std::fmt::Display;
use std::io::{ErrorKind, IsTerminal, Write};
use std::path::Path;

/// Exit code: 2 when the user asked wrongly (a recipe, a path, an option), 1 when something failed.
pub fn exit_code(error: &anyhow::Error) -> u8 {
    use recast_eval::EvalError;
    use recast_models::ModelError;
    use recast_train::TrainError;
    let wrongly = |e: &ModelError| matches!(e, ModelError::Mixer { .. } | ModelError::MixerOptions { .. });
    if let Some(error) = error.downcast_ref::<TrainError>() {
        return match error {
            TrainError::Recipe(_) | TrainError::Resume { .. } => 2,
            TrainError::Model(e) if wrongly(e) => 2,
            _ => 1,
        };
    }
    if error.downcast_ref::<recast_ops::device::DeviceError>().is_some() {
        return 2;
    }
    if error.downcast_ref::<recast_serve::ServeError>().is_some() {
        return 2;
    }
    if let Some(InferError::Option { .. } | InferError::Setting { .. } | InferError::EmptyPrompt) = error.downcast_ref() {
        return 2;
    }
    if error.downcast_ref::<ModelError>().is_some_and(wrongly) {
        return 2;
    }
    match error.downcast_ref::<EvalError>() {
        Some(EvalError::UnknownTask { .. } | EvalError::Setting(_) | EvalError::Task { .. } | EvalError::Item { .. }) => 2,
        // The name of a task, of its data, of a journal: what could not be read or written for another reason failed.
        Some(EvalError::Io { source, .. }) if matches!(source.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => 2,
        _ => 1,
    }
}

/// An error and its causes, each once: typed errors often tell their cause themselves.
pub fn message(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1) {
        let cause = cause.to_string();
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

/// Prints a result as one JSON object.
pub fn json(value: &impl serde::Serialize) -> anyhow::Result<()> {
    print(serde_json::to_string_pretty(value)?)
}

/// Prints a result and a line break; standard output that cannot take it is an error. A result is told when the work is
/// done: from now on a reader that has seen enough ends the program, as `| head` does.
pub fn print(text: impl Display) -> anyhow::Result<()> {
    crate::closed_pipes_end_it(true);
    write(text)
}

/// Prints what there is of a result, and ends as the making of it did: a failure is told even where the reader has seen
/// enough.
pub fn print_what_there_is(text: impl Display, ended: anyhow::Result<()>) -> anyhow::Result<()> {
    match ended {
        Ok(()) => print(text),
        Err(error) => {
            crate::closed_pipes_end_it(false);
            let _ = write(text);
            Err(error)
        }
    }
}

fn write(text: impl Display) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}").and_then(|()| out.flush()).context("cannot write to standard output")
}

/// An option that was asked for wrongly.
pub fn wrong(name: &'static str, expected: impl Into<String>, found: impl Into<String>) -> InferError {
    InferError::Setting { name, expected: expected.into(), found: found.into() }
}

/// Says a line on standard error. That nobody is there to read it ends no run.
pub fn tell(line: impl Display) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Whether standard error is a terminal that can draw anew what it shows.
pub fn redraws() -> bool {
    std::io::stderr().is_terminal() && !console::is_dumb()
}

/// Refuses a file that cannot be written and renamed into its place, before the work that it is for; `name` is
/// its option.
pub fn check_file(name: &'static str, file: &Path) -> Result<(), InferError> {
    // A folder or a device is not replaced by a file.
    if file.exists() && !file.is_file() {
        let found = format!("{}, which is something else", file.display());
        return Err(InferError::Setting { name, expected: "the name of a file".into(), found });
    }
    check_folder(name, folder_of(file))
}

/// Refuses a folder in which no file can be made.
pub fn check_folder(name: &'static str, folder: &Path) -> Result<(), InferError> {
    tempfile::tempfile_in(folder).map(drop).map_err(|error| InferError::Setting {
        name,
        expected: "a folder that can be written to".into(),
        found: format!("{} ({error})", folder.display()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_written_is_refused_before_the_work() {
        let folder = tempfile::tempdir().expect("a folder");
        check_file("--out", &folder.path().join("x")).expect("a new file in a folder that is there");
        assert_eq!(std::fs::read_dir(folder.path()).expect("reads").count(), 0, "nothing is left behind");
        let [taken, nowhere] = [folder.path().to_owned(), folder.path().join("no/x")];
        for (file, words) in [(taken, "the name of a file"), (nowhere, "can be written to")] {
            let error = check_file("--out", &file).expect_err("refused");
            assert!(error.to_string().contains("--out") && error.to_string().contains(words), "{error}");
            assert_eq!(exit_code(&error.into()), 2);
        }
    }

    #[test]
    fn what_was_asked_wrongly_is_told_from_what_failed() {
        use recast_eval::EvalError;
        let io = |kind: ErrorKind| EvalError::Io { action: "cannot read", path: "data".into(), source: kind.into() };
        let task = || EvalError::Task { task: "t".into(), problem: "no".into() };
        let item = EvalError::Item { path: "data".into(), line: 1, problem: "no".into() };
        for error in [EvalError::Setting("no".into()), task(), item, io(ErrorKind::NotFound)] {
            assert_eq!(exit_code(&error.into()), 2);
        }
        assert_eq!(exit_code(&anyhow::Error::from(task()).context("reading")), 2);
        assert_eq!(exit_code(&io(ErrorKind::StorageFull).into()), 1);
        assert_eq!(exit_code(&anyhow::anyhow!("no")), 1);
    }

    #[test]
    fn causes_are_told_once() {
        let inner = std::io::Error::other("no room");
        let error = anyhow::Error::new(inner).context("writing x: no room").context("saving");
        assert_eq!(message(&error), "saving: writing x: no room");
    }
}
