//! Who may see what of a log, worked out from the log itself.

use std::collections::BTreeMap;

use tern_protocol::ids::{Seq, UserId};
use tern_protocol::model::{Change, Entry};

/// From the entry that made a user a member to the one that ended it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) joined: Seq,
    /// `None`: it lasts.
    pub(crate) left: Option<Seq>,
}

impl Span {
    pub(crate) fn covers(&self, seq: Seq) -> bool {
        self.joined <= seq && self.left.is_none_or(|left| seq <= left)
    }
}

/// The spans of a log's members, in order. `None` for a direct chat, which has no changes of membership.
pub(crate) fn spans(log: &[Entry]) -> Option<BTreeMap<UserId, Vec<Span>>> {
    if !matches!(log.first()?.change, Change::Create { .. }) {
        return None;
    }
    let mut spans: BTreeMap<UserId, Vec<Span>> = BTreeMap::new();
    let join = |user: UserId, joined: Seq, spans: &mut BTreeMap<UserId, Vec<Span>>| {
        spans.entry(user).or_default().push(Span { joined, left: None });
    };
    for entry in log {
        match &entry.change {
            Change::Create { members, .. } => {
                join(entry.sender.user, entry.seq, &mut spans);
                members.iter().for_each(|user| join(*user, entry.seq, &mut spans));
            }
            Change::Add { members } => members.iter().for_each(|user| join(*user, entry.seq, &mut spans)),
            Change::Remove { member } => end(&mut spans, *member, entry.seq),
            Change::Leave => end(&mut spans, entry.sender.user, entry.seq),
            Change::Message(_) | Change::Title { .. } | Change::Role { .. } | Change::Unknown => {}
        }
    }
    Some(spans)
}

fn end(spans: &mut BTreeMap<UserId, Vec<Span>>, user: UserId, seq: Seq) {
    if let Some(span) = spans.get_mut(&user).and_then(|spans| spans.last_mut()) {
        span.left = span.left.or(Some(seq));
    }
}
