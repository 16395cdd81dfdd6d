//! What an app was told of its sends, over all its runs: held against the log, whatever happened below.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use tern_protocol::error::{Effect, ErrorCode};
use tern_protocol::ids::{ConversationId, Seq};
use tern_protocol::model::{Change, Entry, Message, Sender};

use crate::history::shown;
use crate::violation::{Promise, Violation};

/// What the app on one device was told of its messages. Each has contents of its own, by which it is known, since an SDK
/// may number it again; other changes are not looked at.
#[derive(Debug)]
pub struct Told {
    device: Sender,
    sends: BTreeMap<(ConversationId, Bytes), Fate>,
}

#[derive(Debug, Default)]
struct Fate {
    /// It is in the app's storage, and goes out whatever happens to the app.
    queued: bool,
    /// By the run of the app that is under way.
    in_this_run: bool,
    sent: Option<Seq>,
    failed: Option<ErrorCode>,
    /// The server has refused it for good, and the app may have ended before it was told.
    refused: bool,
}

impl Told {
    /// Nothing yet.
    pub fn new(device: Sender) -> Self {
        Self { device, sends: BTreeMap::new() }
    }

    fn fate(&mut self, conversation: ConversationId, change: &Change) -> Option<&mut Fate> {
        let Change::Message(Message { payload, .. }) = change else { return None };
        Some(self.sends.entry((conversation, payload.clone())).or_default())
    }

    /// The app was told that this will be sent, even if the app ends now.
    pub fn queued(&mut self, conversation: ConversationId, change: &Change) {
        if let Some(fate) = self.fate(conversation, change) {
            (fate.queued, fate.in_this_run) = (true, true);
        }
    }

    /// The app was told that this is in the log.
    pub fn sent(&mut self, conversation: ConversationId, change: &Change, seq: Seq) {
        if let Some(fate) = self.fate(conversation, change) {
            fate.sent = Some(seq);
        }
    }

    /// The app was told that this is refused for good.
    pub fn failed(&mut self, conversation: ConversationId, change: &Change, code: ErrorCode) {
        if let Some(fate) = self.fate(conversation, change) {
            fate.failed = Some(code);
        }
    }

    /// The server has refused this for good.
    pub fn refused(&mut self, conversation: ConversationId, change: &Change) {
        if let Some(fate) = self.fate(conversation, change) {
            fate.refused = true;
        }
    }

    /// The app begins again: what was decided before may never be told.
    pub fn restarted(&mut self) {
        self.sends.values_mut().for_each(|fate| fate.in_this_run = false);
    }

    /// The conversations that it was told of.
    pub fn conversations(&self) -> BTreeSet<ConversationId> {
        self.sends.keys().map(|(id, _)| *id).collect()
    }

    /// Compares it with a whole log, when the app has nothing left to send.
    pub fn check(&self, conversation: ConversationId, log: &[Entry]) -> Vec<Violation> {
        let mut at: BTreeMap<&Bytes, Vec<&Entry>> = BTreeMap::new();
        for entry in log.iter().filter(|entry| entry.sender == self.device) {
            if let Change::Message(Message { payload, .. }) = &entry.change {
                at.entry(payload).or_default().push(entry);
            }
        }
        let sends = self.sends.iter().filter(|((id, _), _)| *id == conversation);
        sends
            .filter_map(|((_, payload), fate)| self.wrong(fate, at.get(payload).map_or(&[], Vec::as_slice)))
            .collect()
    }

    fn wrong(&self, fate: &Fate, there: &[&Entry]) -> Option<Violation> {
        let Fate { queued, in_this_run, sent, failed, refused } = *fate;
        let first = there.first().map(|entry| entry.seq);
        let gone = failed.filter(|code| code.effect() == Effect::None);
        let (promise, rule, what) = if there.len() > 1 {
            (Promise::ExactlyOnce, "stored twice", "a message is in the log under two numbers".to_owned())
        } else if let Some(seq) = sent.filter(|seq| first != Some(*seq)) {
            (Promise::SentMeansSafe, "told sent", format!("the app was told that a message is at {seq}"))
        } else if let Some(code) = gone.filter(|_| first.is_some()) {
            (Promise::UnknownIsNotFailed, "told failed", format!("the app was told {code} of a message"))
        } else if queued && first.is_none() && failed.is_none() && !refused {
            let what = "the app was told that a message will be sent, and nothing since";
            (Promise::SentMeansSafe, "forgotten", what.to_owned())
        } else if queued && in_this_run && sent.is_none() && failed.is_none() {
            let what = "a message was sent, and the app was not told so".to_owned();
            (Promise::UnknownIsNotFailed, "not told", what)
        } else {
            return None;
        };
        let what = format!(
            "device {} of {}: {what}; the log has {}",
            self.device.device,
            self.device.user,
            first.map_or("nothing".to_owned(), |seq| format!("it at {seq}"))
        );
        let excerpt = there.iter().map(|entry| format!("log: {}", shown(entry))).collect();
        Some(Violation { promise, rule, what, excerpt })
    }
}
