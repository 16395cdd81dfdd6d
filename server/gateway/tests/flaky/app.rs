//! An app on a device: sends in turn to all that it talks to, takes what comes, marks some of it as read.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tern_check::{Key, Shown, View};
use tern_client::{Client, ConnectionState, Event, Events, Lost, Message, StartError};
use tern_protocol::event::SendOk;
use tern_protocol::ids::{ConversationId, Seq};
use tern_protocol::model::{Change, Sender, Target};
use tern_proxy::{Recoveries, clock};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use crate::record::Book;

/// From one message of an app to its next.
const INTERVAL: Duration = Duration::from_millis(400);
/// Each app sends at least so many.
const SENDS_MIN: u64 = 12;
/// And so many that are answered after the fault.
const SENDS_AFTER: u64 = 4;
/// One entry of so many is marked as read.
const READ_EVERY: u64 = 3;
/// An app is cut off when its system has refused so many tries to connect.
const REFUSED: u32 = 3;

/// How far the apps of a cell are.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Progress {
    /// Those that have been online.
    pub(crate) online: usize,
    /// Those that have met what they are here for.
    pub(crate) enough: usize,
    /// Those that have stopped sending and been answered everything.
    pub(crate) drained: usize,
    /// Those whose own system has said, time and again, that no way leads to the server.
    pub(crate) cut_off: usize,
}

/// A time without network or server. Times are on [`clock`]; 0: not yet.
#[derive(Debug, Default)]
pub(crate) struct Outage {
    pub(crate) begun: AtomicU64,
    pub(crate) over: AtomicU64,
}

impl Outage {
    /// How long after its end something is answered now that was sent at `made`; nothing, unless that was since it began.
    fn answered(&self, made: u64, now: u64) -> Option<u64> {
        let (begun, over) = (self.begun.load(Ordering::Relaxed), self.over.load(Ordering::Relaxed));
        (over > 0 && made >= begun).then(|| now - over.max(made))
    }
}

/// A fault that is on its way.
#[derive(Debug)]
pub(crate) struct Happening {
    pub(crate) recoveries: Recoveries,
    /// When it comes, on [`clock`].
    pub(crate) at: u64,
}

/// What an app measures.
#[derive(Debug, Clone)]
pub(crate) enum Measure {
    /// The time until a message is answered.
    Answers,
    /// The time from when its network is back until something is answered that was sent since its fault came: what was sent
    /// before that may have been answered already. The other is what it has of it by itself.
    Network(Arc<OnceLock<Happening>>, Option<Recoveries>),
    /// The time from the end of an outage until something is answered that was sent since it began.
    Outage(Arc<Outage>),
}

/// What it is to do.
pub(crate) struct App {
    pub(crate) name: String,
    pub(crate) sender: Sender,
    pub(crate) targets: Vec<(ConversationId, Target)>,
    pub(crate) book: Book,
    pub(crate) apps: usize,
    pub(crate) progress: Arc<watch::Sender<Progress>>,
    pub(crate) measure: Measure,
    /// How often the system has told it that it is on another network.
    pub(crate) moved: watch::Receiver<u64>,
}

/// What has become of it. It is still online.
pub(crate) struct Outcome {
    pub(crate) view: View,
    pub(crate) targets: Vec<(ConversationId, Target)>,
    pub(crate) client: Client,
    pub(crate) events: Events,
    pub(crate) online_after: Duration,
    /// As [`Measure`] says, in nanoseconds.
    pub(crate) times: Vec<u64>,
    pub(crate) sends: u64,
}

struct Running {
    app: App,
    client: Client,
    view: View,
    handed: HashMap<ConversationId, Seq>,
    unanswered: JoinSet<(Key, u64, SendOk)>,
    marking: JoinSet<()>,
    times: Vec<u64>,
    sends: u64,
    answered: u64,
    /// It has met what it is here for when so many are answered.
    enough_at: Option<u64>,
    drained: bool,
    refused: u32,
    online_after: Option<Duration>,
}

impl App {
    pub(crate) async fn run(
        self,
        start: impl AsyncFnOnce() -> Result<(Client, Events), StartError>,
    ) -> Outcome {
        let began = clock::nanos();
        let (client, mut events) = start().await.expect("a good configuration and storage");
        let mut progress = self.progress.subscribe();
        let mut ticks = tokio::time::interval(INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut moved, apps) = (self.moved.clone(), self.apps);
        let mut running = Running::new(self, client);
        loop {
            let Progress { enough, drained, .. } = *progress.borrow_and_update();
            let sends = enough < apps;
            // Before the wait: there may be nothing more to wait for.
            running.tell(sends);
            if drained == apps && running.has_everything() {
                break;
            }
            tokio::select! {
                changed = progress.changed() => changed.expect("it has the sender itself"),
                _ = ticks.tick(), if sends => running.send().await,
                Some(answer) = running.unanswered.join_next() => running.on_answer(answer.expect("stored")),
                Some(marked) = running.marking.join_next() => marked.expect("marked"),
                event = events.next() => running.on_event(began, event.expect("the client runs")),
                Ok(()) = moved.changed() => running.client.network_changed(None).await,
            }
        }
        Outcome {
            view: running.view,
            targets: running.app.targets,
            client: running.client,
            events,
            online_after: running.online_after.expect("it was answered"),
            times: running.times,
            sends: running.sends,
        }
    }
}

impl Running {
    fn new(app: App, client: Client) -> Self {
        let enough_at = matches!(app.measure, Measure::Answers).then_some(SENDS_MIN);
        Self {
            client,
            view: View::new(app.sender),
            handed: HashMap::new(),
            unanswered: JoinSet::new(),
            marking: JoinSet::new(),
            times: Vec::new(),
            sends: 0,
            answered: 0,
            enough_at,
            drained: false,
            refused: 0,
            online_after: None,
            app,
        }
    }

    async fn send(&mut self) {
        let made = clock::nanos();
        let (conversation, target) = self.app.targets[self.sends as usize % self.app.targets.len()];
        let payload = format!("{} {}", self.app.name, self.sends);
        let message = Message { content_type: "text/plain".into(), payload: payload.into(), reply_to: None };
        self.sends += 1;
        let pending = self.client.enqueue(target, Change::Message(message)).await.expect("the client runs");
        let key = self.app.book.lock().last(conversation, self.app.sender);
        self.unanswered.spawn(async move { (key, made, pending.await.expect("stored")) });
    }

    fn on_answer(&mut self, (key, made, ok): (Key, u64, SendOk)) {
        let now = clock::nanos();
        self.app.book.lock().ack(key, &ok);
        self.answered += 1;
        let took = match &mut self.app.measure {
            Measure::Answers => Some(now - made),
            Measure::Network(happening, own) => match happening.get() {
                Some(Happening { recoveries, at }) if made >= *at => {
                    own.get_or_insert_with(|| recoveries.clone()).answered(made, now)
                }
                _ => None,
            },
            Measure::Outage(outage) if self.times.is_empty() => outage.answered(made, now),
            Measure::Outage(_) => None,
        };
        self.times.extend(took);
        if took.is_some() {
            self.enough_at.get_or_insert(SENDS_MIN.max(self.answered + SENDS_AFTER));
        }
    }

    fn on_event(&mut self, began: u64, event: Event) {
        let (who, name) = (self.app.sender, &self.app.name);
        let mut book = self.app.book.lock();
        match event {
            Event::Entry { conversation, entry } => {
                let seq = entry.seq;
                // Taking the next event says so.
                book.history.marked(conversation, who.user, seq, Seq(0));
                self.view.handed(&mut book.history, conversation, entry);
                self.handed.insert(conversation, seq);
                if seq.get().is_multiple_of(READ_EVERY) {
                    book.history.marked(conversation, who.user, seq, seq);
                    drop(book);
                    self.mark(conversation, seq);
                }
            }
            Event::Conversation(state) => {
                if let Some(user) = state.peer {
                    let shown = Shown { user, delivered: state.peer_delivered, read: state.peer_read };
                    book.history.shown(state.conversation, who, shown);
                }
            }
            Event::Receipts(moved) => {
                for receipt in &moved.users {
                    let (user, read) = (receipt.user, receipt.read);
                    // Of the user's own an app looks at what was read on another device.
                    let delivered = if user == who.user { read } else { receipt.delivered };
                    book.history.shown(moved.conversation, who, Shown { user, delivered, read });
                }
                for count in &moved.counts {
                    let counts = (count.delivered, count.read);
                    book.history.counted(moved.conversation, who.user, count.seq, counts);
                }
            }
            Event::Trimmed { conversation, from, to } => {
                book.history.torn(&format!("{name} was told that {from} to {to} of {conversation} are gone"));
            }
            Event::Reset { conversation, .. } => {
                book.history.torn(&format!("{name} was told that {conversation} is another"));
            }
            Event::HistoryReset { .. } => {
                book.history.torn(&format!("{name} was told that the store is another"));
            }
            Event::Connection(ConnectionState::Online { .. }) => {
                if self.online_after.is_none() {
                    self.online_after = Some(Duration::from_nanos(clock::nanos() - began));
                    self.app.progress.send_modify(|progress| progress.online += 1);
                }
            }
            Event::Connection(ConnectionState::Offline { reason, .. }) => {
                eprintln!("{name}: {reason}");
                // What the system says has a number.
                if matches!(&reason, Lost::Unreachable(why) if why.contains("os error")) {
                    self.refused += 1;
                    if self.refused == REFUSED {
                        self.app.progress.send_modify(|progress| progress.cut_off += 1);
                    }
                }
            }
            Event::Connection(ConnectionState::Stopped(stop)) => panic!("{name} gave up: {stop}"),
            Event::Connection(_) | Event::CaughtUp | Event::Recovered { .. } => {}
        }
    }

    fn mark(&mut self, conversation: ConversationId, seq: Seq) {
        let (client, book, user) = (self.client.clone(), self.app.book.clone(), self.app.sender.user);
        self.marking.spawn(async move {
            client.mark_read(conversation, seq).await.expect("up to what it has");
            book.lock().history.mark_acked(conversation, user, seq);
        });
    }

    /// Tells the others how far it is.
    fn tell(&mut self, sends: bool) {
        if self.enough_at.is_some_and(|enough| self.answered >= enough) {
            self.enough_at = Some(u64::MAX);
            self.app.progress.send_modify(|progress| progress.enough += 1);
        }
        if !sends && self.unanswered.is_empty() && self.marking.is_empty() && !self.drained {
            self.drained = true;
            self.app.progress.send_modify(|progress| progress.drained += 1);
        }
    }

    /// Everything that anybody was told is stored.
    fn has_everything(&self) -> bool {
        let book = self.app.book.lock();
        self.marking.is_empty()
            && self.app.targets.iter().all(|(conversation, _)| {
                self.handed.get(conversation).copied().unwrap_or_default() >= book.head(*conversation)
            })
    }
}
