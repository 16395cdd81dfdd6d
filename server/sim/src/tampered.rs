//! Links of nodes that are wrong on purpose: between each node and its links is somebody who changes what it says and hears.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::rc::Rc;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tern_core::conversation::Publication;
use tern_protocol::event::SendOk;
use tern_protocol::frame::{self, Frame, HEARTBEAT};
use tern_protocol::ids::{ClientSeq, ConversationId, NodeId, Seq, UserId};
use tern_protocol::limits::FRAME_BYTES_MAX;
use tern_protocol::model::WallMillis;
use tern_server::cluster::Delivery;
use tern_server::cluster::wire::{Ask, AskBody, Hello, Message};
use tern_server::mailbox::{Answer, News};
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::mpsc;

use crate::net::End;
use crate::wrong::Wrong;

/// Frames that wait to be written; further ones wait to be read.
const FRAMES_MAX: usize = 1_024;
/// Questions that no node has asked have numbers from here on.
const FORGED: u64 = 1 << 40;
/// Whom nobody is.
const NOBODY: UserId = UserId::from_bytes([0xFF; 16]);

/// What is remembered of one node's questions to another, from one link to the next.
#[derive(Default)]
pub struct Asked {
    /// Those without an answer.
    open: BTreeMap<u64, Ask>,
    /// The last number that was answered, of each log.
    heads: BTreeMap<ConversationId, Seq>,
    forged: u64,
}

/// By who asks, and whom.
pub type AllAsked = Rc<RefCell<BTreeMap<(NodeId, NodeId), Asked>>>;

/// What a node says on a link, or what it hears.
struct Way<'a> {
    wrong: Wrong,
    node: NodeId,
    other: NodeId,
    says: bool,
    asked: &'a AllAsked,
    /// On to where it goes.
    on: mpsc::Sender<Bytes>,
    /// Back to who has said it.
    back: mpsc::Sender<Bytes>,
}

/// Stands between a node and its link to another one, until either has ended it.
pub async fn stand_between(
    wrong: Wrong,
    asked: AllAsked,
    (node, node_end): (NodeId, End),
    (other, link_end): (NodeId, End),
) {
    let ((says, to_node), (hears, to_link)) = (tokio::io::split(node_end), tokio::io::split(link_end));
    let (for_node, node_out) = mpsc::channel(FRAMES_MAX);
    let (for_link, link_out) = mpsc::channel(FRAMES_MAX);
    let asked = &asked;
    let there = Way { wrong, node, other, says: true, asked, on: for_link.clone(), back: for_node.clone() };
    let here = Way { wrong, node, other, says: false, asked, on: for_node, back: for_link };
    // Whatever ends it, both ends are dropped.
    let _ = tokio::select! {
        biased;
        ended = there.pass(says) => ended,
        ended = here.pass(hears) => ended,
        ended = write(to_node, node_out) => ended,
        ended = write(to_link, link_out) => ended,
    };
}

async fn write(mut to: WriteHalf<End>, mut frames: mpsc::Receiver<Bytes>) -> io::Result<()> {
    while let Some(frame) = frames.recv().await {
        to.write_all(&frame).await?;
    }
    Ok(())
}

fn framed(message: &Message) -> Bytes {
    let mut out = BytesMut::new();
    message.encode(&mut out);
    out.freeze()
}

impl Way<'_> {
    async fn pass(&self, mut from: ReadHalf<End>) -> io::Result<()> {
        let mut input = BytesMut::new();
        let mut has_greeted = false;
        loop {
            match frame::decode(&mut input, FRAME_BYTES_MAX).expect("nodes send frames") {
                None if from.read_buf(&mut input).await? == 0 => return Ok(()),
                None => {}
                Some(Frame::Heartbeat) => self.say(Bytes::from_static(HEARTBEAT)).await,
                Some(Frame::Message(bytes)) if !has_greeted => {
                    has_greeted = true;
                    let mut out = BytesMut::new();
                    Hello::decode(bytes).expect("the first message").encode(&mut out);
                    self.say(out.freeze()).await;
                    self.ask_again().await;
                }
                Some(Frame::Message(bytes)) => {
                    if let Some(message) = Message::decode(bytes).expect("nodes send messages") {
                        self.tamper(message).await;
                    }
                }
            }
        }
    }

    async fn say(&self, frame: Bytes) {
        let _ = self.on.send(frame).await;
    }

    /// What the link before has left without an answer is asked once more, as if it were something else.
    async fn ask_again(&self) {
        if self.wrong != Wrong::SendsTwice || !self.says {
            return;
        }
        let again: Vec<_> = {
            let mut all = self.asked.borrow_mut();
            let Asked { open, forged, .. } = all.entry((self.node, self.other)).or_default();
            std::mem::take(open)
                .into_values()
                .map(|mut ask| {
                    *forged += 1;
                    ask.number = FORGED + *forged;
                    if let AskBody::Send(send) = &mut ask.body {
                        send.client_seq = ClientSeq(send.client_seq.get() + 1);
                    }
                    framed(&Message::Ask(ask))
                })
                .collect()
        };
        for frame in again {
            self.say(frame).await;
        }
    }

    async fn tamper(&self, message: Message) {
        let message = match (self.wrong, self.says, message) {
            (Wrong::DropsArrivals, false, Message::Deliver(number, delivery)) => {
                Message::Deliver(number, for_nobody(delivery))
            }
            (Wrong::NeverRegisters, true, Message::Register(_, device, session, login)) => {
                Message::Register(NOBODY, device, session, login)
            }
            (Wrong::ForgetsUntaken, true, Message::Deliver(number, delivery)) => {
                if number > 0 {
                    let _ = self.back.send(framed(&Message::Taken(number))).await;
                }
                Message::Deliver(number, delivery)
            }
            (Wrong::AcksForOwners | Wrong::SendsTwice, true, Message::Ask(ask)) => {
                if let Some(frame) = self.on_ask(&ask) {
                    let _ = self.back.send(frame).await;
                }
                Message::Ask(ask)
            }
            (Wrong::AcksForOwners | Wrong::SendsTwice, false, Message::Answer(number, answer)) => {
                if self.on_answer(number, &answer) {
                    return;
                }
                Message::Answer(number, answer)
            }
            (_, _, message) => message,
        };
        self.say(framed(&message)).await;
    }

    /// Remembers a send; the answer that a node gives which does not wait for the owner's.
    fn on_ask(&self, ask: &Ask) -> Option<Bytes> {
        let AskBody::Send(_) = &ask.body else { return None };
        let mut all = self.asked.borrow_mut();
        let asked = all.entry((self.node, self.other)).or_default();
        asked.open.insert(ask.number, ask.clone());
        let head = asked.heads.get_mut(&ask.conversation()).filter(|_| self.wrong == Wrong::AcksForOwners)?;
        *head = head.next();
        let time = WallMillis(0);
        let ok = SendOk { conversation: ask.conversation(), seq: *head, time, duplicate: false };
        Some(framed(&Message::Answer(ask.number, Answer::Sent(Ok(ok)))))
    }

    /// Whether the node that has asked is not to hear of it: it did not ask, or has an answer.
    fn on_answer(&self, number: u64, answer: &Answer) -> bool {
        let mut all = self.asked.borrow_mut();
        let asked = all.entry((self.node, self.other)).or_default();
        let Some(ask) = asked.open.remove(&number) else { return number >= FORGED };
        let is_answered = self.wrong == Wrong::AcksForOwners && asked.heads.contains_key(&ask.conversation());
        if let Answer::Sent(Ok(ok)) = answer {
            asked.heads.insert(ok.conversation, ok.seq);
        }
        is_answered
    }
}

fn for_nobody(Delivery { stage, news }: Delivery) -> Delivery {
    let audience: Arc<[UserId]> = Arc::new([]);
    let news = match news {
        News::Publish(publication, stamp) => {
            let Publication { conversation, frames, .. } = &*publication;
            let (conversation, frames) = (*conversation, frames.clone());
            News::Publish(Arc::new(Publication { conversation, frames, audience }), stamp)
        }
        News::HeadMoved { conversation, head, .. } => News::HeadMoved { conversation, head, audience },
        News::Notify(_) => News::Notify(Arc::default()),
    };
    Delivery { stage, news }
}
