//! `GET /v1/models`: what is served.

use super::Id;
use crate::app::{App, Served};
use crate::error::ApiError;
use axum::Json;
use axum::extract::State;
use serde_json::{Value, json};
use std::sync::Arc;

/// All.
pub(crate) async fn list(State(app): State<Arc<App>>) -> Json<Value> {
    let data: Vec<Value> = app.models.iter().map(|served| describe(&app, served)).collect();
    Json(json!({"object": "list", "data": data}))
}

/// One; its id may hold slashes.
pub(crate) async fn one(State(app): State<Arc<App>>, Id(id): Id) -> Result<Json<Value>, ApiError> {
    Ok(Json(describe(&app, app.model(&id)?)))
}

fn describe(app: &App, served: &Served) -> Value {
    let model = served.engine.model();
    let mut mixers: Vec<&str> = model.config.mixers.iter().map(|m| m.kind.as_str()).collect();
    mixers.dedup();
    let (short, long) = (model.state_bytes(1024), model.state_bytes(2048));
    let mut described = json!({
        "id": served.id, "object": "model", "created": app.started, "owned_by": "recast",
        "recast": {
            "family": model.config.family, "mixers": mixers, "layers": model.config.layers, "vocabulary": model.config.vocabulary,
            "chat": served.template.is_some(),
            "context": (served.context < usize::MAX).then_some(served.context),
            "trained_context": model.config.max_positions,
            "state_bytes": {"1024": short, "2048": long},
            "constant_state": short == long,
        },
    });
    if let Some(diffusion) = &model.config.diffusion {
        let noise = if diffusion.uniform { "uniform" } else { "mask" };
        described["recast"]["denoising"] = json!({"block": diffusion.block, "mask_token": diffusion.mask_token, "noise": noise});
    }
    described
}
