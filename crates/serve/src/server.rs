//! The server: from settings and engines to a router, and from a listener to the end.

use crate::app::App;
use crate::connections::Connections;
use crate::error::ServeError;
use crate::routes;
use crate::settings::Settings;
use axum::Router;
use recast_infer::Engine;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};

/// How often it is looked whether the last request has ended.
const POLL: Duration = Duration::from_millis(20);
/// How long a pass of a model is waited for in the end.
const PASS: Duration = Duration::from_secs(10);
/// How long connections get to close: idle ones after the last answer, the others after the error that ends theirs.
const LINGER: Duration = Duration::from_secs(1);

/// Models behind an interface. Cloning shares them.
#[derive(Clone)]
pub struct Server {
    app: Arc<App>,
}

/// How a server ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Every request was answered.
    Drained,
    /// Some were not: it was told twice, or they took too long. Those ended with an error.
    Cut,
}

impl Server {
    /// A server of these models; each has the name that requests call it by.
    ///
    /// # Errors
    /// When there is no model or two of one name, a chat template does not parse, or a setting is
    /// out of range.
    pub fn new(settings: Settings, models: Vec<(String, Engine)>) -> Result<Self, ServeError> {
        Ok(Self { app: Arc::new(App::new(settings, models)?) })
    }

    /// Its endpoints, to be served by whatever serves axum's routers.
    pub fn router(&self) -> Router {
        routes::router(self.app.clone())
    }

    /// Takes no new requests from now on.
    pub fn drain(&self) {
        self.app.drain();
    }

    /// Whether it takes no new requests.
    pub fn is_draining(&self) -> bool {
        self.app.is_draining()
    }

    /// Whether everything that was taken is answered.
    pub fn is_idle(&self) -> bool {
        self.app.in_flight() == 0 && self.app.models.iter().all(|model| model.engine.is_idle())
    }

    /// Serves until `stop` says so: at its first word running requests finish and new ones are
    /// refused, at the second (or when the time for it is up) they end with an error.
    ///
    /// # Errors
    /// When the listener fails.
    pub async fn run(self, listener: TcpListener, mut stop: mpsc::Receiver<()>) -> std::io::Result<Ended> {
        let (close, mut closing) = watch::channel(false);
        let settings = &self.app.settings;
        let request = Settings::time(settings.body_seconds.saturating_add(settings.request_seconds));
        let connections = Connections::new(listener, settings.connections, Settings::time(settings.stall_seconds), request);
        let shutdown = async move {
            // An error is a sender that is gone: then there is nothing to wait for either.
            let _ = closing.wait_for(|close| *close).await;
        };
        let mut serving = tokio::spawn(axum::serve(connections, self.router()).with_graceful_shutdown(shutdown).into_future());
        tokio::select! {
            ended = &mut serving => return ended.map_err(std::io::Error::other)?.map(|()| Ended::Drained),
            _ = stop.recv() => {}
        }
        tracing::info!(running = self.app.in_flight(), "draining: running requests finish, new ones are refused");
        self.drain();
        // Connections are still taken, so that who comes now hears why not.
        let idle = async {
            while !self.is_idle() {
                tokio::time::sleep(POLL).await;
            }
        };
        let ended = tokio::select! {
            () = idle => Ended::Drained,
            () = tokio::time::sleep(Duration::from_secs(settings.drain_seconds)) => Ended::Cut,
            _ = told(&mut stop) => Ended::Cut,
        };
        if ended == Ended::Cut {
            self.app.cut();
            // A pass under way is not broken off: whoever waits hears of the end behind it.
            let ending = async {
                while !self.app.models.iter().all(|model| model.engine.is_idle()) {
                    tokio::time::sleep(POLL).await;
                }
            };
            let _ = tokio::time::timeout(PASS, ending).await;
        }
        // Nobody listens any more only if serving ended, which is what is wanted.
        let _ = close.send(true);
        let _ = tokio::time::timeout(LINGER, &mut serving).await;
        serving.abort();
        Ok(ended)
    }
}

/// The next word; never, where nobody is left to say it.
async fn told(stop: &mut mpsc::Receiver<()>) {
    if stop.recv().await.is_none() {
        std::future::pending::<()>().await;
    }
}

/// A word at every SIGTERM or SIGINT.
///
/// # Errors
/// When the system does not let signals be heard.
pub fn signals() -> std::io::Result<mpsc::Receiver<()>> {
    let (sender, receiver) = mpsc::channel(4);
    #[cfg(unix)]
    let mut next = {
        use tokio::signal::unix::{SignalKind, signal};
        let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        async move || {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        }
    };
    #[cfg(not(unix))]
    let mut next = async || {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    tokio::spawn(async move {
        loop {
            next().await;
            if sender.send(()).await.is_err() {
                return;
            }
        }
    });
    Ok(receiver)
}
