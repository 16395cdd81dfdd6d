//! State that ends with the process.

use std::sync::{Arc, Mutex, PoisonError};

use super::{Record, State, Storage, StorageError};

/// Keeps the state in memory. Clones share it, so that a test can start a second client where a first one ended.
///
/// A client that starts from an empty one is a new device: it is handed every conversation from the beginning.
#[derive(Debug, Clone, Default)]
pub struct MemoryStorage {
    state: Arc<Mutex<State>>,
}

impl MemoryStorage {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// A copy of what is stored now.
    pub fn snapshot(&self) -> State {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Storage for MemoryStorage {
    fn load(&mut self) -> Result<State, StorageError> {
        Ok(self.snapshot())
    }

    fn append(&mut self, records: &[Record]) -> Result<(), StorageError> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        records.iter().for_each(|r| state.apply(r));
        Ok(())
    }

    fn blocks(&self) -> bool {
        false
    }
}
