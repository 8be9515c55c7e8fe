//! `/health`, `/ready`, `/metrics`: for whoever looks after the server. They need no key.

use crate::app::App;
use crate::error::ApiError;
use crate::metrics;
use axum::Json;
use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;
use serde_json::{Value, json};
use std::sync::Arc;

/// The process answers.
pub(crate) async fn health() -> Json<Value> {
    Json(json!({"status": "ok"}))
}

/// It takes requests.
pub(crate) async fn ready(State(app): State<Arc<App>>) -> Result<Json<Value>, ApiError> {
    if app.is_draining() { Err(ApiError::Draining) } else { Ok(Json(json!({"status": "ready"}))) }
}

/// Prometheus' text.
pub(crate) async fn metrics(State(app): State<Arc<App>>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], metrics::page(&app))
}
