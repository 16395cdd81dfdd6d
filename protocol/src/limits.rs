//! Every limit of the protocol, units last in the name, the reason beside it.

/// A frame before login: room for a token and nothing that costs memory.
pub const FRAME_BEFORE_LOGIN_BYTES_MAX: usize = 4 * 1024;
/// A frame after login: the largest page or group creation fits several times.
pub const FRAME_BYTES_MAX: usize = 1024 * 1024;
/// The varint in front of a frame: 2^21 - 1 > `FRAME_BYTES_MAX`, so three bytes name every legal length.
pub const FRAME_PREFIX_BYTES_MAX: usize = 3;

/// A token; JSON Web Tokens of app backends are 200-1,500 bytes.
pub const TOKEN_BYTES_MAX: usize = 3 * 1024;
/// The `sub` in a token, which names the user. OpenID Connect allows 255 characters.
pub const SUB_BYTES_MAX: usize = 256;
/// The client's name in a login.
pub const CLIENT_NAME_BYTES_MAX: usize = 64;
/// Feature numbers in a login.
pub const FEATURES_MAX: usize = 64;

/// A message's payload. Larger things go to object storage.
pub const PAYLOAD_BYTES_MAX: usize = 64 * 1024;
/// A message's content type.
pub const CONTENT_TYPE_BYTES_MAX: usize = 128;
/// A group's title, UTF-8.
pub const TITLE_BYTES_MAX: usize = 256;
/// Members of a group, its owner included.
pub const MEMBERS_MAX: usize = 1024;
/// A stored entry, whatever it is. FoundationDB takes values of 100,000 bytes.
pub const ENTRY_BYTES_MAX: usize = 90_000;

/// Requests of one connection that may be unanswered at once.
pub const IN_FLIGHT_MAX: usize = 64;
/// Sends that the server remembers per device and conversation without looking into the log.
pub const SEND_WINDOW: usize = 64;
/// Watermarks in one `Mark`.
pub const MARKS_MAX: usize = 1024;
/// A `Known`, encoded: 2 of tag and length, 18 of id, a seq and three watermarks of up to 11.
pub const KNOWN_BYTES_MAX: usize = 2 + 18 + 4 * 11;
/// The rest of a frame with a `Sync`: `request_id`, tags and lengths, `after`, `until`, `latest`.
pub const SYNC_REST_BYTES_MAX: usize = 64;
/// Conversations that one `Sync` can name: they fit a frame.
pub const SYNC_KNOWN_MAX: usize = 16_000;
/// Conversations that a `Sync` which does not wait for `LoginOk` can always name: they fit a frame before login.
pub const SYNC_KNOWN_BEFORE_LOGIN_MAX: usize =
    (FRAME_BEFORE_LOGIN_BYTES_MAX - SYNC_REST_BYTES_MAX) / KNOWN_BYTES_MAX;
/// Entries of all conversations together in one `SyncPage`, beyond one per conversation.
pub const SYNC_ENTRIES_MAX: usize = 4_096;
/// Conversations that one `Sync` looks at before it answers with what it has.
pub const SYNC_CONVERSATIONS_MAX: usize = 4_096;
/// Bytes of entries in one page, so that a page with its frame stays under `FRAME_BYTES_MAX`.
pub const PAGE_BYTES_MAX: usize = 512 * 1024;
/// Entries in one `HistoryPage`.
pub const HISTORY_ENTRIES_MAX: usize = 1_000;
/// Rows in one page of conversations, members or receipts.
pub const PAGE_ROWS_MAX: usize = 500;
/// A `ConversationState` in a page, encoded, without entries: its title, two ids, numbers.
pub const STATE_BYTES_MAX: usize = 512;
/// Unread messages are counted up to this number, which then means "more than 99".
pub const UNREAD_COUNT_MAX: u32 = 100;

/// Targets in one `GoingAway`.
pub const TARGETS_MAX: usize = 4;
/// Bytes of a target: the longest name, and a port.
pub const TARGET_BYTES_MAX: usize = 260;

/// The oldest protocol version that this code speaks.
pub const VERSION_MIN: u32 = 1;
/// The newest protocol version that this code speaks.
pub const VERSION_MAX: u32 = 1;
/// The application protocol in the TLS handshake, on TCP and on QUIC.
pub const ALPN: &[u8] = b"tern/1";

/// TLS or QUIC handshake, from accept.
pub const HANDSHAKE_TIMEOUT_MS: u64 = 10_000;
/// From the end of the handshake to a complete `Login`.
pub const LOGIN_TIMEOUT_MS: u64 = 10_000;
/// A client sends something at least this often.
pub const HEARTBEAT_MS: u64 = 60_000;
/// A server that has heard nothing for this long closes: two heartbeats may be lost.
pub const IDLE_TIMEOUT_MS: u64 = 150_000;
/// A server that cannot write to a client for this long closes the connection.
pub const WRITE_STALL_TIMEOUT_MS: u64 = 30_000;

/// Bidirectional QUIC streams for bulk requests that a client may have open; the session's stream is not counted.
pub const QUIC_BULK_STREAMS_MAX: usize = 3;

const _: () = assert!(FRAME_BYTES_MAX < 1 << (7 * FRAME_PREFIX_BYTES_MAX));
const _: () =
    assert!(TOKEN_BYTES_MAX + CLIENT_NAME_BYTES_MAX + FEATURES_MAX * 5 + 64 <= FRAME_BEFORE_LOGIN_BYTES_MAX);
const _: () = assert!(PAYLOAD_BYTES_MAX + CONTENT_TYPE_BYTES_MAX + 256 <= ENTRY_BYTES_MAX);
const _: () = assert!(MEMBERS_MAX * 18 + TITLE_BYTES_MAX + 256 <= ENTRY_BYTES_MAX);
const _: () = assert!(SYNC_KNOWN_MAX * KNOWN_BYTES_MAX + SYNC_REST_BYTES_MAX <= FRAME_BYTES_MAX);
// Tag and length; title; ids; kind and role; seven numbers; `unread`.
const _: () = assert!(4 + (3 + TITLE_BYTES_MAX) + 2 * 18 + 2 * 2 + 7 * 11 + 6 <= STATE_BYTES_MAX);
// The last entry of a page may stick out of `PAGE_BYTES_MAX`.
const _: () = assert!(PAGE_BYTES_MAX + ENTRY_BYTES_MAX + PAGE_ROWS_MAX * STATE_BYTES_MAX < FRAME_BYTES_MAX);
const _: () = assert!(SUB_BYTES_MAX < TOKEN_BYTES_MAX);
const _: () = assert!(IN_FLIGHT_MAX <= SEND_WINDOW);
const _: () = assert!(2 * HEARTBEAT_MS < IDLE_TIMEOUT_MS);
