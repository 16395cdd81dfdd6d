//! The admin listener: metrics, health and readiness over plain HTTP/1.1, on a port of its own, for this machine.
//!
//! | path | answer |
//! |---|---|
//! | `/metrics` | 200, [`text`] |
//! | `/health` | 200 `ok`, or 503 and why: the process should be restarted |
//! | `/ready` | 200 `ok`, or 503 and why: clients should not be sent here |

mod client;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use thiserror::Error;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tracing::debug;

use crate::metrics::collect::Disk;
use crate::metrics::{Collector, text};

pub use client::{GetError, get};

/// Connections at once; whoever comes then waits in the kernel's backlog.
const CONNECTIONS_MAX: usize = 32;
/// From a connection's beginning to its end: one request, one answer.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes of a request's head.
const HEAD_BYTES_MAX: usize = 8 * 1024;
/// After an accept that failed, for lack of files for example.
const PAUSE: Duration = Duration::from_millis(100);

/// Where the admin listener of a server is that does not say otherwise.
pub const DEFAULT_ADDRESS: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 7480);

/// Why there is no admin listener, and what to do about it.
#[derive(Debug, Error)]
pub enum AdminError {
    /// Others could reach it.
    #[error(
        "the admin address {0} can be reached from other machines, and it asks nobody for a password: choose one on \
         127.0.0.1 or [::1], or, where a firewall protects it, say allow_remote = true under [admin] in the configuration"
    )]
    NotLoopback(SocketAddr),
    /// The system refuses.
    #[error("cannot listen on the admin address {address}: {source}; choose another one")]
    Bind {
        /// As configured.
        address: SocketAddr,
        /// What it said.
        source: io::Error,
    },
}

/// Refuses an address that other machines can reach, unless that is wanted.
///
/// # Errors
/// [`AdminError::NotLoopback`].
pub fn check(address: SocketAddr, allow_remote: bool) -> Result<(), AdminError> {
    if allow_remote || address.ip().is_loopback() { Ok(()) } else { Err(AdminError::NotLoopback(address)) }
}

/// Listens on the first of these addresses that is free.
///
/// # Errors
/// What the system says of the last one.
///
/// # Panics
/// When there is none, and outside of a tokio runtime.
pub fn bind(addresses: &[SocketAddr]) -> Result<Listener, AdminError> {
    let listen = |address| {
        let listener = std::net::TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        Ok(Listener { address: listener.local_addr()?, listener: TcpListener::from_std(listener)? })
    };
    let mut result = None;
    for &address in addresses {
        match listen(address) {
            Ok(listener) => return Ok(listener),
            Err(source) => result = Some(AdminError::Bind { address, source }),
        }
    }
    Err(result.expect("at least one address"))
}

/// The admin listener, which answers nobody yet.
pub struct Listener {
    /// Where, with the real port.
    pub address: SocketAddr,
    listener: TcpListener,
}

/// The admin listener, running.
pub struct Admin {
    accepting: JoinHandle<()>,
    disk: Arc<Disk>,
}

impl Admin {
    /// Answers on this listener, as a task of the current runtime.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn serve(listener: Listener, collector: Collector) -> Self {
        let disk = collector.disk.clone();
        Self { accepting: tokio::spawn(accept(listener.listener, Arc::new(collector))), disk }
    }

    /// Ends it. Afterwards nothing of the server is held here, unless a disk hangs that was asked how full it is.
    pub async fn stop(self) {
        self.accepting.abort();
        let _ = self.accepting.await;
        let _ = tokio::time::timeout(CONNECTION_TIMEOUT, self.disk.at_rest()).await;
    }
}

async fn accept(listener: TcpListener, collector: Arc<Collector>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept(), if connections.len() < CONNECTIONS_MAX => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(serve(stream, collector.clone()));
                }
                Err(error) => {
                    debug!(%error, "cannot accept an admin connection");
                    tokio::time::sleep(PAUSE).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn serve(stream: TcpStream, collector: Arc<Collector>) {
    let service = service_fn(|request| answer(&collector, request));
    let connection = http1::Builder::new()
        .keep_alive(false)
        .max_buf_size(HEAD_BYTES_MAX)
        .timer(TokioTimer::new())
        .header_read_timeout(CONNECTION_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service);
    match tokio::time::timeout(CONNECTION_TIMEOUT, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => debug!(%error, "an admin connection broke"),
        Err(_) => debug!("an admin connection took too long"),
    }
}

async fn answer(
    collector: &Collector,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, std::convert::Infallible> {
    Ok(match request.uri().path() {
        _ if !matches!(*request.method(), Method::GET | Method::HEAD) => {
            let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "GET and HEAD only\n");
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            response
        }
        "/metrics" => {
            collector.ask_disk().await;
            let mut response = plain(StatusCode::OK, collector.page());
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(text::CONTENT_TYPE));
            response
        }
        "/health" => judged(collector.health()),
        "/ready" => judged(collector.readiness()),
        _ => plain(StatusCode::NOT_FOUND, "there are /metrics, /health and /ready\n"),
    })
}

fn judged(verdict: Result<(), String>) -> Response<Full<Bytes>> {
    match verdict {
        Ok(()) => plain(StatusCode::OK, "ok\n"),
        Err(why) => plain(StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
    }
}

fn plain(status: StatusCode, text: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(text.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}
