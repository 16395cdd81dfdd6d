//! What a shard counts as it works. Additions are relaxed, and every shard has cache lines of its own, so that counting
//! costs some nanoseconds; at most one clock is read for a message on each of its legs.

use std::sync::atomic::{AtomicU64, Ordering};

use tern_core::outbound::Pushed;
use tern_protocol::error::ErrorCode;
use tern_store::histogram::{Histogram, MICROS, SIZES};

/// A number that its shard writes and anybody reads.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    /// Counts some more.
    pub fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    /// Takes one away, of a number that also falls.
    pub fn take_one(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }

    /// Sets a number that is measured now and then.
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// The number.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The values of a label.
pub trait Label: Copy + 'static {
    /// All of them.
    const ALL: &'static [Self];

    /// As it is exported.
    fn label(self) -> &'static str;

    /// Its place, below the number of places that [`By`] has for it.
    fn index(self) -> usize;
}

macro_rules! labels {
    ($($(#[$doc:meta])* $enum:ident { $($(#[$value_doc:meta])* $value:ident = $label:literal,)* })*) => { $(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $enum { $($(#[$value_doc])* $value,)* }

        impl $enum {
            const COUNT: usize = [$($label),*].len();
        }

        impl Label for $enum {
            const ALL: &'static [Self] = &[$(Self::$value),*];

            fn label(self) -> &'static str {
                match self { $(Self::$value => $label,)* }
            }

            fn index(self) -> usize {
                self as usize
            }
        }
    )* };
}

pub(super) use labels;

labels! {
    /// What a connection runs over.
    Transport {
        /// TLS over TCP.
        Tcp = "tcp",
        /// QUIC.
        Quic = "quic",
    }
    /// How a login ended.
    Login {
        /// Well.
        Ok = "ok",
        /// With an error.
        Refused = "refused",
    }
    /// What a client asks.
    Asked {
        /// A sign of life, to be echoed.
        Heartbeat = "heartbeat",
        /// Who am I?
        Login = "login",
        /// Append an entry.
        Send = "send",
        /// Raise watermarks.
        Mark = "mark",
        /// What happened since?
        Sync = "sync",
        /// A page of a log.
        History = "history",
        /// The conversation list.
        Conversations = "conversations",
        /// A group's members.
        Members = "members",
        /// Members' watermarks.
        Receipts = "receipts",
    }
    /// What became of a send.
    Sent {
        /// Stored.
        Stored = "stored",
        /// Stored by an earlier try.
        Duplicate = "duplicate",
        /// Refused, for now or for good.
        Refused = "refused",
    }
    /// Why something was not pushed.
    Dropped {
        /// The connection's queue was full.
        SlowReader = "slow_reader",
        /// Entries for a shard whose mailbox was full, or for a node whose lane was.
        MailboxFull = "mailbox_full",
        /// Receipts for a shard whose mailbox was full.
        ReceiptsMailboxFull = "receipts_mailbox_full",
    }
    /// Why a connection was given up.
    Cut {
        /// It took nothing for too long.
        Stalled = "stalled",
        /// It lagged in more conversations than are remembered.
        LostTrack = "lost_track",
        /// The shard had as many connections as it takes.
        ShardFull = "shard_full",
    }
    /// What became of a load from the store.
    Loaded {
        /// Loaded.
        Ok = "ok",
        /// Not.
        Failed = "failed",
    }
    /// What became of a batch.
    Committed {
        /// Durable.
        Ok = "ok",
        /// To be decided again.
        Conflict = "conflict",
        /// It may be durable.
        Unknown = "unknown",
        /// Refused for now.
        Unavailable = "unavailable",
        /// Refused for good.
        Failed = "failed",
    }
}

const ERROR_CODES: usize = {
    let (mut i, mut most) = (0, 0);
    while i < ErrorCode::ALL.len() {
        let code = ErrorCode::ALL[i].code() as usize;
        most = if code > most { code } else { most };
        i += 1;
    }
    most + 1
};

impl Label for ErrorCode {
    const ALL: &'static [Self] = ErrorCode::ALL;

    fn label(self) -> &'static str {
        ErrorCode::label(self)
    }

    fn index(self) -> usize {
        self.code() as usize
    }
}

/// One of something for each value of a label.
#[derive(Debug)]
pub struct By<L, T, const N: usize>([T; N], std::marker::PhantomData<fn(L)>);

impl<L: Label, T, const N: usize> By<L, T, N> {
    pub(super) fn new(mut each: impl FnMut() -> T) -> Self {
        Self(std::array::from_fn(|_| each()), std::marker::PhantomData)
    }

    /// That of a value.
    pub fn of(&self, label: L) -> &T {
        &self.0[label.index()]
    }
}

impl<L: Label, const N: usize> By<L, Count, N> {
    /// Counts one.
    pub fn one(&self, label: L) {
        self.of(label).add(1);
    }
}

macro_rules! shard_metrics {
    ($($(#[$doc:meta])* $field:ident: $type:ty = $value:expr,)*) => {
        /// What one shard counts.
        #[derive(Debug)]
        // Two lines: the processor fetches them in pairs.
        #[repr(align(128))]
        pub struct ShardMetrics { $($(#[$doc])* pub $field: $type,)* }

        impl Default for ShardMetrics {
            fn default() -> Self {
                Self { $($field: $value,)* }
            }
        }
    };
}

shard_metrics! {
    /// Connections whose handshake is done.
    connections: By<Transport, Count, { Transport::COUNT }> = By::new(Count::default),
    /// Logins.
    logins: By<Login, Count, { Login::COUNT }> = By::new(Count::default),
    /// Connections given up.
    cuts: By<Cut, Count, { Cut::COUNT }> = By::new(Count::default),
    /// Bytes of frames from clients.
    read_bytes: Count = Count::default(),
    /// Bytes of frames to clients.
    written_bytes: Count = Count::default(),
    /// Requests taken up.
    requests: By<Asked, Count, { Asked::COUNT }> = By::new(Count::default),
    /// From requests to good answers.
    request_micros: By<Asked, Histogram, { Asked::COUNT }> = By::new(|| Histogram::new(MICROS)),
    /// Answers to sends.
    sends: By<Sent, Count, { Sent::COUNT }> = By::new(Count::default),
    /// Errors told to clients.
    errors: By<ErrorCode, Count, ERROR_CODES> = By::new(Count::default),
    /// Times that a connection was not read from for a while.
    read_pauses: Count = Count::default(),
    /// Entries queued for connections.
    pushes: Count = Count::default(),
    /// From an entry being durable to its being written.
    push_micros: Histogram = Histogram::new(MICROS),
    /// Receipts queued for connections.
    receipts: Count = Count::default(),
    /// Pushes and receipts that were not queued, or not written.
    drops: By<Dropped, Count, { Dropped::COUNT }> = By::new(Count::default),
    /// Conversations in memory.
    conversations: Count = Count::default(),
    /// Loads of conversations.
    loads: By<Loaded, Count, { Loaded::COUNT }> = By::new(Count::default),
    /// Batches.
    commits: By<Committed, Count, { Committed::COUNT }> = By::new(Count::default),
    /// Entries of durable batches.
    commit_entries: Histogram = Histogram::new(SIZES),
    /// From handing a batch to the store until it was durable.
    commit_micros: Histogram = Histogram::new(MICROS),
    /// Sends taken up and not answered.
    waiting_sends: Count = Count::default(),
    /// Watermarks that another node has not confirmed.
    marks_kept: Count = Count::default(),
    /// Entries for nodes to which there was no link.
    news_unsent: Count = Count::default(),
    /// Users for whom the store is to be asked.
    rechecks: Count = Count::default(),
    /// The node's monotonic time at the last tick, in milliseconds.
    ticked_ms: Count = Count::default(),
}

impl ShardMetrics {
    /// A push or receipt was handed to a connection; counts what was dropped for it.
    pub fn on_pushed(&self, pushed: Pushed, queued: &Count) {
        match pushed {
            Pushed::Queued => queued.add(1),
            Pushed::Dropped(n) | Pushed::LostTrack(n) => self.drops.of(Dropped::SlowReader).add(n as u64),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_share_no_cache_line() {
        let shards: Vec<_> = (0..3).map(|_| ShardMetrics::default()).collect();
        for pair in shards.windows(2) {
            let (one, next) = (&raw const pair[0] as usize, &raw const pair[1] as usize);
            assert!(one.is_multiple_of(128) && (next - one).is_multiple_of(128));
        }
    }

    #[test]
    fn every_code_has_its_place() {
        let metrics = ShardMetrics::default();
        ErrorCode::ALL.iter().for_each(|code| metrics.errors.one(*code));
        assert!(ErrorCode::ALL.iter().all(|code| metrics.errors.of(*code).get() == 1));
    }
}
