//! Events in, effects out: the only part that waits for anything.

use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jiff::tz::TimeZone;
use ratatui::crossterm::event::{self as terminal_events, Event as TerminalEvent};
use tern_client::{
    Change, Client, ConversationId, Error, Events, HistoryFrom, Kind, LocalHistory, Message, Role, SendOk,
    Storage, StorageError, Target, UserId, UserReceipt,
};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use super::drafts;
use super::lost::Asked;
use super::model::{ENTRIES_KEPT, Fate, Model, PENDING_MAX, Pending, shortened, title};
use super::terminal::Screen;
use super::update::{Effect, Event, update};
use super::view::view;
use crate::args::Args;
use crate::book::Book;
use crate::fail::Fail;
use crate::output;
use crate::session::{self, Purpose};

/// Of conversations that this device has never seen, so many of the last entries come at once.
const LATEST: u32 = 20;
/// Entries in a page of older ones.
const PAGE_ENTRIES: u32 = 100;
/// Conversations in a page of what this device remembers.
const HISTORY_PAGE: u32 = 500;
/// Questions to the server that may wait for their answers.
const QUESTIONS_MAX: usize = 128;
/// Keys and answers on their way; beyond, their sources wait.
const CHANNEL: usize = 64;
/// Events that are dealt with before the screen is drawn again.
const BATCH_MAX: usize = 256;
/// Somebody is looking: nobody waits for half a minute.
const BACKOFF_MAX: Duration = Duration::from_secs(10);
/// Quitting waits this long for what is under way; what is not sent is kept.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// Runs the application until the user quits.
pub(crate) async fn run(args: &Args) -> Result<(), Fail> {
    if !io::stdout().is_terminal() || !io::stdin().is_terminal() {
        return Err(Fail::usage("chat needs a terminal; `tern tail` and `tern send` work without one"));
    }
    let session::Prepared { mut config, path, sub, names } = session::prepare(args, Purpose::Chat)?;
    config.latest = Some(LATEST);
    config.backoff_max = BACKOFF_MAX;
    config.close_timeout = CLOSE_TIMEOUT;
    let mut storage = session::open(&path, Purpose::Chat, args.timeout).await?;
    let state = storage.load().map_err(tern_client::StartError::from)?;
    let history = storage.history().map_err(tern_client::StartError::from)?;
    let mut book = Book::load(&names)
        .map_err(|e| Fail::usage(format!("the names in {} cannot be read: {e}", names.display())))?;
    if let Some(sub) = sub {
        book.set(UserId::from_sub(&sub), &sub);
    }
    let (client, events) = Client::start(config, storage).await?;
    session::check_device(args, &client, &path)?;
    let mut model = Model::new(client.device(), book, TimeZone::system());
    model.ca = args.ca.clone();
    restore(&mut model, &state);
    remember(&mut model, &history).map_err(tern_client::StartError::from)?;
    let drafts = beside(&path, ".drafts");
    drafts::load(&drafts, &mut model);
    let asked = Asked::load(beside(&path, ".asked"), history.clone());

    let screen = Screen::take().map_err(|e| Fail::usage(format!("the terminal cannot be used: {e}")))?;
    let (application, sender) = Application::new(client.clone(), names, asked);
    let result = application.run(&mut model, events, screen).await;
    let kept = drafts::save(&drafts, &model);
    // What was typed last is stored before the client closes.
    let _ = timeout(CLOSE_TIMEOUT, sender).await;
    let _ = timeout(CLOSE_TIMEOUT * 2, client.close()).await;
    if let Some(line) = waiting(&model, &history) {
        // Nobody may be left to read it.
        let _ = output::line(&line);
    }
    result.map_err(|e| Fail::usage(format!("the terminal cannot be used: {e}")))?;
    let place = drafts.display();
    kept.map_err(|e| Fail::usage(format!("what was being written cannot be kept in {place}: {e}")))
}

/// What this device knows without the server: which conversations there are, and what it has still to send.
fn restore(model: &mut Model, state: &tern_client::storage::State) {
    model.me = state.user;
    for (&id, stored) in &state.conversations {
        if stored.cursor.get() == 0 && stored.unacked.is_empty() {
            continue;
        }
        let mut peer = model.peer(id);
        let mut pending = Vec::new();
        for (&client_seq, (target, change)) in &stored.unacked {
            if let Target::User(user) = target {
                peer = Some(*user);
            }
            if let Change::Message(message) = change
                && let Some(text) = output::text(&message.content_type, &message.payload)
            {
                let (local, text) = (model.next_local(), shortened(text));
                let client_seq = Some(client_seq);
                pending.push(Pending { local, client_seq, text, time_ms: wall_ms(), fate: Fate::Queued });
            }
        }
        if let Some(c) = model.conversation(id) {
            (c.peer, c.pending, c.read) = (peer, pending, stored.marks.read);
            (c.delivered_by_all, c.read_by_all) = (stored.marks.peer_delivered, stored.marks.peer_read);
        }
    }
    model.sort();
}

/// What an earlier run was told: there is something to read without a network.
fn remember(model: &mut Model, history: &LocalHistory) -> Result<(), StorageError> {
    let mut page = history.conversations(None, HISTORY_PAGE)?;
    while let Some(last) = page.last() {
        for line in &page {
            let Some(c) = model.conversation(line.conversation) else { return Ok(()) };
            c.peer = line.peer.or(c.peer);
            c.is_member = line.role.is_some() || c.kind == Kind::Direct;
            c.title = title(&line.title);
            c.time_ms = c.time_ms.max(line.time.0);
            for entry in history.latest(line.conversation, ENTRIES_KEPT as u32)? {
                c.add(&entry, false);
            }
        }
        page = history.conversations(Some(last), HISTORY_PAGE)?;
    }
    model.sort();
    Ok(())
}

/// What is still to be sent, for who has quit.
fn waiting(model: &Model, history: &LocalHistory) -> Option<String> {
    let with_pending = model.conversations.iter().filter(|(_, c)| !c.pending.is_empty());
    let unsent = with_pending.filter_map(|(id, _)| history.unsent(*id).ok()).flatten();
    match unsent.filter(|unsent| matches!(unsent.change, Change::Message(_))).count() {
        0 => None,
        1 => Some("1 message waits; it goes out when tern chat runs again".into()),
        count => Some(format!("{count} messages wait; they go out when tern chat runs again")),
    }
}

/// A file of the application's own beside the state.
fn beside(state: &Path, suffix: &str) -> PathBuf {
    let mut path = state.as_os_str().to_owned();
    path.push(suffix);
    path.into()
}

fn wall_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

struct Application {
    client: Client,
    started: Instant,
    answers: (mpsc::Sender<Event>, mpsc::Receiver<Event>),
    sends: mpsc::Sender<(u64, Target, String)>,
    questions: JoinSet<()>,
    names: Arc<PathBuf>,
    asked: Asked,
    /// All of the screen is to be drawn anew.
    repaint: bool,
}

impl Application {
    /// And the task that ends when it has stored what was typed before the application was dropped.
    fn new(client: Client, names: PathBuf, asked: Asked) -> (Self, JoinHandle<()>) {
        let answers = mpsc::channel(CHANNEL);
        let (sends, to_send) = mpsc::channel(PENDING_MAX);
        let sender = tokio::spawn(send_in_order(client.clone(), to_send, answers.0.clone()));
        let (started, names) = (Instant::now(), Arc::new(names));
        let application =
            Self { client, started, answers, sends, questions: JoinSet::new(), names, asked, repaint: false };
        (application, sender)
    }

    async fn run(mut self, model: &mut Model, mut events: Events, mut screen: Screen) -> io::Result<()> {
        let mut keys = keys();
        let mut interrupted = std::pin::pin!(session::interrupted());
        let mut hangup = std::pin::pin!(hangup());
        let mut seconds = interval(Duration::from_secs(1));
        seconds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut client_runs = true;
        loop {
            let mut quit = self.step(model, Event::Tick(self.started.elapsed(), wall_ms()));
            if std::mem::take(&mut self.repaint) {
                screen.wipe()?;
            }
            screen.draw(|frame| {
                model.size = (frame.area().width, frame.area().height);
                view(model, frame);
            })?;
            let event = tokio::select! {
                key = keys.recv() => match key {
                    Some(event) => event,
                    None => return Ok(()),
                },
                Some(answer) = self.answers.1.recv() => answer,
                event = events.next(), if client_runs => match event {
                    Some(event) => Event::Client(event),
                    None => {
                        client_runs = false;
                        continue;
                    }
                },
                _ = seconds.tick() => continue,
                () = &mut interrupted => return Ok(()),
                () = &mut hangup => return Ok(()),
            };
            quit |= self.step(model, event);
            for _ in 0..BATCH_MAX {
                let next = keys.try_recv().ok().or_else(|| self.answers.1.try_recv().ok());
                let Some(event) = next.or_else(|| events.try_next().map(Event::Client)) else { break };
                quit |= self.step(model, event);
            }
            if quit {
                return Ok(());
            }
        }
    }

    /// True: the user wants to quit.
    fn step(&mut self, model: &mut Model, event: Event) -> bool {
        let mut quit = false;
        for effect in update(model, event) {
            match effect {
                Effect::Quit => quit = true,
                Effect::Repaint => self.repaint = true,
                Effect::SaveBook => self.save(model.book.clone()),
                // There is room for as many as the model lets wait.
                Effect::Send { local, target, text } => drop(self.sends.try_send((local, target, text))),
                Effect::FindLost => {
                    let found = self.asked.open_ones();
                    quit |=
                        self.step(model, found.map_or_else(|e| Event::Failed(e.to_string()), Event::Lost));
                }
                Effect::Asked(keys) => {
                    if let Err(error) = self.asked.add(keys) {
                        let why = format!("that you were asked cannot be kept: {error}");
                        let _ = self.answers.0.try_send(Event::Failed(why));
                    }
                }
                question => self.ask(question),
            }
        }
        quit
    }

    fn save(&mut self, book: Book) {
        let (names, answers) = (self.names.clone(), self.answers.0.clone());
        // One after the other, in the order of the changes: the file is small.
        if let Err(error) = book.save(&names) {
            let why = format!("the names cannot be kept in {}: {error}", names.display());
            let _ = answers.try_send(Event::Failed(why));
        }
    }

    fn ask(&mut self, question: Effect) {
        while self.questions.try_join_next().is_some() {}
        let (client, answers) = (self.client.clone(), self.answers.0.clone());
        if self.questions.len() >= QUESTIONS_MAX {
            let why = "too much waits for the server; try again later".to_owned();
            let refused = match question {
                Effect::Page { conversation, .. } => Event::Paged(conversation, Err(why)),
                _ => Event::Failed(why),
            };
            let _ = answers.try_send(refused);
            return;
        }
        self.questions.spawn(async move {
            if let Some(answer) = answer(&client, question).await {
                let _ = answers.send(answer).await;
            }
        });
    }
}

/// What the server says to a question.
async fn answer(client: &Client, question: Effect) -> Option<Event> {
    Some(match question {
        Effect::List { after } => Event::Listed(client.conversations(after, 0).await.map_err(said)),
        Effect::Look(id) => {
            let page = client.conversations(before(id), 1).await.map_err(said);
            Event::Looked(page.map(|page| page.conversations.into_iter().find(|c| c.conversation == id)))
        }
        Effect::Page { conversation, before } => {
            let from = HistoryFrom::Backward(before.map(tern_client::Seq::prev));
            Event::Paged(conversation, client.history(conversation, from, PAGE_ENTRIES).await.map_err(said))
        }
        Effect::Receipts(id) => Event::Receipts(id, receipts(client, id).await.map_err(said)),
        Effect::Members(id) => Event::Members(id, members(client, id).await.map_err(said)),
        Effect::Read { conversation, seq } => {
            // Removed from the group meanwhile, for example: the next entry says so.
            let _ = client.mark_read(conversation, seq).await;
            return None;
        }
        Effect::Create { title, members } => {
            Event::Created(client.create_group(title, members).await.map(|(id, _)| id).map_err(said))
        }
        Effect::Change { conversation, change } => {
            Event::Changed(client.change(conversation, change).await.map(|_: SendOk| ()).map_err(said))
        }
        Effect::Quit
        | Effect::Repaint
        | Effect::SaveBook
        | Effect::Send { .. }
        | Effect::FindLost
        | Effect::Asked(_) => return None,
    })
}

/// The greatest id below this one: what comes after it begins with this one.
fn before(id: ConversationId) -> Option<ConversationId> {
    let number = u128::from_be_bytes(*id.as_bytes());
    number.checked_sub(1).map(|below| ConversationId::from_bytes(below.to_be_bytes()))
}

async fn members(client: &Client, id: ConversationId) -> Result<Vec<(UserId, Role)>, Error> {
    let (mut all, mut after) = (Vec::new(), None);
    loop {
        let page = client.members(id, after, 0).await?;
        all.extend(page.members.into_iter().map(|(user, role, _)| (user, role)));
        after = page.next;
        if after.is_none() {
            return Ok(all);
        }
    }
}

async fn receipts(client: &Client, id: ConversationId) -> Result<Vec<UserReceipt>, Error> {
    let (mut all, mut after) = (Vec::new(), None);
    loop {
        let page = client.receipts(id, after, 0).await?;
        all.extend(page.receipts);
        after = page.next;
        if after.is_none() {
            return Ok(all);
        }
    }
}

/// Why, in the words of the other commands.
fn said(error: Error) -> String {
    Fail::from(error).text().to_owned()
}

/// Messages are numbered in the order in which they were typed.
async fn send_in_order(
    client: Client,
    mut sends: mpsc::Receiver<(u64, Target, String)>,
    answers: mpsc::Sender<Event>,
) {
    while let Some((local, target, text)) = sends.recv().await {
        let message = Message { content_type: "text/plain".into(), payload: text.into(), reply_to: None };
        match client.enqueue(target, Change::Message(message)).await {
            Ok(pending) => {
                let _ = answers.send(Event::Stored(local)).await;
                let answers = answers.clone();
                tokio::spawn(async move {
                    let result = match pending.await {
                        // It is stored, and goes out the next time.
                        Err(Error::Stopped(_)) => return,
                        result => result.map_err(said),
                    };
                    let _ = answers.send(Event::Sent(local, result)).await;
                });
            }
            Err(error) => {
                let _ = answers.send(Event::Sent(local, Err(said(error)))).await;
            }
        }
    }
}

/// Keys come from a thread of their own, which blocks for them as long as the process lives.
fn keys() -> mpsc::Receiver<Event> {
    let (sender, receiver) = mpsc::channel(CHANNEL);
    thread::spawn(move || {
        // An error means that the terminal is gone: so is the sender then.
        while let Ok(event) = terminal_events::read() {
            let event = match event {
                TerminalEvent::Key(key) => Event::Key(key),
                TerminalEvent::Mouse(mouse) => Event::Mouse(mouse),
                TerminalEvent::Paste(text) => Event::Paste(text),
                TerminalEvent::Resize(columns, rows) => Event::Resize(columns, rows),
                TerminalEvent::FocusGained => Event::Focus(true),
                TerminalEvent::FocusLost => Event::Focus(false),
            };
            if sender.blocking_send(event).is_err() {
                return;
            }
        }
    });
    receiver
}

/// The terminal's window was closed.
async fn hangup() {
    #[cfg(unix)]
    if let Ok(mut hangup) = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::hangup()) {
        hangup.recv().await;
        return;
    }
    std::future::pending().await
}
