//! What a client makes of what it is told.

use std::time::Duration;

use tern_client::raw::{ReceiveError, Received};
use tern_protocol::error::ErrorCode;
use tern_protocol::event::{ServerBody, ServerMessage, SyncPage, WireError};
use tern_protocol::ids::{ConversationId, RequestId};
use tern_protocol::request::RequestBody;

use super::{Asked, Ended, Member, Sending};
use crate::client::Client;
use crate::clock;
use crate::refusal::{self, is_passing};

impl Member {
    pub(super) fn take(
        &mut self,
        client: &mut Client,
        received: Result<Received, ReceiveError>,
    ) -> Result<(), Ended> {
        self.vigil.hear(clock::nanos());
        match received {
            Ok(Received::Message(message)) => self.on_message(client, message),
            Ok(Received::Heartbeat) => {}
            Ok(Received::Closed) | Err(_) => return Err(Ended),
        }
        Ok(())
    }

    fn on_message(&mut self, client: &mut Client, ServerMessage { id, body }: ServerMessage) {
        let meter = self.scene.stage.meter.clone();
        let asked = self.unanswered.remove(&id);
        match (asked, body) {
            (None, ServerBody::Push { conversation, entry }) => {
                self.in_room(client, conversation, |room| room.on_push(&entry, &meter));
            }
            (None, ServerBody::HeadMoved { conversation, head }) => {
                self.in_room(client, conversation, |room| room.chat.on_head_moved(head, &meter));
            }
            (None, ServerBody::ReceiptsMoved(moved)) => {
                self.in_room(client, moved.conversation, |room| {
                    room.chat.on_receipts(&moved, &meter);
                    None
                });
            }
            // What it means shows when the connection ends.
            (None, ServerBody::GoingAway { reconnect_after_ms, .. }) => {
                self.returning.advise(Duration::from_millis(reconnect_after_ms.into()));
                meter.count(|interval| interval.refuse("going away".into()));
            }
            (Some(Asked::Create(_)), ServerBody::SendOk(_)) => {
                meter.count(|interval| interval.count("groups_created", 1));
                self.scene.stage.created();
            }
            (Some(Asked::Send(sending)), ServerBody::SendOk(ok)) => {
                let Sending { room, client_seq, made, again, .. } = sending;
                let room = &mut self.rooms[room];
                room.chat.on_ack(client_seq, &ok, made, again);
                let (took, labels) = (clock::nanos().saturating_sub(made), room.labels());
                let service = self.scene.service.as_deref();
                if let Some(service) = service {
                    service.acked(self.returning.number(), made);
                }
                meter.count(|interval| {
                    interval.acked += 1;
                    if service.is_some() {
                        interval.time("send", took);
                    }
                    if again {
                        interval.time(labels.ack_after_return, took);
                    } else {
                        interval.ack.record(took);
                        interval.time(labels.ack, took);
                    }
                    interval.count("stored_by_an_earlier_try", u64::from(ok.duplicate));
                });
            }
            (Some(Asked::Pull(room)), ServerBody::HistoryPage(page)) => {
                let request = self.rooms[room].on_pulled(&page, &meter);
                self.pull(client, room, request);
            }
            (Some(Asked::Look(room, look, since)), ServerBody::HistoryPage(page)) => {
                let took = clock::nanos() - since;
                meter.count(|interval| {
                    interval.time("page", took);
                    interval.count("paged_entries", page.entries.len() as u64);
                });
                if let Some(look) = self.rooms[room].on_look(look, &page) {
                    self.look(client, room, look);
                }
            }
            (Some(Asked::Sync(_)), ServerBody::SyncPage(page)) => self.on_sync(client, &page),
            (Some(Asked::Mark(since)), ServerBody::MarkOk) => {
                meter.count(|interval| interval.time("read_mark", clock::nanos() - since));
            }
            (asked, ServerBody::Error(error)) => self.on_error(client, id, asked, &error),
            // An answer to nothing that was asked, or answered already.
            (None, _) => self.faults.duplicated += 1,
            (Some(_), other) => self.refused(format!("{other:?}")),
        }
        self.check_whether_back();
    }

    fn in_room(
        &mut self,
        client: &mut Client,
        conversation: ConversationId,
        tell: impl FnOnce(&mut super::Room) -> Option<RequestBody>,
    ) {
        match self.places.get(&conversation).copied() {
            Some(place) => {
                let request = tell(&mut self.rooms[place]);
                self.pull(client, place, request);
            }
            None => self.refused("told of a conversation of others".into()),
        }
    }

    fn on_sync(&mut self, client: &mut Client, page: &SyncPage) {
        let meter = self.scene.stage.meter.clone();
        for state in &page.conversations {
            self.in_room(client, state.conversation, |room| room.on_state(state, &meter));
        }
        if page.covered_until.is_some() {
            self.sync(client, page.covered_until);
        }
    }

    fn on_error(&mut self, client: &mut Client, id: RequestId, asked: Option<Asked>, error: &WireError) {
        let what = refusal::text(error);
        let Some(asked) = asked.filter(|_| id != RequestId(0)) else {
            // About the connection, which ends now.
            self.returning.advise(Duration::from_millis(error.retry_after_ms.into()));
            return self.meter().count(|interval| interval.refuse(what));
        };
        let passing = is_passing(error.code);
        match asked {
            Asked::Create(_) if !passing => {
                return self.scene.stage.fail(format!("a group cannot be created: {what}"));
            }
            Asked::Send(sending) if passing => {
                self.hold_back(sending, refusal::wait(error).as_nanos() as u64);
            }
            asked if passing => {
                self.again.push((clock::nanos() + refusal::wait(error).as_nanos() as u64, asked));
            }
            _ => {}
        }
        let overtaken = match asked {
            // It was refused for now, and then what was sent after it was stored. It takes a new number.
            Asked::Send(sending) if sending.again && error.code == ErrorCode::ClientSeqStale => {
                let client_seq = self.rooms[sending.room].number_next();
                self.put_in_turn(client, Sending { client_seq, ..sending });
                true
            }
            _ => false,
        };
        if overtaken {
            self.meter().count(|interval| interval.count("numbered_again", 1));
        }
        if passing || overtaken {
            self.meter().refused(what);
        } else {
            self.refused(what);
        }
    }

    fn refused(&mut self, what: String) {
        self.faults.refused += 1;
        self.meter().count(|interval| interval.refuse(what));
    }
}
