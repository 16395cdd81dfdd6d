//! What becomes of an append: stored before, refused, or numbered and applied to what the owner knows.

use alloc::vec::Vec;

use bytes::Bytes;
use tern_protocol::convert::{decode_entry, encode_entry};
use tern_protocol::error::ErrorCode;
use tern_protocol::event::SendOk;
use tern_protocol::frame::encode_push;
use tern_protocol::ids::{ConversationId, Seq, UserId};
use tern_protocol::limits::ENTRY_BYTES_MAX;
use tern_protocol::model::{Change, Conversation, Entry, Kind, Message, Sender};

use super::{Append, Known, Numbered};
use crate::dedup::{self, Verdict};
use crate::membership::{self, Members, apply, permit};
use crate::time::Now;

/// What a batch has changed so far.
#[derive(Default)]
pub(super) struct Staged {
    pub(super) entries: Vec<(Seq, Bytes)>,
    pub(super) bytes: usize,
    pub(super) senders: Vec<Sender>,
    pub(super) members: Vec<UserId>,
    pub(super) record: bool,
}

impl Staged {
    /// Whether the next entry is to be decided only when this batch is durable.
    pub(super) fn changes_what_is_permitted(&self) -> bool {
        self.record || !self.members.is_empty()
    }

    /// Whether the entry that this batch has at `seq` may have come of what is asked.
    fn is_outcome<T>(&self, seq: Seq, append: &Append<T>) -> bool {
        let entry = self.entries.iter().find(|(staged, _)| *staged == seq);
        let entry = entry.and_then(|(_, bytes)| decode_entry(bytes.clone()).ok());
        entry.is_none_or(|entry| dedup::is_outcome(&append.change, append.sender.user, &entry.change))
    }
}

pub(super) enum Decision {
    Refuse(ErrorCode),
    /// For the commit of what is numbered before it.
    Wait,
    Find(Seq),
    Numbered {
        ok: SendOk,
        entry: Option<Numbered>,
    },
}

/// Decides one append: has it been stored, is it permitted? If it is new and permitted, numbers and applies it.
pub(super) fn decide<T>(
    id: ConversationId,
    now: Now,
    known: &mut Known,
    staged: &mut Staged,
    numbered: &[Numbered],
    append: &mut Append<T>,
) -> Decision {
    let exists = known.exists || !numbered.is_empty();
    let sender = append.sender;
    let verdict =
        known.windows.get(&sender).map_or(Verdict::New, |window| dedup::check(window, append.client_seq));
    match verdict {
        Verdict::New => {}
        Verdict::Duplicate(seq) if seq <= known.sequencer.durable() => return Decision::Find(seq.next()),
        Verdict::Duplicate(seq) if !staged.is_outcome(seq, append) => {
            return Decision::Refuse(ErrorCode::ClientSeqUsed);
        }
        Verdict::Duplicate(seq) => {
            let time = numbered.iter().find(|n| n.seq == seq).map_or(known.sequencer.head().time, |n| n.time);
            let ok = SendOk { conversation: id, seq, time, duplicate: true };
            return Decision::Numbered { ok, entry: None };
        }
        Verdict::Stale => return Decision::Refuse(ErrorCode::ClientSeqStale),
        // The window is all of this batch, where nobody can look anything up yet.
        Verdict::BeforeWindow(seq) if seq > known.sequencer.durable() => return Decision::Wait,
        Verdict::BeforeWindow(seq) => return Decision::Find(seq),
    }
    if let Change::Message(Message { reply_to: Some(seq), .. }) = &append.change
        && known.is_in_flight(*seq)
    {
        return Decision::Wait;
    }
    let change = core::mem::replace(&mut append.change, Change::Unknown);
    let permitted = if exists {
        permit(&known.conversation, &known.members, known.sequencer.head().last, sender.user, change.clone())
    } else {
        found(known, &append.peer, sender.user, change.clone())
    };
    // A later attempt, should this commit fail, decides on what was asked.
    append.change = change;
    let change = match permitted {
        Ok(change) => change,
        Err(code) => return Decision::Refuse(code),
    };
    if !exists {
        staged.record = true;
        if known.conversation.kind == Kind::Direct {
            staged.members.extend_from_slice(&known.members.audience());
        }
    }
    let (seq, time) = known.sequencer.assign(now.wall);
    let entry = Entry { seq, time, sender, client_seq: append.client_seq, change };
    let bytes = encode_entry(&entry);
    assert!(bytes.len() <= ENTRY_BYTES_MAX, "the limits of requests keep entries below that of the store");

    let before = match entry.change {
        Change::Remove { .. } | Change::Leave => Some(known.members.audience()),
        _ => None,
    };
    let applied = apply(&mut known.conversation, &mut known.members, sender.user, seq, &entry.change);
    // Whoever is removed by an entry still gets that entry.
    let audience = before.unwrap_or_else(|| known.members.audience());
    for user in applied.members {
        if !staged.members.contains(&user) {
            staged.members.push(user);
        }
    }
    staged.record |= applied.record;
    dedup::record(known.windows.entry(sender).or_default(), append.client_seq, seq);
    if !staged.senders.contains(&sender) {
        staged.senders.push(sender);
    }
    staged.bytes += bytes.len();
    let frame = encode_push(id, &bytes);
    staged.entries.push((seq, bytes));
    Decision::Numbered {
        ok: SendOk { conversation: id, seq, time, duplicate: false },
        entry: Some(Numbered {
            seq,
            time,
            sender: sender.user,
            is_message: matches!(entry.change, Change::Message(_)),
            frame,
            audience,
        }),
    }
}

/// The first entry of a conversation: a message to a user, or the creation of a group.
fn found(
    known: &mut Known,
    peer: &Option<UserId>,
    user: UserId,
    change: Change,
) -> Result<Change, ErrorCode> {
    match (change, peer) {
        (Change::Message(message), Some(peer)) => {
            if message.reply_to.is_some() {
                return Err(ErrorCode::InvalidArgument);
            }
            known.conversation = Conversation { kind: Kind::Direct, title: Default::default() };
            known.members = membership::direct(user, *peer);
            Ok(Change::Message(message))
        }
        (Change::Create { title, mut members }, None) => {
            members.retain(|member| *member != user);
            known.conversation = Conversation { kind: Kind::Group, title: Default::default() };
            known.members = Members::new([]);
            Ok(Change::Create { title, members })
        }
        _ => Err(ErrorCode::UnknownConversation),
    }
}
