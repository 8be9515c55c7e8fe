//! What a server may use, and who may use it.

use crate::error::ServeError;
use axum::http::Uri;
use std::time::Duration;

/// Nobody waits longer, and the clocks of some systems do not go much farther.
const YEAR: u64 = 365 * 24 * 3600;

/// Settings of a server. The defaults suit one machine behind nothing.
#[derive(Clone)]
pub struct Settings {
    /// Keys, one of which a request to `/v1` must bring; none: everybody may.
    pub api_keys: Vec<String>,
    /// The longest body, in bytes.
    pub body_bytes: usize,
    /// Seconds in which a body must have come.
    pub body_seconds: u64,
    /// Tokens that prompt and answer may have together; none: as many as the model was trained on
    /// where its state grows with the text, else as many as memory holds.
    pub context: Option<usize>,
    /// The most tokens a request may ask for.
    pub max_tokens: usize,
    /// Tokens written where a conversation does not say.
    pub default_tokens: usize,
    /// Answers a request may ask for: prompts times `n`.
    pub answers: usize,
    /// Seconds that a request may take.
    pub request_seconds: u64,
    /// Seconds that running requests get when the server is told to end.
    pub drain_seconds: u64,
    /// Connections at a time.
    pub connections: usize,
    /// Seconds after which a client that does not take its answer is given up.
    pub stall_seconds: u64,
    /// States kept to go on from.
    pub kept_states: usize,
    /// Bytes that they may take together.
    pub kept_bytes: usize,
    /// Origins of web pages that may use the API from a browser, as browsers send them: `scheme://host[:port]` in small
    /// letters (`*`: all); none: only this server's.
    pub cors_origins: Vec<String>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            api_keys: Vec::new(),
            body_bytes: 8 << 20,
            body_seconds: 30,
            context: None,
            max_tokens: 1 << 20,
            default_tokens: 1024,
            answers: 128,
            request_seconds: 600,
            drain_seconds: 600,
            connections: 1024,
            stall_seconds: 60,
            kept_states: 1024,
            kept_bytes: 1 << 30,
            cors_origins: Vec::new(),
        }
    }
}

/// Without the keys, which do not belong into logs.
impl std::fmt::Debug for Settings {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Settings").field("api_keys", &self.api_keys.len()).finish_non_exhaustive()
    }
}

impl Settings {
    /// Seconds of a setting, however many, as a time that clocks can be asked for.
    pub(crate) fn time(seconds: u64) -> Duration {
        Duration::from_secs(seconds.min(YEAR))
    }

    /// Whether a server may start with them, which [`Server::new`](crate::Server::new) asks too: before models are opened
    /// it costs nothing.
    ///
    /// # Errors
    /// When a count is zero that may not be, a key is empty, or an origin is none.
    pub fn check(&self) -> Result<(), ServeError> {
        let counts = [
            ("body bytes", self.body_bytes as u64),
            ("body seconds", self.body_seconds),
            ("max tokens", self.max_tokens as u64),
            ("default tokens", self.default_tokens as u64),
            ("answers", self.answers as u64),
            ("request seconds", self.request_seconds),
            ("connections", self.connections as u64),
            ("stall seconds", self.stall_seconds),
            ("context", self.context.unwrap_or(1) as u64),
        ];
        if let Some((name, _)) = counts.into_iter().find(|(_, value)| *value == 0) {
            return Err(ServeError::Setting { name, expected: "at least 1", found: "0".into() });
        }
        if self.api_keys.iter().any(|key| key.trim().is_empty()) {
            return Err(ServeError::Setting { name: "API key", expected: "some characters", found: "none".into() });
        }
        match self.cors_origins.iter().find(|origin| !["*", "null"].contains(&origin.as_str()) && !is_origin(origin)) {
            Some(origin) => {
                let expected = "* or scheme://host[:port] in small letters and with nothing behind, as in https://example.org";
                Err(ServeError::Setting { name: "CORS origin", expected, found: format!("{origin:?}") })
            }
            None => Ok(()),
        }
    }
}

/// Whether a text is an origin as browsers send them, to which it is compared byte by byte.
fn is_origin(text: &str) -> bool {
    let Ok(uri) = text.parse::<Uri>() else { return false };
    let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else { return false };
    let host = authority.host();
    let with_port = authority.port_u16().map(|port| format!("{host}:{port}"));
    let plain = !host.is_empty() && authority.as_str() == with_port.as_deref().unwrap_or(host);
    plain && text == format!("{scheme}://{authority}") && text == text.to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_checked() {
        let check = |origins: &[&str]| {
            let cors_origins = origins.iter().map(|&origin| origin.into()).collect();
            Settings { cors_origins, ..Settings::default() }.check()
        };
        let good = ["*", "null", "https://a.b", "http://localhost:3000", "http://[::1]:8080", "chrome-extension://abcdefgh"];
        assert!(check(&good).is_ok());
        let wrong =
            ["", "foo", "a\nb", "https://a.b/", "https://a.b/c", "https://a.b?c", "https://u@a.b", "https://A.b", "a.b:80"];
        for origin in wrong.into_iter().chain(["https://a.b:", "https://a.b:99999", "https://u@a.b:80", "http://:80"]) {
            let error = check(&["https://a.b", origin]).unwrap_err().to_string();
            assert!(
                error.starts_with("CORS origin: expected * or scheme://host") && error.ends_with(&format!("{origin:?}")),
                "{error}"
            );
        }
    }
}
