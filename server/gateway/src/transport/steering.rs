//! Connection ids that name their shard, and the kernel filter that reads them.
//!
//! The UDP sockets of all shards share one port (`SO_REUSEPORT`). Left alone, the kernel picks a socket by the
//! client's address, so a phone that moves from Wi-Fi to mobile data would arrive at a shard that has never heard of
//! its connection. Therefore a shard mints ids that name it, and a classic BPF program, which needs no privilege,
//! picks the socket by the id:
//!
//! ```text
//! short header   flags(1) | id(8) | …
//! long header    flags(1) | version(4) | length(1) | id | …
//!
//! id             word(4), big endian, word mod shards = shard | random(1) | check(3) = SipHash(key, word, random)
//! ```
//!
//! The first id of a connection is the client's, at random: its first word picks the shard, which mints the next one.
//! The check tells ids of ours from noise, so that noise is neither forwarded nor answered.

// The one system call here, setsockopt(SO_ATTACH_REUSEPORT_CBPF), has no safe wrapper in the crates we use.
#![allow(unsafe_code)]

use std::hash::Hasher;
use std::io;
use std::net::UdpSocket;

use aws_lc_rs::rand;
use quinn_proto::{ConnectionId, ConnectionIdGenerator, InvalidCid};
use siphasher::sip::SipHasher13;

use super::{ShardCount, ShardId};

/// Length of an id of ours.
pub const CID_BYTES: usize = 8;
/// The part that the check covers: the word that names the shard, and a byte that widens the space to 2^40 ids.
const NONCE_BYTES: usize = 5;

/// The set bit of a long header's first byte.
const LONG_HEADER: u8 = 0x80;
const SHORT_CID_AT: usize = 1;
const LONG_CID_LENGTH_AT: usize = 5;
const LONG_CID_AT: usize = 6;

/// Mints a shard's connection ids and recognises those of every shard.
#[derive(Clone, Copy)]
pub struct CidScheme {
    key: [u8; 16],
    shards: ShardCount,
}

/// Whose datagram it is, judged by the connection id that it is addressed to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Destination {
    /// An id of ours that names this shard.
    Shard(ShardId),
    /// A client's random first id, or noise: belongs to whoever received it.
    Anyone,
}

impl CidScheme {
    /// The scheme of all processes that share `key`; `shards` sockets take part.
    pub fn new(key: [u8; 16], shards: ShardCount) -> Self {
        Self { key, shards }
    }

    /// A fresh id that names `shard`.
    fn mint(&self, shard: ShardId) -> [u8; CID_BYTES] {
        let mut id = [0; CID_BYTES];
        // Without randomness TLS could not have started; an id may be guessable, but must not be refused.
        let _ = rand::fill(&mut id[..NONCE_BYTES]);
        let word = u32::from_be_bytes([id[0], id[1], id[2], id[3]]);
        let shards = self.shards.as_u32();
        // The last, incomplete round of remainders would leave 32 bits: step back into the round before.
        let base = word - word % shards;
        let word = base.checked_add(u32::from(shard.0)).unwrap_or(base - shards + u32::from(shard.0));
        id[..4].copy_from_slice(&word.to_be_bytes());
        let check = self.check(&id[..NONCE_BYTES]);
        id[NONCE_BYTES..].copy_from_slice(&check);
        id
    }

    /// The shard that this id names, if it is one of ours.
    pub fn shard_of(&self, id: &[u8]) -> Option<ShardId> {
        let id: &[u8; CID_BYTES] = id.try_into().ok()?;
        (self.check(&id[..NONCE_BYTES]) == id[NONCE_BYTES..]).then(|| self.named_by(id))
    }

    /// Where a datagram that `here` received belongs.
    ///
    /// Costs one division when the datagram is where it belongs, which the kernel filter sees to.
    pub fn destination(&self, datagram: &[u8], here: ShardId) -> Destination {
        let Some(id) = destination_id(datagram) else { return Destination::Anyone };
        if self.named_by(id) == here {
            return Destination::Shard(here);
        }
        self.shard_of(id).map_or(Destination::Anyone, Destination::Shard)
    }

    fn named_by(&self, id: &[u8; CID_BYTES]) -> ShardId {
        let word = u32::from_be_bytes([id[0], id[1], id[2], id[3]]);
        self.shards.shard_of_word(word)
    }

    fn check(&self, nonce: &[u8]) -> [u8; CID_BYTES - NONCE_BYTES] {
        let mut hasher = SipHasher13::new_with_key(&self.key);
        hasher.write(nonce);
        let [a, b, c, ..] = hasher.finish().to_le_bytes();
        [a, b, c]
    }
}

/// The connection id that a datagram is addressed to, if it has the length of ours.
fn destination_id(datagram: &[u8]) -> Option<&[u8; CID_BYTES]> {
    let first = *datagram.first()?;
    let at = if first & LONG_HEADER == 0 {
        SHORT_CID_AT
    } else if usize::from(*datagram.get(LONG_CID_LENGTH_AT)?) == CID_BYTES {
        LONG_CID_AT
    } else {
        return None;
    };
    datagram.get(at..at + CID_BYTES)?.try_into().ok()
}

/// quinn's view of the scheme: the ids of one shard.
pub(super) struct ShardCids {
    pub(super) scheme: CidScheme,
    pub(super) shard: ShardId,
}

impl ConnectionIdGenerator for ShardCids {
    fn generate_cid(&mut self) -> ConnectionId {
        ConnectionId::new(&self.scheme.mint(self.shard))
    }

    /// quinn answers an unknown but valid id with a stateless reset, which kills the client's connection. So an id
    /// of another shard is not valid here; it gets here only when forwarding has failed.
    fn validate(&self, id: &ConnectionId) -> Result<(), InvalidCid> {
        if self.scheme.shard_of(id) == Some(self.shard) { Ok(()) } else { Err(InvalidCid) }
    }

    fn cid_len(&self) -> usize {
        CID_BYTES
    }

    fn cid_lifetime(&self) -> Option<std::time::Duration> {
        None
    }
}

/// Tells the kernel to pick the socket of a reuseport group by the connection id. `socket` is any one of the group;
/// sockets are numbered in the order in which they were bound.
#[cfg(target_os = "linux")]
pub(super) fn attach(socket: &UdpSocket, shards: ShardCount) -> io::Result<()> {
    use std::os::fd::AsRawFd;

    let mut program = program(shards);
    let fprog = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: the descriptor is open, and `fprog` points to a live array of `len` instructions; the kernel copies it.
    let status = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_REUSEPORT_CBPF,
            (&raw const fprog).cast(),
            size_of::<libc::sock_fprog>() as libc::socklen_t,
        )
    };
    if status == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Other systems have no such filter; datagrams are forwarded between shards instead.
#[cfg(not(target_os = "linux"))]
pub(super) fn attach(_: &UdpSocket, _: ShardCount) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Sees the UDP payload at offset 0. A datagram that is too short to hold an id goes to socket 0, to be dropped.
#[cfg(target_os = "linux")]
fn program(shards: ShardCount) -> [libc::sock_filter; 7] {
    use libc::{
        BPF_A, BPF_ABS, BPF_ALU, BPF_B, BPF_JA, BPF_JMP, BPF_JSET, BPF_K, BPF_LD, BPF_MOD, BPF_RET, BPF_W,
    };

    let op = |code: u32, jt, jf, k| libc::sock_filter { code: code as u16, jt, jf, k };
    [
        op(BPF_LD | BPF_B | BPF_ABS, 0, 0, 0),
        op(BPF_JMP | BPF_JSET | BPF_K, 0, 2, u32::from(LONG_HEADER)),
        op(BPF_LD | BPF_W | BPF_ABS, 0, 0, LONG_CID_AT as u32),
        op(BPF_JMP | BPF_JA, 0, 0, 1),
        op(BPF_LD | BPF_W | BPF_ABS, 0, 0, SHORT_CID_AT as u32),
        op(BPF_ALU | BPF_MOD | BPF_K, 0, 0, shards.as_u32()),
        op(BPF_RET | BPF_A, 0, 0, 0),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scheme(shards: usize) -> CidScheme {
        CidScheme::new([7; 16], ShardCount::new(shards).unwrap())
    }

    fn short(id: &[u8]) -> Vec<u8> {
        [&[0x40], id, &[0; 20]].concat()
    }

    fn long(id: &[u8]) -> Vec<u8> {
        [&[0xc0, 0, 0, 0, 1, id.len() as u8], id, &[0; 20]].concat()
    }

    #[test]
    fn minted_ids_name_their_shard() {
        for shards in [1, 2, 3, 7, 64, ShardCount::MAX] {
            let scheme = scheme(shards);
            for shard in scheme.shards.iter() {
                for _ in 0..20 {
                    let id = scheme.mint(shard);
                    assert_eq!(scheme.shard_of(&id), Some(shard), "{shards} shards");
                    for here in scheme.shards.iter().take(3) {
                        assert_eq!(scheme.destination(&short(&id), here), Destination::Shard(shard));
                        assert_eq!(scheme.destination(&long(&id), here), Destination::Shard(shard));
                    }
                }
            }
        }
    }

    #[test]
    fn only_the_own_shard_finds_an_id_valid() {
        let scheme = scheme(2);
        let [a, b] = [0, 1].map(|n| scheme.shards.iter().nth(n).unwrap());
        let mut cids = ShardCids { scheme, shard: a };
        let id = cids.generate_cid();
        assert!(cids.validate(&id).is_ok());
        assert!(ShardCids { scheme, shard: b }.validate(&id).is_err());
        let other_key = CidScheme::new([8; 16], scheme.shards);
        assert!(ShardCids { scheme: other_key, shard: a }.validate(&id).is_err());
    }

    #[test]
    fn noise_belongs_to_anyone() {
        let scheme = scheme(2);
        let [a, b] = [0, 1].map(|n| scheme.shards.iter().nth(n).unwrap());
        let mut broken = scheme.mint(b);
        broken[7] ^= 1;
        for datagram in [
            Vec::new(),
            vec![0x40],
            vec![0xc0, 0, 0, 0, 1],
            vec![0xc0, 0, 0, 0, 1, 8, 1, 2],
            short(&broken),
            long(&broken),
            long(&[9; 20]),
            long(&[]),
        ] {
            assert_eq!(scheme.destination(&datagram, a), Destination::Anyone, "{datagram:x?}");
        }
    }
}
