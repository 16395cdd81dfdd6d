//! What the machine allows a server to cost at best: a process that moves the frames of Tern between connections and
//! does nothing else. The same sockets, TLS, QUIC and threads as `ternd`, which are its own modules, and the same frames; no
//! login, no log, no store.
//!
//! A connection says first who it is: its number and its group's. From then on
//!
//! - a send gives its sender an ack, and everybody in the group, the sender too, a push;
//! - a mark gives the other end of a direct chat a receipt; in a group, whoever has sent gets one now and then; receipts
//!   wait a moment for something else to leave with;
//! - all that a turn of a shard's loop has queued for a connection leaves in one write at the end of the turn, and all
//!   that it has for another shard goes there in one parcel.
//!
//! Slow clients: whoever takes nothing is not read either, so that its own sends stop; whoever lets too much pile up is
//! cut off. The next turn's writes wait for a shard that does not take its parcels.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::sync::{Arc, mpsc as std_mpsc};
use std::thread;

use serde::{Deserialize, Serialize};
use tern_server::clock;
use tern_server::limits::{AddressLimit, Limits};
use tern_server::tls::{self, CurrentIdentity, DevIdentity, Secrets};
use tern_server::transport::quic::{QuicAcceptor, QuicOptions};
use tern_server::transport::tcp::{Acceptor, TcpOptions};
use tern_server::transport::{self, ShardCount, ShardSockets, Steering};
use tokio::sync::mpsc;

use super::frames::Frames;
use super::shard::{Node, Parcel, Shard};
use crate::Error;
use crate::child;

/// Parcels that wait at a shard.
const PARCELS_MAX: usize = 64;
/// Tasks that run between two looks at the sockets: as many as are ready at once, so that what they have queued for
/// one connection is written at once.
const TASKS_PER_POLL: u32 = 1024;

/// What the relay is told.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct RelayArgs {
    /// Threads [default: one per core]
    #[arg(long)]
    pub shards: Option<usize>,
    /// Direct chats, or groups
    #[arg(long)]
    pub groups: usize,
    /// Of each
    #[arg(long)]
    pub members: usize,
    /// Of each message
    #[arg(long)]
    pub payload_bytes: usize,
}

/// What it says when it is ready.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Greeting {
    /// Of TCP and QUIC.
    pub(super) address: SocketAddr,
    /// The authority of its certificate, PEM.
    pub(super) ca: String,
}

/// Runs a relay until standard input ends.
pub fn run(args: &RelayArgs) -> ExitCode {
    child::work(|| relay(args))
}

fn relay(args: &RelayArgs) -> Result<(), Error> {
    let failed = |what: &str, error: &dyn std::fmt::Display| Error::Server(format!("relay: {what}: {error}"));
    let shards = args.shards.unwrap_or_else(|| thread::available_parallelism().map_or(1, usize::from));
    let count = ShardCount::new(shards).ok_or_else(|| Error::Arguments(format!("{shards} shards")))?;
    let directory = tempfile::tempdir().map_err(Error::io("cannot make a temporary directory"))?;
    let identity = DevIdentity::load_or_create(directory.path(), &[], clock::wall());
    let DevIdentity { identity, ca_pem } = identity.map_err(|error| failed("certificate", &error))?;
    let secrets = Secrets::load_or_create(directory.path()).map_err(|error| failed("secrets", &error))?;
    drop(directory);
    let tls = tls::server_config(CurrentIdentity::new(identity), &secrets);
    let tls = tls.map_err(|error| failed("TLS", &error))?;
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let bound =
        transport::bind(any, any, count, Steering::Kernel).map_err(|error| failed("address", &error))?;

    let (mailboxes, inboxes): (Vec<_>, Vec<_>) = (0..shards).map(|_| mpsc::channel(PARCELS_MAX)).unzip();
    let frames = Frames::new(args.payload_bytes, args.members);
    let node = Arc::new(Node::new(frames, args.groups, args.members, mailboxes));
    let (started, starts) = std_mpsc::channel();
    for (sockets, inbox) in bound.shards.into_iter().zip(inboxes) {
        let (node, tls, secrets, started) = (node.clone(), tls.clone(), secrets.clone(), started.clone());
        let run = move || run_shard(node, sockets, tls, &secrets, inbox, &started);
        thread::Builder::new()
            .name("tern-relay".into())
            .spawn(run)
            .map_err(Error::io("cannot start a thread"))?;
    }
    drop(started);
    for _ in 0..shards {
        let start = starts.recv().map_err(|_| Error::Driver)?;
        start.map_err(Error::io("cannot start a shard of the relay"))?;
    }
    debug_assert_eq!(bound.tcp, bound.quic);
    child::say(&Greeting { address: bound.tcp, ca: ca_pem })?;
    child::until_input_ends();
    Ok(())
}

fn run_shard(
    node: Arc<Node>,
    sockets: ShardSockets,
    tls: Arc<rustls::ServerConfig>,
    secrets: &Secrets,
    inbox: mpsc::Receiver<Parcel>,
    started: &std_mpsc::Sender<io::Result<()>>,
) {
    let id = sockets.shard.get();
    let start = || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .event_interval(TASKS_PER_POLL)
            .build_local(Default::default())?;
        let acceptors = runtime.block_on(async {
            let addresses = AddressLimit::new(&Limits::OFF);
            let tcp = Acceptor::new(sockets.tcp, tls.clone(), TcpOptions::default(), addresses.clone())?;
            let quic = sockets.quic.listener(tls, secrets, QuicOptions::default(), addresses)?;
            io::Result::Ok((tcp, QuicAcceptor::new(quic)))
        })?;
        Ok((runtime, acceptors))
    };
    let (runtime, (tcp, quic)) = match start() {
        Ok(parts) => parts,
        Err(error) => {
            let _ = started.send(Err(error));
            return;
        }
    };
    let _ = started.send(Ok(()));
    runtime.block_on(Shard::new(id, node).run(tcp, quic, inbox));
}

/// The first frame of a connection: who it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Introduction {
    /// Among all connections.
    pub(super) number: u32,
    /// Its direct chat, or group.
    pub(super) group: u32,
}

impl Introduction {
    const BYTES: usize = 8;

    /// The frame.
    pub(super) fn encode(self) -> [u8; 1 + Self::BYTES] {
        let mut frame = [0; 1 + Self::BYTES];
        frame[0] = Self::BYTES as u8;
        frame[1..5].copy_from_slice(&self.number.to_be_bytes());
        frame[5..].copy_from_slice(&self.group.to_be_bytes());
        frame
    }

    pub(super) fn decode(message: &[u8]) -> Option<Self> {
        let (number, group) = message.split_first_chunk()?;
        let (number, group) = (u32::from_be_bytes(*number), u32::from_be_bytes(group.try_into().ok()?));
        Some(Self { number, group })
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use tern_protocol::frame::{self, Frame};
    use tern_protocol::limits::FRAME_BYTES_MAX;

    use super::*;

    #[test]
    fn introductions_are_frames() {
        let introduction = Introduction { number: 70_000, group: 3 };
        let mut bytes = BytesMut::from(&introduction.encode()[..]);
        match frame::decode(&mut bytes, FRAME_BYTES_MAX) {
            Ok(Some(Frame::Message(message))) => {
                assert_eq!(Introduction::decode(&message), Some(introduction));
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(Introduction::decode(&[0; 7]), None);
        assert_eq!(Introduction::decode(&[0; 9]), None);
    }
}
