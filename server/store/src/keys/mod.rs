//! What is stored under which key. Keys are a one-byte prefix and ids of fixed width, integers big-endian, so that
//! the order of the bytes is the order of the ids. One file per kind.
//!
//! | prefix | key | value | file |
//! |---|---|---|---|
//! | `c` | conversation | kind, title | [`conversation`] |
//! | `e` | nothing: there is one | the store's epoch | [`epoch`] |
//! | `g` | conversation, seq | the entry | [`entry`] |
//! | `h` | conversation | head: last, floor, time | [`head`] |
//! | `i` | conversation, user, device | the send window | [`window`] |
//! | `m` | conversation, user | membership | [`member`] |
//! | `n` | user, conversation | nothing: the reverse of `m` | [`mine`] |
//! | `r` | conversation, user | read watermark | [`read`] |
//! | `t` | nothing: there is one at most | the store's part in a migration | [`migration`] |
//! | `w` | conversation, user, device | delivered watermark | [`delivered`] |
//! | `x` | node | its lease | [`node`] |
//!
//! Reserved for what is to come: `u` (profiles), `d` (devices), `q` and `Q` (the push outbox).
//! Bytes from 0xFF on are the adapters' own.

pub mod conversation;
pub mod delivered;
pub mod entry;
pub mod epoch;
pub mod head;
pub mod member;
pub mod migration;
pub mod mine;
pub mod node;
pub mod read;
pub mod window;

use crate::Corrupt;

/// The prefixes and names of all kinds, in the order of their keys.
pub(crate) const KINDS: [(u8, &str); 11] = [
    (conversation::ConversationKey::PREFIX, conversation::ConversationKey::KIND),
    (epoch::EpochKey::PREFIX, epoch::EpochKey::KIND),
    (entry::EntryKey::PREFIX, entry::EntryKey::KIND),
    (head::HeadKey::PREFIX, head::HeadKey::KIND),
    (window::WindowKey::PREFIX, window::WindowKey::KIND),
    (member::MemberKey::PREFIX, member::MemberKey::KIND),
    (mine::MineKey::PREFIX, mine::MineKey::KIND),
    (read::ReadKey::PREFIX, read::ReadKey::KIND),
    (migration::MigrationKey::PREFIX, migration::MigrationKey::KIND),
    (delivered::DeliveredKey::PREFIX, delivered::DeliveredKey::KIND),
    (node::NodeKey::PREFIX, node::NodeKey::KIND),
];

/// The bytes are not a key of this kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a key of kind {kind}")]
pub struct BadKey {
    /// The kind that was expected.
    pub kind: &'static str,
}

impl BadKey {
    /// As something that is wrong with the store.
    pub(crate) fn corrupt(self, key: &[u8]) -> Corrupt {
        Corrupt::new(self.kind, hex(key), "the key makes no sense")
    }
}

/// A key for people.
pub(crate) fn hex(key: &[u8]) -> String {
    key.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The first key after all those that begin with `prefix`.
///
/// # Panics
/// When the prefix is nothing but 0xFF, which no key of ours is.
pub fn after_prefix(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while end.last() == Some(&0xFF) {
        end.pop();
    }
    let last = end.last_mut().expect("a key prefix begins with a letter");
    *last += 1;
    end
}

/// The first key after this one.
pub fn after_key(key: &[u8]) -> Vec<u8> {
    let mut end = Vec::with_capacity(key.len() + 1);
    end.extend_from_slice(key);
    end.push(0);
    end
}

/// Joins a prefix and the parts of a key; the widths must add up to `N`.
fn join<const N: usize>(prefix: u8, parts: &[&[u8]]) -> [u8; N] {
    let mut key = [0; N];
    key[0] = prefix;
    let mut at = 1;
    for part in parts {
        key[at..at + part.len()].copy_from_slice(part);
        at += part.len();
    }
    assert_eq!(at, N, "the parts of a key have its width");
    key
}

/// Takes the next `N` bytes off `rest`.
pub(crate) fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (part, tail) = rest.split_first_chunk()?;
    *rest = tail;
    Some(*part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds() {
        assert_eq!(after_prefix(b"ga"), b"gb");
        assert_eq!(after_prefix(b"g\xFF\xFF"), b"h");
        assert_eq!(after_key(b"g"), b"g\0");
    }

    /// What every kind promises: decoding gives back what was encoded, and nothing else decodes; bytes sort like ids.
    macro_rules! kinds {
        ($($name:ident: $key:ty = $strategy:expr;)*) => {$(
            mod $name {
                use super::*;
                use proptest::prelude::*;
                proptest! {
                    #[test]
                    fn round_trip_and_order(a in $strategy, b in $strategy) {
                        prop_assert_eq!(<$key>::decode(&a.encode()), Ok(a));
                        prop_assert_eq!(a.cmp(&b), a.encode().cmp(&b.encode()));
                    }
                    #[test]
                    fn any_bytes(mut bytes in proptest::collection::vec(any::<u8>(), 0..48), fit in any::<bool>()) {
                        if fit {
                            bytes.resize(<$key>::LEN, 1);
                            bytes[0] = <$key>::PREFIX;
                        }
                        if let Ok(key) = <$key>::decode(&bytes) {
                            prop_assert_eq!(&key.encode()[..], &bytes[..]);
                        }
                    }
                }
            }
        )*};
    }

    use tern_protocol::ids::{ConversationId, DeviceId, NodeId, Seq, UserId};
    /// Few distinct ids, so that keys often share their first parts and the later ones decide.
    fn conversation() -> impl proptest::strategy::Strategy<Value = ConversationId> {
        proptest::strategy::Strategy::prop_map(proptest::array::uniform2(0u8..=255), |[a, b]| {
            let mut id = [a & 1; 16];
            id[15] = b;
            ConversationId::from_bytes(id)
        })
    }
    fn user() -> impl proptest::strategy::Strategy<Value = UserId> {
        proptest::strategy::Strategy::prop_map(conversation(), |id| UserId::from_bytes(*id.as_bytes()))
    }
    fn device() -> impl proptest::strategy::Strategy<Value = DeviceId> {
        proptest::strategy::Strategy::prop_map(1u64.., |id| DeviceId::new(id).expect("not 0"))
    }
    fn seq() -> impl proptest::strategy::Strategy<Value = Seq> {
        proptest::strategy::Strategy::prop_map(proptest::num::u64::ANY, Seq)
    }

    kinds! {
        conversation_key: conversation::ConversationKey =
            conversation().prop_map(|conversation| conversation::ConversationKey { conversation });
        head_key: head::HeadKey = conversation().prop_map(|conversation| head::HeadKey { conversation });
        epoch_key: epoch::EpochKey = Just(epoch::EpochKey);
        migration_key: migration::MigrationKey = Just(migration::MigrationKey);
        entry_key: entry::EntryKey =
            (conversation(), seq()).prop_map(|(conversation, seq)| entry::EntryKey { conversation, seq });
        member_key: member::MemberKey =
            (conversation(), user()).prop_map(|(conversation, user)| member::MemberKey { conversation, user });
        mine_key: mine::MineKey =
            (user(), conversation()).prop_map(|(user, conversation)| mine::MineKey { user, conversation });
        read_key: read::ReadKey =
            (conversation(), user()).prop_map(|(conversation, user)| read::ReadKey { conversation, user });
        window_key: window::WindowKey = (conversation(), user(), device())
            .prop_map(|(conversation, user, device)| window::WindowKey { conversation, user, device });
        delivered_key: delivered::DeliveredKey = (conversation(), user(), device())
            .prop_map(|(conversation, user, device)| delivered::DeliveredKey { conversation, user, device });
        node_key: node::NodeKey = any::<u64>().prop_map(|node| node::NodeKey { node: NodeId(node) });
    }
}
