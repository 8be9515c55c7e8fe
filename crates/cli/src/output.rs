//! Where results and errors go.

/// Exit code: 2 when the user asked wrongly (a recipe, a path, an option), 1 when something failed.
pub fn exit_code(error: &anyhow::Error) -> u8 {
    use recast_train::TrainError;
    match error.downcast_ref::<TrainError>() {
        Some(TrainError::Recipe(_) | TrainError::Resume { .. }) => 2,
        _ => 1,
    }
}

/// Prints a result as one JSON object.
pub fn json(value: &impl serde::Serialize) -> anyhow::Result<()> {
    println!("{}", serde_json::to_string_pretty(value)?);
    Ok(())
}
