//! How answers are told: whole, or as server-sent events.

use crate::body;
use crate::error::ApiError;
use crate::generation::Generation;
use axum::http::{HeaderName, HeaderValue};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use serde_json::Value;
use std::collections::VecDeque;
use std::convert::Infallible;

/// An event: a name, where the protocol has names, and its data.
pub(crate) type Told = (Option<&'static str>, Value);

/// How an endpoint tells an answer, whole or as it is written.
pub(crate) trait Teller: Send + 'static {
    /// All of it, at its end.
    fn whole(&mut self, generation: &mut Generation) -> Value;
    /// Before anything is written.
    fn begin(&mut self, generation: &Generation) -> Vec<Told>;
    /// When answer `index` went on or ended.
    fn news(&mut self, generation: &mut Generation, index: usize) -> Vec<Told>;
    /// When all have ended.
    fn end(&mut self, generation: &mut Generation) -> Vec<Told>;
    /// When it went wrong on the way.
    fn failed(&mut self, error: &ApiError) -> Vec<Told>;
    /// Whether the line `[DONE]` comes last.
    fn says_done(&self) -> bool;
}

struct Source<T> {
    generation: Generation,
    teller: T,
    queue: VecDeque<Event>,
    over: bool,
}

impl<T: Teller> Source<T> {
    fn add(&mut self, told: Vec<Told>) {
        for (name, value) in told {
            let event = Event::default().data(value.to_string());
            self.queue.push_back(match name {
                Some(name) => event.event(name),
                None => event,
            });
        }
    }

    /// Adds the last of it.
    fn end(&mut self, told: Vec<Told>) {
        self.over = true;
        self.add(told);
        if self.teller.says_done() {
            self.queue.push_back(Event::default().data("[DONE]"));
        }
    }

    /// The next event, and what comes after it.
    async fn next(mut self) -> Option<(Event, Self)> {
        loop {
            if let Some(event) = self.queue.pop_front() {
                return Some((event, self));
            }
            if self.over {
                return None;
            }
            match self.generation.next().await {
                Ok(Some(index)) => {
                    let told = self.teller.news(&mut self.generation, index);
                    self.add(told);
                }
                Err(error) => {
                    let told = self.teller.failed(&error);
                    self.end(told);
                }
                // A state may be kept now, and others make room for it. After a panic there is nothing more to tell.
                Ok(None) => {
                    self = body::blocking(move || {
                        let told = self.teller.end(&mut self.generation);
                        self.end(told);
                        Ok(self)
                    })
                    .await
                    .ok()?;
                }
            }
        }
    }
}

/// The response. It owns the generation: when the client leaves, both are dropped.
pub(crate) fn respond<T: Teller>(generation: Generation, mut teller: T) -> Response {
    let told = teller.begin(&generation);
    let mut source = Source { generation, teller, queue: VecDeque::new(), over: false };
    source.add(told);
    let events = futures_util::stream::unfold(source, |source| async move {
        let (event, source) = source.next().await?;
        Some((Ok::<_, Infallible>(event), source))
    });
    // Comments keep proxies from closing a connection that waits for a slot.
    let mut response = Sse::new(events).keep_alive(KeepAlive::default()).into_response();
    // nginx would collect the events.
    response.headers_mut().insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    response
}
