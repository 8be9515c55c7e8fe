//! `/v1/states/{id}`: Recast's own. What `return_state` kept, until it is deleted or makes room.

use super::{Asked, Id};
use crate::app::App;
use crate::error::ApiError;
use axum::extract::State;
use axum::{Extension, Json};
use serde_json::{Value, json};
use std::sync::Arc;

/// What a state is of.
pub(crate) async fn get(
    State(app): State<Arc<App>>,
    Extension(asked): Extension<Asked>,
    Id(id): Id,
) -> Result<Json<Value>, ApiError> {
    let kept = app.kept.get("state", &id, asked.owner)?;
    Ok(Json(json!({
        "id": kept.id, "object": "state", "model": kept.model, "tokens": kept.snapshot.tokens.len() + kept.unread.len(), "bytes": kept.bytes,
        "conversation": kept.conversation.is_some(),
    })))
}

/// Forgets it.
pub(crate) async fn delete(
    State(app): State<Arc<App>>,
    Extension(asked): Extension<Asked>,
    Id(id): Id,
) -> Result<Json<Value>, ApiError> {
    app.kept.delete("state", &id, asked.owner)?;
    Ok(Json(json!({"id": id, "object": "state", "deleted": true})))
}
