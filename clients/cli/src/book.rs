//! Who is called what: the server knows users by ids only, people by names.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use tern_client::UserId;

use crate::chat::text;
use crate::file;

/// Names kept; beyond, a new one is not remembered.
const NAMES_MAX: usize = 10_000;
/// A name. The longest `sub` has 256 bytes.
pub(crate) const NAME_BYTES_MAX: usize = 256;
/// A file larger than this is not ours.
const FILE_BYTES_MAX: u64 = (NAMES_MAX * (NAME_BYTES_MAX + 40)) as u64;

/// Names by id.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Book(BTreeMap<UserId, String>);

impl Book {
    /// Reads the file; one that is not there is an empty book. Lines that make no sense are left out.
    ///
    /// # Errors
    /// When it is there and cannot be read.
    pub(crate) fn load(path: &Path) -> io::Result<Self> {
        let mut book = Self::default();
        for line in file::read(path, FILE_BYTES_MAX)?.unwrap_or_default().lines() {
            if let Some((id, name)) = line.split_once(' ')
                && let Ok(user) = id.parse()
            {
                book.set(user, name);
            }
        }
        Ok(book)
    }

    /// Replaces the file, so that a crash leaves the old one or the new one. What somebody else has put into it meanwhile
    /// stays.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(crate) fn save(&self, path: &Path) -> io::Result<()> {
        let mut book = self.clone();
        for (user, name) in Self::load(path)?.0 {
            book.learn(user, &name);
        }
        let lines: String = book.0.iter().map(|(user, name)| format!("{user} {name}\n")).collect();
        file::replace(path, &lines)
    }

    /// Gives a user a name. True when that changed something.
    pub(crate) fn set(&mut self, user: UserId, name: &str) -> bool {
        let name = text::clean_line(name);
        let name = name.trim();
        let full = self.0.len() >= NAMES_MAX && !self.0.contains_key(&user);
        if name.is_empty() || name.len() > NAME_BYTES_MAX || full {
            return false;
        }
        self.0.insert(user, name.to_owned()).as_deref() != Some(name)
    }

    /// Gives a user a name who has none. True when that changed something.
    pub(crate) fn learn(&mut self, user: UserId, name: &str) -> bool {
        self.get(user).is_none() && self.set(user, name)
    }

    /// The name, if there is one.
    pub(crate) fn get(&self, user: UserId) -> Option<&str> {
        self.0.get(&user).map(String::as_str)
    }

    /// The name, or the beginning of the id.
    pub(crate) fn name(&self, user: UserId) -> String {
        self.get(user).map_or_else(|| format!("user {:.8}", user.to_string()), text::shown)
    }

    /// All whom it knows.
    pub(crate) fn users(&self) -> impl Iterator<Item = UserId> + '_ {
        self.0.keys().copied()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn names_are_remembered() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("names");
        let (alice, bob) = (UserId::from_sub("alice"), UserId::from_sub("bob"));
        let mut book = Book::load(&path).unwrap();
        assert!(book.set(alice, " Alice\nin Chains "));
        assert!(!book.set(alice, "Alice in Chains"), "no change");
        assert!(!book.set(bob, " \n"));
        assert!(!book.set(bob, &"x".repeat(NAME_BYTES_MAX + 1)));
        assert!(book.set(bob, "شيماء 👍"));
        book.save(&path).unwrap();
        fs::write(&path, fs::read_to_string(&path).unwrap() + "nonsense\n\n").unwrap();
        let read = Book::load(&path).unwrap();
        assert_eq!(read, book);
        assert_eq!(read.name(alice), "Alice in Chains");
        let carol = UserId::from_sub("carol");
        assert_eq!(read.name(carol).len(), "user 12345678".len());

        // Another process, that knows less and more.
        let mut other = Book::default();
        assert!(other.learn(alice, "Ali") && !other.learn(alice, "Al") && other.learn(carol, "carol"));
        other.save(&path).unwrap();
        let read = Book::load(&path).unwrap();
        assert_eq!([alice, bob, carol].map(|user| read.name(user)), ["Ali", "شيماء 👍", "carol"]);
        assert_eq!(directory.path().read_dir().unwrap().count(), 1);
    }
}
