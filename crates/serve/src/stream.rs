//! Answers as server-sent events.

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

/// How an endpoint tells an answer as it is written.
pub(crate) trait Teller: Send + 'static {
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

    async fn next(&mut self) -> Option<Event> {
        while self.queue.is_empty() && !self.over {
            match self.generation.next().await {
                Ok(Some(index)) => {
                    let told = self.teller.news(&mut self.generation, index);
                    self.add(told);
                }
                end => {
                    self.over = true;
                    let told = match end {
                        Err(error) => self.teller.failed(&error),
                        Ok(_) => self.teller.end(&mut self.generation),
                    };
                    self.add(told);
                    if self.teller.says_done() {
                        self.queue.push_back(Event::default().data("[DONE]"));
                    }
                }
            }
        }
        self.queue.pop_front()
    }
}

/// The response. It owns the generation: when the client leaves, both are dropped.
pub(crate) fn respond<T: Teller>(generation: Generation, mut teller: T) -> Response {
    let told = teller.begin(&generation);
    let mut source = Source { generation, teller, queue: VecDeque::new(), over: false };
    source.add(told);
    let events = futures_util::stream::unfold(source, |mut source| async move {
        let event = source.next().await?;
        Some((Ok::<_, Infallible>(event), source))
    });
    // Comments keep proxies from closing a connection that waits for a slot.
    let mut response = Sse::new(events).keep_alive(KeepAlive::default()).into_response();
    // nginx would collect the events.
    response.headers_mut().insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    response
}
