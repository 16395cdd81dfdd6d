//! The TLS of a QUIC connection: rustls while the handshake lasts, and after it nothing but the secrets of the next keys.
//!
//! quinn-proto's own session keeps the whole of rustls' connection as long as the QUIC connection lives: 4 kB, among
//! them keys for TLS records, of which QUIC has none. A client has nothing to say to TLS any more once its handshake is
//! done (RFC 9001, 4.4 and 6).

use std::any::Any;
use std::io::Cursor;
use std::sync::Arc;

use quinn_proto::crypto::rustls::QuicServerConfig;
use quinn_proto::crypto::{
    self, ExportKeyingMaterialError, HeaderKey, KeyPair, Keys, PacketKey, ServerConfig, UnsupportedVersion,
};
use quinn_proto::transport_parameters::TransportParameters;
use quinn_proto::{ConnectionId, Side, TransportError, TransportErrorCode};
use rustls::AlertDescription;
use rustls::quic::{KeyChange, Secrets, ServerConnection, Version};

/// QUIC version 1, the only one that clients of Tern speak.
pub(super) const VERSION_1: u32 = 1;

/// Makes the sessions of all connections.
pub(super) struct Tls {
    config: Arc<rustls::ServerConfig>,
    /// For what comes before the handshake.
    first: Arc<QuicServerConfig>,
}

impl Tls {
    /// `None` when the configuration has no TLS 1.3 suite that QUIC begins with.
    pub(super) fn new(config: Arc<rustls::ServerConfig>) -> Option<Self> {
        let first = QuicServerConfig::try_from(config.clone()).ok()?;
        Some(Self { config, first: Arc::new(first) })
    }
}

impl ServerConfig for Tls {
    fn initial_keys(&self, version: u32, id: &ConnectionId) -> Result<Keys, UnsupportedVersion> {
        if version != VERSION_1 {
            return Err(UnsupportedVersion);
        }
        self.first.initial_keys(version, id)
    }

    fn retry_tag(&self, version: u32, first_id: &ConnectionId, packet: &[u8]) -> [u8; 16] {
        self.first.retry_tag(version, first_id, packet)
    }

    fn start_session(self: Arc<Self>, _: u32, params: &TransportParameters) -> Box<dyn crypto::Session> {
        let mut encoded = Vec::new();
        params.write(&mut encoded);
        let connection = ServerConnection::new(self.config.clone(), Version::V1, encoded)
            .expect("it has TLS 1.3 and its AES-128, and no early data");
        Box::new(Session { first: self.first.clone(), handshake: Some(Box::new(connection)), next: None })
    }
}

struct Session {
    first: Arc<QuicServerConfig>,
    /// Until the handshake is done and its last message is out.
    handshake: Option<Box<ServerConnection>>,
    next: Option<Secrets>,
}

fn failed(alert: AlertDescription, reason: String) -> TransportError {
    TransportError { code: TransportErrorCode::crypto(alert.into()), frame: None, reason }
}

impl crypto::Session for Session {
    fn initial_keys(&self, id: &ConnectionId, _: Side) -> Keys {
        self.first.initial_keys(VERSION_1, id).unwrap_or_else(|_| unreachable!("version 1 is supported"))
    }

    fn handshake_data(&self) -> Option<Box<dyn Any>> {
        None
    }

    fn peer_identity(&self) -> Option<Box<dyn Any>> {
        None
    }

    fn early_crypto(&self) -> Option<(Box<dyn HeaderKey>, Box<dyn PacketKey>)> {
        // 0-RTT is off.
        None
    }

    fn early_data_accepted(&self) -> Option<bool> {
        None
    }

    fn is_handshaking(&self) -> bool {
        self.handshake.as_ref().is_some_and(|handshake| handshake.is_handshaking())
    }

    /// True once what the client wants is known. rustls itself refuses a QUIC client that names no protocol of ours.
    fn read_handshake(&mut self, bytes: &[u8]) -> Result<bool, TransportError> {
        let Some(handshake) = &mut self.handshake else {
            let reason = "nothing comes after the handshake";
            return Err(failed(AlertDescription::UnexpectedMessage, reason.into()));
        };
        let knew = handshake.alpn_protocol().is_some();
        match handshake.read_hs(bytes) {
            Ok(()) => Ok(!knew && handshake.alpn_protocol().is_some()),
            Err(error) => {
                let alert = handshake.alert().unwrap_or(AlertDescription::InternalError);
                Err(failed(alert, error.to_string()))
            }
        }
    }

    fn transport_parameters(&self) -> Result<Option<TransportParameters>, TransportError> {
        let handshake = self.handshake.as_ref();
        let Some(encoded) = handshake.and_then(|handshake| handshake.quic_transport_parameters()) else {
            return Ok(None);
        };
        Ok(Some(TransportParameters::read(Side::Server, &mut Cursor::new(encoded))?))
    }

    fn write_handshake(&mut self, into: &mut Vec<u8>) -> Option<Keys> {
        let handshake = self.handshake.as_mut()?;
        let before = into.len();
        let change = handshake.write_hs(into);
        if change.is_none() && into.len() == before && !handshake.is_handshaking() {
            self.handshake = None;
        }
        let keys = match change? {
            KeyChange::Handshake { keys } => keys,
            KeyChange::OneRtt { keys, next } => {
                self.next = Some(next);
                keys
            }
        };
        Some(Keys {
            header: KeyPair { local: Box::new(keys.local.header), remote: Box::new(keys.remote.header) },
            packet: KeyPair { local: Box::new(keys.local.packet), remote: Box::new(keys.remote.packet) },
        })
    }

    fn next_1rtt_keys(&mut self) -> Option<KeyPair<Box<dyn PacketKey>>> {
        let keys = self.next.as_mut()?.next_packet_keys();
        Some(KeyPair { local: Box::new(keys.local), remote: Box::new(keys.remote) })
    }

    fn is_valid_retry(&self, _: &ConnectionId, _: &[u8], _: &[u8]) -> bool {
        // Only servers send them.
        false
    }

    fn export_keying_material(
        &self,
        _: &mut [u8],
        _: &[u8],
        _: &[u8],
    ) -> Result<(), ExportKeyingMaterialError> {
        Err(ExportKeyingMaterialError)
    }
}
