//! A cluster, opened.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use foundationdb::options::{DatabaseOption, TransactionOption};
use foundationdb::{Database, FdbError, FdbResult};
use tern_store::limits::{PREFIX_BYTES_MAX, TRANSACTION_LIFE_MS};
use tern_store::recent::Recent;
use tern_store::{Kv, SYSTEM_SPACE, Transaction, Version};
use thiserror::Error;

use crate::network;
use crate::transaction::FdbTransaction;

/// For the cluster to answer when it is opened.
const OPEN_TIMEOUT_MS: i32 = 10_000;
/// From the beginning of a transaction. The cluster forgets what it needs to commit one after that time.
const TRANSACTION_TIMEOUT_MS: i32 = TRANSACTION_LIFE_MS as i32;

/// transaction_timed_out.
const TIMED_OUT: i32 = 1031;
/// connection_string_invalid.
const BAD_CLUSTER_FILE: i32 = 2104;
/// api_version_not_supported.
const OLD_LIBRARY: i32 = 2203;

/// Why a cluster cannot be opened.
#[derive(Debug, Error)]
pub enum OpenError {
    /// The cluster file cannot be read.
    #[error(
        "cannot read the cluster file {path}: {error}; it is the `fdb.cluster` of the FoundationDB cluster (often \
         /etc/foundationdb/fdb.cluster), and this user has to be able to read and write it",
        path = .path.display()
    )]
    ClusterFile {
        /// Where it should be.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// It is none.
    #[error(
        "{path} is no cluster file: expected one line such as `description:id@192.0.2.1:4500`, as in the cluster's own",
        path = .0.display()
    )]
    NoClusterFile(PathBuf),
    /// Nobody answers.
    #[error(
        "the cluster of {path} does not answer within {seconds} s: does `fdbcli -C {path} --exec status` say on this \
         machine that the database is available, and is libfdb_c of the cluster's version?",
        path = .0.display(),
        seconds = OPEN_TIMEOUT_MS / 1_000
    )]
    Unreachable(PathBuf),
    /// The library that was found is too old.
    #[error("the FoundationDB client library (libfdb_c) is older than this program needs: install 7.3")]
    OldLibrary,
    /// The prefix cannot be one.
    #[error("a prefix has at most {PREFIX_BYTES_MAX} bytes and does not begin with 0xFF")]
    Prefix,
    /// Something else.
    #[error("the FoundationDB client library refuses: {0} ({code})", code = .0.code())]
    Client(#[from] FdbError),
}

/// A cluster, or the part of one whose keys have a prefix. Clones are the same.
#[derive(Clone)]
pub struct Fdb(Arc<Inner>);

struct Inner {
    database: Database,
    prefix: Vec<u8>,
    recent: Recent,
    /// When it was opened, on whose clock versions get older.
    opened: Instant,
}

impl Fdb {
    /// Opens a cluster, which has to answer. The first call in a process starts the client library's network thread,
    /// which ends with the process.
    ///
    /// `prefix` is put in front of every key, so that several systems can share a cluster; none if it is empty.
    ///
    /// # Errors
    /// [`OpenError`], after at most ten seconds.
    pub async fn open(cluster_file: &Path, prefix: &[u8]) -> Result<Self, OpenError> {
        if prefix.len() > PREFIX_BYTES_MAX || prefix >= SYSTEM_SPACE {
            return Err(OpenError::Prefix);
        }
        let unreadable = |error| OpenError::ClusterFile { path: cluster_file.to_owned(), error };
        std::fs::read(cluster_file).map_err(unreadable)?;
        let path = cluster_file
            .to_str()
            .ok_or_else(|| unreadable(io::Error::other("the client library takes paths in UTF-8 only")))?;
        let explain = |error: FdbError| match error.code() {
            TIMED_OUT => OpenError::Unreachable(cluster_file.to_owned()),
            BAD_CLUSTER_FILE => OpenError::NoClusterFile(cluster_file.to_owned()),
            OLD_LIBRARY => OpenError::OldLibrary,
            _ => OpenError::Client(error),
        };
        network::start().map_err(explain)?;
        let connected = connect(path).await;
        // Also after a try in vain: the library has made what it needs for one.
        network::stop_first().map_err(explain)?;
        let (database, version) = connected.map_err(explain)?;
        let (prefix, recent, opened) = (prefix.to_vec(), Recent::default(), Instant::now());
        recent.hear(version, opened.elapsed());
        Ok(Self(Arc::new(Inner { database, prefix, recent, opened })))
    }

    /// A key as the cluster has it.
    pub(crate) fn key(&self, key: &[u8]) -> Vec<u8> {
        [&self.0.prefix, key].concat()
    }

    /// How many bytes of a cluster's key are before ours.
    pub(crate) fn prefix_bytes(&self) -> usize {
        self.0.prefix.len()
    }

    /// The newest version that this process knows.
    pub(crate) fn newest(&self) -> Version {
        self.0.recent.newest()
    }

    /// A transaction at this version has failed.
    pub(crate) fn doubt(&self, version: Version) {
        self.0.recent.doubt(version);
    }

    /// A version as the cluster gives it.
    pub(crate) fn learn(&self, version: i64) -> Version {
        // The cluster's versions are positive.
        let version = Version(version.unsigned_abs());
        self.0.recent.hear(version, self.0.opened.elapsed());
        version
    }

    pub(crate) fn transaction(&self) -> FdbTransaction {
        FdbTransaction::new(self.clone(), self.0.database.create_trx())
    }
}

impl Kv for Fdb {
    fn begin(&self) -> Box<dyn Transaction> {
        Box::new(self.transaction())
    }

    fn begin_recent(&self) -> Box<dyn Transaction> {
        let mut transaction = self.transaction();
        if let Some(version) = self.0.recent.get(self.0.opened.elapsed()) {
            transaction.set_read_version(version);
        }
        Box::new(transaction)
    }

    fn cleared_keys_max(&self) -> u64 {
        u64::MAX
    }
}

/// A database of which every transaction has a timeout, and a version that it has said it is at.
async fn connect(path: &str) -> FdbResult<(Database, Version)> {
    let database = Database::from_path(path)?;
    database.set_option(DatabaseOption::TransactionTimeout(TRANSACTION_TIMEOUT_MS))?;
    let transaction = database.create_trx()?;
    transaction.set_option(TransactionOption::Timeout(OPEN_TIMEOUT_MS))?;
    let version = transaction.get_read_version().await?;
    Ok((database, Version(version.unsigned_abs())))
}
