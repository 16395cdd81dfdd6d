//! How often what the configuration names was read again.

use super::shard::{By, Count, Label, labels};

labels! {
    /// What is read again while the server runs.
    Source {
        /// The certificate and its key.
        Certificate = "certificate",
        /// Keys of tokens, each in a file.
        TokenKeys = "token_keys",
        /// Keys of tokens, a set in a file or at an address.
        KeySet = "key_set",
        /// Users and devices whose tokens are refused.
        Revocations = "revocations",
    }
    /// What became of it.
    Reloaded {
        /// It is in effect.
        Ok = "ok",
        /// It cannot be read or used; what was before stays in effect.
        Failed = "failed",
    }
}

/// What the reloads of a process have counted.
#[derive(Debug)]
pub struct Reloads(By<Source, By<Reloaded, Count, { Reloaded::COUNT }>, { Source::COUNT }>);

impl Default for Reloads {
    fn default() -> Self {
        Self(By::new(|| By::new(Count::default)))
    }
}

impl Reloads {
    /// Counts one.
    pub fn count<T, E>(&self, source: Source, result: &Result<T, E>) {
        self.0.of(source).one(if result.is_ok() { Reloaded::Ok } else { Reloaded::Failed });
    }

    /// The labels of each number, and the number.
    pub fn all(&self) -> impl Iterator<Item = ([&'static str; 2], u64)> {
        Source::ALL.iter().flat_map(|source| {
            Reloaded::ALL
                .iter()
                .map(|result| ([source.label(), result.label()], self.0.of(*source).of(*result).get()))
        })
    }
}
