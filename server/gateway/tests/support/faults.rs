//! A disk that fails on demand: `fixtures/faults.c`, compiled and preloaded into a server.
#![allow(dead_code, reason = "every test binary uses a part of it")]

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::support::{PATIENCE, Start};
use tern_check::random::Random;

const SECTOR: usize = 512;
/// What has happened and was not asked for yet. Beyond, the server waits in its next write.
const EVENTS_MAX: usize = 65_536;

/// The faults of one data directory.
pub(crate) struct Faults {
    control: TempDir,
    env: Vec<(&'static str, String)>,
    events: mpsc::Receiver<String>,
}

impl Faults {
    /// None yet.
    pub(crate) fn new(data: &Path) -> Self {
        let control = tempfile::tempdir().expect("a temporary directory");
        let library = control.path().join("faults.so");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/faults.c");
        let compiled = Command::new(std::env::var("CC").unwrap_or_else(|_| "cc".to_owned()))
            .args(["-O1", "-Wall", "-shared", "-fPIC", "-o"])
            .args([&library, &source])
            .args(["-ldl", "-lpthread"])
            .status();
        assert!(compiled.expect("a C compiler, which the build needs, too").success(), "faults.c compiles");
        let pipe = control.path().join("events");
        let made = Command::new("mkfifo").arg(&pipe).status();
        assert!(made.expect("mkfifo can be run").success(), "a pipe can be made");
        let (sender, events) = mpsc::channel(EVENTS_MAX);
        // Also opened for writing, so that it outlives the servers.
        let pipe = File::options().read(true).write(true).open(&pipe).expect("the pipe is there");
        std::thread::spawn(move || {
            let mut lines = BufReader::new(pipe).lines();
            while let Some(Ok(line)) = lines.next() {
                if sender.blocking_send(line).is_err() {
                    break;
                }
            }
        });
        let text = |path: &Path| path.to_str().expect("a readable path").to_owned();
        let env = vec![
            ("LD_PRELOAD", text(&library)),
            ("TERN_FAULTS", text(control.path())),
            ("TERN_FAULTS_UNDER", text(&data.canonicalize().expect("it exists"))),
        ];
        Self { control, env, events }
    }

    /// The same, with a record of every write.
    pub(crate) fn recording(data: &Path) -> Self {
        let faults = Self::new(data);
        faults.set("writes");
        faults
    }

    /// A server on this disk.
    pub(crate) fn start(&self) -> Start<'_> {
        Start { env: &self.env, ..Start::default() }
    }

    /// For the environment of a server on this disk.
    pub(crate) fn env(&self) -> &[(&'static str, String)] {
        &self.env
    }

    /// The same, and its monotonic clock can be put on.
    pub(crate) fn with_clock(data: &Path) -> Self {
        let faults = Self::new(data);
        faults.set("later");
        faults
    }

    /// So much time passes at once.
    pub(crate) fn pass(&self, time: Duration) {
        let mut clock =
            File::options().append(true).open(self.control.path().join("later")).expect("with a clock");
        clock.write_all(&vec![0; time.as_secs() as usize]).expect("it can be put on");
    }

    /// From here on.
    pub(crate) fn set(&self, flag: &str) {
        File::create(self.control.path().join(flag)).expect("it can be created");
    }

    /// No more.
    pub(crate) fn clear(&self, flag: &str) {
        std::fs::remove_file(self.control.path().join(flag)).expect("it was set");
    }

    /// Waits for an event of this kind; other ones are dropped. The file that it concerns.
    pub(crate) async fn event(&mut self, kind: &str) -> String {
        loop {
            let event = timeout(PATIENCE, self.events.recv()).await;
            let event = event.unwrap_or_else(|_| panic!("no {kind:?} of any file within the patience"));
            let event = event.expect("the pipe is open");
            if let Some((found, path)) = event.split_once(' ')
                && found == kind
            {
                return path.to_owned();
            }
        }
    }

    /// Whether an event of this kind has happened to a file whose path contains this, since the last call.
    pub(crate) fn happened(&mut self, kind: &str, part: &str) -> bool {
        let mut happened = false;
        while let Ok(event) = self.events.try_recv() {
            happened |=
                event.split_once(' ').is_some_and(|(found, path)| found == kind && path.contains(part));
        }
        happened
    }
}

/// A file's bytes, without the zeros at its end.
#[derive(Debug, Clone, Default)]
struct Contents {
    bytes: Vec<u8>,
    length: u64,
}

impl Contents {
    fn read(path: &Path) -> Self {
        let mut bytes = std::fs::read(path).expect("a readable file");
        let length = bytes.len() as u64;
        let used = bytes.chunks(4096).rposition(|chunk| chunk != &[0; 4096][..chunk.len()]);
        bytes.truncate(used.map_or(0, |chunk| (chunk + 1) * 4096));
        Self { bytes, length }
    }

    fn write(&self, path: &Path) {
        let mut file = File::create(path).expect("it can be created");
        let used = self.bytes.len().min(self.length as usize);
        file.write_all(&self.bytes[..used])
            .and_then(|()| file.set_len(self.length))
            .expect("it can be written");
    }

    fn put(&mut self, at: u64, bytes: &[u8]) {
        let end = at as usize + bytes.len();
        if self.bytes.len() < end {
            self.bytes.resize(end, 0);
        }
        self.bytes[at as usize..end].copy_from_slice(bytes);
        self.length = self.length.max(end as u64);
    }

    fn set_length(&mut self, length: u64) {
        self.bytes.truncate(usize::try_from(length).expect("a small file"));
        self.length = length;
    }
}

/// A directory's files, by path below it.
pub(crate) struct Tree {
    root: PathBuf,
    directories: BTreeMap<PathBuf, (u32, u64)>,
    files: BTreeMap<PathBuf, (u32, u64)>,
    contents: HashMap<u64, Contents>,
}

impl Tree {
    /// As it is now.
    pub(crate) fn read(root: &Path) -> Self {
        let mut tree = Self::names(root);
        for (path, (_, inode)) in &tree.files {
            tree.contents.insert(*inode, Contents::read(&root.join(path)));
        }
        tree
    }

    fn names(root: &Path) -> Self {
        let (mut directories, mut files) = (BTreeMap::new(), BTreeMap::new());
        let mut open = vec![PathBuf::new()];
        while let Some(path) = open.pop() {
            let metadata = std::fs::metadata(root.join(&path)).expect("readable");
            let about = (metadata.permissions().mode(), metadata.ino());
            if metadata.is_dir() {
                for entry in std::fs::read_dir(root.join(&path)).expect("readable") {
                    open.push(path.join(entry.expect("readable").file_name()));
                }
                directories.insert(path, about);
            } else if metadata.is_file() {
                files.insert(path, about);
            }
            // Else a socket, which is nothing after a power failure.
        }
        Self { root: root.to_owned(), directories, files, contents: HashMap::new() }
    }

    /// The same files in another place.
    pub(crate) fn write(&self, to: &Path) {
        for (path, (mode, _)) in &self.directories {
            let made = std::fs::DirBuilder::new().recursive(true).mode(*mode).create(to.join(path));
            made.expect("it can be created");
        }
        for (path, (mode, inode)) in &self.files {
            let to = to.join(path);
            self.contents[inode].write(&to);
            let permissions = std::fs::Permissions::from_mode(*mode);
            std::fs::set_permissions(&to, permissions).expect("its mode can be set");
        }
    }

    /// Writes what a power failure at the death of the server may have left, if this is what was there before it
    /// started, and `faults` has the record of what it wrote. The number of sectors lost.
    pub(crate) fn after_power_failure(self, faults: &Faults, random: &mut Random, to: &Path) -> u64 {
        let record = std::fs::read(faults.control.path().join("writes")).expect("it was recorded");
        let changes = changes(&record);
        // The number of the beginning of each inode's last completed sync: what comes before it is safe.
        let mut safe: HashMap<u64, u64> = HashMap::new();
        for change in &changes {
            if change.kind == b'S' {
                let safe = safe.entry(change.inode).or_default();
                *safe = (*safe).max(change.at);
            }
        }
        let is_safe = |inode: u64, number: u64| safe.get(&inode).is_some_and(|safe| number < *safe);
        // One of three kinds of failure: nothing that was not synced is left, or all but the very last, or any of it.
        let fate = random.within(0..3);
        let survives = |random: &mut Random| match fate {
            0 => false,
            1 => !random.one_in(16),
            _ => random.one_in(2),
        };
        let mut tree = Self::names(&self.root);
        tree.contents = self.contents;
        let mut created: HashMap<u64, u64> = HashMap::new();
        let mut lost = 0;
        for (number, change) in changes.iter().enumerate() {
            let Change { kind, inode, at, bytes } = *change;
            let contents = tree.contents.entry(inode).or_default();
            match kind {
                b'N' => {
                    *contents = Contents::default();
                    created.insert(inode, number as u64);
                }
                _ if is_safe(inode, number as u64) => match kind {
                    b'W' => contents.put(at, bytes),
                    b'T' => contents.set_length(at),
                    _ => {}
                },
                b'T' if survives(random) => contents.set_length(at),
                b'W' => {
                    let mut begin = at;
                    while begin < at + bytes.len() as u64 {
                        let end = (begin / SECTOR as u64 + 1) * SECTOR as u64;
                        let end = end.min(at + bytes.len() as u64);
                        if survives(random) {
                            contents.put(begin, &bytes[(begin - at) as usize..(end - at) as usize]);
                        } else {
                            lost += 1;
                        }
                        begin = end;
                    }
                }
                _ => {}
            }
        }
        // A name is safe when its directory was synced after it was made.
        let directories = &tree.directories;
        let unsafe_names: HashSet<PathBuf> = tree
            .files
            .iter()
            .filter_map(|(path, (_, inode))| {
                let (_, directory) = directories.get(path.parent()?)?;
                let number = created.get(inode)?;
                (!is_safe(*directory, *number) && !survives(random)).then(|| path.clone())
            })
            .collect();
        if !unsafe_names.is_empty() {
            println!("lost names: {unsafe_names:?}");
        }
        tree.files.retain(|path, _| !unsafe_names.contains(path));
        for inode in tree.files.values().map(|(_, inode)| *inode) {
            tree.contents.entry(inode).or_default();
        }
        tree.write(to);
        lost
    }
}

/// A record of `struct change` in `faults.c`.
#[derive(Clone, Copy)]
struct Change<'a> {
    kind: u8,
    inode: u64,
    at: u64,
    bytes: &'a [u8],
}

fn changes(mut record: &[u8]) -> Vec<Change<'_>> {
    let mut changes = Vec::new();
    // The last one may be cut off by the end of the server: then it is not done, or nobody was told.
    while let Some((head, rest)) = record.split_at_checked(32) {
        let number = |i: usize| u64::from_ne_bytes(head[i * 8..][..8].try_into().expect("8 bytes"));
        let Some((bytes, rest)) = rest.split_at_checked(number(3) as usize) else { break };
        changes.push(Change { kind: number(0) as u8, inode: number(1), at: number(2), bytes });
        record = rest;
    }
    changes
}
