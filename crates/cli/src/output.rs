//! Where results and errors go.

use recast_infer::InferError;
use std::fmt::Display;
use std::io::{IsTerminal, Write};
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
        Some(EvalError::UnknownTask { .. }) => 2,
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
    println!("{}", serde_json::to_string_pretty(value)?);
    Ok(())
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
    check_folder(name, file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new(".")))
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
    fn causes_are_told_once() {
        let inner = std::io::Error::other("no room");
        let error = anyhow::Error::new(inner).context("writing x: no room").context("saving");
        assert_eq!(message(&error), "saving: writing x: no room");
    }
}
