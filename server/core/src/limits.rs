//! The server's own bounds; those of the protocol are in `tern_protocol::limits`.

use tern_protocol::limits::{ENTRY_BYTES_MAX, FRAME_BYTES_MAX, IN_FLIGHT_MAX, MEMBERS_MAX};

/// Appends that wait at one conversation for the commit in flight; more are refused as overloaded.
pub const CONVERSATION_QUEUE_MAX: usize = 4_096;
/// Watermarks that wait at one conversation until it is loaded; more are refused as overloaded.
pub const CONVERSATION_MARKS_MAX: usize = 4_096;
/// About how long a send may wait for its answer when a shard has too much to do: longer than any pause of a disk that
/// is well, shorter than a person's patience. What would wait longer is refused as overloaded.
pub const SEND_WAIT_MS: u64 = 1_000;
/// Unanswered sends of a shard's connections that are always taken up: every connection of a small server may send at
/// once, and they are answered within `SEND_WAIT_MS` even by a disk that syncs in 100 ms.
pub const SENDS_WAITING_MIN: u64 = 8_192;
/// Entries in one commit. On FoundationDB a transaction should stay far below 10 MB and 5 s.
pub const BATCH_ENTRIES_MAX: usize = 256;
/// Bytes of entries in one commit.
pub const BATCH_BYTES_MAX: usize = 256 * 1024;
/// Commits of the same entries that may conflict before the senders are told to come back later.
pub const COMMIT_ATTEMPTS_MAX: u32 = 8;
/// Send windows that a conversation keeps in memory: every member with a few devices.
pub const WINDOWS_CACHED_MAX: usize = 4 * MEMBERS_MAX;
/// Members of a group, past ones included, whom the owner keeps in memory; a group that reached it takes nobody new.
pub const MEMBER_RECORDS_MAX: usize = 16 * MEMBERS_MAX;
/// Members to whom entries are pushed one by one. No group is larger yet.
pub const PUSH_MEMBERS_MAX: usize = 1_024;
/// Devices whose last mark a conversation remembers.
pub const RECEIPT_DEVICES_MAX: usize = 4 * MEMBERS_MAX;
/// Senders of a group who are told how many members have their latest message.
pub const RECEIPT_SENDERS_MAX: usize = 32;
/// Between two rounds of receipt counts in a group.
pub const RECEIPT_COUNTS_INTERVAL_MS: u64 = 250;

/// Bytes of pushes queued for one connection; beyond, it is a slow reader.
pub const OUTBOUND_PUSH_BYTES_MAX: usize = 256 * 1024;
/// Pushes queued for one connection.
pub const OUTBOUND_PUSHES_MAX: usize = 1_024;
/// Bytes queued for one connection above which no further request of it is taken up.
pub const OUTBOUND_HIGH_WATER_BYTES: usize = 256 * 1024;
/// Conversations in which a slow reader may lag before it is sent away to connect and sync anew.
pub const LAGGING_MAX: usize = 1_024;

/// Refused requests before login, after which the connection is closed.
pub const REFUSED_BEFORE_LOGIN_MAX: u8 = 8;
/// Connections of one shard: above what a node is built for, and a few GB of memory.
pub const CONNECTIONS_PER_SHARD_MAX: u32 = 200_000;
/// Connections of one address that have not logged in, on each shard. A mobile carrier has thousands of phones behind one
/// address: they log in within milliseconds, so this many at a time are more than a shard can serve, also when all come
/// back at once. And it is a half of the handshakes that a shard does at once, so no single address keeps others out.
pub const BEFORE_LOGIN_PER_ADDRESS_MAX: u32 = 512;
/// Addresses that have such connections. More than a shard ever has in handshakes; beyond, the next one is refused.
pub const ADDRESSES_MAX: usize = 64 * 1024;
/// Sends a second of one device: no person types that fast, and a bot can wait.
pub const DEVICE_SENDS_PER_SECOND: u32 = 50;
/// Sends of one device at once, after a rest: what an app has gathered while it was offline.
pub const DEVICE_SENDS_BURST: u32 = 500;
/// The same of all devices of a user.
pub const USER_SENDS_PER_SECOND: u32 = 100;
/// The same of all devices of a user.
pub const USER_SENDS_BURST: u32 = 1_000;
/// Units of work a second that the requests of one device which are no sends may cost; `tern_core::work` says what they
/// count as. A unit is about 10 µs of a core, so a twentieth of a core at most; and 5 MB of history a second, which is
/// more than a phone stores.
pub const DEVICE_WORK_PER_SECOND: u32 = 5_000;
/// The same at once, after a rest: a phone that was away for long gets 50 MB as fast as its network takes them.
pub const DEVICE_WORK_BURST: u32 = 50_000;
/// The same of all devices of a user.
pub const USER_WORK_PER_SECOND: u32 = 10_000;
/// The same of all devices of a user.
pub const USER_WORK_BURST: u32 = 100_000;
/// For how long a connection's sends, or its other requests, are refused, at least, once one was. What the client had
/// under way behind that one is refused as well, so its sends keep their order; and what the pause earns may be asked at
/// once after it.
pub const PAUSE_MS: u64 = 1_000;
/// Requests that may be refused of a connection in one pause: what its client had under way when it was told. Who goes on
/// all the same, or is refused a long one, which counts once more for each KiB, is not listened to until the pause is over.
pub const REFUSED_IN_PAUSE_MAX: u32 = IN_FLIGHT_MAX as u32;
/// A connection is not listened to for at most so long at a time: clients take one for dead on which nothing comes back.
pub const DEAF_MS_MAX: u64 = 5_000;
/// Users whose sends and work are remembered after they have gone, in each of the parts into which they are divided; of
/// more, the next one begins anew with each login.
pub const USERS_REMEMBERED_MAX: usize = 16 * 1024;

/// Devices of one user that are connected at once; a further one displaces the one that logged in first.
pub const DEVICES_ONLINE_MAX: usize = 16;

/// Slots over which conversations and users are spread: 64 for each of 64 shards or nodes.
pub const SLOTS: u16 = 4_096;

const _: () = assert!(MEMBERS_MAX <= PUSH_MEMBERS_MAX);
const _: () = assert!(ENTRY_BYTES_MAX < BATCH_BYTES_MAX);
const _: () = assert!(ENTRY_BYTES_MAX < OUTBOUND_PUSH_BYTES_MAX);
const _: () = assert!(OUTBOUND_HIGH_WATER_BYTES < FRAME_BYTES_MAX);
const _: () = assert!(IN_FLIGHT_MAX < CONVERSATION_QUEUE_MAX);
// A device that is at its limit leaves room for others of its user, and may have as much unanswered as it is told.
const _: () =
    assert!(DEVICE_SENDS_PER_SECOND < USER_SENDS_PER_SECOND && DEVICE_SENDS_BURST < USER_SENDS_BURST);
const _: () = assert!(IN_FLIGHT_MAX < DEVICE_SENDS_BURST as usize);
const _: () = assert!(DEVICE_WORK_PER_SECOND < USER_WORK_PER_SECOND && DEVICE_WORK_BURST < USER_WORK_BURST);
// Or the pauses would cost more than the rate.
const _: () = assert!(DEVICE_SENDS_BURST as u64 * 1_000 >= DEVICE_SENDS_PER_SECOND as u64 * PAUSE_MS);
const _: () = assert!(DEVICE_WORK_BURST as u64 * 1_000 >= DEVICE_WORK_PER_SECOND as u64 * PAUSE_MS);
