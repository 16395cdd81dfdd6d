//! From the users who are to get something to the connections of one shard that they have.

use alloc::vec::Vec;

use hashbrown::HashMap;
use tern_protocol::ids::UserId;

/// Sorting those who are here has to cost less than looking for everybody in the audience.
const FAR_FEWER: usize = 4;

/// The logged-in connections of one shard by user. `K` is the shard's own handle of a connection.
#[derive(Debug)]
pub struct Local<K> {
    users: HashMap<UserId, Vec<K>>,
}

impl<K> Default for Local<K> {
    fn default() -> Self {
        Self { users: HashMap::new() }
    }
}

impl<K: PartialEq> Local<K> {
    /// A connection has logged in.
    pub fn insert(&mut self, user: UserId, key: K) {
        self.users.entry(user).or_default().push(key);
    }

    /// A connection has ended.
    pub fn remove(&mut self, user: UserId, key: &K) {
        if let Some(keys) = self.users.get_mut(&user) {
            keys.retain(|k| k != key);
            if keys.is_empty() {
                self.users.remove(&user);
            }
        }
    }

    /// Whether nobody is here.
    pub fn is_empty(&self) -> bool {
        self.users.is_empty()
    }

    /// A user's connections here.
    pub fn of(&self, user: UserId) -> &[K] {
        self.users.get(&user).map_or(&[], Vec::as_slice)
    }

    /// Calls `each` for every connection here of everybody in `audience`, which is sorted, and in that order. Walks
    /// the users instead when they are far fewer, so that a large group costs a shard with few users little.
    pub fn each(&self, audience: &[UserId], each: impl FnMut(&K)) {
        if self.users.len() * FAR_FEWER < audience.len() {
            let mut here: Vec<_> =
                self.users.iter().filter(|(user, _)| audience.binary_search(user).is_ok()).collect();
            here.sort_unstable_by_key(|(user, _)| **user);
            here.into_iter().flat_map(|(_, keys)| keys).for_each(each);
        } else {
            audience.iter().filter_map(|user| self.users.get(user)).flatten().for_each(each);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_of_walking_find_the_same() {
        let user = |n: u8| UserId::from_bytes([n; 16]);
        let mut local = Local::default();
        for (n, key) in [(1, 10), (1, 11), (3, 30), (5, 50)] {
            local.insert(user(n), key);
        }
        let reached = |local: &Local<u32>, audience: &[UserId]| {
            let mut keys = Vec::new();
            local.each(audience, |k| keys.push(*k));
            keys
        };
        let few: Vec<_> = [1, 2, 3].map(user).to_vec();
        let many: Vec<_> = (0..=4).chain(6..100).map(user).collect();
        assert_eq!(reached(&local, &few), [10, 11, 30]);
        assert_eq!(reached(&local, &many), [10, 11, 30]);
        local.remove(user(1), &10);
        local.remove(user(3), &30);
        assert_eq!(reached(&local, &many), [11]);
        assert_eq!(local.of(user(3)), []);
    }
}
