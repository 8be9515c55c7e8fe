//! Connections: so many at a time, and none kept whose client is gone, has stopped taking its answer or asks for nothing.

use axum::serve::Listener;
use socket2::{SockRef, TcpKeepalive};
use std::io::{Error, ErrorKind, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep, sleep};

/// Time after which a connection is closed on which nothing was asked since it was opened, or since the last answer;
/// nginx's.
const IDLE: Duration = Duration::from_secs(75);
/// What a request may take beyond the time for its body and its answer.
const SLACK: Duration = Duration::from_secs(75);
/// When the system asks a client of whom nothing is heard whether it is there, and how often after that: one that waits for
/// its answer and is gone without a word is given up after two minutes or so, and its answer with it. Behind a part of an
/// answer that nobody acknowledges nothing is asked: there the system's own retransmissions decide.
const KEEPALIVE: TcpKeepalive = TcpKeepalive::new().with_time(Duration::from_secs(30)).with_interval(Duration::from_secs(10));

/// A listener with a bound on its connections.
pub(crate) struct Connections {
    listener: TcpListener,
    places: Arc<Semaphore>,
    patience: Duration,
    idle: Duration,
    busy: Duration,
}

impl Connections {
    /// So many at a time, of clients that take their answers within `patience`, and whose requests take no longer
    /// than `request`.
    pub fn new(listener: TcpListener, most: usize, patience: Duration, request: Duration) -> Self {
        let places = Arc::new(Semaphore::new(most.min(Semaphore::MAX_PERMITS)));
        Self { listener, places, patience, idle: IDLE, busy: request + SLACK }
    }
}

impl Listener for Connections {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        loop {
            // Those that find no place wait in the system's queue.
            let Ok(place) = self.places.clone().acquire_owned().await else {
                return std::future::pending().await;
            };
            match self.listener.accept().await {
                Ok((stream, address)) => {
                    // Tokens are small and shall not wait for each other.
                    let _ = stream.set_nodelay(true);
                    let _ = SockRef::from(&stream).set_tcp_keepalive(&KEEPALIVE);
                    let connection = Connection {
                        stream,
                        timer: Box::pin(sleep(self.patience)),
                        patience: self.patience,
                        waits: false,
                        idle_timer: Box::pin(sleep(self.idle)),
                        idle: self.idle,
                        busy: self.busy,
                        asked: false,
                        _place: place,
                    };
                    return (connection, address);
                }
                Err(error) => {
                    // Out of file handles, or a client that left at once: others may do better.
                    tracing::warn!(%error, "a connection was not taken");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A connection that fails when nothing can be written to it for too long: otherwise a client that
/// stalls would hold its answer in memory for ever. And when nothing comes for too long after it was
/// opened or written to, or nothing is written for longer than any request takes: a client that is gone without a
/// word, in the middle of asking too, would hold its place for ever.
pub(crate) struct Connection {
    stream: TcpStream,
    timer: Pin<Box<Sleep>>,
    patience: Duration,
    /// Whether the timer runs.
    waits: bool,
    idle_timer: Pin<Box<Sleep>>,
    idle: Duration,
    busy: Duration,
    /// Whether something was read since the connection was opened or written to.
    asked: bool,
    _place: OwnedSemaphorePermit,
}

impl Connection {
    fn watch<T>(&mut self, polled: Poll<std::io::Result<T>>, context: &mut Context<'_>) -> Poll<std::io::Result<T>> {
        if polled.is_ready() {
            self.waits = false;
            return polled;
        }
        if !self.waits {
            self.waits = true;
            self.timer.as_mut().reset(Instant::now() + self.patience);
        }
        ready!(self.timer.as_mut().poll(context));
        Poll::Ready(Err(Error::new(ErrorKind::TimedOut, "the client does not take its answer")))
    }

    fn note(&mut self, wrote: &Poll<std::io::Result<usize>>, context: &mut Context<'_>) {
        if matches!(wrote, Poll::Ready(Ok(1..))) {
            self.asked = false;
            let until = Instant::now() + self.idle;
            self.idle_timer.as_mut().reset(until);
            // Asked now, since whoever has found nothing to read does not try again until it is woken.
            let _ = self.idle_timer.as_mut().poll(context);
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_read(context, buffer);
        if polled.is_ready() {
            // Something is asked, or begun to be; a byte now and then gives it no more time.
            if !self.asked {
                self.asked = true;
                let until = Instant::now() + self.busy;
                self.idle_timer.as_mut().reset(until);
            }
            return polled;
        }
        ready!(self.idle_timer.as_mut().poll(context));
        Poll::Ready(Err(Error::new(ErrorKind::TimedOut, "nothing is asked on the connection")))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.note(&polled, context);
        self.watch(polled, context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(context, bytes);
        self.note(&polled, context);
        self.watch(polled, context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_flush(context);
        self.watch(polled, context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::Router;
    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::time::timeout;

    const SHORT: Duration = Duration::from_millis(500);
    const LONG: Duration = Duration::from_secs(20);

    /// Asks for a path and reads until the answer ends so.
    async fn ask(stream: &mut TcpStream, path: &str, end: &str) {
        stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes()).await.expect("written");
        let (mut text, mut bytes) = (String::new(), [0; 1000]);
        while !text.ends_with(end) {
            let read = timeout(LONG, stream.read(&mut bytes)).await.expect("in time").expect("an answer");
            assert!(read > 0, "closed after {text:?}");
            text.push_str(&String::from_utf8_lossy(&bytes[..read]));
        }
    }

    async fn is_closed(stream: &mut TcpStream) {
        let read = timeout(LONG, stream.read(&mut [0; 10])).await.expect("in time").expect("an end");
        assert_eq!(read, 0, "nothing more comes");
    }

    #[tokio::test]
    async fn who_waits_for_an_answer_is_asked_whether_it_is_there() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let mut connections = Connections::new(listener, 1, LONG, LONG);
        let _client = TcpStream::connect(address).await.expect("connected");
        let (connection, _) = connections.accept().await;
        assert!(SockRef::from(&connection.stream).keepalive().expect("an option of every socket"));
    }

    #[tokio::test]
    async fn who_asks_for_nothing_makes_room_and_who_waits_for_an_answer_gets_it() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let mut connections = Connections::new(listener, 1, LONG, LONG);
        (connections.idle, connections.busy) = (SHORT, 6 * SHORT);
        let slow = || async {
            sleep(3 * SHORT).await;
            "late"
        };
        let router = Router::new().route("/", get(|| async { "there" })).route("/slow", get(slow));
        let serving = tokio::spawn(axum::serve(connections, router).into_future());
        let mut silent = TcpStream::connect(address).await.expect("connected");
        // There is one place, and it is taken.
        let mut other = TcpStream::connect(address).await.expect("connected");
        ask(&mut other, "/", "there").await;
        is_closed(&mut silent).await;
        ask(&mut other, "/slow", "late").await;
        is_closed(&mut other).await;
        // Half a question is none.
        let mut half = TcpStream::connect(address).await.expect("connected");
        half.write_all(b"GET / HT").await.expect("written");
        is_closed(&mut half).await;
        serving.abort();
    }
}
