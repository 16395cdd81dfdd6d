//! What the machine allows storing to cost at best: a process that commits the very keys of sends (entry, head, window)
//! to the embedded store, with records of the same size and in batches of the same shape as the server's, and decides
//! nothing.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tern_protocol::ids::{ClientSeq, ConversationId, DeviceId, Seq, UserId};
use tern_protocol::limits::SEND_WINDOW;
use tern_protocol::model::{Head, SendWindow, WallMillis};
use tern_store::embedded::{Embedded, Options};
use tern_store::keys::entry::EntryKey;
use tern_store::keys::head::HeadKey;
use tern_store::keys::window::WindowKey;
use tern_store::{BoxFuture, CommitError, Kv, Version, records};

use super::frames::Frames;
use super::shape::Shape;
use super::{Cost, FloorPlan};
use crate::Error;
use crate::child::{self, Process, Told};

/// What the child is told.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Task {
    shape: Shape,
    seconds: f64,
}

/// What it says when it has a store.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Ready {}

/// What it has done.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Done {
    /// Committed durably.
    messages: u64,
    seconds: f64,
}

/// What the store's process is told at its start.
#[derive(Debug, Clone, clap::Args)]
pub struct StoreArgs {
    /// Where a directory of its own is made, which is removed at the end
    #[arg(long)]
    pub directory: PathBuf,
    /// Conversations that take turns
    #[arg(long)]
    pub conversations: usize,
    /// Of each conversation
    #[arg(long)]
    pub senders: usize,
    /// Of each message
    #[arg(long)]
    pub payload_bytes: usize,
}

/// The parent's end.
pub(super) struct Store(Process);

impl Store {
    /// Makes it in a new directory in `directory`.
    pub(super) fn start(directory: &Path, plan: &FloorPlan) -> Result<Self, Error> {
        let arguments = [
            "floor-store".to_owned(),
            "--directory".to_owned(),
            directory.to_string_lossy().into_owned(),
            format!("--conversations={}", plan.groups()),
            format!("--senders={}", plan.senders),
            format!("--payload-bytes={}", plan.payload_bytes),
        ];
        let mut process = Process::start(&arguments)?;
        let Ready {} = process.hear()?;
        Ok(Self(process))
    }

    /// Commits for a while.
    pub(super) fn commit(&mut self, shape: Shape, duration: Duration) -> Result<Cost, Error> {
        let before = self.0.cpu()?;
        self.0.tell(&Task { shape, seconds: duration.as_secs_f64() })?;
        let Done { messages, seconds } = self.0.hear()?;
        Ok(Cost { messages, cpu: self.0.cpu()?.saturating_sub(before), seconds })
    }
}

/// Runs the store's process until standard input ends.
pub fn run(args: &StoreArgs) -> ExitCode {
    child::work(|| store(args))
}

fn store(args: &StoreArgs) -> Result<(), Error> {
    let directory = tempfile::tempdir_in(&args.directory)
        .map_err(Error::io(format!("cannot make a directory in {}", args.directory.display())))?;
    let failed = |error: &dyn std::fmt::Display| Error::Server(format!("the floor's store: {error}"));
    let on_fatal = |error: &tern_store::embedded::FatalError| eprintln!("tern-bench: {error}");
    let store = Embedded::open(directory.path(), Options::default(), Box::new(on_fatal));
    let store = Arc::new(store.map_err(|error| failed(&error))?);
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    let runtime = runtime.map_err(Error::io("cannot start a runtime"))?;
    let mut writer = Writer::new(store.clone(), args.conversations, args.senders, args.payload_bytes);
    let told = Told::listen();
    child::say(&Ready {})?;
    for Task { shape, seconds } in told.lines {
        let start = Instant::now();
        let until = start + Duration::from_secs_f64(seconds);
        let goes_on = || Instant::now() < until && !told.ended.load(Ordering::Relaxed);
        let messages = runtime.block_on(writer.write(shape, goes_on)).map_err(|error| failed(&error))?;
        if told.ended.load(Ordering::Relaxed) {
            break;
        }
        child::say(&Done { messages, seconds: start.elapsed().as_secs_f64() })?;
    }
    Ok(())
}

/// The committer takes a group right after it has answered the one before.
const TAKING: Duration = Duration::from_micros(20);

type Commits = Vec<BoxFuture<'static, Result<Version, CommitError>>>;

/// Makes transactions, and keeps one group in the queue while the one before it is written, as the server's owners do.
struct Writer {
    store: Arc<Embedded>,
    conversations: Vec<Conversation>,
    next: usize,
    /// Records of the usual size.
    entry: Bytes,
    head: Bytes,
    window: Bytes,
    version: Version,
}

struct Conversation {
    id: ConversationId,
    last: Seq,
    /// Who send.
    users: Vec<UserId>,
}

impl Writer {
    fn new(store: Arc<Embedded>, conversations: usize, senders: usize, payload_bytes: usize) -> Self {
        let conversation = |number: usize| {
            let user = |place: usize| UserId::from_sub(&format!("{number} {place}"));
            let id = ConversationId::direct(user(0), user(1));
            Conversation { id, last: Seq(0), users: (0..senders.max(1)).map(user).collect() }
        };
        // Two at least: a group is made while the one before it is written, and they would conflict.
        let conversations: Vec<_> = (0..conversations.max(2)).map(conversation).collect();
        let Conversation { id, users, .. } = &conversations[0];
        let (entry, head) = (EntryKey { conversation: *id, seq: Seq(1) }, HeadKey { conversation: *id });
        let last = Head { last: Seq(1_000), floor: Seq(1), time: WallMillis(1_000) };
        // A full one, in which every other message is the peer's.
        let sends = (1..=SEND_WINDOW as u64).map(|i| (ClientSeq(1_000 + i), Seq(2_000 + 2 * i))).collect();
        let window = window_key(*id, users[0]);
        Self {
            entry: records::entry::encode(&entry, &Frames::entry(payload_bytes)),
            head: records::head::encode(&head, &last),
            window: records::window::encode(&window, &SendWindow { sends }),
            store,
            conversations,
            next: 0,
            // Of the empty store, which has one commit.
            version: Version(1),
        }
    }

    /// At least one group; returns how many messages.
    async fn write(&mut self, shape: Shape, goes_on: impl Fn() -> bool) -> Result<u64, CommitError> {
        let mut parts = Parts::of(shape, self.conversations.len());
        let mut messages = 0;
        let mut ahead = self.submit_group(&mut parts, &mut messages);
        loop {
            let written = ahead;
            let end = !goes_on();
            ahead = if end { Vec::new() } else { self.submit_group(&mut parts, &mut messages) };
            // The last is answered last: this thread is woken once for a group.
            for commit in written.into_iter().rev() {
                self.version = self.version.max(commit.await?);
            }
            // What is submitted before the committer has taken the next group would join it.
            while self.store.metrics().queued > 0 {
                std::thread::sleep(TAKING);
            }
            if end {
                return Ok(messages);
            }
        }
    }

    fn submit_group(&mut self, parts: &mut Parts, messages: &mut u64) -> Commits {
        let transactions = parts.transactions.next();
        let mut commits = Vec::with_capacity(transactions);
        for _ in 0..transactions {
            let (entries, senders) = (parts.entries.next(), parts.senders.next());
            *messages += entries as u64;
            commits.push(self.append(entries, senders));
        }
        commits
    }

    fn append(&mut self, entries: usize, senders: usize) -> BoxFuture<'static, Result<Version, CommitError>> {
        let conversation = &mut self.conversations[self.next];
        let id = conversation.id;
        let head = HeadKey { conversation: id }.encode();
        let mut transaction = self.store.begin();
        transaction.set_read_version(self.version);
        transaction.add_read_conflict(&head);
        for _ in 0..entries {
            conversation.last = conversation.last.next();
            let key = EntryKey { conversation: id, seq: conversation.last };
            transaction.set(&key.encode(), self.entry.clone());
        }
        transaction.set(&head, self.head.clone());
        for user in &conversation.users[..senders.min(conversation.users.len())] {
            transaction.set(&window_key(id, *user).encode(), self.window.clone());
        }
        self.next = (self.next + 1) % self.conversations.len();
        transaction.commit()
    }
}

fn window_key(conversation: ConversationId, user: UserId) -> WindowKey {
    WindowKey { conversation, user, device: DeviceId::new(1).unwrap_or_else(|| unreachable!("1 is not 0")) }
}

/// The whole numbers that a shape comes down to.
#[derive(Debug)]
struct Parts {
    /// Of a group.
    transactions: Whole,
    /// Of a transaction.
    entries: Whole,
    /// Of a transaction.
    senders: Whole,
}

impl Parts {
    fn of(shape: Shape, conversations: usize) -> Self {
        // An owner waits for a commit before it submits the next: a conversation is in every other group at most.
        let transactions_max = (conversations / 2).max(1) as f64;
        let transactions = shape.messages_per_group / shape.messages_per_transaction.max(1.0);
        let transactions = transactions.clamp(1.0, transactions_max);
        Self {
            transactions: Whole::new(transactions),
            entries: Whole::new((shape.messages_per_group / transactions).max(1.0)),
            senders: Whole::new(shape.senders_per_transaction.max(1.0)),
        }
    }
}

/// Whole numbers with a given mean.
#[derive(Debug)]
struct Whole {
    mean: f64,
    left: f64,
}

impl Whole {
    fn new(mean: f64) -> Self {
        Self { mean, left: 0.0 }
    }

    fn next(&mut self) -> usize {
        let whole = (self.mean + self.left).floor();
        self.left += self.mean - whole;
        whole as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(group: f64, transaction: f64, senders: f64) -> Shape {
        Shape {
            messages_per_group: group,
            messages_per_transaction: transaction,
            senders_per_transaction: senders,
        }
    }

    #[test]
    fn shapes_come_down_to_whole_numbers() {
        #[track_caller]
        fn check(shape: Shape, conversations: usize, expected: [f64; 3]) {
            let mut parts = Parts::of(shape, conversations);
            let Parts { transactions, entries, senders } = &mut parts;
            for (whole, expected) in [transactions, entries, senders].into_iter().zip(expected) {
                let sum: usize = (0..1_000).map(|_| whole.next()).sum();
                assert!((sum as f64 / 1_000.0 - expected).abs() < 0.01, "{sum} of 1,000 x {expected}");
            }
        }
        check(shape(1.0, 1.0, 1.0), 100, [1.0, 1.0, 1.0]);
        check(shape(130.0, 2.6, 1.3), 1_000, [50.0, 2.6, 1.3]);
        check(shape(0.4, 7.0, 0.0), 1_000, [1.0, 1.0, 1.0]);
        check(shape(500.0, 1.0, 2.0), 100, [50.0, 10.0, 2.0]);
        check(shape(5.0, 1.0, 2.0), 1, [1.0, 5.0, 2.0]);
    }

    /// A store, its directory, and what runs its writer.
    fn store() -> (tempfile::TempDir, Arc<Embedded>, tokio::runtime::Runtime) {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let on_fatal = |error: &tern_store::embedded::FatalError| panic!("{error}");
        let store =
            Embedded::open(directory.path(), Options::default(), Box::new(on_fatal)).expect("a store");
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        (directory, Arc::new(store), runtime)
    }

    /// As for one large group: the next group of writes is made before the one before it is answered.
    #[test]
    fn one_conversation_does_not_conflict_with_itself() {
        let (_directory, store, runtime) = store();
        let mut writer = Writer::new(store.clone(), 1, 4, 200);
        let left = std::cell::Cell::new(5);
        let goes_on = || left.replace(left.get() - 1) > 0;
        let written = runtime.block_on(writer.write(shape(8.0, 8.0, 4.0), goes_on)).expect("committed");
        assert_eq!(written, 8 * 6);
        assert_eq!(store.metrics().conflicts, 0);
    }

    #[test]
    fn what_is_asked_for_is_committed() {
        let (_directory, store, runtime) = store();
        let mut writer = Writer::new(store.clone(), 10, 2, 200);
        let mut messages = 0;
        for (shape, transactions) in [(shape(1.0, 1.0, 1.0), 1), (shape(20.0, 4.0, 2.0), 5)] {
            let before = store.metrics();
            let written = runtime.block_on(writer.write(shape, || false)).expect("committed");
            let after = store.metrics();
            assert_eq!(written as f64, shape.messages_per_group);
            assert_eq!(after.commits - before.commits, transactions);
            assert_eq!(after.conflicts, 0);
            messages += written;
        }
        let last: u64 = writer.conversations.iter().map(|conversation| conversation.last.get()).sum();
        assert_eq!(last, messages);
    }
}
