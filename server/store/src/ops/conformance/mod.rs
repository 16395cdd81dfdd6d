//! What the operations promise on any store, as a list of cases that every adapter's tests run.
//!
//! Each case gets a fresh, empty store and panics when a promise is broken. Public, so that an adapter in a crate of its
//! own can run it, after [`conformance`](crate::conformance).
#![allow(clippy::unwrap_used, reason = "a case that finds what it does not expect panics")]

use std::collections::BTreeMap;

use bytes::Bytes;
use tern_protocol::convert::encode_entry;
use tern_protocol::event::{HistoryPage, SyncPage};
use tern_protocol::ids::{ClientSeq, ConversationId, DeviceId, Seq, UserId};
use tern_protocol::limits::SEND_WINDOW;
use tern_protocol::model::{
    Change, Conversation, Entry, Head, Kind, Membership, Message, Role, Sender, WallMillis,
};
use tern_protocol::request::{History, HistoryFrom, Known, ListConversations, ListUsers, Sync};

use super::append::{self, Base, Batch, Found, Loaded};
use super::{history, lease, list, receipts, sync, trim};
use crate::conformance::{Case, cases};
use crate::{CommitError, Kv, QueryError, StoreError, Version};

mod logs;
mod nodes;
mod pages;

/// Every case.
pub fn cases() -> impl Iterator<Item = &'static Case> {
    logs::CASES.iter().chain(nodes::CASES).chain(pages::CASES)
}

pub(crate) fn user(name: &str) -> UserId {
    UserId::from_sub(name)
}

pub(crate) fn device(name: &str, number: u64) -> Sender {
    Sender { user: user(name), device: DeviceId::new(number).unwrap() }
}

pub(crate) fn group(n: u8) -> ConversationId {
    ConversationId::group_from_random([n; 16])
}

pub(crate) fn message(text: &str) -> Change {
    let payload = Bytes::copy_from_slice(text.as_bytes());
    Change::Message(Message { content_type: "text/plain".to_owned(), payload, reply_to: None })
}

/// A much simplified owner, which loads before every append.
pub(crate) struct Owner<'a> {
    pub(crate) kv: &'a dyn Kv,
    pub(crate) id: ConversationId,
}

impl Owner<'_> {
    pub(crate) async fn head(&self) -> Head {
        append::load(self.kv, self.id).await.unwrap().1.map_or(Head::default(), |loaded| loaded.head)
    }

    /// The batch that appends these changes.
    pub(crate) async fn batch(
        &self,
        sender: Sender,
        client_seq: u64,
        changes: Vec<Change>,
    ) -> Result<Batch, StoreError> {
        let (version, head, mut windows) = append::load_windows(self.kv, self.id, &[sender]).await?;
        let mut window = windows.remove(0)?;
        let mut new = Head { floor: head.floor.max(Seq(1)), ..head };
        let mut entries = Vec::new();
        for (change, client_seq) in changes.into_iter().zip(client_seq..) {
            let client_seq = ClientSeq(client_seq);
            new.last = new.last.next();
            new.time = WallMillis(1_000 + new.last.get());
            let entry = Entry { seq: new.last, time: new.time, sender, client_seq, change };
            entries.push((new.last, encode_entry(&entry)));
            window.sends.push((client_seq, new.last));
        }
        let excess = window.sends.len().saturating_sub(SEND_WINDOW);
        window.sends.drain(..excess);
        let base = Base { head, version: Some(version) };
        let windows = vec![(sender, window)];
        Ok(Batch { conversation: self.id, base, entries, head: new, windows, members: vec![], record: None })
    }

    pub(crate) async fn append(&self, sender: Sender, client_seq: u64, changes: Vec<Change>) -> Version {
        let batch = self.batch(sender, client_seq, changes).await.unwrap();
        append::commit(self.kv, &batch).await.unwrap()
    }

    pub(crate) async fn messages(&self, sender: Sender, client_seq: u64, count: u64) {
        let changes = (0..count).map(|n| message(&format!("{}", client_seq + n))).collect();
        self.append(sender, client_seq, changes).await;
    }

    /// Creates a group of these users, the first being its owner, in its first entry.
    pub(crate) async fn create(&self, names: &[&str]) {
        let others = names[1..].iter().map(|name| user(name)).collect();
        let change = Change::Create { title: "Tern".to_owned(), members: others };
        let mut batch = self.batch(device(names[0], 1), 1, vec![change]).await.unwrap();
        let role = |n| if n == 0 { Role::Owner } else { Role::Member };
        let member = |n| Membership { role: role(n), joined: Seq(1), left: None };
        batch.members = names.iter().enumerate().map(|(n, name)| (user(name), member(n))).collect();
        batch.record = Some(Conversation { kind: Kind::Group, title: "Tern".to_owned() });
        append::commit(self.kv, &batch).await.unwrap();
    }

    /// An entry after which one user's membership is this.
    pub(crate) async fn change_member(
        &self,
        sender: Sender,
        client_seq: u64,
        name: &str,
        change: Change,
        edit: impl FnOnce(Seq) -> Membership,
    ) -> Seq {
        let mut batch = self.batch(sender, client_seq, vec![change]).await.unwrap();
        batch.members = vec![(user(name), edit(batch.head.last))];
        append::commit(self.kv, &batch).await.unwrap();
        batch.head.last
    }

    pub(crate) async fn history(
        &self,
        name: &str,
        from: HistoryFrom,
        limit: u32,
    ) -> Result<HistoryPage, QueryError> {
        history::page(self.kv, user(name), &History { conversation: self.id, from, limit }).await
    }
}

/// The direct chat of two users, which begins with a message of the first.
pub(crate) async fn direct<'a>(kv: &'a dyn Kv, from: &str, to: &str) -> Owner<'a> {
    let owner = Owner { kv, id: ConversationId::direct(user(from), user(to)) };
    let mut batch = owner.batch(device(from, 1), 1, vec![message("hello")]).await.unwrap();
    let member = Membership { role: Role::Member, joined: Seq(1), left: None };
    let both: BTreeMap<_, _> = [(user(from), member), (user(to), member)].into();
    batch.members = both.into_iter().collect();
    batch.record = Some(Conversation { kind: Kind::Direct, title: String::new() });
    append::commit(kv, &batch).await.unwrap();
    owner
}

pub(crate) fn seqs(entries: &[Entry]) -> Vec<u64> {
    entries.iter().map(|entry| entry.seq.get()).collect()
}

pub(crate) fn range(first: u64, last: u64) -> Vec<u64> {
    (first..=last).collect()
}
