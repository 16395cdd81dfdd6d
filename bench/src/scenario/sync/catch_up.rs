//! One client's way from "logged in" to "has everything": the protocol's Sync for what it knows, and History for what did
//! not fit.

use std::collections::VecDeque;

use hashbrown::HashMap;
use tern_client::raw::Received;
use tern_protocol::event::{ConversationState, HistoryPage, ServerBody, SyncPage, WireError};
use tern_protocol::ids::{ConversationId, RequestId, Seq};
use tern_protocol::limits::{HISTORY_ENTRIES_MAX, IN_FLIGHT_MAX};
use tern_protocol::request::{History, HistoryFrom, Known, RequestBody, Sync};
use tokio::time::sleep;

use crate::book::Book;
use crate::client::Client;
use crate::clock;
use crate::meter::Meter;
use crate::refusal::{self, is_passing};
use tern_check::stream::Faults;

/// What a user is a member of, in the order of the ids.
#[derive(Debug)]
pub(super) struct Shelf {
    pub(super) books: Vec<Book>,
    /// In each, so many of the last entries are missed.
    pub(super) missed: u64,
}

impl Shelf {
    pub(super) fn known(&self, book: &Book) -> Seq {
        Seq(book.head().get().saturating_sub(self.missed))
    }

    /// Questions about all conversations, in ranges of so many; 0: all in one.
    fn questions(&self, range: usize) -> Vec<Sync> {
        let range = if range == 0 { self.books.len().max(1) } else { range };
        let last = self.books.len().div_ceil(range).saturating_sub(1);
        let mut after = None;
        let chunks = self.books.chunks(range).enumerate();
        let question = |(number, books): (usize, &[Book])| {
            // The last one also has what the device does not know of.
            let until = books.last().map(|book| book.conversation).filter(|_| number < last);
            let known = books.iter().map(|book| Known {
                read: self.known(book),
                ..Known::entries(book.conversation, self.known(book))
            });
            Sync { known: known.collect(), after: std::mem::replace(&mut after, until), until, latest: None }
        };
        chunks.map(question).collect()
    }
}

/// When and how it came back.
#[derive(Debug, Clone, Copy)]
pub(super) struct Back {
    /// From `LoginOk` until it knew of every conversation where it stands.
    pub(super) list_nanos: u64,
    /// From `LoginOk` until it had every entry.
    pub(super) all_nanos: u64,
    /// Answers that had to be waited for, one after the other, for the list.
    pub(super) list_round_trips: u32,
    /// The same for everything.
    pub(super) all_round_trips: u32,
    /// Entries that came.
    pub(super) entries: u64,
}

/// No answer comes any more.
#[derive(Debug)]
pub(super) struct Ended;

struct Asked {
    body: RequestBody,
    /// How many answers were waited for before it could be asked.
    after: u32,
}

pub(super) struct CatchUp<'a> {
    client: &'a mut Client,
    shelf: &'a Shelf,
    meter: &'a Meter,
    cursors: Vec<Seq>,
    waiting: VecDeque<Asked>,
    unanswered: HashMap<RequestId, Asked>,
    /// Ranges of which the end is not covered yet.
    uncovered: usize,
    back: Back,
    faults: Faults,
}

impl<'a> CatchUp<'a> {
    pub(super) fn new(client: &'a mut Client, shelf: &'a Shelf, range: usize, meter: &'a Meter) -> Self {
        let questions = shelf.questions(range);
        let ask = |sync| Asked { body: RequestBody::Sync(sync), after: 0 };
        Self {
            client,
            shelf,
            meter,
            cursors: shelf.books.iter().map(|book| shelf.known(book)).collect(),
            uncovered: questions.len(),
            waiting: questions.into_iter().map(ask).collect(),
            unanswered: HashMap::new(),
            back: Back { list_nanos: 0, all_nanos: 0, list_round_trips: 0, all_round_trips: 0, entries: 0 },
            faults: Faults::default(),
        }
    }

    /// Asks until it has everything; what is wrong with it.
    pub(super) async fn run(mut self) -> (Result<Back, Ended>, Faults) {
        let result = self.ask_all().await;
        if result.is_ok() {
            for (book, cursor) in self.shelf.books.iter().zip(&self.cursors) {
                self.faults.lost += book.head().get().saturating_sub(cursor.get());
            }
        }
        (result.map(|()| self.back), self.faults)
    }

    async fn ask_all(&mut self) -> Result<(), Ended> {
        let start = clock::nanos();
        loop {
            while self.unanswered.len() < IN_FLIGHT_MAX
                && let Some(asked) = self.waiting.pop_front()
            {
                let id = self.client.request(asked.body.clone());
                self.unanswered.insert(id, asked);
            }
            if self.unanswered.is_empty() {
                self.back.all_nanos = clock::nanos() - start;
                return Ok(());
            }
            let message = match self.client.next().await {
                Ok(Received::Message(message)) => message,
                Ok(Received::Heartbeat) => continue,
                Ok(Received::Closed) | Err(_) => return Err(Ended),
            };
            let Some(asked) = self.unanswered.remove(&message.id) else { continue };
            let answers = asked.after + 1;
            self.back.all_round_trips = self.back.all_round_trips.max(answers);
            match (asked.body, message.body) {
                (RequestBody::Sync(sync), ServerBody::SyncPage(page)) => {
                    self.back.list_round_trips = self.back.list_round_trips.max(answers);
                    self.on_sync_page(sync, page, answers);
                    if self.uncovered == 0 {
                        self.back.list_nanos = clock::nanos() - start;
                    }
                }
                (RequestBody::History(_), ServerBody::HistoryPage(page)) => {
                    self.on_history_page(&page, answers);
                }
                (body, ServerBody::Error(error)) => self.on_error(Asked { body, ..asked }, &error).await,
                _ => self.faults.refused += 1,
            }
        }
    }

    fn on_sync_page(&mut self, sync: Sync, page: SyncPage, answers: u32) {
        for state in &page.conversations {
            self.on_state(state, answers);
        }
        match page.covered_until {
            // A page that covers nothing new would be asked for again and again.
            Some(until) if Some(until) > sync.after => {
                let body = RequestBody::Sync(Sync { after: Some(until), ..sync });
                self.waiting.push_back(Asked { body, after: answers });
            }
            Some(_) => self.faults.refused += 1,
            None => self.uncovered -= 1,
        }
    }

    fn on_state(&mut self, state: &ConversationState, answers: u32) {
        let Some(at) = self.place(state.conversation) else {
            self.faults.split += 1;
            return;
        };
        let book = &self.shelf.books[at];
        let is_right =
            (state.head, state.floor) == (book.head(), Seq(1)) && state.read == self.shelf.known(book);
        self.faults.altered += u64::from(!is_right);
        self.back.entries += book.follow(&mut self.cursors[at], &state.entries, &mut self.faults);
        self.faults.lost += state.complete_to.get().saturating_sub(self.cursors[at].get());
        self.pull(at, answers);
    }

    fn on_history_page(&mut self, page: &HistoryPage, answers: u32) {
        let Some(at) = self.place(page.conversation) else {
            self.faults.split += 1;
            return;
        };
        self.back.entries +=
            self.shelf.books[at].follow(&mut self.cursors[at], &page.entries, &mut self.faults);
        // Without an entry there is no more; what is missing then is lost.
        if !page.entries.is_empty() {
            self.pull(at, answers);
        }
    }

    fn pull(&mut self, at: usize, answers: u32) {
        let (book, cursor) = (&self.shelf.books[at], self.cursors[at]);
        if cursor < book.head() {
            let from = HistoryFrom::Forward(cursor.next());
            let history =
                History { conversation: book.conversation, from, limit: HISTORY_ENTRIES_MAX as u32 };
            self.waiting.push_back(Asked { body: RequestBody::History(history), after: answers });
        }
    }

    fn place(&self, conversation: ConversationId) -> Option<usize> {
        self.shelf.books.binary_search_by_key(&conversation, |book| book.conversation).ok()
    }

    async fn on_error(&mut self, asked: Asked, error: &WireError) {
        let what = refusal::text(error);
        if !is_passing(error.code) {
            self.faults.refused += 1;
            return self.meter.count(|interval| interval.refuse(what));
        }
        self.meter.refused(what);
        sleep(refusal::wait(error)).await;
        self.waiting.push_front(asked);
    }
}
