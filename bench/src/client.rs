//! One client: a logged-in connection that reads while it writes.

use std::io;
use std::time::Duration;

use bytes::BytesMut;
use futures_util::FutureExt;
use tern_client::Transport;
use tern_client::raw::{Connector, ReceiveError, Received, Receiver, Sender};
use tern_protocol::convert::encode_request;
use tern_protocol::event::ServerBody;
use tern_protocol::frame::HEARTBEAT;
use tern_protocol::ids::{DeviceId, RequestId, UserId};
use tern_protocol::limits::{VERSION_MAX, VERSION_MIN};
use tern_protocol::request::{Login, Request, RequestBody};

use crate::clock;
use crate::error::LoginError;

/// Connection and login take less, or are given up.
const LOGIN_TIMEOUT: Duration = Duration::from_secs(20);

/// What was said last may still go out, if the connection takes it within this time.
const LAST_WORDS: Duration = Duration::from_millis(10);

/// A connection that takes nothing for so long is dropped as it is.
const FINISH_TIMEOUT: Duration = Duration::from_secs(2);

/// Who logs in.
#[derive(Debug, Clone)]
pub struct Account {
    /// Among the clients of the run.
    pub number: usize,
    /// Who the token names.
    pub user: UserId,
    /// For the login.
    pub token: String,
    /// The installation.
    pub device: DeviceId,
}

/// The number of a request that went out [behind the login](Client::login).
pub const BEHIND_LOGIN: RequestId = RequestId(2);

/// A logged-in connection.
pub struct Client {
    /// Among the clients of the run.
    pub number: usize,
    /// Who it is.
    pub user: UserId,
    /// What connection and login took.
    pub login_nanos: u64,
    /// `None`: it was cut.
    link: Option<Link>,
    requests: u64,
    out: BytesMut,
    unflushed: bool,
}

struct Link {
    sender: Sender,
    receiver: Receiver,
    /// The connection closes with its last handle.
    quic: Option<quinn::Connection>,
}

impl Client {
    /// Connects and logs in. A request `behind` the login goes out with it, which saves a round trip; its answer comes
    /// as any other, for the number [`BEHIND_LOGIN`].
    ///
    /// # Errors
    /// [`LoginError`]; after 20 s at the latest.
    pub async fn login(
        connector: &Connector,
        transport: Transport,
        account: &Account,
        behind: Option<RequestBody>,
    ) -> Result<Self, LoginError> {
        tokio::time::timeout(LOGIN_TIMEOUT, Self::try_login(connector, transport, account, behind))
            .await
            .unwrap_or(Err(LoginError::Timeout(LOGIN_TIMEOUT.as_secs())))
    }

    async fn try_login(
        connector: &Connector,
        transport: Transport,
        account: &Account,
        behind: Option<RequestBody>,
    ) -> Result<Self, LoginError> {
        let start = clock::nanos();
        let mut connection = connector.connect(transport).await?;
        let login = Login {
            token: account.token.clone(),
            device: account.device,
            versions: (VERSION_MIN, VERSION_MAX),
            features: Vec::new(),
            client: concat!("tern-bench/", env!("CARGO_PKG_VERSION")).to_owned(),
        };
        let login = Request { id: RequestId(1), body: RequestBody::Login(login) };
        let ended = |error: &dyn std::fmt::Display| LoginError::Ended(error.to_string());
        let mut out = BytesMut::from(&encode_request(&login)[..]);
        let requests = if behind.is_some() { BEHIND_LOGIN.get() } else { login.id.get() };
        if let Some(body) = behind {
            out.extend_from_slice(&encode_request(&Request { id: BEHIND_LOGIN, body }));
        }
        connection.send_bytes(&out).await.map_err(|error| ended(&error))?;
        let user = match connection.recv().await.map_err(|error| ended(&error))? {
            Received::Message(message) => match message.body {
                ServerBody::LoginOk(ok) => ok.user,
                ServerBody::Error(error) => return Err(LoginError::Refused(error)),
                _ => {
                    return Err(LoginError::Ended(
                        "the server said something else than \"logged in\"".into(),
                    ));
                }
            },
            Received::Heartbeat | Received::Closed => {
                return Err(LoginError::Ended("the server closed the connection".into()));
            }
        };
        let (sender, receiver, quic) = connection.into_split();
        Ok(Self {
            number: account.number,
            user,
            login_nanos: clock::nanos() - start,
            link: Some(Link { sender, receiver, quic }),
            requests,
            out: BytesMut::new(),
            unflushed: false,
        })
    }

    /// Queues a request that is answered; [`Self::write`] sends it.
    pub fn request(&mut self, body: RequestBody) -> RequestId {
        self.requests += 1;
        let id = RequestId(self.requests);
        self.queue(&Request { id, body });
        id
    }

    /// Queues a request.
    pub fn queue(&mut self, request: &Request) {
        self.out.extend_from_slice(&encode_request(request));
    }

    /// Queues a heartbeat.
    pub fn heartbeat(&mut self) {
        self.out.extend_from_slice(HEARTBEAT);
    }

    /// Writes what is queued as far as the connection takes it, and reads meanwhile: returns with what comes first.
    /// May be dropped and called again without loss.
    ///
    /// # Errors
    /// [`ReceiveError`].
    pub async fn next(&mut self) -> Result<Received, ReceiveError> {
        let Self { link, out, unflushed, .. } = self;
        let Some(Link { sender, receiver, .. }) = link else { return Ok(Received::Closed) };
        loop {
            *unflushed |= !out.is_empty();
            if !*unflushed {
                return receiver.recv().await;
            }
            tokio::select! {
                biased;
                written = sender.write_some(out) => {
                    let flushed = written? == 0;
                    *unflushed = !flushed || !out.is_empty();
                }
                received = receiver.recv() => return received,
            }
        }
    }

    /// What is there already. `None`: nothing.
    pub fn next_now(&mut self) -> Option<Result<Received, ReceiveError>> {
        match &mut self.link {
            Some(link) => link.receiver.recv().now_or_never(),
            None => Some(Ok(Received::Closed)),
        }
    }

    /// Writes all that is queued. Only for what certainly fits into the buffers on the way.
    ///
    /// # Errors
    /// When the connection is gone.
    pub async fn write(&mut self) -> io::Result<()> {
        let Self { link, out, unflushed, .. } = self;
        let link = link.as_mut().ok_or(io::ErrorKind::NotConnected)?;
        *unflushed |= !out.is_empty();
        while *unflushed {
            *unflushed = link.sender.write_some(out).await? > 0 || !out.is_empty();
        }
        Ok(())
    }

    /// As [`Self::cut`], a moment after what was said last has gone out, if the connection takes it at once.
    pub async fn vanish(&mut self, moment: Duration) {
        let _ = tokio::time::timeout(LAST_WORDS, self.write()).await;
        if !moment.is_zero() {
            tokio::time::sleep(moment).await;
        }
        self.cut();
    }

    /// Drops the connection without a word, as when a network goes away that says so.
    pub fn cut(&mut self) {
        self.link = None;
    }

    /// The QUIC connection beneath, if it is one: for requests on streams of their own.
    pub fn quic(&self) -> Option<&quinn::Connection> {
        self.link.as_ref()?.quic.as_ref()
    }

    /// Says that nothing more comes, and waits a moment until the server has heard it: closing a connection throws away
    /// what is still under way.
    pub async fn finish(mut self) {
        let finish = async {
            self.write().await?;
            let link = self.link.as_mut().ok_or(io::ErrorKind::NotConnected)?;
            link.sender.finish().await?;
            while let Ok(Some(_)) = link.receiver.recv_frame().await {}
            io::Result::Ok(())
        };
        let _ = tokio::time::timeout(FINISH_TIMEOUT, finish).await;
    }
}
