//! Bodies: read up to a limit, within a time, as JSON and nothing else.

use crate::app::App;
use crate::error::ApiError;
use axum::extract::Request;
use axum::http::header;
use futures_util::StreamExt;
use serde_json::Value;
use std::time::Duration;

/// The body of a request. Only `application/json` is taken: a browser asks before it sends that to
/// another origin, so that no web page can make a visitor's own server work for it.
pub(crate) async fn json(app: &App, request: Request) -> Result<Value, ApiError> {
    let kind = request.headers().get(header::CONTENT_TYPE);
    let kind = kind.map_or("none", |value| value.to_str().unwrap_or("unreadable text"));
    let essence = kind.split(';').next().unwrap_or_default().trim();
    if !essence.eq_ignore_ascii_case("application/json") {
        return Err(ApiError::ContentType(kind.chars().take(100).collect()));
    }
    let limit = app.settings.body_bytes;
    let announced = request.headers().get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    if announced.is_some_and(|bytes| bytes > limit) {
        return Err(ApiError::BodyTooLarge(limit));
    }
    let mut stream = request.into_body().into_data_stream();
    let collect = async {
        let mut all = Vec::with_capacity(announced.unwrap_or(0).min(64 << 10));
        while let Some(part) = stream.next().await {
            let part = part.map_err(|error| ApiError::NotJson(error.to_string()))?;
            if all.len() + part.len() > limit {
                return Err(ApiError::BodyTooLarge(limit));
            }
            all.extend_from_slice(&part);
        }
        Ok(all)
    };
    let seconds = app.settings.body_seconds;
    let bytes =
        tokio::time::timeout(Duration::from_secs(seconds), collect).await.map_err(|_| ApiError::BodyTimeout(seconds))??;
    blocking(move || serde_json::from_slice(&bytes).map_err(|error| ApiError::NotJson(error.to_string()))).await
}

/// Runs what takes long (parsing, templates, tokenizing, keeping states, spelling answers out) off the threads that serve
/// connections.
pub(crate) async fn blocking<R: Send + 'static>(
    work: impl FnOnce() -> Result<R, ApiError> + Send + 'static,
) -> Result<R, ApiError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(ApiError::Failed(error.to_string())),
    }
}
