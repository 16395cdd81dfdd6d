//! Connections without a machine: for load generators, and for tests that want to send what no client would.
//!
//! No task, no queue: a call writes or reads the socket.

mod hosts;
mod race;
mod source;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use tern_protocol::convert::{Malformed, encode_request, parse_server};
use tern_protocol::event::ServerMessage;
use tern_protocol::frame::{self, Frame, FrameError, HEARTBEAT};
use tern_protocol::limits::{ALPN, FRAME_BYTES_MAX, IDLE_TIMEOUT_MS};
use tern_protocol::request::Request;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::config::Transport;
use crate::error::ConnectError;
use crate::race::{Route, Udp, plan};
use hosts::Host;

/// The least free room in a read buffer, so that small frames share a read.
const READ_BYTES_MIN: usize = 4 * 1024;
/// Room in the kernel for datagrams of a UDP socket, which many connections may share: without it, bursts of a busy
/// moment are dropped and come again late. The system may allow less.
const SOCKET_BUFFER_BYTES: usize = 4 * 1024 * 1024;
/// A server that has not ended its side by then has been given its chance.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(500);

/// Makes connections to one server. One serves any number of connections: they share the TLS settings, session
/// tickets and, over QUIC, the UDP socket.
pub struct Connector {
    hosts: Vec<Host>,
    name: ServerName<'static>,
    tls: TlsConnector,
    quic: quinn::ClientConfig,
    endpoints: Mutex<[Option<quinn::Endpoint>; 2]>,
    source: Option<IpAddr>,
}

impl std::fmt::Debug for Connector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Connector({:?})", self.hosts)
    }
}

impl Connector {
    /// For the server at `server`: `host:port`, or those of several nodes of one cluster with commas between. Its certificate
    /// bears `server_name` (else the first host), whichever node it is, and comes from one of the authorities in `ca_pem`.
    ///
    /// # Errors
    /// [`ConnectError::Address`], [`ConnectError::Ca`], [`ConnectError::Tls`].
    pub fn new(server: &str, server_name: Option<&str>, ca_pem: &[u8]) -> Result<Self, ConnectError> {
        let hosts = hosts::parse(server)?;
        let name = server_name.unwrap_or(&hosts[0].name).to_owned();
        let name = ServerName::try_from(name).map_err(|_| ConnectError::Address(server.into()))?;
        let mut roots = rustls::RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(ca_pem) {
            let certificate = certificate.map_err(|e| ConnectError::Ca(e.to_string()))?;
            // A system's bundle may hold a few that this library does not take.
            let _ = roots.add(certificate);
        }
        if roots.is_empty() {
            return Err(ConnectError::Ca("no usable certificate in the PEM text".into()));
        }
        let tls_error = |e: &dyn std::fmt::Display| ConnectError::Tls(e.to_string());
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|e| tls_error(&e))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        tls.alpn_protocols = vec![ALPN.to_vec()];
        let quic = quic_config(&tls).map_err(ConnectError::Tls)?;
        let tls = TlsConnector::from(Arc::new(tls));
        Ok(Self { hosts, name, tls, quic, endpoints: Mutex::new([None, None]), source: None })
    }

    /// Every connection shakes hands in full, as that of a client that was never here, rather than with the ticket of
    /// an earlier one.
    ///
    /// # Errors
    /// [`ConnectError::Tls`].
    pub fn without_resumption(mut self) -> Result<Self, ConnectError> {
        let mut tls = (**self.tls.config()).clone();
        tls.resumption = rustls::client::Resumption::disabled();
        self.quic = quic_config(&tls).map_err(ConnectError::Tls)?;
        self.tls = TlsConnector::from(Arc::new(tls));
        Ok(self)
    }

    /// Connections come from this address of the machine: for more of them than one address has ports.
    pub fn source(mut self, address: IpAddr) -> Self {
        self.source = Some(address);
        self
    }

    /// Makes a connection: on return the handshake is done and nothing is sent. Where the name has several addresses they
    /// are raced, and with [`Transport::Auto`] QUIC and TCP; nothing is remembered.
    ///
    /// # Errors
    /// [`ConnectError`]; with several addresses, one of theirs.
    pub async fn connect(&self, transport: Transport) -> Result<Connection, ConnectError> {
        let addresses = self.resolve(&[]).await?;
        match (transport, &addresses[..]) {
            (Transport::Tcp, [address]) => self.connect_tcp(*address).await,
            (Transport::Quic, [address]) => self.connect_quic(*address).await,
            _ => {
                let plan = plan(transport, Udp::Unknown, &self.routes(&addresses));
                self.race(plan).await.map(|won| won.connection)
            }
        }
    }

    /// The server's addresses, in the order in which they are to be tried; at least one. Those of `hints` come first.
    pub(crate) async fn resolve(&self, hints: &[String]) -> Result<Vec<SocketAddr>, ConnectError> {
        let mut addresses = hosts::resolve_hints(hints).await;
        let known = addresses.len();
        match hosts::resolve(&self.hosts).await {
            Ok(mut own) => {
                // Without random numbers they keep their order.
                hosts::shuffle(&mut own, || getrandom::u64().unwrap_or(u64::MAX));
                own.retain(|address| !addresses[..known].contains(address));
                addresses.append(&mut own);
                Ok(addresses)
            }
            Err(_) if known > 0 => Ok(addresses),
            Err(why) => Err(why),
        }
    }

    /// How this device reaches these addresses. Sends nothing.
    pub(crate) fn routes(&self, addresses: &[SocketAddr]) -> Vec<Route> {
        addresses.iter().map(|&to| Route { to, from: self.own_address(to).ok() }).collect()
    }

    /// This device's own on the way there, or why there is no way. Sends nothing.
    fn own_address(&self, to: SocketAddr) -> io::Result<IpAddr> {
        let socket = UdpSocket::bind(self.local(to.is_ipv6()))?;
        socket.connect(to)?;
        socket.local_addr().map(|address| address.ip())
    }

    async fn connect_tcp(&self, address: SocketAddr) -> Result<Connection, ConnectError> {
        let io = |error| ConnectError::Io { address, error };
        let socket = match address {
            SocketAddr::V4(_) => tokio::net::TcpSocket::new_v4(),
            SocketAddr::V6(_) => tokio::net::TcpSocket::new_v6(),
        }
        .map_err(io)?;
        if let Some(source) = self.source {
            source::choose_port_late(&socket);
            socket.bind(SocketAddr::new(source, 0)).map_err(io)?;
        }
        let stream: TcpStream = socket.connect(address).await.map_err(io)?;
        stream.set_nodelay(true).map_err(io)?;
        let stream =
            self.tls.connect(self.name.clone(), stream).await.map_err(|e| tls_failure(address, e))?;
        if stream.get_ref().1.alpn_protocol() != Some(ALPN) {
            return Err(ConnectError::Alpn);
        }
        let (reader, writer) = tokio::io::split(stream);
        Ok(Connection::new(Box::new(reader), Box::new(writer), None))
    }

    async fn connect_quic(&self, address: SocketAddr) -> Result<Connection, ConnectError> {
        // The library takes datagrams that the system refuses for lost ones, and would wait for their answers.
        self.own_address(address).map_err(|error| ConnectError::Io { address, error })?;
        let connection = self.begin_quic(address)?.await.map_err(quic_failure)?;
        let (writer, reader) = connection.open_bi().await.map_err(quic_failure)?;
        Ok(Connection::new(Box::new(reader), Box::new(writer), Some(connection)))
    }

    /// An endpoint ends when its socket fails or the runtime that it was made in is shut down, and says so only when it is
    /// asked for a connection. Then another takes its place.
    fn begin_quic(&self, address: SocketAddr) -> Result<quinn::Connecting, ConnectError> {
        let name = self.name.to_str();
        let connect = |endpoint: &quinn::Endpoint| endpoint.connect_with(self.quic.clone(), address, &name);
        let mut endpoints = self.endpoints.lock().unwrap_or_else(PoisonError::into_inner);
        let slot = &mut endpoints[usize::from(address.is_ipv6())];
        let begun = match slot.as_ref().map(connect) {
            None | Some(Err(quinn::ConnectError::EndpointStopping)) => {
                let endpoint = self
                    .new_endpoint(address.is_ipv6())
                    .map_err(|error| ConnectError::Io { address, error })?;
                connect(slot.insert(endpoint))
            }
            Some(begun) => begun,
        };
        begun.map_err(|error| ConnectError::Quic(error.to_string()))
    }

    fn new_endpoint(&self, v6: bool) -> io::Result<quinn::Endpoint> {
        let runtime = quinn::default_runtime().ok_or_else(|| io::Error::other("no runtime"))?;
        quinn::Endpoint::new(quinn::EndpointConfig::default(), None, self.udp_socket(v6)?, runtime)
    }

    fn udp_socket(&self, v6: bool) -> io::Result<UdpSocket> {
        let socket = UdpSocket::bind(self.local(v6))?;
        // Less room is no reason to have no socket.
        let options = socket2::SockRef::from(&socket);
        let _ = options.set_recv_buffer_size(SOCKET_BUFFER_BYTES);
        let _ = options.set_send_buffer_size(SOCKET_BUFFER_BYTES);
        Ok(socket)
    }

    fn local(&self, v6: bool) -> SocketAddr {
        let any = if v6 { IpAddr::V6(Ipv6Addr::UNSPECIFIED) } else { IpAddr::V4(Ipv4Addr::UNSPECIFIED) };
        SocketAddr::new(self.source.unwrap_or(any), 0)
    }

    /// QUIC: connections that are made from now on come from another port; those that there are keep theirs. A router may
    /// have a flow that leads nowhere, and keep it for as long as something is sent on it.
    pub(crate) fn leave_port(&self) {
        *self.endpoints.lock().unwrap_or_else(PoisonError::into_inner) = [None, None];
    }

    /// QUIC: moves all connections to new sockets, as when a phone leaves a network. TCP: nothing.
    ///
    /// # Errors
    /// When no socket can be had.
    pub fn rebind(&self) -> io::Result<()> {
        let endpoints = self.endpoints.lock().unwrap_or_else(PoisonError::into_inner);
        let each = [false, true].into_iter().zip(endpoints.iter());
        let moved = each.filter_map(|(v6, endpoint)| {
            let endpoint = endpoint.as_ref()?;
            Some(self.udp_socket(v6).and_then(|socket| endpoint.rebind(socket)))
        });
        // One family's failure is none of the other's.
        moved.fold(Ok(()), Result::and)
    }

    /// QUIC: waits until closed connections have said so to the server.
    pub async fn wait_idle(&self) {
        let endpoints: Vec<_> = {
            let endpoints = self.endpoints.lock().unwrap_or_else(PoisonError::into_inner);
            endpoints.iter().flatten().cloned().collect()
        };
        for endpoint in endpoints {
            endpoint.wait_idle().await;
        }
    }
}

fn quic_config(tls: &rustls::ClientConfig) -> Result<quinn::ClientConfig, String> {
    let tls = quinn::crypto::rustls::QuicClientConfig::try_from(tls.clone()).map_err(|e| e.to_string())?;
    let mut transport = quinn::TransportConfig::default();
    let idle = Duration::from_millis(IDLE_TIMEOUT_MS).try_into();
    transport.max_idle_timeout(Some(idle.map_err(|e: quinn::VarIntBoundsExceeded| e.to_string())?));
    // Datagrams that every path takes will do for chat; probes for larger ones would cost each new connection more
    // than it sends.
    transport.mtu_discovery_config(None);
    // A server opens none, and each that it might takes memory from the start.
    transport.max_concurrent_bidi_streams(0u32.into());
    transport.max_concurrent_uni_streams(0u32.into());
    let mut config = quinn::ClientConfig::new(Arc::new(tls));
    config.transport_config(Arc::new(transport));
    Ok(config)
}

fn tls_failure(address: SocketAddr, error: io::Error) -> ConnectError {
    match error.get_ref().and_then(|e| e.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::AlertReceived(rustls::AlertDescription::NoApplicationProtocol))
        | Some(rustls::Error::NoApplicationProtocol) => ConnectError::Alpn,
        Some(rustls::Error::InvalidCertificate(why)) => not_accepted(&why.to_string()),
        Some(rustls::Error::InvalidMessage(_)) => {
            ConnectError::Tls("what listens there does not speak TLS".into())
        }
        Some(other) => ConnectError::Tls(other.to_string()),
        None => ConnectError::Io { address, error },
    }
}

fn not_accepted(why: &str) -> ConnectError {
    ConnectError::Tls(format!("the server's certificate is not accepted: {why}"))
}

fn quic_failure(error: quinn::ConnectionError) -> ConnectError {
    /// A TLS alert, as QUIC carries it: 0x100 + alert.
    const NO_APPLICATION_PROTOCOL: u64 = 0x100 + 120;
    let code = match &error {
        quinn::ConnectionError::TransportError(e) => Some((u64::from(e.code), e.reason.clone())),
        quinn::ConnectionError::ConnectionClosed(c) => {
            Some((u64::from(c.error_code), String::from_utf8_lossy(&c.reason).into_owned()))
        }
        _ => None,
    };
    match code {
        Some((NO_APPLICATION_PROTOCOL, _)) => ConnectError::Alpn,
        Some((0x100..0x200, reason)) => match reason.strip_prefix("invalid peer certificate: ") {
            Some(why) => not_accepted(why),
            None => ConnectError::Tls(reason),
        },
        _ if error == quinn::ConnectionError::TimedOut => {
            ConnectError::Quic("nobody answers (is UDP let through?)".into())
        }
        _ => ConnectError::Quic(error.to_string()),
    }
}

/// What comes from a server.
#[derive(Debug, Clone, PartialEq)]
pub enum Received {
    /// An answer or an event.
    Message(ServerMessage),
    /// A heartbeat's echo.
    Heartbeat,
    /// The server has ended the stream.
    Closed,
}

/// Why nothing more can be received.
#[derive(Debug, thiserror::Error)]
pub enum ReceiveError {
    /// The socket failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The bytes are no frames.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// A frame holds what no server sends.
    #[error(transparent)]
    Malformed(#[from] Malformed),
}

/// One connection, not logged in.
pub struct Connection {
    /// The half that writes.
    pub sender: Sender,
    /// The half that reads.
    pub receiver: Receiver,
    quic: Option<quinn::Connection>,
}

/// The half of a connection that writes.
pub struct Sender {
    writer: Box<dyn AsyncWrite + Send + Sync + Unpin>,
}

/// The half of a connection that reads.
pub struct Receiver {
    reader: Box<dyn AsyncRead + Send + Sync + Unpin>,
    buffer: BytesMut,
}

impl Connection {
    fn new(
        reader: Box<dyn AsyncRead + Send + Sync + Unpin>,
        writer: Box<dyn AsyncWrite + Send + Sync + Unpin>,
        quic: Option<quinn::Connection>,
    ) -> Self {
        Self { sender: Sender { writer }, receiver: Receiver { reader, buffer: BytesMut::new() }, quic }
    }

    /// Sends one request.
    ///
    /// # Errors
    /// When the connection is gone.
    pub async fn send_request(&mut self, request: &Request) -> io::Result<()> {
        self.sender.send_request(request).await
    }

    /// Sends these bytes as they are: several encoded frames at once, or what is no frame.
    ///
    /// # Errors
    /// When the connection is gone.
    pub async fn send_bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.sender.send_bytes(bytes).await
    }

    /// The next from the server. May be dropped and called again without loss.
    ///
    /// # Errors
    /// [`ReceiveError`].
    pub async fn recv(&mut self) -> Result<Received, ReceiveError> {
        self.receiver.recv().await
    }

    /// The QUIC connection beneath, if it is one.
    pub fn quic(&self) -> Option<&quinn::Connection> {
        self.quic.as_ref()
    }

    /// Both halves.
    pub fn into_split(self) -> (Sender, Receiver, Option<quinn::Connection>) {
        (self.sender, self.receiver, self.quic)
    }

    /// Ends the stream, and waits a moment until the server has done so too.
    pub async fn close(mut self) {
        let _ = self.sender.finish().await;
        // The last bytes first: closing a socket with something unread, or a QUIC connection with something
        // unacknowledged, throws away what was written.
        let drained = async { while !matches!(self.receiver.recv_frame().await, Ok(None) | Err(_)) {} };
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, drained).await;
        if let Some(quic) = &self.quic {
            quic.close(0u32.into(), b"");
        }
    }
}

impl Sender {
    /// As [`Connection::send_request`].
    ///
    /// # Errors
    /// When the connection is gone.
    pub async fn send_request(&mut self, request: &Request) -> io::Result<()> {
        self.send_bytes(&encode_request(request)).await
    }

    /// As [`Connection::send_bytes`].
    ///
    /// # Errors
    /// When the connection is gone.
    pub async fn send_bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.writer.write_all(bytes).await?;
        self.writer.flush().await
    }

    /// Sends a heartbeat.
    ///
    /// # Errors
    /// When the connection is gone.
    pub async fn send_heartbeat(&mut self) -> io::Result<()> {
        self.send_bytes(HEARTBEAT).await
    }

    /// Says that nothing more comes.
    ///
    /// # Errors
    /// When the connection is gone.
    pub async fn finish(&mut self) -> io::Result<()> {
        self.writer.shutdown().await
    }

    /// Writes some of `out`, or flushes when it is empty. May be dropped and called again without loss, so that a client
    /// can read while it writes.
    ///
    /// # Errors
    /// When the connection is gone.
    pub async fn write_some(&mut self, out: &mut BytesMut) -> io::Result<usize> {
        if out.is_empty() {
            return self.writer.flush().await.map(|()| 0);
        }
        match self.writer.write_buf(out).await? {
            0 => Err(io::ErrorKind::WriteZero.into()),
            n => Ok(n),
        }
    }
}

impl Receiver {
    /// As [`Connection::recv`].
    ///
    /// # Errors
    /// [`ReceiveError`].
    pub async fn recv(&mut self) -> Result<Received, ReceiveError> {
        loop {
            match self.recv_frame().await? {
                None => return Ok(Received::Closed),
                Some(Frame::Heartbeat) => return Ok(Received::Heartbeat),
                Some(Frame::Message(bytes)) => {
                    if let Some(message) = parse_server(bytes)? {
                        return Ok(Received::Message(message));
                    }
                }
            }
        }
    }

    /// The next frame, not parsed: for a load generator that only counts. `None`: the server has ended the stream.
    ///
    /// # Errors
    /// [`ReceiveError`].
    pub async fn recv_frame(&mut self) -> Result<Option<Frame>, ReceiveError> {
        loop {
            if let Some(frame) = self.take_frame()? {
                return Ok(Some(frame));
            }
            if self.read_some().await? == 0 {
                return Ok(None);
            }
        }
    }

    /// A frame that has been read already, if there is one.
    pub(crate) fn take_frame(&mut self) -> Result<Option<Frame>, FrameError> {
        frame::decode(&mut self.buffer, FRAME_BYTES_MAX)
    }

    /// Whether the beginning of a frame has been read.
    pub(crate) fn has_part(&self) -> bool {
        !self.buffer.is_empty()
    }

    /// Reads what is there of the one answer on a stream of its own; `None`: some of it, not all.
    pub(crate) async fn recv_part(&mut self) -> Result<Option<ServerMessage>, ReceiveError> {
        if self.read_some().await? == 0 {
            return Err(unanswered());
        }
        loop {
            match self.take_frame()? {
                None => return Ok(None),
                Some(Frame::Message(bytes)) => {
                    if let Some(message) = parse_server(bytes)? {
                        return Ok(Some(message));
                    }
                }
                Some(Frame::Heartbeat) => return Err(unanswered()),
            }
        }
    }

    /// Reads what is there; 0: the end.
    pub(crate) async fn read_some(&mut self) -> io::Result<usize> {
        self.buffer.reserve(READ_BYTES_MIN);
        self.reader.read_buf(&mut self.buffer).await
    }
}

fn unanswered() -> ReceiveError {
    ReceiveError::Io(io::Error::new(io::ErrorKind::UnexpectedEof, "the stream ended unanswered"))
}

/// Asks one thing on a QUIC stream of its own: a history, sync or list request.
///
/// # Errors
/// [`ReceiveError`]; also when the stream ends without an answer.
pub async fn ask_on_own_stream(
    connection: &quinn::Connection,
    request: &Request,
) -> Result<ServerMessage, ReceiveError> {
    let mut receiver = ask_encoded(connection, &encode_request(request)).await?;
    loop {
        if let Some(message) = receiver.recv_part().await? {
            return Ok(message);
        }
    }
}

/// Asks on a stream of its own; the answer comes [part by part](Receiver::recv_part).
pub(crate) async fn ask_encoded(
    connection: &quinn::Connection,
    frame: &Bytes,
) -> Result<Receiver, ReceiveError> {
    let (mut writer, reader) = connection.open_bi().await.map_err(io::Error::from)?;
    writer.write_all(frame).await.map_err(io::Error::from)?;
    writer.finish().map_err(io::Error::other)?;
    Ok(Receiver { reader: Box::new(reader), buffer: BytesMut::new() })
}

#[cfg(test)]
mod tests {
    use tern_protocol::convert::encode_server;
    use tern_protocol::event::ServerBody;
    use tern_protocol::ids::RequestId;
    use tokio::io::AsyncWriteExt;

    use super::*;

    /// Whatever networks this machine is in, nothing goes there: the system says so when it is asked to send.
    #[tokio::test]
    async fn where_no_way_leads_is_told_at_once_over_each_transport() {
        let authority = rcgen::generate_simple_self_signed(vec!["localhost".into()]).unwrap().cert;
        let connector = Connector::new("255.255.255.255:7443", None, authority.pem().as_bytes()).unwrap();
        for transport in [Transport::Tcp, Transport::Quic, Transport::Auto] {
            let error = connector.connect(transport).await.err().expect("no way leads there");
            assert!(matches!(error, ConnectError::Io { .. }), "{transport:?}: {error}");
        }
    }

    #[tokio::test]
    async fn an_answer_on_its_own_stream_comes_part_by_part() {
        let ok = ServerMessage { id: RequestId(300), body: ServerBody::MarkOk };
        let bytes = encode_server(&ok);
        for end in 0..=bytes.len() {
            let (mut server, reader) = tokio::io::duplex(64);
            let mut receiver = Receiver { reader: Box::new(reader), buffer: BytesMut::new() };
            for at in 0..end {
                server.write_all(&bytes[at..=at]).await.unwrap();
                let expected = (at + 1 == bytes.len()).then(|| ok.clone());
                assert_eq!(receiver.recv_part().await.unwrap(), expected);
                assert_eq!(receiver.has_part(), expected.is_none());
            }
            drop(server);
            assert!(matches!(receiver.recv_part().await, Err(ReceiveError::Io(_))));
        }
    }
}
