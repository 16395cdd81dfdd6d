//! The store of a server: the one place that knows which it is. All others work on a [`Kv`], and on what only a store on
//! this machine has if there is one.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tern_store::Kv;
use tern_store::embedded::{self, Embedded, FatalError, OpenError, Options};
use thiserror::Error;
use tracing::info;

use crate::server::EXIT_STORE_FAILED;
use crate::tls::SECRETS_FILE;

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
}

impl Store {
    /// Opens the store of the server with this data directory.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn open(data: &Path) -> Result<Self, StoreError> {
        let directory = data.join("store");
        let store = Arc::new(open_embedded(data, &directory)?);
        Ok(Self { kv: store.clone(), local: Some(Local { store, directory }) })
    }
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
