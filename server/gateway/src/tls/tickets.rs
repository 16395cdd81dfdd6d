//! Session tickets that every shard, every node with the same secret, and the next start can open.
//!
//! ```text
//! epoch(4) | nonce(12) | sealed session | tag(16)
//! ```
//!
//! The key changes every epoch of six hours and is derived from the secret, so there is nothing to hand around. A
//! ticket is good in its epoch and the next. Whoever steals the secret can open tickets; that gives them no traffic,
//! since resumed sessions too agree on fresh keys (rustls resumes with (EC)DHE only) and 0-RTT is off.

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::aead::{AES_256_GCM_SIV, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::{hkdf, rand};
use rustls::server::ProducesTickets;

use super::derive;

const EPOCH_SECONDS: u64 = 6 * 60 * 60;
const EPOCH_BYTES: usize = 4;

pub(super) struct Tickets(hkdf::Prk);

impl Tickets {
    pub(super) fn new(key: hkdf::Prk) -> Self {
        Self(key)
    }

    /// Derived for each ticket: 2 µs beside the 90 µs of a handshake, and nothing to lock or rotate. GCM-SIV,
    /// because random nonces of many nodes under one key may meet.
    fn key(&self, epoch: u32) -> Option<LessSafeKey> {
        let key = derive(&self.0, &[&epoch.to_be_bytes()]);
        Some(LessSafeKey::new(UnboundKey::new(&AES_256_GCM_SIV, &key).ok()?))
    }

    fn seal(&self, plain: &[u8], now: u32) -> Option<Vec<u8>> {
        let mut nonce = [0; NONCE_LEN];
        rand::fill(&mut nonce).ok()?;
        let epoch = now.to_be_bytes();
        let mut sealed = plain.to_vec();
        self.key(now)?
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(epoch), &mut sealed)
            .ok()?;
        Some([&epoch[..], &nonce, &sealed].concat())
    }

    /// Also takes a ticket of the next epoch: another node's clock may run ahead.
    fn open(&self, ticket: &[u8], now: u32) -> Option<Vec<u8>> {
        let (epoch, rest) = ticket.split_first_chunk::<EPOCH_BYTES>()?;
        let (nonce, sealed) = rest.split_first_chunk::<NONCE_LEN>()?;
        let made = u32::from_be_bytes(*epoch);
        if made.abs_diff(now) > 1 {
            return None;
        }
        let mut sealed = sealed.to_vec();
        let plain = self
            .key(made)?
            .open_in_place(Nonce::assume_unique_for_key(*nonce), Aad::from(*epoch), &mut sealed)
            .ok()?
            .len();
        sealed.truncate(plain);
        Some(sealed)
    }
}

fn epoch_now() -> u32 {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    (seconds / EPOCH_SECONDS) as u32
}

impl ProducesTickets for Tickets {
    fn enabled(&self) -> bool {
        true
    }

    /// What a ticket of the last second of an epoch has left.
    fn lifetime(&self) -> u32 {
        EPOCH_SECONDS as u32
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.seal(plain, epoch_now())
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        self.open(ticket, epoch_now())
    }
}

impl fmt::Debug for Tickets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tickets(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tickets(secret: u8) -> Tickets {
        Tickets::new(hkdf::Prk::new_less_safe(hkdf::HKDF_SHA256, &[secret; 32]))
    }

    #[test]
    fn good_in_its_epoch_and_the_next() {
        let ticket = tickets(1).seal(b"session", 100).unwrap();
        for (now, good) in [(98, false), (99, true), (100, true), (101, true), (102, false), (0, false)] {
            let opened = tickets(1).open(&ticket, now);
            assert_eq!(opened.as_deref(), good.then_some(&b"session"[..]), "in epoch {now}");
        }
    }

    #[test]
    fn foreign_and_changed_tickets_are_refused() {
        let ticket = tickets(1).seal(b"session", 100).unwrap();
        assert!(tickets(2).open(&ticket, 100).is_none());
        for at in 0..ticket.len() {
            let mut changed = ticket.clone();
            changed[at] ^= 1;
            assert!(tickets(1).open(&changed, 100).is_none(), "byte {at}");
            assert!(tickets(1).open(&ticket[..at], 100).is_none(), "cut at {at}");
        }
    }

    #[test]
    fn the_real_clock_is_within_its_lifetime() {
        let tickets = tickets(1);
        let ticket = tickets.encrypt(b"session").unwrap();
        assert_eq!(tickets.decrypt(&ticket).as_deref(), Some(&b"session"[..]));
        assert_ne!(tickets.encrypt(b"session").unwrap(), ticket);
    }
}
