//! The server floor: models behind an OpenAI-compatible interface.
//!
//! [`Server`] takes [`Settings`] and engines and gives a router, or serves a listener to its end.
//! `routes/` has one file an endpoint; [`fields`](self) read requests strictly and make
//! `/openapi.json`; a request becomes a `generation`, whose answers an endpoint tells whole or as
//! server-sent events (`stream`). States that clients come back to are in `kept`. `page/` is the
//! built-in web page. `tests/` drive it all from outside: every shape, every refusal, clients that
//! leave, and bodies made of rubbish.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod app;
mod body;
mod connections;
mod conversation;
mod error;
mod fields;
mod generation;
mod ids;
mod kept;
mod logging;
mod metrics;
mod options;
mod record;
mod routes;
mod server;
mod settings;
mod stream;
mod tokens;
mod tools;

pub use error::{ApiError, ServeError};
pub use logging::{LogFormat, start_logging};
pub use server::{Ended, Server, signals};
pub use settings::Settings;
