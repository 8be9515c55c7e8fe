//! Where results and errors go.

/// Exit code: 2 when the user asked wrongly (a recipe, a path, an option), 1 when something failed.
pub fn exit_code(error: &anyhow::Error) -> u8 {
    use recast_eval::EvalError;
    use recast_infer::InferError;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_are_told_once() {
        let inner = std::io::Error::other("no room");
        let error = anyhow::Error::new(inner).context("writing x: no room").context("saving");
        assert_eq!(message(&error), "saving: writing x: no room");
    }
}
