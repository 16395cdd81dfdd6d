//! The operations when the store fails, and what other tests of the crate need of them.

use std::collections::BTreeMap;
use std::sync::Arc;

use tern_protocol::ids::{ConversationId, DeviceId, Seq};
use tern_protocol::model::{Conversation, Kind, Membership, Role, Sender};
use tern_protocol::request::HistoryFrom;

use super::append;
pub(crate) use super::conformance::*;
use super::receipts;
use crate::memory::{Fault, FaultPlan, Memory};
use crate::{CommitError, Kv};

mod chaos;

pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().expect("a runtime").block_on(future)
}

/// A conversation with a record of every kind: its id and newest entry.
pub(crate) async fn sample(kv: &dyn Kv) -> (ConversationId, Seq) {
    let owner = Owner { kv, id: group(1) };
    owner.create(&["anna", "ben"]).await;
    owner.messages(device("ben", 2), 1, 3).await;
    let delivered = vec![(DeviceId::new(2).unwrap(), Seq(4))];
    let write = receipts::Write { conversation: group(1), user: user("ben"), delivered, read: Seq(3) };
    receipts::persist(kv, &[write]).await.unwrap();
    (group(1), Seq(4))
}
