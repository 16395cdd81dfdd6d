use std::collections::HashMap;
use std::net::Ipv4Addr;

use quinn_proto::ConnectionIdGenerator;

use super::steering::{CidScheme, ShardCids};
use super::*;

fn any_port() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 0).into()
}

fn count(shards: usize) -> ShardCount {
    ShardCount::new(shards).unwrap()
}

#[test]
fn tcp_and_quic_share_a_free_port() {
    for shards in [1, 2, 5] {
        let bound = bind(any_port(), any_port(), count(shards), Steering::Kernel).unwrap();
        assert_eq!(bound.tcp, bound.quic);
        assert_ne!(bound.tcp.port(), 0);
        assert_eq!(bound.shards.len(), shards);
        for shard in bound.shards {
            assert_eq!(shard.tcp.local_addr().unwrap(), bound.tcp);
            assert_eq!(shard.quic.socket.local_addr().unwrap(), bound.quic);
        }
    }
}

/// Whatever address a datagram comes from, the kernel gives it to the shard that its id names.
#[test]
fn the_kernel_steers_by_connection_id() {
    let shards = count(3);
    let bound = bind(any_port(), any_port(), shards, Steering::Kernel).unwrap();
    assert_eq!(bound.steering, Steering::Kernel);
    let scheme = CidScheme::new([3; 16], shards);
    let mut expected: HashMap<Vec<u8>, ShardId> = HashMap::new();
    for n in 0..20u8 {
        let client = UdpSocket::bind(any_port()).unwrap();
        for shard in shards.iter() {
            let id = ShardCids { scheme, shard }.generate_cid();
            let short = [&[0x40 | n][..], &id, &[n; 30]].concat();
            let long = [&[0xc0 | n, 0, 0, 0, 1, id.len() as u8][..], &id, &[n; 30]].concat();
            for datagram in [short, long] {
                client.send_to(&datagram, bound.quic).unwrap();
                expected.insert(datagram, shard);
            }
        }
    }
    for sockets in bound.shards {
        let mut buf = [0; 2048];
        // Loopback delivers before send returns.
        while let Ok((len, _)) = sockets.quic.socket.recv_from(&mut buf) {
            assert_eq!(expected.remove(&buf[..len]), Some(sockets.shard));
        }
    }
    assert!(expected.is_empty(), "{} datagrams did not arrive", expected.len());
}

#[test]
fn a_port_belongs_to_one_server() {
    let shards = count(2);
    let first = bind(any_port(), any_port(), shards, Steering::Kernel).unwrap();
    let refused = |tcp, quic| bind(tcp, quic, shards, Steering::Kernel).unwrap_err();
    let tcp = refused(first.tcp, any_port());
    assert!(matches!(tcp, BindError::InUse { protocol: "TCP", .. }), "{tcp}");
    assert!(tcp.to_string().contains("is a ternd running already"), "{tcp}");
    let quic = refused(any_port(), first.quic);
    assert!(matches!(quic, BindError::InUse { protocol: "UDP", .. }), "{quic}");
    // Nothing joined the group meanwhile, and the port is free again with its owner gone.
    let address = first.tcp;
    drop(first);
    bind(address, address, shards, Steering::Kernel).unwrap();
}

#[test]
fn addresses_of_others_are_refused_with_advice() {
    let elsewhere = (Ipv4Addr::new(192, 0, 2, 1), 0).into();
    let error = bind(elsewhere, any_port(), count(1), Steering::Kernel).unwrap_err();
    assert!(matches!(error, BindError::NotOurs { protocol: "TCP", .. }), "{error}");
}

#[test]
fn shard_counts_are_bounded() {
    for (shards, good) in [(0, false), (1, true), (ShardCount::MAX, true), (ShardCount::MAX + 1, false)] {
        assert_eq!(ShardCount::new(shards).is_some(), good, "{shards}");
    }
}
