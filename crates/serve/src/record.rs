//! A request from its arrival to the last byte of its answer: one line of log, one count.

use crate::app::App;
use axum::body::{Body, Bytes};
use http_body::{Body as HttpBody, Frame, SizeHint};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Instant;

/// What is told of a request when it is over, that is when the last copy is dropped.
pub(crate) struct Record {
    app: Arc<App>,
    id: String,
    method: String,
    route: String,
    /// Requests to `/v1` hold up the end of the server; others do not.
    counts: bool,
    started: Instant,
    model: OnceLock<String>,
    status: AtomicU16,
    prompt_tokens: AtomicUsize,
    completion_tokens: AtomicUsize,
    /// Whether the answer was sent to its end.
    complete: AtomicBool,
}

impl Record {
    pub fn new(app: Arc<App>, id: String, method: String, route: String) -> Arc<Self> {
        let counts = route.starts_with("/v1/");
        if counts {
            app.enter();
        }
        Arc::new(Self {
            app,
            id,
            method,
            route,
            counts,
            started: Instant::now(),
            model: OnceLock::new(),
            status: AtomicU16::new(0),
            prompt_tokens: AtomicUsize::new(0),
            completion_tokens: AtomicUsize::new(0),
            complete: AtomicBool::new(false),
        })
    }

    pub fn set_model(&self, model: &str) {
        // The first stays; there is one a request.
        let _ = self.model.set(model.to_owned());
    }

    pub fn set_status(&self, status: u16) {
        self.status.store(status, Ordering::Relaxed);
    }

    /// Notes that nothing of the answer is left to send.
    pub fn sent(&self) {
        self.complete.store(true, Ordering::Relaxed);
    }

    pub fn add(&self, prompt_tokens: usize, completion_tokens: usize) {
        self.prompt_tokens.fetch_add(prompt_tokens, Ordering::Relaxed);
        self.completion_tokens.fetch_add(completion_tokens, Ordering::Relaxed);
    }
}

/// nginx's number for a client that left before the end of its answer.
const LEFT: u16 = 499;

impl Drop for Record {
    fn drop(&mut self) {
        if self.counts {
            self.app.leave();
        }
        let status = if self.complete.load(Ordering::Relaxed) { self.status.load(Ordering::Relaxed) } else { LEFT };
        let took = self.started.elapsed();
        self.app.metrics.ended(&self.route, status, took);
        // Probes of a supervisor would drown the rest.
        if matches!(self.route.as_str(), "/health" | "/ready" | "/metrics") {
            return;
        }
        tracing::info!(
            id = self.id,
            method = self.method,
            route = self.route,
            status,
            model = self.model.get().map_or("-", String::as_str),
            prompt_tokens = self.prompt_tokens.load(Ordering::Relaxed),
            completion_tokens = self.completion_tokens.load(Ordering::Relaxed),
            milliseconds = took.as_millis() as u64,
            "request"
        );
    }
}

/// A body that holds its request's record until it is sent.
pub(crate) struct Recorded {
    pub body: Body,
    pub record: Arc<Record>,
}

impl HttpBody for Recorded {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        if matches!(polled, Poll::Ready(None)) || self.body.is_end_stream() {
            self.record.sent();
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        let over = self.body.is_end_stream();
        if over {
            self.record.sent();
        }
        over
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
