//! The disk as a file system: [`Media`] behind FUSE, with faults on demand.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use fuser::{
    BackgroundSession, BsdFileFlags, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags,
    Generation, INodeNo, LockOwner, MountOption, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyStatfs, ReplyWrite, Request, TimeOrNow, WriteFlags,
};
use rustix::mount::{UnmountFlags, unmount};
use tempfile::TempDir;
use tokio::sync::Notify;
use tokio::time::timeout;

use crate::media::{Contents, Media, Node};
use crate::support::PATIENCE;
use tern_check::random::Random;

/// Nothing changes the disk behind the kernel's back while it is mounted.
const FOREVER: Duration = Duration::from_secs(86_400);

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Nothing: it is only told that the time has come.
    None,
    /// Nothing reaches the disk from here on.
    Off,
    /// Writes fail with EIO, the first sectors of each being written.
    Writes,
    /// Syncs fail with EIO.
    Syncs,
    /// One sync of a journal fails with EIO, the next ones do not.
    OneSync,
    /// There is no room for more: ENOSPC.
    Full,
}

/// What a program does to the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Doing {
    /// Takes room or not.
    Write {
        grows: bool,
    },
    Sync {
        of_journal: bool,
    },
    /// Creates a name.
    Create,
    /// Renames, removes, cuts off.
    Other,
}

struct State {
    media: Media,
    fault: Fault,
    /// Which fault comes, and after how many operations that it concerns.
    armed: Option<(Fault, u64)>,
    random: Random,
    /// Operations that have failed.
    failed: u64,
}

impl Fault {
    fn concerns(self, doing: Doing) -> bool {
        match self {
            Self::None | Self::Off => true,
            Self::Writes => matches!(doing, Doing::Write { .. }),
            Self::Syncs => matches!(doing, Doing::Sync { .. }),
            Self::OneSync => doing == Doing::Sync { of_journal: true },
            Self::Full => matches!(doing, Doing::Write { grows: true } | Doing::Create),
        }
    }
}

/// A disk: the data on it, and whether it is mounted.
pub(crate) struct Disk {
    shared: Arc<Shared>,
    at: TempDir,
    session: Option<BackgroundSession>,
}

struct Shared {
    state: Mutex<State>,
    came: Notify,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nobody panics while holding it")
    }

    /// The disk, if this may be done to it now.
    fn change(&self, doing: Doing) -> Result<MutexGuard<'_, State>, Errno> {
        let mut state = self.lock();
        if let Some((fault, after)) = &mut state.armed
            && fault.concerns(doing)
        {
            if *after > 0 {
                *after -= 1;
            } else {
                state.fault = *fault;
                state.armed = None;
                self.came.notify_one();
            }
        }
        let fault = state.fault;
        if fault == Fault::None || !fault.concerns(doing) {
            return Ok(state);
        }
        state.failed += 1;
        if fault == Fault::OneSync {
            state.fault = Fault::None;
        }
        drop(state);
        Err(if fault == Fault::Full { Errno::ENOSPC } else { Errno::EIO })
    }
}

impl Disk {
    /// An empty one, mounted.
    pub(crate) fn new(random: Random) -> Self {
        let mut disk = Self::unmounted(random);
        disk.mount();
        disk
    }

    /// Why there can be none on this machine.
    pub(crate) fn why_none() -> Option<String> {
        let mut disk = Self::unmounted(Random::new(0));
        disk.try_mount().err().map(|error| {
            format!(
                "no FUSE file system can be mounted: {error}. This test needs /dev/fuse and the right to mount (root, or \
                 fusermount3 from the package fuse3); in a container, --device /dev/fuse --cap-add SYS_ADMIN"
            )
        })
    }

    fn unmounted(random: Random) -> Self {
        let state = State { media: Media::new(), fault: Fault::None, armed: None, random, failed: 0 };
        let shared = Arc::new(Shared { state: Mutex::new(state), came: Notify::new() });
        Self { shared, at: tempfile::tempdir().expect("a temporary directory"), session: None }
    }

    /// The data directory on it.
    pub(crate) fn data(&self) -> PathBuf {
        self.at.path().join("data")
    }

    fn mount(&mut self) {
        self.try_mount().expect("another one was mounted before");
    }

    fn try_mount(&mut self) -> std::io::Result<()> {
        let mut config = Config::default();
        config.mount_options = vec![MountOption::FSName("tern-faults".to_owned()), MountOption::NoAtime];
        self.session = Some(fuser::spawn_mount(Mounted(Arc::clone(&self.shared)), self.at.path(), &config)?);
        Ok(())
    }

    fn unmount(&mut self) {
        if let Some(session) = self.session.take() {
            // Also if a program has a file open: it has been killed, or will be.
            let _ = unmount(self.at.path(), UnmountFlags::DETACH);
            let _ = session.umount_and_join();
        }
    }

    /// How many pages of the store's newest journal are in use.
    pub(crate) fn journal_pages(&self) -> u64 {
        self.shared.lock().media.journal_pages()
    }

    /// This fault comes after so many operations of the kind that it concerns.
    pub(crate) fn arm(&self, fault: Fault, after: u64) {
        self.shared.lock().armed = Some((fault, after));
    }

    /// Waits for the fault.
    pub(crate) async fn came(&self) {
        timeout(PATIENCE, self.shared.came.notified()).await.expect("the fault comes within the patience");
    }

    /// No fault any more, and none to come. Whether it had come.
    pub(crate) async fn clear(&self) -> bool {
        let came = {
            let mut state = self.shared.lock();
            state.fault = Fault::None;
            state.armed.take().is_none()
        };
        // What was told and not waited for.
        let _ = timeout(Duration::ZERO, self.shared.came.notified()).await;
        came
    }

    /// Changes what is on it, while it is not mounted.
    pub(crate) fn with<T>(&mut self, change: impl FnOnce(&mut Media) -> T) -> T {
        self.unmount();
        let changed = change(&mut self.shared.lock().media);
        self.mount();
        changed
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.unmount();
    }
}

struct Mounted(Arc<Shared>);

impl State {
    fn attributes(&self, inode: u64) -> Option<FileAttr> {
        let found = self.media.get(inode)?;
        let (kind, size) = match &found.now {
            Node::File(contents) => (FileType::RegularFile, contents.length),
            Node::Directory(_) => (FileType::Directory, 0),
            Node::Socket => (FileType::Socket, 0),
        };
        let time = SystemTime::UNIX_EPOCH;
        let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        Some(FileAttr {
            ino: INodeNo(inode),
            size,
            blocks: size.div_ceil(512),
            atime: time,
            mtime: time,
            ctime: time,
            crtime: time,
            kind,
            perm: found.mode,
            nlink: 1,
            uid,
            gid,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        })
    }
}

impl Mounted {
    fn create(&self, parent: INodeNo, name: &OsStr, node: Node, mode: u32) -> Result<FileAttr, Errno> {
        let mut state = self.0.change(Doing::Create)?;
        if state.media.lookup(parent.0, name).is_some() {
            return Err(Errno::EEXIST);
        }
        let inode = state.media.create(parent.0, name, node, (mode & 0o7777) as u16);
        state.attributes(inode).ok_or(Errno::EIO)
    }

    fn remove(&self, parent: INodeNo, name: &OsStr) -> Result<(), Errno> {
        let mut state = self.0.change(Doing::Other)?;
        let inode = state.media.lookup(parent.0, name).ok_or(Errno::ENOENT)?;
        if state.media.names(inode).is_some_and(|names| !names.is_empty()) {
            return Err(Errno::ENOTEMPTY);
        }
        state.media.edit(vec![(parent.0, name.to_owned(), None)]);
        Ok(())
    }

    fn sync(&self, inode: INodeNo, reply: ReplyEmpty) {
        let of_journal = self.0.lock().media.is_journal(inode.0);
        match self.0.change(Doing::Sync { of_journal }) {
            Ok(mut state) => {
                state.media.sync(inode.0);
                reply.ok();
            }
            Err(error) => {
                let mut state = self.0.lock();
                if state.fault != Fault::Off {
                    state.media.forget_changes(inode.0);
                }
                reply.error(error);
            }
        }
    }
}

fn answer(reply: ReplyEmpty, result: Result<(), Errno>) {
    match result {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(error),
    }
}

fn enter(reply: ReplyEntry, result: Result<FileAttr, Errno>) {
    match result {
        Ok(attributes) => reply.entry(&FOREVER, &attributes, Generation(0)),
        Err(error) => reply.error(error),
    }
}

impl Filesystem for Mounted {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let state = self.0.lock();
        let found = state.media.lookup(parent.0, name).and_then(|inode| state.attributes(inode));
        enter(reply, found.ok_or(Errno::ENOENT));
    }

    fn getattr(&self, _: &Request, inode: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.0.lock().attributes(inode.0) {
            Some(attributes) => reply.attr(&FOREVER, &attributes),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn setattr(
        &self,
        _: &Request,
        inode: INodeNo,
        mode: Option<u32>,
        _: Option<u32>,
        _: Option<u32>,
        size: Option<u64>,
        _: Option<TimeOrNow>,
        _: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let mut state = match self.0.change(Doing::Other) {
            Ok(state) => state,
            Err(error) => return reply.error(error),
        };
        if let Some(mode) = mode {
            state.media.set_mode(inode.0, (mode & 0o7777) as u16);
        }
        if let Some(size) = size {
            state.media.set_length(inode.0, size);
        }
        match state.attributes(inode.0) {
            Some(attributes) => reply.attr(&FOREVER, &attributes),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn mknod(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        _: u32,
        reply: ReplyEntry,
    ) {
        let is_socket = mode & libc::S_IFMT == libc::S_IFSOCK;
        let node = if is_socket { Node::Socket } else { Node::File(Contents::default()) };
        enter(reply, self.create(parent, name, node, mode & !umask));
    }

    fn mkdir(&self, _: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, reply: ReplyEntry) {
        enter(reply, self.create(parent, name, Node::Directory(Default::default()), mode & !umask));
    }

    fn create(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        _: i32,
        reply: ReplyCreate,
    ) {
        match self.create(parent, name, Node::File(Contents::default()), mode & !umask) {
            Ok(attributes) => {
                reply.created(&FOREVER, &attributes, Generation(0), FileHandle(0), FopenFlags::empty());
            }
            Err(error) => reply.error(error),
        }
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        answer(reply, self.remove(parent, name));
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        answer(reply, self.remove(parent, name));
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        to: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let renamed = self.0.change(Doing::Other).and_then(|mut state| {
            let inode = state.media.lookup(parent.0, name).ok_or(Errno::ENOENT)?;
            let replaced = state.media.lookup(to.0, new_name);
            if replaced.is_some() && flags.contains(RenameFlags::RENAME_NOREPLACE) {
                return Err(Errno::EEXIST);
            }
            if flags.intersects(RenameFlags::RENAME_EXCHANGE) {
                return Err(Errno::EINVAL);
            }
            if replaced.and_then(|inode| state.media.names(inode)).is_some_and(|names| !names.is_empty()) {
                return Err(Errno::ENOTEMPTY);
            }
            let gone = (parent.0, name.to_owned(), None);
            state.media.edit(vec![gone, (to.0, new_name.to_owned(), Some(inode))]);
            Ok(())
        });
        answer(reply, renamed);
    }

    fn link(&self, _: &Request, inode: INodeNo, to: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let linked = self.0.change(Doing::Create).and_then(|mut state| {
            if state.media.lookup(to.0, name).is_some() {
                return Err(Errno::EEXIST);
            }
            state.media.edit(vec![(to.0, name.to_owned(), Some(inode.0))]);
            state.attributes(inode.0).ok_or(Errno::EIO)
        });
        enter(reply, linked);
    }

    fn read(
        &self,
        _: &Request,
        inode: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match self.0.lock().media.get(inode.0).map(|found| &found.now) {
            Some(Node::File(contents)) => reply.data(&contents.read(offset, size.into())),
            _ => reply.error(Errno::EIO),
        }
    }

    fn write(
        &self,
        _: &Request,
        inode: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let grows = self.0.lock().media.grows(inode.0, offset, data.len() as u64);
        match self.0.change(Doing::Write { grows }) {
            Ok(mut state) => {
                state.media.write(inode.0, offset, data);
                reply.written(data.len() as u32);
            }
            Err(error) => {
                let mut state = self.0.lock();
                if state.fault == Fault::Writes {
                    let written = state.random.within(0..data.len().div_ceil(512) as u64) as usize * 512;
                    state.media.write(inode.0, offset, &data[..written]);
                }
                reply.error(error);
            }
        }
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fsync(&self, _: &Request, inode: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        self.sync(inode, reply);
    }

    fn fsyncdir(&self, _: &Request, inode: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        self.sync(inode, reply);
    }

    fn readdir(&self, _: &Request, inode: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let state = self.0.lock();
        let own = [(OsStr::new("."), inode.0), (OsStr::new(".."), inode.0)];
        let names = state.media.names(inode.0).into_iter().flatten();
        let all = own.into_iter().chain(names.map(|(name, inode)| (name.as_os_str(), *inode)));
        for (next, (name, inode)) in (1..).zip(all).skip(offset as usize) {
            let kind = state.attributes(inode).map_or(FileType::RegularFile, |attributes| attributes.kind);
            if reply.add(INodeNo(inode), next, kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        let (blocks, files) = (1 << 24, 1 << 20);
        reply.statfs(blocks, blocks, blocks, files, files, 4096, 255, 4096);
    }
}
