//! Fetches one small document over HTTPS.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Empty;
use hyper::body::Bytes;
use hyper::header::{ACCEPT, HOST, USER_AGENT};
use hyper::{Request, StatusCode, Uri};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use thiserror::Error;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::http::{self, AskError};

/// From the name to the last byte.
const TIMEOUT: Duration = Duration::from_secs(10);
const HTTPS_PORT: u16 = 443;

/// Why a document cannot be fetched, and what to do about it.
#[derive(Debug, Error)]
pub enum FetchError {
    /// Not a URL of the expected form.
    #[error("expected a URL such as https://id.example.com/jwks.json, without a user and a password")]
    Url,
    /// Keys that anybody on the way can replace.
    #[error(
        "is an http address, and keys have to come by https: expected a URL such as https://id.example.com/jwks.json"
    )]
    PlainHttp,
    /// The crypto library refused.
    #[error("cannot set up TLS: {0}")]
    Tls(String),
    /// The network, or the other side's certificate.
    #[error("cannot connect to {host}: {error}")]
    Connect {
        /// Which.
        host: String,
        /// What the system said.
        error: io::Error,
    },
    /// HTTP.
    #[error(transparent)]
    Ask(#[from] AskError),
    /// Another status.
    #[error("the answer is {0}: expected 200 (a redirect is not followed: name its target)")]
    Status(StatusCode),
    /// It took too long.
    #[error("no answer within {} s", TIMEOUT.as_secs())]
    Timeout,
}

/// Fetches the document at one address.
pub struct Fetcher {
    url: Uri,
    text: String,
    host: String,
    name: ServerName<'static>,
    tls: TlsConnector,
}

impl Fetcher {
    /// Trusts these authorities and no others. TLS 1.3 only.
    ///
    /// # Errors
    /// When it is no `https` URL.
    pub fn new(url: &str, roots: RootCertStore) -> Result<Self, FetchError> {
        let text = url.to_owned();
        let url: Uri = url.parse().map_err(|_| FetchError::Url)?;
        if url.scheme_str() == Some("http") {
            return Err(FetchError::PlainHttp);
        }
        let authority = url.authority().ok_or(FetchError::Url)?;
        if url.scheme_str() != Some("https") || authority.as_str().contains('@') {
            return Err(FetchError::Url);
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let name = ServerName::try_from(host.clone()).map_err(|_| FetchError::Url)?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|error| FetchError::Tls(error.to_string()))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self { url, text, host, name, tls: TlsConnector::from(Arc::new(tls)) })
    }

    /// Where it fetches from.
    pub fn url(&self) -> &str {
        &self.text
    }

    /// The document, which may have this many bytes.
    ///
    /// # Errors
    /// [`FetchError`], after 10 s at the latest.
    pub async fn fetch(&self, bytes_max: usize) -> Result<Bytes, FetchError> {
        tokio::time::timeout(TIMEOUT, self.request(bytes_max)).await.unwrap_or(Err(FetchError::Timeout))
    }

    async fn request(&self, bytes_max: usize) -> Result<Bytes, FetchError> {
        let connect = |error| FetchError::Connect { host: self.host.clone(), error };
        let address = (self.host.as_str(), self.url.port_u16().unwrap_or(HTTPS_PORT));
        let stream = TcpStream::connect(address).await.map_err(connect)?;
        let stream = self.tls.connect(self.name.clone(), stream).await.map_err(connect)?;
        let path = self.url.path_and_query().map_or("/", |path| path.as_str());
        let request = Request::get(path)
            .header(HOST, self.url.authority().map_or("", |authority| authority.as_str()))
            .header(ACCEPT, "application/jwk-set+json, application/json")
            .header(USER_AGENT, concat!("ternd/", env!("CARGO_PKG_VERSION")))
            .body(Empty::<Bytes>::new())
            .map_err(|_| FetchError::Url)?;
        match http::ask(stream, request, bytes_max).await? {
            (StatusCode::OK, body) => Ok(body),
            (status, _) => Err(FetchError::Status(status)),
        }
    }
}
