//! State in one file: a log of checksummed records, rewritten when it has grown.
//!
//! ```text
//!   "TERNST01"
//!   | length u32 LE | CRC-32C of the payload u32 LE | payload: kind u8, fields |  ...
//! ```
//!
//! - A record costs one write, a batch with a vital record one `fdatasync`.
//! - A crash can tear the end of the file. What is torn was not durable, hence nothing of it was on the wire: it is cut off.
//! - Damage with good records behind it is skipped, and since a lost record may have used a number, all numbers jump
//!   by [`DAMAGE_SKIP`]: the server wants rising numbers, not dense ones.
//! - Compaction writes a new file beside the old one, syncs, renames, syncs the directory.
//! - A second process is kept out by a lock on `<file>.lock`; the operating system lets go of it when a process ends.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tern_protocol::convert::{encode_request, parse_request};
use tern_protocol::frame::{self, Frame};
use tern_protocol::ids::{ClientSeq, ConversationId, DeviceId, RequestId, Seq, UserId};
use tern_protocol::limits::FRAME_BYTES_MAX;
use tern_protocol::request::{Request, RequestBody, Send};

use super::{Marks, Record, State, Storage, StorageError};

const MAGIC: &[u8; 8] = b"TERNST01";
const HEADER_BYTES: usize = 8;
const RECORD_BYTES_MAX: usize = FRAME_BYTES_MAX + 64;
/// Below this size a rewrite is not worth it.
const COMPACT_BYTES_MIN: u64 = 1 << 20;
/// More numbers than one client can have used since a lost record: its unanswered sends and then some.
const DAMAGE_SKIP: u64 = 1 << 20;

/// Keeps the state in a file. See the module's source for the format; treat the file as opaque.
#[derive(Debug)]
pub struct FileStorage {
    path: PathBuf,
    file: File,
    _lock: File,
    state: State,
    bytes: u64,
    compact_at: u64,
    compact_min: u64,
    poisoned: bool,
}

impl FileStorage {
    /// Opens the state at `path`, or begins one there; its directory is made when missing.
    ///
    /// # Errors
    /// [`StorageError::InUse`] when another process has it open, [`StorageError::Foreign`] when the file is something
    /// else, [`StorageError::Io`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self, StorageError> {
        Self::open_compacting_at(path.as_ref(), COMPACT_BYTES_MIN)
    }

    pub(crate) fn open_compacting_at(path: &Path, compact_min: u64) -> Result<Self, StorageError> {
        let io = |error| StorageError::Io { path: path.display().to_string(), error };
        if let Some(directory) = path.parent().filter(|d| !d.as_os_str().is_empty()) {
            fs::create_dir_all(directory).map_err(io)?;
        }
        let lock = private(OpenOptions::new().create(true).truncate(false).write(true))
            .open(beside(path, ".lock"))
            .map_err(io)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(StorageError::InUse(path.display().to_string())),
            Err(TryLockError::Error(error)) => return Err(io(error)),
        }
        let mut file = private(OpenOptions::new().create(true).truncate(false).read(true).write(true))
            .open(path)
            .map_err(io)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(io)?;
        if bytes.len() < MAGIC.len() {
            if !MAGIC.starts_with(&bytes) {
                return Err(StorageError::Foreign(path.display().to_string()));
            }
            // New, or torn while it was made.
            file.seek(SeekFrom::Start(0)).map_err(io)?;
            file.write_all(MAGIC).map_err(io)?;
            file.sync_all().map_err(io)?;
            sync_directory(path).map_err(io)?;
            bytes = MAGIC.to_vec();
        }
        if !bytes.starts_with(MAGIC) {
            return Err(StorageError::Foreign(path.display().to_string()));
        }
        let (state, end, damaged) = replay(&bytes);
        file.set_len(end as u64).map_err(io)?;
        file.seek(SeekFrom::Start(end as u64)).map_err(io)?;
        let size = end as u64;
        let mut storage = Self {
            path: path.to_path_buf(),
            file,
            _lock: lock,
            state,
            bytes: size,
            compact_at: (2 * size).max(compact_min),
            compact_min,
            poisoned: false,
        };
        if damaged {
            storage.skip_numbers()?;
        }
        Ok(storage)
    }

    /// Numbers may have been used that the file no longer knows of.
    fn skip_numbers(&mut self) -> Result<(), StorageError> {
        let highest = self.state.conversations.values().map(|c| c.next).max().unwrap_or_default();
        let base = ClientSeq(highest.max(self.state.base).get() + DAMAGE_SKIP);
        self.append(&[Record::Base(base)])?;
        self.compact()
    }

    fn compact(&mut self) -> Result<(), StorageError> {
        let path = self.path.clone();
        let io = |error| StorageError::Io { path: path.display().to_string(), error };
        let mut out = BytesMut::from(&MAGIC[..]);
        self.state.records().for_each(|r| put(&r, &mut out));
        let new = beside(&self.path, ".new");
        let mut file = private(OpenOptions::new().create(true).truncate(true).read(true).write(true))
            .open(&new)
            .map_err(io)?;
        file.write_all(&out).map_err(io)?;
        file.sync_all().map_err(io)?;
        fs::rename(&new, &self.path).map_err(io)?;
        sync_directory(&self.path).map_err(io)?;
        self.file = file;
        self.bytes = out.len() as u64;
        self.compact_at = (2 * self.bytes).max(self.compact_min);
        Ok(())
    }

    fn write(&mut self, records: &[Record]) -> Result<(), StorageError> {
        let mut out = BytesMut::new();
        records.iter().for_each(|r| put(r, &mut out));
        let vital = records.iter().any(Record::is_vital);
        self.file
            .write_all(&out)
            .and_then(|()| if vital { self.file.sync_data() } else { Ok(()) })
            .map_err(|error| StorageError::Io { path: self.path.display().to_string(), error })?;
        self.bytes += out.len() as u64;
        records.iter().for_each(|r| self.state.apply(r));
        if self.bytes >= self.compact_at { self.compact() } else { Ok(()) }
    }
}

impl Storage for FileStorage {
    fn load(&mut self) -> Result<State, StorageError> {
        Ok(self.state.clone())
    }

    fn append(&mut self, records: &[Record]) -> Result<(), StorageError> {
        if self.poisoned {
            return Err(StorageError::Poisoned);
        }
        // A failed write may have left anything, and a failed sync may have dropped pages that look written.
        self.write(records).inspect_err(|_| self.poisoned = true)
    }
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Messages that wait to be sent are nobody else's business.
fn private(options: &mut OpenOptions) -> &mut OpenOptions {
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(options, 0o600);
    options
}

fn sync_directory(path: &Path) -> std::io::Result<()> {
    let directory = path.parent().filter(|d| !d.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if cfg!(unix) { File::open(directory)?.sync_all() } else { Ok(()) }
}

/// The state, where the good part ends, and whether records before that were lost.
fn replay(bytes: &[u8]) -> (State, usize, bool) {
    let mut state = State::default();
    let (mut at, mut end, mut skipped, mut damaged) = (MAGIC.len(), MAGIC.len(), false, false);
    while at < bytes.len() {
        match take(&bytes[at..]) {
            Some((record, length)) => {
                state.apply(&record);
                damaged |= skipped;
                at += length;
                end = at;
            }
            None => {
                skipped = true;
                at += 1;
            }
        }
    }
    (state, end, damaged)
}

fn take(bytes: &[u8]) -> Option<(Record, usize)> {
    let (mut header, rest) = bytes.split_at_checked(HEADER_BYTES)?;
    let (length, sum) = (header.get_u32_le() as usize, header.get_u32_le());
    if length == 0 || length > RECORD_BYTES_MAX {
        return None;
    }
    let payload = rest.get(..length)?;
    if crc32c::crc32c(payload) != sum {
        return None;
    }
    Some((decode(Bytes::copy_from_slice(payload))?, HEADER_BYTES + length))
}

fn put(record: &Record, out: &mut BytesMut) {
    let start = out.len();
    out.put_bytes(0, HEADER_BYTES);
    encode(record, out);
    let payload = &out[start + HEADER_BYTES..];
    let (length, sum) = (payload.len() as u32, crc32c::crc32c(payload));
    (&mut out[start..start + HEADER_BYTES]).put_u64_le(u64::from(length) | u64::from(sum) << 32);
}

// Kinds are never reused.
const DEVICE: u8 = 1;
const USER: u8 = 2;
const CURSOR: u8 = 3;
const SEND: u8 = 4;
const SETTLED: u8 = 5;
const RENUMBERED: u8 = 6;
const NEXT: u8 = 7;
const BASE: u8 = 8;
const RESET: u8 = 9;

fn encode(record: &Record, out: &mut BytesMut) {
    let numbers = |out: &mut BytesMut, kind: u8, conversation: &ConversationId, numbers: &[u64]| {
        out.put_u8(kind);
        out.put_slice(conversation.as_bytes());
        numbers.iter().for_each(|n| out.put_u64_le(*n));
    };
    match record {
        Record::Device(device) => {
            out.put_u8(DEVICE);
            out.put_u64_le(device.get());
        }
        Record::User(user) => {
            out.put_u8(USER);
            out.put_slice(user.as_bytes());
        }
        // Without watermarks as long as there are none, as in the records of files from before there were.
        Record::Cursor { conversation, seq, marks } if *marks == Marks::default() => {
            numbers(out, CURSOR, conversation, &[seq.get()]);
        }
        Record::Cursor { conversation, seq, marks } => {
            let Marks { read, peer_delivered, peer_read } = *marks;
            let all = [*seq, read, peer_delivered, peer_read].map(Seq::get);
            numbers(out, CURSOR, conversation, &all);
        }
        Record::Reset { conversation } => numbers(out, RESET, conversation, &[]),
        Record::Send { conversation, client_seq, target, change } => {
            numbers(out, SEND, conversation, &[]);
            let send = Send { target: *target, client_seq: *client_seq, change: change.clone() };
            out.put_slice(&encode_request(&Request { id: RequestId(1), body: RequestBody::Send(send) }));
        }
        Record::Settled { conversation, client_seq } => {
            numbers(out, SETTLED, conversation, &[client_seq.get()]);
        }
        Record::Renumbered { conversation, old, new } => {
            numbers(out, RENUMBERED, conversation, &[old.get(), new.get()]);
        }
        Record::Next { conversation, next } => numbers(out, NEXT, conversation, &[next.get()]),
        Record::Base(base) => {
            out.put_u8(BASE);
            out.put_u64_le(base.get());
        }
    }
}

fn decode(mut payload: Bytes) -> Option<Record> {
    let kind = payload.try_get_u8().ok()?;
    let number = |payload: &mut Bytes| payload.try_get_u64_le().ok();
    let id = |payload: &mut Bytes| {
        let mut bytes = [0; 16];
        payload.try_copy_to_slice(&mut bytes).ok().map(|()| bytes)
    };
    let conversation = |payload: &mut Bytes| id(payload).map(ConversationId::from_bytes);
    Some(match kind {
        DEVICE => Record::Device(DeviceId::new(number(&mut payload)?)?),
        USER => Record::User(UserId::from_bytes(id(&mut payload)?)),
        CURSOR => {
            let (conversation, seq) = (conversation(&mut payload)?, Seq(number(&mut payload)?));
            let mut mark = || number(&mut payload).map(Seq);
            let marks = match (mark(), mark(), mark()) {
                (None, ..) => Marks::default(),
                (Some(read), peer_delivered, peer_read) => {
                    Marks { read, peer_delivered: peer_delivered?, peer_read: peer_read? }
                }
            };
            Record::Cursor { conversation, seq, marks }
        }
        SEND => {
            let conversation = conversation(&mut payload)?;
            let Ok(Some(Frame::Message(message))) =
                frame::decode(&mut BytesMut::from(&payload[..]), FRAME_BYTES_MAX)
            else {
                return None;
            };
            let RequestBody::Send(send) = parse_request(message).ok()?.body else { return None };
            let Send { target, client_seq, change } = send;
            Record::Send { conversation, client_seq, target, change }
        }
        SETTLED => Record::Settled {
            conversation: conversation(&mut payload)?,
            client_seq: ClientSeq(number(&mut payload)?),
        },
        RENUMBERED => Record::Renumbered {
            conversation: conversation(&mut payload)?,
            old: ClientSeq(number(&mut payload)?),
            new: ClientSeq(number(&mut payload)?),
        },
        NEXT => {
            Record::Next { conversation: conversation(&mut payload)?, next: ClientSeq(number(&mut payload)?) }
        }
        BASE => Record::Base(ClientSeq(number(&mut payload)?)),
        RESET => Record::Reset { conversation: conversation(&mut payload)? },
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tern_protocol::model::{Change, Message, Target};

    fn conversation(n: u8) -> ConversationId {
        ConversationId::group_from_random([n; 16])
    }

    fn send(n: u8, client_seq: u64) -> Record {
        Record::Send {
            conversation: conversation(n),
            client_seq: ClientSeq(client_seq),
            target: Target::Conversation(conversation(n)),
            change: Change::Message(Message {
                content_type: "text/plain".into(),
                payload: Bytes::from(format!("message {client_seq}")),
                reply_to: None,
            }),
        }
    }

    fn cursor(n: u8, seq: u64, read: u64) -> Record {
        let marks = Marks { read: Seq(read), peer_delivered: Seq(read / 2), peer_read: Seq(0) };
        Record::Cursor { conversation: conversation(n), seq: Seq(seq), marks }
    }

    fn some() -> Vec<Record> {
        vec![
            Record::Device(DeviceId::new(7).unwrap()),
            Record::User(UserId::from_sub("alice")),
            send(1, 1),
            cursor(1, 4, 0),
            cursor(1, 0, 3),
            cursor(2, 7, 5),
            Record::Reset { conversation: conversation(2) },
            cursor(2, 1, 1),
            cursor(3, 7, 5),
            Record::Reset { conversation: conversation(3) },
            send(1, 2),
            Record::Settled { conversation: conversation(1), client_seq: ClientSeq(1) },
            Record::Renumbered { conversation: conversation(1), old: ClientSeq(2), new: ClientSeq(3) },
            send(2, 9),
        ]
    }

    fn sum(records: &[Record]) -> State {
        let mut state = State::default();
        records.iter().for_each(|r| state.apply(r));
        state
    }

    fn written(path: &Path) -> Vec<u8> {
        let mut storage = FileStorage::open(path).unwrap();
        storage.append(&some()).unwrap();
        drop(storage);
        fs::read(path).unwrap()
    }

    #[test]
    fn what_is_stored_is_loaded() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("deep/state");
        written(&path);
        let mut storage = FileStorage::open(&path).unwrap();
        assert_eq!(storage.load().unwrap(), sum(&some()));
        assert!(matches!(FileStorage::open(&path), Err(StorageError::InUse(_))));
    }

    #[test]
    fn a_tail_torn_at_any_byte_loses_only_the_torn_record() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state");
        let bytes = written(&path);
        let mut ends = vec![MAGIC.len()];
        for record in some() {
            let mut out = BytesMut::new();
            put(&record, &mut out);
            ends.push(ends.last().unwrap() + out.len());
        }
        assert_eq!(*ends.last().unwrap(), bytes.len());
        for cut in 0..bytes.len() {
            for garbage in [&[][..], &[0; 40], &[0xff; 9]] {
                if cut < MAGIC.len() && !garbage.is_empty() {
                    continue;
                }
                let mut torn = bytes[..cut].to_vec();
                torn.extend_from_slice(garbage);
                fs::write(&path, &torn).unwrap();
                // Garbage may happen to be what was torn off: then it is whole.
                let is_whole = |end: &&usize| torn.get(..**end) == Some(&bytes[..**end]);
                let whole = ends.iter().filter(is_whole).count().saturating_sub(1);
                let mut expected = sum(&some()[..whole]);
                let mut storage = FileStorage::open(&path).unwrap();
                assert_eq!(storage.load().unwrap(), expected, "cut at {cut}");
                let length = fs::metadata(&path).unwrap().len();
                assert_eq!(length, ends[whole] as u64, "the torn part is still there, cut at {cut}");
                // It goes on behind the cut.
                storage.append(&[send(3, 5)]).unwrap();
                drop(storage);
                expected.apply(&send(3, 5));
                assert_eq!(FileStorage::open(&path).unwrap().load().unwrap(), expected, "cut at {cut}");
            }
        }
    }

    #[test]
    fn damage_in_the_middle_never_makes_a_number_free_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state");
        let bytes = written(&path);
        let last = {
            let mut out = BytesMut::new();
            put(some().last().unwrap(), &mut out);
            bytes.len() - out.len()
        };
        for at in MAGIC.len()..last {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x40;
            fs::write(&path, &damaged).unwrap();
            for _ in 0..2 {
                let state = FileStorage::open(&path).unwrap().load().unwrap();
                assert!(state.base.get() > 9, "damage at {at}");
                assert!(state.conversations[&conversation(2)].unacked.contains_key(&ClientSeq(9)));
            }
        }
    }

    #[test]
    fn compaction_keeps_the_state_and_bounds_the_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state");
        let mut storage = FileStorage::open_compacting_at(&path, 4096).unwrap();
        let mut expected = State::default();
        for n in 1..2000 {
            let mut records = vec![send(1, n), cursor(1, n, n / 2)];
            if n > 3 {
                records.push(Record::Settled { conversation: conversation(1), client_seq: ClientSeq(n - 3) });
            }
            records.iter().for_each(|r| expected.apply(r));
            storage.append(&records).unwrap();
            assert!(fs::metadata(&path).unwrap().len() < 5000);
        }
        // With nothing left to send, the numbers still count as used.
        let settled = [1997, 1998, 1999]
            .map(|n| Record::Settled { conversation: conversation(1), client_seq: ClientSeq(n) });
        settled.iter().for_each(|r| expected.apply(r));
        storage.append(&settled).unwrap();
        storage.compact().unwrap();
        drop(storage);
        let mut storage = FileStorage::open(&path).unwrap();
        assert_eq!(storage.load().unwrap(), expected);
        assert_eq!(expected.conversations[&conversation(1)].next, ClientSeq(2000));
    }

    #[test]
    fn foreign_files_are_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state");
        for foreign in ["hello", "hello, this is somebody's letter"] {
            fs::write(&path, foreign).unwrap();
            assert!(matches!(FileStorage::open(&path), Err(StorageError::Foreign(_))));
            assert_eq!(fs::read_to_string(&path).unwrap(), foreign);
        }
    }
}
