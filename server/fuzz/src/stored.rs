//! Bytes from the store.

use std::fmt::Debug;

use bytes::Bytes;
use tern_protocol::ids::{ConversationId, DeviceId, Seq, UserId};
use tern_store::Corrupt;
use tern_store::keys::conversation::ConversationKey;
use tern_store::keys::delivered::DeliveredKey;
use tern_store::keys::entry::EntryKey;
use tern_store::keys::epoch::EpochKey;
use tern_store::keys::head::HeadKey;
use tern_store::keys::member::MemberKey;
use tern_store::keys::migration::MigrationKey;
use tern_store::keys::mine::MineKey;
use tern_store::keys::read::ReadKey;
use tern_store::keys::window::WindowKey;
use tern_store::records;

use crate::input::Input;

/// A record with a checksum that fits, so that the decoder behind it is reached.
fn sealed(key: &[u8], version_and_body: &[u8]) -> Vec<u8> {
    let sum = crc32c::crc32c_append(crc32c::crc32c(key), version_and_body);
    [version_and_body, &sum.to_le_bytes()].concat()
}

fn check<K, T: PartialEq + Debug>(
    key: &K,
    elsewhere: &K,
    key_bytes: &[u8],
    input: &[u8],
    decode: fn(&K, &[u8]) -> Result<T, Corrupt>,
    encode: fn(&K, &T) -> Bytes,
) {
    for record in [input.to_vec(), sealed(key_bytes, input)] {
        if let Ok(value) = decode(key, &record) {
            let again = encode(key, &value);
            assert_eq!(decode(key, &again), Ok(value));
            assert!(decode(elsewhere, &again).is_err(), "a record under another key is none");
        }
    }
}

/// Records of every kind under any key: decoded, or refused; what was decoded can be stored again.
pub fn records(input: &[u8]) {
    let mut input = Input(input);
    let kind = input.byte();
    let id = input.id();
    let conversation = ConversationId::from_bytes(id);
    let elsewhere = ConversationId::from_bytes(id.map(|byte| byte ^ 1));
    let user = UserId::from_bytes([input.byte(); 16]);
    let Some(device) = DeviceId::new(u64::from(input.byte())) else { return };
    let body = input.0;
    match kind % 7 {
        0 => {
            let key = ConversationKey { conversation };
            let elsewhere = ConversationKey { conversation: elsewhere };
            check(
                &key,
                &elsewhere,
                &key.encode(),
                body,
                records::conversation::decode,
                records::conversation::encode,
            );
        }
        1 => {
            let key = EpochKey;
            // Nothing but its prefix: there is no byte that another key could differ in.
            for record in [body.to_vec(), sealed(&key.encode(), body)] {
                if let Ok(epoch) = records::epoch::decode(&key, &record) {
                    assert_eq!(records::epoch::encode(&key, &epoch), record);
                }
            }
        }
        2 => {
            let key = HeadKey { conversation };
            let elsewhere = HeadKey { conversation: elsewhere };
            check(&key, &elsewhere, &key.encode(), body, records::head::decode, records::head::encode);
        }
        3 => {
            let key = MemberKey { conversation, user };
            let elsewhere = MemberKey { conversation: elsewhere, user };
            check(&key, &elsewhere, &key.encode(), body, records::member::decode, records::member::encode);
        }
        4 => {
            let key = WindowKey { conversation, user, device };
            let elsewhere = WindowKey { conversation: elsewhere, user, device };
            check(&key, &elsewhere, &key.encode(), body, records::window::decode, records::window::encode);
        }
        5 => {
            let key = EntryKey { conversation, seq: Seq(device.get()) };
            for record in [body.to_vec(), sealed(&key.encode(), body)] {
                let record = Bytes::from(record);
                if let Ok(entry) = records::entry::decode(&key, &record) {
                    assert_eq!(records::entry::encode(&key, &entry), record);
                    let elsewhere = EntryKey { conversation: elsewhere, ..key };
                    assert!(records::entry::decode(&elsewhere, &record).is_err());
                }
            }
        }
        _ => {
            let key = MigrationKey;
            // As with the epoch.
            for record in [body.to_vec(), sealed(&key.encode(), body)] {
                if let Ok(migration) = records::migration::decode(&key, &record) {
                    assert_eq!(records::migration::encode(&key, &migration), record);
                }
            }
        }
    }
    if let Some(seq) = records::watermark::decode(body) {
        assert_eq!(seq.get().to_le_bytes(), body);
    }
}

/// Of two keys that can be decoded, each is encoded as it was, and the order of the bytes is that of the keys.
pub fn keys(input: &[u8]) {
    let mut input = Input(input);
    let (one, other) = (input.bytes(), input.0);
    macro_rules! check {
        ($($key:ty),*) => {$({
            let keys = [one, other].map(|bytes| {
                <$key>::decode(bytes).ok().inspect(|key| assert_eq!(&key.encode()[..], bytes))
            });
            if let [Some(a), Some(b)] = keys {
                assert_eq!(a.cmp(&b), one.cmp(other));
            }
        })*};
    }
    check!(
        ConversationKey,
        DeliveredKey,
        EntryKey,
        EpochKey,
        HeadKey,
        MemberKey,
        MigrationKey,
        MineKey,
        ReadKey,
        WindowKey
    );
}
