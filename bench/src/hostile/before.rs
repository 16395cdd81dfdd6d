//! Attackers without a token.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use tern_protocol::convert::encode_request;
use tern_protocol::ids::{DeviceId, RequestId};
use tern_protocol::request::{ListConversations, Login, Request, RequestBody};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream, UdpSocket};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::Target;
use crate::Error;

/// The header of a TLS record with a ClientHello in it, and a part of that.
pub(super) const HELLO: &[u8] = &[0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00, 0x01, 0xfc, 0x03, 0x03];
/// Between two bytes of who is slow, and before the next try of who was sent away.
const PAUSE: Duration = Duration::from_secs(1);
/// Connections of one attacker under way at once, where each does something.
const AT_ONCE: usize = 64;
/// One attempt is given up then.
const GIVE_UP: Duration = Duration::from_secs(20);
/// The first flight of a QUIC client.
const DATAGRAM_BYTES_MAX: usize = 2048;

async fn connect(target: &Target, number: usize) -> std::io::Result<TcpStream> {
    let socket = if target.address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    if let Some(source) = target.source(number) {
        socket.bind((source, 0).into())?;
    }
    socket.connect(target.address).await
}

/// Holds connections, on each of which these bytes go out slowly; who is sent away comes again.
pub(super) async fn hold(target: &Rc<Target>, bytes: &'static [u8]) -> Result<(), Error> {
    let mut all = JoinSet::new();
    for number in 0..target.held {
        let target = target.clone();
        all.spawn_local(async move {
            loop {
                if let Ok(mut stream) = connect(&target, number).await {
                    target.counted();
                    let mut rest = bytes.iter();
                    let mut answer = [0; 64];
                    loop {
                        match timeout(PAUSE, stream.read(&mut answer)).await {
                            Ok(Ok(n)) if n > 0 => {}
                            Ok(_) => break,
                            Err(_) => {
                                if let Some(byte) = rest.next()
                                    && stream.write_all(&[*byte]).await.is_err()
                                {
                                    break;
                                }
                            }
                        }
                    }
                }
                tokio::time::sleep(PAUSE).await;
            }
        });
    }
    all.join_all().await;
    Ok(())
}

/// Sends the first flights of QUIC clients, and never reads an answer.
pub(super) async fn half_open(target: &Rc<Target>) -> Result<(), Error> {
    let no_socket = || Error::io("cannot open a UDP socket");
    // Where real clients send to, so that there is somebody's true first flight.
    let sink = UdpSocket::bind("127.0.0.1:0").await.map_err(no_socket())?;
    let sink_address = sink.local_addr().map_err(no_socket())?;
    let mut sockets = Vec::new();
    for number in 0..AT_ONCE {
        let from = target.source(number).unwrap_or(target.address.ip());
        let from = if from == target.address.ip() { unspecified(from) } else { from };
        sockets.push(UdpSocket::bind((from, 0)).await.map_err(no_socket())?);
    }
    let dialer = Rc::new(super::connector(&sink_address.to_string(), &target.ca)?);
    let (count, address) = (target.clone(), target.address);
    let forward = async move {
        let mut datagram = [0; DATAGRAM_BYTES_MAX];
        let mut turn = 0usize;
        loop {
            let Ok((n, _)) = sink.recv_from(&mut datagram).await else { continue };
            turn += 1;
            // A full buffer loses it, as a network would.
            if sockets[turn % AT_ONCE].send_to(&datagram[..n], address).await.is_ok() {
                count.counted();
            }
        }
    };
    let dial = async move {
        let mut ticks = attempts(target.attempts);
        let mut dialing = JoinSet::new();
        loop {
            ticks.tick().await;
            while dialing.len() >= AT_ONCE {
                dialing.join_next().await;
            }
            let dialer = dialer.clone();
            dialing.spawn_local(async move {
                // Long enough for the first flight, too short for a second one.
                let _ = timeout(PAUSE / 20, dialer.connect(tern_client::Transport::Quic)).await;
            });
        }
    };
    tokio::select! {
        () = forward => {}
        () = dial => {}
    }
    Ok(())
}

fn unspecified(like: std::net::IpAddr) -> std::net::IpAddr {
    if like.is_ipv4() {
        std::net::Ipv4Addr::UNSPECIFIED.into()
    } else {
        std::net::Ipv6Addr::UNSPECIFIED.into()
    }
}

fn attempts(per_second: u32) -> tokio::time::Interval {
    let mut ticks = interval(Duration::from_secs(1) / per_second.max(1));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

/// A login with a token that nobody has signed.
pub(super) fn bad_login() -> Bytes {
    let login = Login {
        token: "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhbGljZSIsImV4cCI6NDEwMjQ0NDgwMH0.".into(),
        device: DeviceId::new(1).unwrap_or_else(|| unreachable!("1 is not 0")),
        versions: (1, 1),
        features: Vec::new(),
        client: String::new(),
    };
    encode_request(&Request { id: RequestId(1), body: RequestBody::Login(login) })
}

/// As many requests as fit into a packet, none of them a login.
pub(super) fn requests() -> Bytes {
    let list = RequestBody::ListConversations(ListConversations { after: None, limit: 1 });
    let one = encode_request(&Request { id: RequestId(7), body: list });
    one.repeat(100).into()
}

/// Shakes hands, sends these bytes, and reads until it is sent away; as often as the attacker may.
pub(super) async fn knock(target: &Rc<Target>, bytes: &Bytes) -> Result<(), Error> {
    let connectors: Vec<_> =
        (0..AT_ONCE).map(|number| target.connector(number).map(Rc::new)).collect::<Result<_, _>>()?;
    let mut ticks = attempts(target.attempts);
    let mut knocking = JoinSet::new();
    for connector in connectors.iter().cycle() {
        ticks.tick().await;
        while knocking.len() >= AT_ONCE {
            knocking.join_next().await;
        }
        let (connector, target, bytes) = (connector.clone(), target.clone(), bytes.clone());
        knocking.spawn_local(async move {
            let attempt = async {
                let Ok(mut connection) = connector.connect(target.transport).await else { return };
                target.counted();
                if connection.send_bytes(&bytes).await.is_ok() {
                    while matches!(connection.recv().await, Ok(tern_client::raw::Received::Message(_))) {}
                }
            };
            let _ = timeout(GIVE_UP, attempt).await;
        });
    }
    Ok(())
}
