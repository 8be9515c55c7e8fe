//! What can go wrong, and how each is told: OpenAI's error object, a status, a word for programs.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use recast_infer::engine::Refused;
use serde_json::{Value, json};

/// The field of `/v1/responses` that names a response to go on from.
pub(crate) const PREVIOUS: &str = "previous_response_id";

/// Why the server did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// Two models have one name.
    #[error("two models are called {0:?}: name one of them, as in other-name={0}")]
    SameName(String),
    /// Nothing to serve.
    #[error("expected at least one model, found none")]
    NoModel,
    /// A setting has a value outside its range.
    #[error("{name}: expected {expected}, found {found}")]
    Setting {
        /// The setting.
        name: &'static str,
        /// Its range.
        expected: &'static str,
        /// What was given.
        found: String,
    },
    /// A model's chat template cannot be used.
    #[error("{model}: {source}")]
    Template {
        /// The model's id.
        model: String,
        /// Why.
        source: recast_text::TextError,
    },
}

/// Why a request was not answered.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ApiError {
    /// The body is not JSON.
    #[error("the body is not JSON: {0}")]
    NotJson(String),
    /// The body has another content type.
    #[error("expected content-type: application/json, found {0}")]
    ContentType(String),
    /// A field that nobody knows.
    #[error("unknown field {name:?}{}", .nearest.as_ref().map(|n| format!("; did you mean {n:?}?")).unwrap_or_default())]
    UnknownField {
        /// Its name, with the object it is in.
        name: String,
        /// A field there is.
        nearest: Option<String>,
    },
    /// A field has a value it cannot have.
    #[error("{name}: expected {expected}, found {found}")]
    Field {
        /// The field.
        name: String,
        /// What it can be.
        expected: String,
        /// What it is.
        found: String,
    },
    /// A field of OpenAI's interface that Recast does not have.
    #[error("{name} is not supported: leave it out{}", .neutral.as_ref().map(|n| format!(", or give {n}")).unwrap_or_default())]
    Unsupported {
        /// The field.
        name: String,
        /// The values that ask for nothing; none where no value does.
        neutral: Option<String>,
    },
    /// Fields that contradict each other, or a prompt that cannot be used.
    #[error("{message}")]
    Request {
        /// What is wrong.
        message: String,
        /// Where.
        param: Option<&'static str>,
    },
    /// The prompt and the tokens to write do not fit.
    #[error("{0}")]
    ContextLength(String),
    /// The chat template refused the conversation.
    #[error("the chat template refuses the conversation: {0}")]
    Template(String),
    /// The model has no chat template.
    #[error("{0} has no chat template, so it takes no messages: use /v1/completions")]
    NoTemplate(String),
    /// The body is too long.
    #[error("the body is longer than {0} bytes, as many as may be sent")]
    BodyTooLarge(usize),
    /// The body did not come.
    #[error("the body was not sent within {0} s")]
    BodyTimeout(u64),
    /// No key, or a wrong one.
    #[error("expected a key of this server in the header `Authorization: Bearer KEY`, found {0}")]
    Unauthorized(&'static str),
    /// No such model.
    #[error("there is no model {name:?}; this server has {known}")]
    NoModel {
        /// As asked for.
        name: String,
        /// Those there are.
        known: String,
    },
    /// No such state or response.
    #[error("there is no {kind} {id:?}: it never was, was deleted, or made room for newer ones")]
    NotKept {
        /// `state` or `response`.
        kind: &'static str,
        /// Its id.
        id: String,
        /// The field that named it; none where the path did.
        field: Option<&'static str>,
    },
    /// No such path.
    #[error("there is nothing at {0}; /openapi.json lists what there is")]
    NoRoute(String),
    /// The path has other methods.
    #[error("{0} is not a method of this path; /openapi.json lists those there are")]
    Method(String),
    /// As many wait as may.
    #[error("{message}")]
    QueueFull {
        /// In words.
        message: String,
        /// A guess at when there is room.
        retry_seconds: u64,
    },
    /// The server finishes what it has, or has no more time for that.
    #[error("the server is shutting down: nothing is answered any more")]
    Draining,
    /// It took too long.
    #[error("the request was not finished within {0} s, as long as one may take")]
    Timeout(u64),
    /// The model could not be run.
    #[error("the model failed: {0}")]
    Failed(String),
}

impl ApiError {
    /// What is wrong with the request as a whole.
    pub(crate) fn request(message: impl Into<String>) -> Self {
        Self::Request { message: message.into(), param: None }
    }

    /// The same, where one field is to blame.
    pub(crate) fn at(param: &'static str, message: impl Into<String>) -> Self {
        Self::Request { message: message.into(), param: Some(param) }
    }

    /// The engine's refusal; `form` is the field that a text's form came from.
    pub(crate) fn refused(refused: Refused, form: &'static str) -> Self {
        match refused {
            Refused::QueueFull { retry_seconds, .. } => Self::QueueFull { message: refused.to_string(), retry_seconds },
            Refused::TooLarge { .. } => Self::ContextLength(refused.to_string()),
            Refused::Stopping => Self::Draining,
            Refused::Field { field: "constraint", message } => Self::at(form, format!("{form}: {message}")),
            Refused::Field { field, .. } => Self::at(field, refused.to_string()),
            other => Self::request(other.to_string()),
        }
    }

    /// The status of the response.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::ContentType(_) => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::BodyTooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::BodyTimeout(_) => StatusCode::REQUEST_TIMEOUT,
            Self::Unauthorized(_) => StatusCode::UNAUTHORIZED,
            // As OpenAI has it.
            Self::NotKept { field: Some(PREVIOUS), .. } => StatusCode::BAD_REQUEST,
            Self::NoModel { .. } | Self::NotKept { .. } | Self::NoRoute(_) => StatusCode::NOT_FOUND,
            Self::Method(_) => StatusCode::METHOD_NOT_ALLOWED,
            Self::QueueFull { .. } => StatusCode::TOO_MANY_REQUESTS,
            Self::Draining => StatusCode::SERVICE_UNAVAILABLE,
            Self::Timeout(_) => StatusCode::GATEWAY_TIMEOUT,
            Self::Failed(_) => StatusCode::INTERNAL_SERVER_ERROR,
            _ => StatusCode::BAD_REQUEST,
        }
    }

    fn kind(&self) -> &'static str {
        match self {
            Self::Unauthorized(_) => "authentication_error",
            Self::QueueFull { .. } => "rate_limit_error",
            Self::Draining | Self::Timeout(_) | Self::Failed(_) => "server_error",
            _ => "invalid_request_error",
        }
    }

    fn code(&self) -> Option<&'static str> {
        Some(match self {
            Self::UnknownField { .. } => "unknown_parameter",
            Self::Field { .. } | Self::Request { param: Some(_), .. } => "invalid_value",
            Self::Unsupported { .. } => "unsupported_parameter",
            Self::ContextLength(_) => "context_length_exceeded",
            Self::Template(_) | Self::NoTemplate(_) => "chat_template",
            Self::BodyTooLarge(_) => "body_too_large",
            Self::BodyTimeout(_) | Self::Timeout(_) => "request_timeout",
            Self::Unauthorized(_) => "invalid_api_key",
            Self::NoModel { .. } => "model_not_found",
            Self::NotKept { field: Some(PREVIOUS), .. } => "previous_response_not_found",
            Self::NotKept { .. } => "not_found",
            Self::NoRoute(_) => "unknown_url",
            Self::QueueFull { .. } => "queue_full",
            Self::Draining => "shutting_down",
            Self::Failed(_) => "model_failed",
            _ => return None,
        })
    }

    fn param(&self) -> Option<String> {
        match self {
            Self::UnknownField { name, .. } | Self::Field { name, .. } | Self::Unsupported { name, .. } => Some(name.clone()),
            Self::Request { param, .. } => param.map(Into::into),
            Self::NotKept { field, .. } => field.map(Into::into),
            Self::NoModel { .. } => Some("model".into()),
            Self::Template(_) => Some("messages".into()),
            _ => None,
        }
    }

    /// OpenAI's error object.
    pub(crate) fn body(&self) -> Value {
        json!({"error": {"message": self.to_string(), "type": self.kind(), "param": self.param(), "code": self.code()}})
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status(), axum::Json(self.body())).into_response();
        let retry = match self {
            Self::QueueFull { retry_seconds, .. } => Some(retry_seconds),
            // Whoever restarts a server needs about that long.
            Self::Draining => Some(10),
            _ => None,
        };
        if let Some(seconds) = retry {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if matches!(self, Self::Unauthorized(_)) {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}
