//! One question over HTTP/1.1, on a connection of its own.

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};

/// Why there is no answer.
#[derive(Debug, Error)]
pub enum AskError {
    /// The connection broke, or the other side does not speak HTTP.
    #[error("no HTTP answer: {0}")]
    Http(#[from] hyper::Error),
    /// It broke off, or was too large.
    #[error("the answer broke off, or has more than {0} bytes")]
    Body(usize),
}

/// Asks, and returns the answer's status and body, which may have this many bytes. Takes as long as the other side.
///
/// # Errors
/// [`AskError`].
pub async fn ask<S>(
    stream: S,
    request: Request<Empty<Bytes>>,
    bytes_max: usize,
) -> Result<(StatusCode, Bytes), AskError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let answer = async {
        let answer = sender.send_request(request).await?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), bytes_max).collect().await;
        Ok((status, body.map_err(|_| AskError::Body(bytes_max))?.to_bytes()))
    };
    // The connection is driven beside the answer and ends with it.
    let driven = async {
        let _ = connection.await;
        std::future::pending().await
    };
    tokio::select! {
        answer = answer => answer,
        never = driven => never,
    }
}
