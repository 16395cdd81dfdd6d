//! What a disk has, and what it still has after the power failed.
//!
//! Every file and directory is there twice: as programs see it **now** (the page cache), and as it is **durable**.
//!
//! - `fsync` and `fdatasync` of a file make its length and the pages that were written since durable, whole pages as they
//!   are now. They do nothing for its name.
//! - `fsync` of a directory makes its names durable: files created, renamed, removed. A rename is there as a whole or not at
//!   all. The names of one directory become durable in their order; those of different ones in any.
//! - A sync that fails leaves the pages as they are, and takes them for written: a later sync does not write them again
//!   unless they were written to again. That is what Linux does.
//! - When the power fails, what was not synced is gone, or there, or partly there, by sectors of 512 bytes: see [`Fate`].

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::sync::Arc;

use tern_check::random::Random;

const PAGE: u64 = 4096;
const SECTOR: u64 = 512;
/// The root directory, as the kernel numbers it.
pub(crate) const ROOT: u64 = 1;

/// A file's bytes. Pages that were never written are zeros.
#[derive(Debug, Clone, Default)]
pub(crate) struct Contents {
    pages: BTreeMap<u64, Arc<[u8]>>,
    pub(crate) length: u64,
}

impl Contents {
    pub(crate) fn read(&self, at: u64, size: u64) -> Vec<u8> {
        let end = self.length.min(at + size);
        let mut bytes = vec![0; end.saturating_sub(at) as usize];
        for (number, page) in self.pages.range(at / PAGE..end.div_ceil(PAGE)) {
            let begin = (number * PAGE).max(at);
            let stop = ((number + 1) * PAGE).min(end);
            if begin < stop {
                let from = &page[(begin % PAGE) as usize..][..(stop - begin) as usize];
                bytes[(begin - at) as usize..(stop - at) as usize].copy_from_slice(from);
            }
        }
        bytes
    }

    fn write(&mut self, at: u64, mut bytes: &[u8]) {
        let mut at = at;
        self.length = self.length.max(at + bytes.len() as u64);
        while !bytes.is_empty() {
            let size = bytes.len().min((PAGE - at % PAGE) as usize);
            let page = self.pages.entry(at / PAGE).or_insert_with(|| vec![0; PAGE as usize].into());
            Arc::make_mut(page)[(at % PAGE) as usize..][..size].copy_from_slice(&bytes[..size]);
            (at, bytes) = (at + size as u64, &bytes[size..]);
        }
    }

    fn set_length(&mut self, length: u64) {
        if length < self.length {
            self.pages.split_off(&length.div_ceil(PAGE));
            if let Some(page) = self.pages.get_mut(&(length / PAGE)) {
                Arc::make_mut(page)[(length % PAGE) as usize..].fill(0);
            }
        }
        self.length = length;
    }

    /// Whether a write takes room that the file does not have yet.
    fn grows(&self, at: u64, size: u64) -> bool {
        (at / PAGE..(at + size).div_ceil(PAGE)).any(|number| !self.pages.contains_key(&number))
    }
}

#[derive(Debug, Clone)]
pub(crate) enum Node {
    File(Contents),
    Directory(BTreeMap<OsString, u64>),
    Socket,
}

#[derive(Debug, Clone)]
enum Change {
    Write { number: u64, at: u64, bytes: Arc<[u8]> },
    Length(u64),
}

#[derive(Debug, Clone)]
pub(crate) struct Inode {
    pub(crate) now: Node,
    durable: Node,
    pub(crate) mode: u16,
    /// Of a file, what was not synced yet.
    changes: Vec<Change>,
}

/// Names that are set to an inode or to nothing, together: `(directory, name, inode)`.
type Edit = Vec<(u64, OsString, Option<u64>)>;

/// What is left of what was not synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Nothing.
    Nothing,
    /// Nearly all: each sector and name but one in 16.
    Most,
    /// Each sector and name or not, as chance has it.
    Half,
    /// Everything but the last write that was not synced, of which only the first sectors are there.
    Torn,
}

/// Where a bit of the store flips.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Aim {
    /// In any file, or in a large one rather than in a small one.
    Anywhere,
    /// In the newest journal, behind so many pages, and in the older half of what is there: many batches follow.
    Since(u64),
    /// At the end of it.
    LastBatch,
}

/// The files of a store, of which journals end in [`JOURNAL`].
const STORE: &str = "/data/store/";
const JOURNAL: &str = ".jnl";
/// The last batch of a journal is not shorter.
const LAST_BATCH_BYTES: u64 = 32;

/// How much a power failure has cost.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Loss {
    pub(crate) sectors: u64,
    pub(crate) names: u64,
    /// Writes of which only the first sectors are there.
    pub(crate) torn: u64,
}

/// A disk's inodes. A clone is a copy of the disk.
#[derive(Debug, Clone)]
pub(crate) struct Media {
    inodes: BTreeMap<u64, Inode>,
    /// Changes of names that were not synced yet, in their order.
    edits: Vec<Edit>,
    next_inode: u64,
    next_write: u64,
}

impl Media {
    pub(crate) fn new() -> Self {
        let root = Node::Directory(BTreeMap::new());
        let root = Inode { now: root.clone(), durable: root, mode: 0o755, changes: Vec::new() };
        Self { inodes: [(ROOT, root)].into(), edits: Vec::new(), next_inode: ROOT + 1, next_write: 0 }
    }

    pub(crate) fn get(&self, inode: u64) -> Option<&Inode> {
        self.inodes.get(&inode)
    }

    pub(crate) fn set_mode(&mut self, inode: u64, mode: u16) {
        if let Some(inode) = self.inodes.get_mut(&inode) {
            inode.mode = mode;
        }
    }

    pub(crate) fn names(&self, directory: u64) -> Option<&BTreeMap<OsString, u64>> {
        match &self.inodes.get(&directory)?.now {
            Node::Directory(names) => Some(names),
            _ => None,
        }
    }

    pub(crate) fn lookup(&self, directory: u64, name: &OsStr) -> Option<u64> {
        self.names(directory)?.get(name).copied()
    }

    fn contents(&mut self, inode: u64) -> Option<(&mut Contents, &mut Vec<Change>)> {
        match self.inodes.get_mut(&inode) {
            Some(Inode { now: Node::File(contents), changes, .. }) => Some((contents, changes)),
            _ => None,
        }
    }

    /// A new file, directory or socket.
    pub(crate) fn create(&mut self, directory: u64, name: &OsStr, node: Node, mode: u16) -> u64 {
        let inode = self.next_inode;
        self.next_inode += 1;
        self.inodes.insert(inode, Inode { now: node.clone(), durable: node, mode, changes: Vec::new() });
        self.edit(vec![(directory, name.to_owned(), Some(inode))]);
        inode
    }

    pub(crate) fn edit(&mut self, edit: Edit) {
        for (directory, name, inode) in &edit {
            set_name(self.inodes.get_mut(directory).map(|directory| &mut directory.now), name, *inode);
        }
        self.edits.push(edit);
    }

    /// Whether a write of this size takes room that the file does not have yet.
    pub(crate) fn grows(&self, inode: u64, at: u64, size: u64) -> bool {
        matches!(self.get(inode), Some(Inode { now: Node::File(contents), .. }) if contents.grows(at, size))
    }

    pub(crate) fn write(&mut self, inode: u64, at: u64, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let number = self.next_write;
        self.next_write += 1;
        if let Some((contents, changes)) = self.contents(inode) {
            contents.write(at, bytes);
            changes.push(Change::Write { number, at, bytes: bytes.into() });
        }
    }

    pub(crate) fn set_length(&mut self, inode: u64, length: u64) {
        if let Some((contents, changes)) = self.contents(inode) {
            contents.set_length(length);
            changes.push(Change::Length(length));
        }
    }

    /// A file, or a directory.
    pub(crate) fn sync(&mut self, inode: u64) {
        if self.names(inode).is_some() {
            return self.sync_names(inode);
        }
        let Some(Inode { now: Node::File(now), durable: Node::File(durable), changes, .. }) =
            self.inodes.get_mut(&inode)
        else {
            return;
        };
        for change in changes.drain(..) {
            match change {
                Change::Length(length) if length < durable.length => durable.set_length(length),
                Change::Length(_) => {}
                Change::Write { at, bytes, .. } => {
                    for number in at / PAGE..(at + bytes.len() as u64).div_ceil(PAGE) {
                        match now.pages.get(&number) {
                            Some(page) => durable.pages.insert(number, Arc::clone(page)),
                            None => durable.pages.remove(&number),
                        };
                    }
                }
            }
        }
        durable.length = now.length;
    }

    /// Takes what was not synced of a file for synced, without its being so.
    pub(crate) fn forget_changes(&mut self, inode: u64) {
        if let Some((_, changes)) = self.contents(inode) {
            changes.clear();
        }
    }

    fn sync_names(&mut self, directory: u64) {
        let mut together = BTreeSet::from([directory]);
        let mut kept = Vec::new();
        let mut synced = Vec::new();
        for edit in std::mem::take(&mut self.edits).into_iter().rev() {
            if edit.iter().any(|(directory, ..)| together.contains(directory)) {
                together.extend(edit.iter().map(|(directory, ..)| *directory));
                synced.push(edit);
            } else {
                kept.push(edit);
            }
        }
        kept.reverse();
        self.edits = kept;
        synced.iter().rev().for_each(|edit| self.make_durable(edit));
    }

    fn make_durable(&mut self, edit: &Edit) {
        for (directory, name, inode) in edit {
            set_name(self.inodes.get_mut(directory).map(|directory| &mut directory.durable), name, *inode);
        }
    }

    /// The power fails and comes back: only what is durable is there, and what else survives.
    pub(crate) fn lose_power(&mut self, fate: Fate, random: &mut Random) -> Loss {
        let mut loss = Loss::default();
        let survives = |random: &mut Random| match fate {
            Fate::Nothing => false,
            Fate::Most => !random.one_in(16),
            Fate::Half => random.one_in(2),
            Fate::Torn => true,
        };
        let mut stopped = BTreeSet::new();
        for edit in std::mem::take(&mut self.edits) {
            let stops = edit.iter().any(|(directory, ..)| stopped.contains(directory)) || !survives(random);
            if stops {
                stopped.extend(edit.iter().map(|(directory, ..)| *directory));
                loss.names += 1;
            } else {
                self.make_durable(&edit);
            }
        }
        let unsynced =
            self.inodes.values().flat_map(|inode| &inode.changes).filter_map(|change| match change {
                Change::Write { number, .. } => Some(*number),
                Change::Length(_) => None,
            });
        let last = unsynced.max();
        for inode in self.inodes.values_mut() {
            if let Node::File(durable) = &mut inode.durable {
                for change in inode.changes.drain(..) {
                    match change {
                        Change::Length(length) if survives(random) => durable.set_length(length),
                        Change::Length(_) => {}
                        Change::Write { number, at, bytes } => {
                            let is_torn = fate == Fate::Torn && Some(number) == last;
                            loss.torn += u64::from(is_torn);
                            let sectors = sectors(at, &bytes);
                            let whole =
                                if is_torn { random.within(0..sectors.len() as u64) } else { u64::MAX };
                            for (i, (at, bytes)) in (0..).zip(sectors) {
                                if survives(random) && i < whole {
                                    durable.write(at, bytes);
                                } else {
                                    loss.sectors += 1;
                                }
                            }
                        }
                    }
                }
            }
            inode.now = inode.durable.clone();
        }
        let reachable: BTreeSet<u64> = self.walk().into_iter().map(|(_, inode)| inode).collect();
        self.inodes.retain(|inode, _| reachable.contains(inode));
        loss
    }

    /// Everything, by path, the root first.
    pub(crate) fn walk(&self) -> Vec<(String, u64)> {
        let mut found = vec![(String::new(), ROOT)];
        let mut next = 0;
        while let Some((path, inode)) = found.get(next).cloned() {
            for (name, inode) in self.names(inode).into_iter().flatten() {
                found.push((format!("{path}/{}", name.display()), *inode));
            }
            next += 1;
        }
        found
    }

    /// Whether it is the journal of a store's engine.
    pub(crate) fn is_journal(&self, inode: u64) -> bool {
        self.walk().iter().any(|(path, found)| *found == inode && path.ends_with(JOURNAL))
    }

    /// The files of the store: path, inode, the pages that are in use.
    fn store(&self) -> Vec<(String, u64, Vec<u64>)> {
        let in_use = |(path, inode): (String, u64)| match &self.inodes.get(&inode)?.now {
            Node::File(contents) if path.starts_with(STORE) => {
                let used = |page: &&u64| contents.pages[*page].iter().any(|byte| *byte != 0);
                let pages: Vec<u64> = contents.pages.keys().filter(used).copied().collect();
                (!pages.is_empty()).then_some((path, inode, pages))
            }
            _ => None,
        };
        self.walk().into_iter().filter_map(in_use).collect()
    }

    /// How many pages of the newest journal are in use.
    pub(crate) fn journal_pages(&self) -> u64 {
        newest_journal(&self.store()).map_or(0, |(.., pages)| pages.len() as u64)
    }

    /// Turns a bit of the store, in a page that is in use. Says where.
    pub(crate) fn flip(&mut self, aim: Aim, random: &mut Random) -> Option<String> {
        let files = self.store();
        let (path, inode, pages) = match aim {
            Aim::Since(_) | Aim::LastBatch => newest_journal(&files)?,
            Aim::Anywhere if random.one_in(3) => {
                files.get(random.within(0..files.len().max(1) as u64) as usize)?
            }
            Aim::Anywhere => files.iter().max_by_key(|(.., pages)| pages.len())?,
        };
        let (contents, _) = self.contents(*inode)?;
        let at = if aim == Aim::LastBatch {
            let page = *pages.last()?;
            let bytes = contents.read(page * PAGE, PAGE);
            let last = page * PAGE + bytes.iter().rposition(|byte| *byte != 0)? as u64;
            last.saturating_sub(random.within(0..LAST_BATCH_BYTES))
        } else {
            let (from, to) = match aim {
                Aim::Since(from) => (from, from + (pages.len() as u64).checked_sub(from)?.div_ceil(2)),
                Aim::Anywhere | Aim::LastBatch => (0, pages.len() as u64),
            };
            let page = *pages.get(random.within(from..to.max(from + 1)) as usize)?;
            page * PAGE + random.within(0..PAGE.min(contents.length - page * PAGE))
        };
        let bit = random.within(0..8);
        let flipped = [contents.read(at, 1)[0] ^ 1 << bit];
        contents.write(at, &flipped);
        Some(format!("bit {bit} of byte {at} of {path}"))
    }
}

fn newest_journal(files: &[(String, u64, Vec<u64>)]) -> Option<&(String, u64, Vec<u64>)> {
    let journals = files.iter().filter(|(path, ..)| path.ends_with(JOURNAL));
    journals.max_by_key(|(path, ..)| (path.len(), path))
}

fn set_name(node: Option<&mut Node>, name: &OsStr, inode: Option<u64>) {
    if let Some(Node::Directory(names)) = node {
        match inode {
            Some(inode) => names.insert(name.to_owned(), inode),
            None => names.remove(name),
        };
    }
}

/// The parts of a write that reach the disk as a whole.
fn sectors(at: u64, bytes: &[u8]) -> Vec<(u64, &[u8])> {
    let (mut at, mut rest, mut sectors) = (at, bytes, Vec::new());
    while !rest.is_empty() {
        let (sector, behind) = rest.split_at(rest.len().min((SECTOR - at % SECTOR) as usize));
        sectors.push((at, sector));
        (at, rest) = (at + sector.len() as u64, behind);
    }
    sectors
}
