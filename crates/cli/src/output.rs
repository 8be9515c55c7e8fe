//! Where results and errors go.

use anyhow::Context;
use recast_infer::InferError;
use recast_text::files::folder_of;
use std::fmt::Display;
use std::io::{ErrorKind, IsTerminal, Write};
use std::path::Path;

/// What the program's exit codes mean, for its help.
pub const EXIT_CODES: &str = "\
Exit codes:
  0         done
  1         failed; also a run that a signal stopped with its steps saved (--resume goes on), and a server
            that ended before every request was answered
  2         asked wrongly: an option, a recipe, a task, or a file or model that is not there or is none
  130, 143  ended at once by SIGINT or SIGTERM: the second one, or the first where no step was lost";

/// The program's exit code for an error, by [`EXIT_CODES`].
pub fn exit_code(error: &anyhow::Error) -> u8 {
    use recast_train::TrainError;
    match error.downcast_ref::<TrainError>() {
        Some(TrainError::Io { source, .. }) if source.kind() == ErrorKind::Interrupted => crate::run::ended(),
        _ => 1 + u8::from(error.chain().any(asked_wrongly)),
    }
}

/// Whether an error, or the cause of one, is what was asked for.
fn asked_wrongly(error: &(dyn std::error::Error + 'static)) -> bool {
    use recast_eval::EvalError;
    use recast_models::ModelError;
    use recast_models::weights::WeightsError;
    use recast_train::TrainError;
    fn of_weights(error: &WeightsError) -> bool {
        matches!(error, WeightsError::NotACheckpoint { .. } | WeightsError::NoConfig { .. })
    }
    fn of_model(error: &ModelError) -> bool {
        match error {
            ModelError::Mixer { .. }
            | ModelError::MixerOptions { .. }
            | ModelError::NoTokenizer { .. }
            | ModelError::UniformNoise => true,
            ModelError::Checkpoint { source, .. } => of_model(source),
            ModelError::Weights(error) => of_weights(error),
            _ => false,
        }
    }
    // Errors that speak for another one are not among its causes.
    if let Some(error) = error.downcast_ref::<TrainError>() {
        return match error {
            TrainError::Recipe(_) | TrainError::Resume { .. } => true,
            TrainError::Model(error) => of_model(error),
            TrainError::Weights(error) => of_weights(error),
            _ => false,
        };
    }
    if let Some(error) = error.downcast_ref::<InferError>() {
        return match error {
            InferError::Option { .. } | InferError::Setting { .. } | InferError::Canvas { .. } | InferError::EmptyPrompt => true,
            InferError::Model(error) => of_model(error),
            InferError::Weights(error) => of_weights(error),
            _ => false,
        };
    }
    if let Some(error) = error.downcast_ref::<EvalError>() {
        let of_task = matches!(error, EvalError::UnknownTask { .. } | EvalError::Task { .. } | EvalError::Item { .. });
        return of_task || matches!(error, EvalError::Setting(_));
    }
    error.is::<recast_ops::device::DeviceError>()
        || error.is::<recast_serve::ServeError>()
        || error.downcast_ref().is_some_and(of_model)
        || error.downcast_ref().is_some_and(of_weights)
        || error.downcast_ref().is_some_and(not_there)
}

/// Whether the path that somebody named leads nowhere, or to a folder instead of a file.
fn not_there(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory | ErrorKind::IsADirectory)
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
        use recast_models::ModelError;
        use recast_train::TrainError;
        let io = |kind: ErrorKind| EvalError::Io { action: "cannot read", path: "data".into(), source: kind.into() };
        let task = || EvalError::Task { task: "t".into(), problem: "no".into() };
        let item = EvalError::Item { path: "data".into(), line: 1, problem: "no".into() };
        for error in [EvalError::Setting("no".into()), task(), item, io(ErrorKind::NotFound)] {
            assert_eq!(exit_code(&error.into()), 2);
        }
        assert_eq!(exit_code(&anyhow::Error::from(task()).context("reading")), 2);
        assert_eq!(exit_code(&io(ErrorKind::StorageFull).into()), 1);
        assert_eq!(exit_code(&anyhow::anyhow!("no")), 1);
        // A model, and a recipe, that is not there, whoever looks for it.
        let model = || recast_models::weights::open(Path::new("nowhere.gguf")).err().expect("not there");
        let unread = std::fs::read("nowhere.toml").expect_err("not there");
        for error in [
            anyhow::Error::from(model()),
            anyhow::Error::from(InferError::Weights(model())).context("opening"),
            TrainError::Model(ModelError::Weights(model()).of(Path::new("x"))).into(),
            TrainError::Io { path: "nowhere.toml".into(), source: unread }.into(),
        ] {
            assert_eq!(exit_code(&error), 2, "{error}");
        }
        let mixer = ModelError::MixerOptions { mixer: "rwkv7".into(), message: "no".into() };
        assert_eq!(exit_code(&TrainError::Model(mixer.of(Path::new("x"))).into()), 2);
        let nan = || ModelError::NotFinite { name: "w".into() };
        assert_eq!(exit_code(&InferError::Model(nan().of(Path::new("x"))).into()), 1);
        let stopped = TrainError::Stopped { stage: "s".into(), step: 1, path: "run".into() };
        assert_eq!(exit_code(&stopped.into()), 1);
    }

    #[test]
    fn causes_are_told_once() {
        let inner = std::io::Error::other("no room");
        let error = anyhow::Error::new(inner).context("writing x: no room").context("saving");
        assert_eq!(message(&error), "saving: writing x: no room");
    }
}
