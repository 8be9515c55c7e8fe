//! What every request passes: a name and a record, the key, the end of the server.

use crate::app::App;
use crate::error::ApiError;
use crate::ids;
use crate::record::{Record, Recorded};
use axum::body::Body;
use axum::extract::{FromRequestParts, MatchedPath, Path, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderName, HeaderValue, Method, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use std::any::Any;
use std::sync::Arc;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Who asks, and where it is written down.
#[derive(Clone)]
pub(crate) struct Asked {
    /// Which key; none where none is needed.
    pub owner: Option<usize>,
    pub record: Arc<Record>,
}

/// What the end of a path names.
pub(crate) struct Id(pub String);

impl<S: Send + Sync> FromRequestParts<S> for Id {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let path = Path::<String>::from_request_parts(parts, state).await;
        path.map(|Path(id)| Self(id))
            .map_err(|error| ApiError::request(format!("the path cannot be read: {}", error.body_text())))
    }
}

/// Gives a request its id and its record.
pub(crate) async fn record(State(app): State<Arc<App>>, mut request: Request, next: Next) -> Response {
    let given = request.headers().get(REQUEST_ID).and_then(|value| value.to_str().ok());
    let good = |id: &&str| (1..=128).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.:".contains(&b));
    let id = given.filter(good).map_or_else(|| ids::fresh("req_"), ToOwned::to_owned);
    // By the pattern and not the path, so that nobody fills the counters with names.
    let route = request.extensions().get::<MatchedPath>().map_or("other", MatchedPath::as_str).to_owned();
    let headers_alone = request.method() == Method::HEAD;
    let record = Record::new(app, id.clone(), request.method().to_string(), route);
    request.extensions_mut().insert(Asked { owner: None, record: record.clone() });
    let mut response = next.run(request).await;
    record.set_status(response.status().as_u16());
    if headers_alone {
        // Its body is never asked for.
        record.sent();
    }
    if let Ok(value) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response.map(|body| Body::new(Recorded { body, record }))
}

/// Lets a request to `/v1` in.
pub(crate) async fn enter(State(app): State<Arc<App>>, mut request: Request, next: Next) -> Result<Response, ApiError> {
    let authorization = request.headers().get(header::AUTHORIZATION).map(|value| value.to_str().unwrap_or_default());
    let owner = app.owner(authorization)?;
    if app.is_draining() {
        return Err(ApiError::Draining);
    }
    if let Some(asked) = request.extensions_mut().get_mut::<Asked>() {
        asked.owner = owner;
    }
    Ok(next.run(request).await)
}

/// For paths that lead nowhere.
pub(crate) async fn nothing_here(uri: Uri) -> ApiError {
    ApiError::NoRoute(uri.path().chars().take(200).collect())
}

/// For methods that a path does not have.
pub(crate) async fn other_method(method: Method) -> ApiError {
    ApiError::Method(method.to_string())
}

/// A panic is our fault; it was reported where it happened, and the client hears no more of it.
pub(crate) fn panicked(_: Box<dyn Any + Send>) -> Response {
    ApiError::Failed("an error inside the server; its log says which".into()).into_response()
}
