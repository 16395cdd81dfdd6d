//! The store of a server: the one place that knows which it is. All others work on a [`Kv`], and on what only a store on
//! this machine has if there is one.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use tern_store::Kv;
use tern_store::embedded::{self, Embedded, FatalError, OpenError, Options};
use thiserror::Error;
use tracing::info;

use crate::server::EXIT_STORE_FAILED;
use crate::tls::SECRETS_FILE;

/// Whether this program can work on FoundationDB.
pub const HAS_FDB: bool = cfg!(feature = "fdb");

/// Which store a server works on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// Files in the data directory.
    Embedded,
    /// A FoundationDB cluster.
    Fdb {
        /// Which.
        cluster_file: PathBuf,
        /// In front of every key there.
        prefix: String,
    },
}

/// An open store.
pub struct Store {
    /// What it holds.
    pub kv: Arc<dyn Kv>,
    /// Its files, if they are on this machine.
    pub local: Option<Local>,
}

/// A store in files of this machine.
#[derive(Clone)]
pub struct Local {
    /// The store.
    pub store: Arc<Embedded>,
    /// Where they are.
    pub directory: PathBuf,
}

/// Why there is no store.
#[derive(Debug, Error)]
pub enum StoreError {
    /// It cannot be opened.
    #[error(transparent)]
    Embedded(#[from] OpenError),
    /// It is not where it was.
    #[error(
        "there is no store in {0}, though a server has run on this data directory: put it back, or restore a backup; to \
         begin with nothing, take an empty directory"
    )]
    Gone(PathBuf),
    /// A restore is under way, or was.
    #[error("{0} exists: a restore has not come to its end. Remove it, and restore again")]
    Restoring(PathBuf),
    /// It is to be in FoundationDB, and this program cannot do that.
    #[error(
        "this ternd was built without FoundationDB. Build it with `cargo build --release -p tern-server --features fdb` \
         (spec/storage.md says what that needs), or take \"embedded\""
    )]
    NotBuilt,
    /// It is to be in FoundationDB, and there is one here.
    #[error(
        "{0} holds what this server has stored so far, and the store is to be in FoundationDB: if all of it has been moved there \
         (ternd store migrate), take a data directory without it; else go on with the embedded store"
    )]
    EmbeddedThere(PathBuf),
    /// The cluster cannot be opened.
    #[cfg(feature = "fdb")]
    #[error(transparent)]
    Fdb(#[from] tern_store_fdb::OpenError),
    /// The system.
    #[error("the store cannot be opened: {0}")]
    Io(#[from] io::Error),
}

impl Store {
    /// Opens the store of the server with this data directory. Blocks until it is open.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn open(place: &Place, data: &Path) -> Result<Self, StoreError> {
        let directory = data.join("store");
        match place {
            Place::Embedded => {
                let store = Arc::new(open_embedded(data, &directory)?);
                Ok(Self { kv: store.clone(), local: Some(Local { store, directory }) })
            }
            Place::Fdb { .. } if embedded::exists(&directory)? => Err(StoreError::EmbeddedThere(directory)),
            Place::Fdb { cluster_file, prefix } => {
                let kv = open_cluster(cluster_file, prefix)?;
                info!(cluster_file = %cluster_file.display(), %prefix, "the store is in FoundationDB");
                Ok(Self { kv, local: None })
            }
        }
    }
}

/// Opens a FoundationDB cluster. Blocks until it is open.
///
/// # Errors
/// [`StoreError`].
pub fn open_cluster(cluster_file: &Path, prefix: &str) -> Result<Arc<dyn Kv>, StoreError> {
    block_on(|| open_fdb(cluster_file, prefix))?
}

/// Whether the store can be reached, if it is on other machines.
///
/// # Errors
/// [`StoreError`].
pub async fn check(place: &Place) -> Result<(), StoreError> {
    match place {
        Place::Embedded => Ok(()),
        Place::Fdb { cluster_file, prefix } => open_fdb(cluster_file, prefix).await.map(drop),
    }
}

#[cfg(feature = "fdb")]
async fn open_fdb(cluster_file: &Path, prefix: &str) -> Result<Arc<dyn Kv>, StoreError> {
    Ok(Arc::new(tern_store_fdb::Fdb::open(cluster_file, prefix.as_bytes()).await?))
}

#[cfg(not(feature = "fdb"))]
async fn open_fdb(_: &Path, _: &str) -> Result<Arc<dyn Kv>, StoreError> {
    Err(StoreError::NotBuilt)
}

/// Waits for a future: on a thread of its own, because a server is started within a runtime, and no other one can wait
/// there.
///
/// # Errors
/// The system's, or that the future has panicked.
pub(crate) fn block_on<F: Future>(future: impl FnOnce() -> F + Send) -> io::Result<F::Output>
where
    F::Output: Send,
{
    let run = || Ok(tokio::runtime::Builder::new_current_thread().build()?.block_on(future()));
    let ended = thread::scope(|scope| scope.spawn(run).join());
    ended.unwrap_or_else(|_| Err(io::Error::other("the storage engine has given up")))
}

/// A new store is made only where no server has run: else it was lost, and a server that begins with nothing would give
/// its numbers again.
fn open_embedded(data: &Path, directory: &Path) -> Result<Embedded, StoreError> {
    if !embedded::exists(directory)? {
        let restoring = data.join("store.restoring");
        if restoring.exists() {
            return Err(StoreError::Restoring(restoring));
        }
        if data.join(SECRETS_FILE).exists() {
            return Err(StoreError::Gone(directory.to_owned()));
        }
        info!(path = %directory.display(), "making a new, empty store");
    }
    Ok(Embedded::open(directory, Options::default(), Box::new(store_failed))?)
}

/// Nothing that the store says can be trusted any more, and nothing more can be acknowledged: the process ends, and a
/// restart recovers what is durable.
fn store_failed(error: &FatalError) {
    eprintln!("ternd: the store has failed and the server stops: {error}");
    std::process::exit(EXIT_STORE_FAILED);
}
