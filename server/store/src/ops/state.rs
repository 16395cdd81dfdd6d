//! A conversation as one user sees it: the lines of a sync and of the conversation list.

use futures_util::future::join;
use tern_protocol::event::ConversationState;
use tern_protocol::ids::{ConversationId, Seq, UserId};
use tern_protocol::model::{Head, Kind, Membership, WallMillis, Watermarks};

use super::{entries, head, members, membership, missing_head, missing_member, missing_record, record};
use crate::{StoreError, Transaction};

/// What decides whether there is anything to tell about a conversation.
pub(super) struct View {
    pub(super) id: ConversationId,
    pub(super) membership: Membership,
    /// Direct chats: the other user, or the same one in a chat with oneself.
    pub(super) peer: Option<UserId>,
    /// The first seq that the user can get.
    pub(super) first: Seq,
    /// The last seq that the user may see.
    pub(super) last: Seq,
    head: Head,
}

impl View {
    /// Reads it. The id says which kind it is, so the record need not be read.
    pub(super) async fn read(
        tx: &dyn Transaction,
        user: UserId,
        id: ConversationId,
    ) -> Result<Self, StoreError> {
        let (head, own, peer) = if id.is_group() {
            let (head, own) = join(head(tx, id), membership(tx, id, user)).await;
            (head?, own?, None)
        } else {
            let (head, both) = join(head(tx, id), members(tx, id)).await;
            let both = both?;
            let own = both.iter().find(|(member, _)| *member == user).map(|(_, membership)| *membership);
            let peer = both.iter().map(|(member, _)| *member).find(|member| *member != user);
            (head?, own, Some(peer.unwrap_or(user)))
        };
        let head = head.ok_or_else(|| missing_head(id))?;
        let membership = own.ok_or_else(|| missing_member(id, user))?;
        let (first, last) = membership.visible(&head);
        Ok(Self { id, membership, peer, first, last, head })
    }

    /// The other user's watermarks, of direct chats.
    pub(super) async fn peer_marks(&self, tx: &dyn Transaction) -> Result<Watermarks, StoreError> {
        match self.peer {
            Some(peer) => super::watermarks(tx, self.id, peer).await,
            None => Ok(Watermarks::default()),
        }
    }

    /// The whole line with these watermarks, without entries and unread count, complete up to its end.
    pub(super) async fn state(
        &self,
        tx: &dyn Transaction,
        read: Seq,
        peer: Watermarks,
    ) -> Result<ConversationState, StoreError> {
        let (title, time) = join(self.title(tx), self.time(tx)).await;
        Ok(ConversationState {
            conversation: self.id,
            kind: if self.peer.is_some() { Kind::Direct } else { Kind::Group },
            title: title?,
            peer: self.peer,
            head: self.last,
            floor: self.first,
            read,
            peer_delivered: peer.delivered,
            peer_read: peer.read,
            role: self.membership.is_active().then_some(self.membership.role),
            entries: Vec::new(),
            complete_to: self.last,
            unread: 0,
            time: time?,
        })
    }

    /// Nothing of a group that the user has left: the record has the present title, which may be from after they left.
    /// The log, as far as they may see it, has the one of then.
    async fn title(&self, tx: &dyn Transaction) -> Result<String, StoreError> {
        if self.peer.is_some() || !self.membership.is_active() {
            return Ok(String::new());
        }
        Ok(record(tx, self.id).await?.ok_or_else(|| missing_record(self.id))?.title)
    }

    /// When the last entry that the user may see was written. Of a log that went on without them, the head's time
    /// would tell how lively it is, so the entry is read. 0 when nothing is left to see.
    async fn time(&self, tx: &dyn Transaction) -> Result<WallMillis, StoreError> {
        if self.last == self.head.last {
            return Ok(self.head.time);
        }
        let (last, _) =
            entries(tx, self.id, (self.first.max(self.last), self.last), 1, usize::MAX, false).await?;
        Ok(last.first().map_or(WallMillis(0), |entry| entry.time))
    }
}
