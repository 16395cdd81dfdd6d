//! One question to an admin listener.

use std::error::Error;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Empty;
use hyper::header::HOST;
use hyper::{Request, StatusCode};
use thiserror::Error;
use tokio::net::TcpStream;

use crate::http;

/// How long an answer may take.
const TIMEOUT: Duration = Duration::from_secs(10);
/// How long it may be: with a thousand shards a page has 5 MB.
const BYTES_MAX: usize = 16 << 20;

/// Why there is no answer.
#[derive(Debug, Error)]
#[error(
    "no answer from the admin address {address}: {why}. Is a ternd running there? It logs its address when it starts; \
     --admin names another"
)]
pub struct GetError {
    address: SocketAddr,
    why: String,
}

/// Asks for a path; the answer's status and text.
///
/// # Errors
/// When there is no answer within 10 s, or none that is HTTP.
pub async fn get(address: SocketAddr, path: &str) -> Result<(StatusCode, String), GetError> {
    let failed = |why: String| GetError { address, why };
    match tokio::time::timeout(TIMEOUT, ask(address, path)).await {
        Ok(answer) => answer.map_err(|error| failed(error.to_string())),
        Err(_) => Err(failed(format!("nothing came within {} s", TIMEOUT.as_secs()))),
    }
}

async fn ask(address: SocketAddr, path: &str) -> Result<(StatusCode, String), Box<dyn Error + Send + Sync>> {
    let stream = TcpStream::connect(address).await?;
    let request = Request::get(path).header(HOST, address.to_string()).body(Empty::<Bytes>::new())?;
    let (status, body) = http::ask(stream, request, BYTES_MAX).await?;
    Ok((status, String::from_utf8(body.into())?))
}
