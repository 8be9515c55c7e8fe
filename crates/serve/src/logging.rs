//! One line a request, on standard error: as text or as JSON.

use tracing_subscriber::filter::LevelFilter;

/// The layout of lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Sends what the server tells to standard error, for the whole process. Does nothing where
/// somebody already listens.
pub fn start_logging(format: LogFormat) {
    let builder = tracing_subscriber::fmt().with_max_level(LevelFilter::INFO).with_target(false).with_writer(std::io::stderr);
    // A log that nobody reads any more ends no request: telling that it cannot be written would panic where it cannot.
    let builder = builder.log_internal_errors(false);
    // An error means that a subscriber is there already.
    let _ = match format {
        LogFormat::Text => builder.with_ansi(false).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
}
