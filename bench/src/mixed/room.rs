//! A client's part in one of its conversations.

use std::cell::RefCell;
use std::rc::Rc;

use tern_protocol::event::{ConversationState, HistoryPage};
use tern_protocol::ids::{ClientSeq, Seq};
use tern_protocol::model::{Entry, Kind};
use tern_protocol::request::{History, HistoryFrom, RequestBody};

use super::tail::Tail;
use crate::chat::{Chat, Labels};
use crate::meter::Meter;

/// What is measured of direct chats.
const DIRECT: Labels = Labels {
    ack: "direct_ack",
    ack_after_return: "direct_ack_after_return",
    deliver: "direct_deliver",
    missed: "direct_missed",
};
/// And of groups.
const GROUP: Labels = Labels {
    ack: "group_ack",
    ack_after_return: "group_ack_after_return",
    deliver: "group_deliver",
    missed: "group_missed",
};

/// A client's part in one of its conversations.
#[derive(Debug)]
pub struct Room {
    /// The conversation's number in its thread.
    pub number: usize,
    /// What the client has and knows.
    pub chat: Chat,
    /// What all members have been shown.
    tail: Rc<RefCell<Tail>>,
    sent: u64,
}

impl Room {
    /// Of a client that has nothing yet.
    pub fn new(number: usize, chat: Chat, tail: Rc<RefCell<Tail>>) -> Self {
        let labels = labels(chat.circle.kind);
        Self { number, chat: chat.labelled(labels), tail, sent: 0 }
    }

    /// What is measured of such conversations.
    pub fn labels(&self) -> Labels {
        labels(self.chat.circle.kind)
    }

    /// The number of the next send.
    pub fn number_next(&mut self) -> ClientSeq {
        self.sent += 1;
        ClientSeq(self.sent)
    }

    /// The request that creates the group: always the first under the same number, also when it is sent again.
    pub fn creation(&mut self) -> RequestBody {
        self.sent = 1;
        self.chat.send(ClientSeq(1), self.chat.creation())
    }

    /// An entry was pushed. `Some`: what is missing before it has to be asked for.
    pub fn on_push(&mut self, entry: &Entry, meter: &Meter) -> Option<RequestBody> {
        let agrees = self.tail.borrow_mut().agrees(entry);
        self.chat.log.faults().split += u64::from(!agrees);
        self.chat.on_push(entry, meter)
    }

    /// The answer to a pull. `Some`: there is more.
    pub fn on_pulled(&mut self, page: &HistoryPage, meter: &Meter) -> Option<RequestBody> {
        self.judge_missed(&page.entries);
        self.chat.on_page(page, meter)
    }

    /// What a sync has found. `Some`: there is more.
    pub fn on_state(&mut self, state: &ConversationState, meter: &Meter) -> Option<RequestBody> {
        self.judge_missed(&state.entries);
        self.chat.on_state(state, meter)
    }

    fn judge_missed(&mut self, entries: &[Entry]) {
        let cursor = self.chat.log.cursor();
        self.tail.borrow_mut().judge_after(entries, cursor, self.chat.log.faults());
    }

    /// Looks back from the newest entry. `None`: there is nothing to see yet.
    pub fn look_back(&self, pages: u32) -> Option<Look> {
        let head = self.chat.log.cursor();
        (head > Seq(0) && pages > 0).then_some(Look { from: None, head, pages })
    }

    /// The request for the next page.
    pub fn page(&self, look: &Look, limit: u32) -> RequestBody {
        let conversation = self.chat.circle.conversation;
        RequestBody::History(History { conversation, from: HistoryFrom::Backward(look.from), limit })
    }

    /// A page of a look. `Some`: how it goes on.
    pub fn on_look(&mut self, look: Look, page: &HistoryPage) -> Option<Look> {
        let Look { from, head, pages } = look;
        self.tail.borrow_mut().judge_before(&page.entries, from, head, self.chat.log.faults());
        let first = page.entries.first()?.seq;
        let goes_on = pages > 1 && first > page.floor;
        goes_on.then(|| Look { from: Some(first.prev()), head, pages: pages - 1 })
    }
}

fn labels(kind: Kind) -> Labels {
    match kind {
        Kind::Direct => DIRECT,
        Kind::Group => GROUP,
    }
}

/// Somebody looks back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Look {
    /// The last entry wanted; `None`: the newest.
    from: Option<Seq>,
    /// The newest that they know of.
    head: Seq,
    /// Pages wanted, this one included.
    pages: u32,
}
