//! Fills conversations with messages before a measurement: many writers at once, each with as many sends under way as a
//! connection may have.

use std::collections::VecDeque;
use std::sync::Arc;

use futures_util::{StreamExt, TryStreamExt, stream};
use hashbrown::HashMap;
use tern_client::raw::Received;
use tern_protocol::error::Effect;
use tern_protocol::event::{SendOk, ServerBody, ServerMessage, WireError};
use tern_protocol::ids::{ClientSeq, ConversationId, RequestId, UserId};
use tern_protocol::limits::{IN_FLIGHT_MAX, MARKS_MAX};
use tern_protocol::model::{Change, Message, Target};
use tern_protocol::request::{Mark, RequestBody, Send};
use tokio::time::sleep;

use crate::Error;
use crate::book::Book;
use crate::client::{Account, Client};
use crate::clock;
use crate::fleet::{Crew, Share, until};
use crate::meter::Meter;
use crate::refusal::{self, is_passing};
use crate::run::Run;

/// What one writer writes.
#[derive(Debug, Clone)]
pub struct Draft {
    /// Who.
    pub writer: Account,
    /// Where to: conversations that do not exist yet and in which nobody else writes.
    pub chapters: Vec<Chapter>,
}

/// A conversation to be.
#[derive(Debug, Clone)]
pub enum Chapter {
    /// A direct chat.
    Direct(UserId),
    /// A group with these members besides the writer.
    Group(ConversationId, Vec<UserId>),
}

impl Chapter {
    fn conversation(&self, writer: UserId) -> ConversationId {
        match self {
            Self::Direct(peer) => ConversationId::direct(writer, *peer),
            Self::Group(id, _) => *id,
        }
    }

    fn target(&self) -> Target {
        match self {
            Self::Direct(peer) => Target::User(*peer),
            Self::Group(id, _) => Target::Conversation(*id),
        }
    }
}

/// Has so many messages written in every conversation; what they hold then, in the order of the drafts. Faults that show
/// already are added to the run's. Afterwards nobody is connected, and the run is as if it had just begun.
///
/// # Errors
/// When a writer cannot write.
pub fn fill(
    run: &mut Run<'_>,
    drafts: Vec<Draft>,
    messages: usize,
    payload_bytes: usize,
) -> Result<Vec<Book>, Error> {
    let start = clock::nanos();
    let accounts: Vec<_> = drafts.iter().map(|draft| draft.writer.clone()).collect();
    let crew = Crew { connected: false, ..Crew::new(accounts) };
    let chapters: HashMap<_, _> =
        drafts.into_iter().map(|draft| (draft.writer.number, draft.chapters)).collect();
    let (chapters, ramp) = (Arc::new(chapters), run.common.ramp);
    let fleet = run.fleet(&crew, async move |mut share: Share| {
        let write = async |account: &Account| {
            let chapters = chapters.get(&account.number).map(Vec::as_slice).unwrap_or_default();
            write(&share, account, chapters, messages, payload_bytes).await
        };
        let books = stream::iter(&share.accounts).map(write).buffered(ramp.max(1));
        let books: Vec<Vec<Book>> = books.try_collect().await?;
        share.ready();
        until(&mut share.phases, |phase| phase.is_end()).await;
        Ok(books)
    })?;
    let seconds = (clock::nanos() - start) as f64 / 1e9;
    let books: Vec<Book> = run.finish(fleet).into_iter().flatten().flatten().collect();
    run.begin()?;
    let entries: u64 = books.iter().map(|book| book.head().get()).sum();
    books.iter().for_each(|book| run.faults.add(&book.faults()));
    run.figure("prepared_entries", entries as f64);
    run.figure("prepared_entries_per_s", entries as f64 / seconds);
    Ok(books)
}

async fn write(
    share: &Share,
    account: &Account,
    chapters: &[Chapter],
    messages: usize,
    payload_bytes: usize,
) -> Result<Vec<Book>, Error> {
    let login = share.dialer.login_patiently(account).await;
    let client = login.map_err(|problem| Error::Client { client: account.number, problem })?;
    let mut writer = Writer { client, unanswered: HashMap::new(), meter: &share.meter };
    let page = |chapter| Page::new(chapter, account.user, payload_bytes);
    let mut pages: Vec<_> = chapters.iter().map(page).collect();
    // A group that does not exist yet would refuse its messages.
    writer.send_all(&mut pages, |page| usize::from(!page.exists)).await?;
    writer.send_all(&mut pages, |_| messages).await?;
    let books: Vec<_> = pages.into_iter().map(|page| page.book).collect();
    writer.mark(&books).await?;
    writer.client.finish().await;
    share.meter.disconnected();
    Ok(books)
}

/// A conversation while it is written.
struct Page<'a> {
    chapter: &'a Chapter,
    book: Book,
    exists: bool,
    /// The highest number used.
    sent: u64,
    left: usize,
}

impl<'a> Page<'a> {
    fn new(chapter: &'a Chapter, writer: UserId, payload_bytes: usize) -> Self {
        let book = Book::new(chapter.conversation(writer), writer, payload_bytes);
        let exists = matches!(chapter, Chapter::Direct(_));
        Self { chapter, book, exists, sent: 0, left: 0 }
    }

    fn next(&mut self) -> Send {
        self.sent += 1;
        let client_seq = ClientSeq(self.sent);
        let change = match self.chapter {
            Chapter::Group(id, members) if !self.exists => {
                Change::Create { title: format!("group {id}"), members: members.clone() }
            }
            _ => Change::Message(Message {
                content_type: "text/plain".into(),
                payload: self.book.payload(client_seq).into(),
                reply_to: None,
            }),
        };
        Send { target: self.chapter.target(), client_seq, change }
    }

    fn on_ack(&mut self, client_seq: ClientSeq, ok: &SendOk) {
        self.exists = true;
        self.book.note(client_seq, ok);
    }
}

struct Writer<'a> {
    client: Client,
    /// To which page, under which number.
    unanswered: HashMap<RequestId, (usize, ClientSeq)>,
    meter: &'a Meter,
}

impl Writer<'_> {
    /// Sends so much to each of the pages, in turn.
    async fn send_all(
        &mut self,
        pages: &mut [Page<'_>],
        each: impl Fn(&Page<'_>) -> usize,
    ) -> Result<(), Error> {
        pages.iter_mut().for_each(|page| page.left = each(page));
        let mut turn: VecDeque<usize> = (0..pages.len()).filter(|at| pages[*at].left > 0).collect();
        while !turn.is_empty() || !self.unanswered.is_empty() {
            while self.unanswered.len() < IN_FLIGHT_MAX
                && let Some(at) = turn.pop_front()
            {
                let page = &mut pages[at];
                let send = page.next();
                let client_seq = send.client_seq;
                let id = self.client.request(RequestBody::Send(send));
                self.unanswered.insert(id, (at, client_seq));
                self.meter.count(|interval| interval.sent += 1);
                page.left -= 1;
                if page.left > 0 {
                    turn.push_back(at);
                }
            }
            let message = self.next().await?;
            // Besides answers, there are the pushes of what the writer itself has written.
            let Some((at, client_seq)) = self.unanswered.remove(&message.id) else { continue };
            match message.body {
                ServerBody::SendOk(ok) => {
                    pages[at].on_ack(client_seq, &ok);
                    self.meter.count(|interval| interval.acked += 1);
                }
                ServerBody::Error(error) => {
                    // Later ones may be stored by now, so this number is lost; the message gets another.
                    self.wait(&error).await?;
                    pages[at].left += 1;
                    if !turn.contains(&at) {
                        turn.push_back(at);
                    }
                }
                other => return Err(odd(&other)),
            }
        }
        Ok(())
    }

    /// The writer has seen what it has written, as the user of a client has.
    async fn mark(&mut self, books: &[Book]) -> Result<(), Error> {
        for books in books.chunks(MARKS_MAX) {
            let marks: Vec<_> = books
                .iter()
                .map(|book| Mark {
                    conversation: book.conversation,
                    delivered: book.head(),
                    read: book.head(),
                })
                .collect();
            let mut asked = self.client.request(RequestBody::Mark(marks.clone()));
            loop {
                let message = self.next().await?;
                match message.body {
                    ServerBody::MarkOk if message.id == asked => break,
                    ServerBody::Error(error) if message.id == asked => {
                        self.wait(&error).await?;
                        asked = self.client.request(RequestBody::Mark(marks.clone()));
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }

    async fn next(&mut self) -> Result<ServerMessage, Error> {
        loop {
            match self.client.next().await {
                Ok(Received::Message(message)) => return Ok(message),
                Ok(Received::Heartbeat) => {}
                Ok(Received::Closed) => {
                    return Err(Error::Scenario(
                        "a connection has ended while conversations were filled".into(),
                    ));
                }
                Err(error) => {
                    let what = format!("a connection has broken while conversations were filled: {error}");
                    return Err(Error::Scenario(what));
                }
            }
        }
    }

    /// Nothing was done, and it may be tried again: waits until then.
    async fn wait(&self, error: &WireError) -> Result<(), Error> {
        let what = refusal::text(error);
        if !is_passing(error.code) || error.code.effect() != Effect::None {
            return Err(Error::Scenario(format!("conversations cannot be filled: {what}")));
        }
        self.meter.count(|interval| interval.refuse(what));
        sleep(refusal::wait(error)).await;
        Ok(())
    }
}

fn odd(body: &ServerBody) -> Error {
    Error::Scenario(format!("conversations cannot be filled: an odd answer to a send: {body:?}"))
}
