//! What the values look like.
//!
//! ```text
//! | version: 1 byte | body | crc32c of key, version and body: 4 bytes, little-endian |
//! ```
//!
//! The checksum covers the key as well, so a record that a faulty disk or a bug has put in another's place is found
//! too. A reader that meets a version it does not know refuses; bytes are never guessed at.
//!
//! | kind | version | body |
//! |---|---|---|
//! | conversation | 1 | kind (1 byte: 1 direct, 2 group), title (the rest, UTF-8) |
//! | epoch | 1 | 16 random bytes |
//! | head | 1 | last, floor, time in ms (8 bytes each, big-endian) |
//! | entry | 1 | the encoded entry |
//! | member | 1 | role (1 byte: 1 member, 2 admin, 3 owner), joined, left or 0 (8 bytes each, big-endian) |
//! | node | 1 | beat, start in ms (8 bytes each, big-endian), lowest and highest version of links, 1 if it drains (1 byte each), then its name, its address for links and those for clients, each as its length (1 byte) and UTF-8 |
//! | migration | 1 | state (1 byte: 1 leaving, 2 moved, 3 arriving), id (16 bytes); leaving, moved: where to (the rest, UTF-8); arriving: where from (2 bytes length, UTF-8), whether all is copied (1 byte), rows expected, rows and bytes copied (8 bytes each, big-endian), their CRC-32C (4 bytes, big-endian), the last key (the rest) |
//! | window | 1 | count, first client_seq and seq, then the differences to the pair before (varints) |
//!
//! Watermarks (kinds `delivered` and `read`) are plain little-endian u64 without version or checksum, because the
//! store itself raises them: FoundationDB's `MAX` compares little-endian numbers. The engines' own block checksums
//! guard them, and a wrong watermark loses no message.

use bytes::{Bytes, BytesMut};
use tern_protocol::ids::{ClientSeq, Seq, StoreEpoch};
use tern_protocol::limits::SEND_WINDOW;
use tern_protocol::model::{Conversation, Head, Kind, Membership, Role, SendWindow, WallMillis};

use crate::error::Corrupt;
use crate::keys::conversation::ConversationKey;
use crate::keys::entry::EntryKey;
use crate::keys::epoch::EpochKey;
use crate::keys::head::HeadKey;
use crate::keys::member::MemberKey;
use crate::keys::migration::MigrationKey;
use crate::keys::node::NodeKey;
use crate::keys::take;
use crate::keys::window::WindowKey;
use crate::migrate::{Arrival, LOCATION_BYTES_MAX, Migration, MigrationId, Tally};

/// The only version of every record so far.
const VERSION: u8 = 1;
/// The checksum at the end.
const CHECKSUM_BYTES: usize = 4;

/// What a node of a cluster says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NodeLease {
    /// Rises each time that it is written.
    pub beat: u64,
    /// When the node began, by its own clock.
    pub started: WallMillis,
    /// The lowest and the highest version of the link protocol that it speaks.
    pub versions: (u8, u8),
    /// It is about to leave, and owns nothing any more.
    pub draining: bool,
    /// For people; at most 255 bytes, as are the addresses.
    pub name: String,
    /// Where other nodes reach it.
    pub link: String,
    /// Where clients reach it; at most [`NodeLease::CLIENTS_MAX`].
    pub clients: Vec<String>,
}

impl NodeLease {
    /// Addresses for clients in a lease.
    pub const CLIENTS_MAX: usize = 16;
}

fn checksum(key: &[u8], version_and_body: &[u8]) -> [u8; CHECKSUM_BYTES] {
    crc32c::crc32c_append(crc32c::crc32c(key), version_and_body).to_le_bytes()
}

/// Puts version and checksum around a body.
fn seal(key: &[u8], body: &[&[u8]]) -> Bytes {
    let length: usize = body.iter().map(|part| part.len()).sum();
    let mut record = BytesMut::with_capacity(1 + length + CHECKSUM_BYTES);
    record.extend_from_slice(&[VERSION]);
    for part in body {
        record.extend_from_slice(part);
    }
    let sum = checksum(key, &record);
    record.extend_from_slice(&sum);
    record.freeze()
}

/// Where the body of a record is, if the record is whole.
fn open(key: &[u8], record: &[u8]) -> Result<std::ops::Range<usize>, &'static str> {
    if record.len() < 1 + CHECKSUM_BYTES {
        return Err("too short");
    }
    let end = record.len() - CHECKSUM_BYTES;
    if record[end..] != checksum(key, &record[..end]) {
        return Err("checksum mismatch");
    }
    if record[0] != VERSION {
        return Err("unknown record version");
    }
    Ok(1..end)
}

/// Encodes and decodes one kind of record: `$decode` makes the model type out of a body.
macro_rules! record {
    ($(#[$doc:meta])* $name:ident, $key:ty, $model:ty, $encode:ident, $decode:ident) => {
        $(#[$doc])*
        pub mod $name {
            use super::*;

            /// The record that is stored under `key`.
            pub fn encode(key: &$key, value: &$model) -> Bytes {
                $encode(&key.encode(), value)
            }

            /// What the record says. Never panics, whatever the bytes.
            pub fn decode(key: &$key, record: &[u8]) -> Result<$model, Corrupt> {
                open(&key.encode(), record)
                    .and_then(|body| $decode(&record[body]))
                    .map_err(|what| Corrupt::new(<$key>::KIND, key, what))
            }
        }
    };
}

record! { /// Kind `conversation`.
conversation, ConversationKey, Conversation, encode_conversation, decode_conversation }
record! { /// Kind `epoch`.
epoch, EpochKey, StoreEpoch, encode_epoch, decode_epoch }
record! { /// Kind `head`.
head, HeadKey, Head, encode_head, decode_head }
record! { /// Kind `member`.
member, MemberKey, Membership, encode_member, decode_member }
record! { /// Kind `node`.
node, NodeKey, NodeLease, encode_node, decode_node }
record! { /// Kind `migration`.
migration, MigrationKey, Migration, encode_migration, decode_migration }
record! { /// Kind `window`.
window, WindowKey, SendWindow, encode_window, decode_window }

/// Kind `entry`: the record around an encoded entry, which is not looked into here.
pub mod entry {
    use super::*;

    /// The record that is stored under `key`.
    pub fn encode(key: &EntryKey, entry: &[u8]) -> Bytes {
        seal(&key.encode(), &[entry])
    }

    /// The encoded entry, without a copy.
    pub fn decode(key: &EntryKey, record: &Bytes) -> Result<Bytes, Corrupt> {
        match open(&key.encode(), record) {
            Ok(body) => Ok(record.slice(body)),
            Err(what) => Err(Corrupt::new(EntryKey::KIND, key, what)),
        }
    }
}

/// Kinds `delivered` and `read`: a seq.
pub mod watermark {
    use super::*;

    /// The seq in a stored watermark; `None` when it is not 8 bytes long.
    pub fn decode(value: &[u8]) -> Option<Seq> {
        value.try_into().ok().map(u64::from_le_bytes).map(Seq)
    }
}

fn encode_conversation(key: &[u8], value: &Conversation) -> Bytes {
    let kind = match value.kind {
        Kind::Direct => 1,
        Kind::Group => 2,
    };
    seal(key, &[&[kind], value.title.as_bytes()])
}

fn decode_conversation(body: &[u8]) -> Result<Conversation, &'static str> {
    let (kind, title) = body.split_first().ok_or("no kind")?;
    let kind = match kind {
        1 => Kind::Direct,
        2 => Kind::Group,
        _ => return Err("unknown kind"),
    };
    let title = std::str::from_utf8(title).map_err(|_| "title is not UTF-8")?;
    Ok(Conversation { kind, title: title.to_owned() })
}

fn encode_epoch(key: &[u8], value: &StoreEpoch) -> Bytes {
    seal(key, &[value.as_bytes()])
}

fn decode_epoch(body: &[u8]) -> Result<StoreEpoch, &'static str> {
    StoreEpoch::try_from(body).map_err(|_| "wrong length")
}

fn encode_head(key: &[u8], value: &Head) -> Bytes {
    let numbers = [value.last.get(), value.floor.get(), value.time.0].map(u64::to_be_bytes);
    seal(key, &[numbers.as_flattened()])
}

fn decode_head(body: &[u8]) -> Result<Head, &'static str> {
    let body: &[u8; 24] = body.try_into().map_err(|_| "wrong length")?;
    let (numbers, _) = body.as_chunks::<8>();
    let [last, floor, time] = [numbers[0], numbers[1], numbers[2]].map(u64::from_be_bytes);
    if floor == 0 || floor - 1 > last {
        return Err("the floor is not within the log");
    }
    Ok(Head { last: Seq(last), floor: Seq(floor), time: WallMillis(time) })
}

fn encode_member(key: &[u8], value: &Membership) -> Bytes {
    let role = match value.role {
        Role::Member => 1,
        Role::Admin => 2,
        Role::Owner => 3,
    };
    let numbers = [value.joined.get(), value.left.map_or(0, Seq::get)].map(u64::to_be_bytes);
    seal(key, &[&[role], numbers.as_flattened()])
}

fn decode_member(body: &[u8]) -> Result<Membership, &'static str> {
    let body: &[u8; 17] = body.try_into().map_err(|_| "wrong length")?;
    let role = match body[0] {
        1 => Role::Member,
        2 => Role::Admin,
        3 => Role::Owner,
        _ => return Err("unknown role"),
    };
    let (numbers, _) = body[1..].as_chunks::<8>();
    let [joined, left] = [numbers[0], numbers[1]].map(u64::from_be_bytes);
    Ok(Membership { role, joined: Seq(joined), left: (left != 0).then_some(Seq(left)) })
}

fn encode_node(key: &[u8], value: &NodeLease) -> Bytes {
    let NodeLease { beat, started, versions, draining, name, link, clients } = value;
    let numbers = [*beat, started.0].map(u64::to_be_bytes);
    let mut body = numbers.as_flattened().to_vec();
    body.extend_from_slice(&[versions.0, versions.1, u8::from(*draining)]);
    assert!(clients.len() <= NodeLease::CLIENTS_MAX, "the configuration has fewer addresses");
    for text in [name, link].into_iter().chain(clients) {
        let length = u8::try_from(text.len()).expect("names and addresses are short");
        body.push(length);
        body.extend_from_slice(text.as_bytes());
    }
    seal(key, &[&body])
}

fn decode_node(body: &[u8]) -> Result<NodeLease, &'static str> {
    let cut = "cut short";
    let (numbers, rest) = body.split_first_chunk::<16>().ok_or(cut)?;
    let (flags, mut rest) = rest.split_first_chunk::<3>().ok_or(cut)?;
    let (numbers, _) = numbers.as_chunks::<8>();
    let mut texts = Vec::new();
    while let Some((length, tail)) = rest.split_first() {
        let (text, tail) = tail.split_at_checked(usize::from(*length)).ok_or(cut)?;
        texts.push(std::str::from_utf8(text).map_err(|_| "a text is not UTF-8")?.to_owned());
        rest = tail;
    }
    if texts.len() < 2 || texts.len() > 2 + NodeLease::CLIENTS_MAX || flags[2] > 1 {
        return Err("not a lease");
    }
    let clients = texts.split_off(2);
    let link = texts.pop().unwrap_or_default();
    Ok(NodeLease {
        beat: u64::from_be_bytes(numbers[0]),
        started: WallMillis(u64::from_be_bytes(numbers[1])),
        versions: (flags[0], flags[1]),
        draining: flags[2] == 1,
        name: texts.pop().unwrap_or_default(),
        link,
        clients,
    })
}

fn encode_migration(key: &[u8], value: &Migration) -> Bytes {
    match value {
        Migration::Leaving { id, to } => seal(key, &[&[1], &id.0, to.as_bytes()]),
        Migration::Moved { id, to } => seal(key, &[&[2], &id.0, to.as_bytes()]),
        Migration::Arriving(Arrival { id, from, is_copied, expected, tally, last }) => {
            assert!(from.len() <= LOCATION_BYTES_MAX, "a location is checked before it is stored");
            let length = (from.len() as u16).to_be_bytes();
            let numbers = [*expected, tally.rows, tally.bytes].map(u64::to_be_bytes);
            let (from, sum) = (from.as_bytes(), tally.sum.to_be_bytes());
            seal(
                key,
                &[&[3], &id.0, &length, from, &[(*is_copied).into()], numbers.as_flattened(), &sum, last],
            )
        }
    }
}

fn decode_migration(mut body: &[u8]) -> Result<Migration, &'static str> {
    let too_short = "too short";
    let text = |bytes: &[u8]| match std::str::from_utf8(bytes) {
        Ok(text) if text.len() <= LOCATION_BYTES_MAX => Ok(text.to_owned()),
        Ok(_) => Err("the location is too long"),
        Err(_) => Err("the location is not UTF-8"),
    };
    let state = body.split_off_first().ok_or(too_short)?;
    let id = MigrationId(take(&mut body).ok_or(too_short)?);
    match state {
        1 => Ok(Migration::Leaving { id, to: text(body)? }),
        2 => Ok(Migration::Moved { id, to: text(body)? }),
        3 => {
            let length = take(&mut body).map(u16::from_be_bytes).ok_or(too_short)?;
            let from = text(body.split_off(..length.into()).ok_or(too_short)?)?;
            let is_copied = match body.split_off_first().ok_or(too_short)? {
                0 => false,
                1 => true,
                _ => return Err("neither copied nor not"),
            };
            let mut number = || take(&mut body).map(u64::from_be_bytes).ok_or(too_short);
            let (expected, rows, bytes) = (number()?, number()?, number()?);
            let sum = take(&mut body).map(u32::from_be_bytes).ok_or(too_short)?;
            let last = Bytes::copy_from_slice(body);
            let tally = Tally { rows, bytes, sum };
            Ok(Migration::Arriving(Arrival { id, from, is_copied, expected, tally, last }))
        }
        _ => Err("unknown state"),
    }
}

fn encode_window(key: &[u8], value: &SendWindow) -> Bytes {
    assert!(value.sends.len() <= SEND_WINDOW, "a send window holds at most SEND_WINDOW sends");
    let mut body = Vec::with_capacity(2 + value.sends.len() * 3 + 16);
    put_varint(&mut body, value.sends.len() as u64);
    let mut before = (0, 0);
    for (client_seq, seq) in &value.sends {
        let pair = (client_seq.get(), seq.get());
        assert!(pair.0 > before.0 && pair.1 > before.1, "a send window rises, from above 0");
        put_varint(&mut body, pair.0 - before.0);
        put_varint(&mut body, pair.1 - before.1);
        before = pair;
    }
    seal(key, &[&body])
}

fn decode_window(mut body: &[u8]) -> Result<SendWindow, &'static str> {
    let count = take_varint(&mut body)?;
    if count > SEND_WINDOW as u64 {
        return Err("too many sends");
    }
    let mut sends = Vec::with_capacity(SEND_WINDOW.min(count as usize));
    let mut before = (0u64, 0u64);
    for _ in 0..count {
        let step = (take_varint(&mut body)?, take_varint(&mut body)?);
        if step.0 == 0 || step.1 == 0 {
            return Err("the window does not rise");
        }
        let too_large = "number too large";
        before =
            (before.0.checked_add(step.0).ok_or(too_large)?, before.1.checked_add(step.1).ok_or(too_large)?);
        sends.push((ClientSeq(before.0), Seq(before.1)));
    }
    if body.is_empty() { Ok(SendWindow { sends }) } else { Err("bytes after the window") }
}

/// LEB128: seven bits a byte, the lowest first, the highest bit set on all but the last.
fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn take_varint(rest: &mut &[u8]) -> Result<u64, &'static str> {
    let mut value = 0u64;
    for shift in (0..).step_by(7) {
        let (byte, tail) = rest.split_first().ok_or("number cut short")?;
        *rest = tail;
        let bits = u64::from(byte & 0x7F);
        if shift > 63 || (shift == 63 && bits > 1) {
            return Err("number too large");
        }
        value |= bits << shift;
        if byte & 0x80 == 0 {
            break;
        }
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tern_protocol::ids::{ConversationId, DeviceId, NodeId, UserId};

    const CONVERSATION: ConversationId = ConversationId::from_bytes([7; 16]);
    const USER: UserId = UserId::from_bytes([9; 16]);
    const WINDOW: WindowKey =
        WindowKey { conversation: CONVERSATION, user: USER, device: DeviceId::new(3).expect("not 0") };
    const MEMBER: MemberKey = MemberKey { conversation: CONVERSATION, user: USER };
    const HEAD: HeadKey = HeadKey { conversation: CONVERSATION };
    const RECORD: ConversationKey = ConversationKey { conversation: CONVERSATION };
    const NODE: NodeKey = NodeKey { node: NodeId(77) };
    const ENTRY: EntryKey = EntryKey { conversation: CONVERSATION, seq: Seq(5) };

    fn windows() -> impl Strategy<Value = SendWindow> {
        proptest::collection::vec((1u64..1 << 40, 1u64..1 << 40), 0..=SEND_WINDOW).prop_map(|steps| {
            let mut at = (0, 0);
            let sends = steps.into_iter().map(|step| {
                at = (at.0 + step.0, at.1 + step.1);
                (ClientSeq(at.0), Seq(at.1))
            });
            SendWindow { sends: sends.collect() }
        })
    }

    fn arriving(from: &str, last: &'static [u8]) -> Migration {
        let tally = Tally { rows: 7, bytes: 8, sum: 9 };
        let (from, last) = (from.to_owned(), Bytes::from_static(last));
        Migration::Arriving(Arrival {
            id: MigrationId([5; 16]),
            from,
            is_copied: true,
            expected: 6,
            tally,
            last,
        })
    }

    /// Every flipped bit and every other key is noticed.
    fn fragile<T>(record: &[u8], decode: impl Fn(&[u8]) -> Result<T, Corrupt>) {
        assert!(decode(record).is_ok());
        for bit in 0..record.len() * 8 {
            let mut damaged = record.to_vec();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&damaged).is_err(), "flipped bit {bit} went unnoticed");
        }
        for length in 0..record.len() {
            assert!(decode(&record[..length]).is_err(), "cut to {length} bytes went unnoticed");
        }
    }

    #[test]
    fn any_flipped_bit_is_noticed() {
        let head = Head { last: Seq(9), floor: Seq(2), time: WallMillis(77) };
        fragile(&head::encode(&HEAD, &head), |r| head::decode(&HEAD, r));
        let member = Membership { role: Role::Admin, joined: Seq(4), left: None };
        fragile(&member::encode(&MEMBER, &member), |r| member::decode(&MEMBER, r));
        let group = Conversation { kind: Kind::Group, title: "Tern".to_owned() };
        fragile(&conversation::encode(&RECORD, &group), |r| conversation::decode(&RECORD, r));
        let window = SendWindow { sends: vec![(ClientSeq(3), Seq(1)), (ClientSeq(4), Seq(900))] };
        fragile(&window::encode(&WINDOW, &window), |r| window::decode(&WINDOW, r));
        let lease = NodeLease { beat: 7, name: "a".into(), link: "[::1]:7".into(), ..NodeLease::default() };
        fragile(&node::encode(&NODE, &lease), |r| node::decode(&NODE, r));
        fragile(&migration::encode(&MigrationKey, &arriving("embedded:a", b"g")), |r| {
            migration::decode(&MigrationKey, r)
        });
        fragile(&entry::encode(&ENTRY, b"hello"), |r| entry::decode(&ENTRY, &Bytes::copy_from_slice(r)));
    }

    #[test]
    fn a_record_in_anothers_place_is_noticed() {
        let record = entry::encode(&ENTRY, b"hello");
        let elsewhere = EntryKey { seq: Seq(6), ..ENTRY };
        let error = entry::decode(&elsewhere, &record).unwrap_err();
        assert_eq!(error.to_string(), format!("corrupt entry record {CONVERSATION} 6: checksum mismatch"));
    }

    #[test]
    fn a_window_is_compact() {
        let sends = (1..=SEND_WINDOW as u64).map(|n| (ClientSeq(n), Seq(n * 3)));
        let window = SendWindow { sends: sends.collect() };
        assert_eq!(window::encode(&WINDOW, &window).len(), 1 + 1 + 2 * SEND_WINDOW + 4);
    }

    proptest! {
        #[test]
        fn round_trips(
            last in 0u64..u64::MAX - 1, below in any::<u64>(), time in any::<u64>(), left in any::<u64>(),
            title in ".{0,64}", window in windows(), payload in proptest::collection::vec(any::<u8>(), 0..99),
        ) {
            let head = Head { last: Seq(last), floor: Seq(1 + below % (last + 1)), time: WallMillis(time) };
            prop_assert_eq!(head::decode(&HEAD, &head::encode(&HEAD, &head)), Ok(head));
            let member = Membership { role: Role::Owner, joined: Seq(last), left: (left != 0).then_some(Seq(left)) };
            prop_assert_eq!(member::decode(&MEMBER, &member::encode(&MEMBER, &member)), Ok(member));
            let record = Conversation { kind: Kind::Group, title: title.clone() };
            prop_assert_eq!(conversation::decode(&RECORD, &conversation::encode(&RECORD, &record)), Ok(record));
            prop_assert_eq!(window::decode(&WINDOW, &window::encode(&WINDOW, &window)), Ok(window));
            let (id, to) = (MigrationId([last as u8; 16]), title);
            let states = [arriving(&to, b""), Migration::Moved { id, to: to.clone() }, Migration::Leaving { id, to }];
            for state in states {
                prop_assert_eq!(migration::decode(&MigrationKey, &migration::encode(&MigrationKey, &state)), Ok(state));
            }
            prop_assert_eq!(entry::decode(&ENTRY, &entry::encode(&ENTRY, &payload)), Ok(Bytes::from(payload)));
        }

        /// With a checksum that fits, so that the decoders behind it are reached.
        #[test]
        fn any_bytes_decode_without_panic(body in proptest::collection::vec(any::<u8>(), 0..80), version in 0u8..3) {
            for key in [&HEAD.encode()[..], &MEMBER.encode(), &RECORD.encode(), &WINDOW.encode(), &ENTRY.encode(), &MigrationKey.encode()] {
                let mut record = vec![version];
                record.extend_from_slice(&body);
                let sum = checksum(key, &record);
                record.extend_from_slice(&sum);
                for bytes in [&record, &body] {
                    let _ = head::decode(&HEAD, bytes);
                    let _ = member::decode(&MEMBER, bytes);
                    let _ = conversation::decode(&RECORD, bytes);
                    let _ = window::decode(&WINDOW, bytes);
                    let _ = entry::decode(&ENTRY, &Bytes::copy_from_slice(bytes));
                    let _ = migration::decode(&MigrationKey, bytes);
                    let _ = watermark::decode(bytes);
                }
            }
        }
    }
}
