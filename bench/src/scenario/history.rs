//! Clients page through long conversations: each reads the whole of one, page by page, again and again.

use std::sync::Arc;

use tern_client::raw::{Received, ask_on_own_stream};
use tern_protocol::event::{HistoryPage, ServerBody, WireError};
use tern_protocol::ids::{ConversationId, RequestId, Seq};
use tern_protocol::limits::MEMBERS_MAX;
use tern_protocol::request::{History, HistoryFrom, Request, RequestBody};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::Error;
use crate::args::{Common, HistoryArgs, TransportArg};
use crate::book::Book;
use crate::client::{Account, Client};
use crate::clock;
use crate::fill::{Chapter, Draft, fill};
use crate::fleet::{Crew, Phase, Share, until};
use crate::meter::Meter;
use crate::random::Random;
use crate::refusal::{self, is_passing};
use crate::run::{DRAIN, Run, Scenario};
use crate::scenario::background::Background;
use tern_check::stream::Faults;

/// Requests on streams of their own are numbered from here on.
const OWN_STREAMS: u64 = 1 << 32;
/// Names of figures.
const PAGES: &str = "pages";
const ENTRIES: &str = "entries";

impl Scenario for HistoryArgs {
    const NAME: &'static str = "history";

    fn common(&self) -> &Common {
        &self.common
    }

    fn load(&self) -> String {
        let direction = if self.forward { "forward" } else { "backward" };
        let stream = if self.own_stream { ", each on a stream of its own" } else { "" };
        format!("pages of {} {direction}{stream}{}", self.page, self.background.text())
    }

    fn rate(&self) -> Option<f64> {
        self.background.rate
    }

    fn check(&self) -> Result<(), Error> {
        let (readers, conversations) = (self.common.connections, self.conversations as usize);
        if readers == 0 {
            return Err(Error::Arguments(
                "history needs --connections above 0: these are the ones who read".into(),
            ));
        }
        if self.own_stream && self.common.transport == TransportArg::Tcp {
            return Err(Error::Arguments(
                "TCP has one stream for everything: --own-stream needs --transport quic or both".into(),
            ));
        }
        if readers.div_ceil(conversations) >= MEMBERS_MAX {
            return Err(Error::Arguments(format!(
                "a conversation has at most {MEMBERS_MAX} members, so {readers} --connections need more than \
                 {conversations} --conversations"
            )));
        }
        self.background.check()
    }

    fn run(&self, run: &mut Run<'_>) -> Result<(), Error> {
        let conversations = self.conversations as usize;
        let readers = run.server()?.accounts(self.common.connections)?;
        let writers = run.server()?.accounts(conversations)?;
        let draft = |(number, writer): (usize, Account)| {
            let members = readers.iter().skip(number).step_by(conversations).map(|reader| reader.user);
            let id = Random::of_user(self.common.seed, writer.user).bytes();
            let group = Chapter::Group(ConversationId::group_from_random(id), members.collect());
            Draft { writer, chapters: vec![group] }
        };
        let drafts = writers.into_iter().enumerate().map(draft).collect();
        let books = Arc::new(fill(run, drafts, self.messages as usize, self.payload as usize)?);
        let style = Style { page: self.page, forward: self.forward, own_stream: self.own_stream };
        let fleet =
            run.fleet(&Crew::new(readers), async move |share| Ok(read_all(share, &books, style).await))?;
        let background = Background::start(run, &self.background)?;
        run.attempt(|run| {
            run.enter(&fleet, Phase::Warmup);
            run.hold(run.warmup())?;
            background.enter(Phase::Measuring);
            run.measure_while(&fleet, |run| run.hold(run.duration()))
        });
        for faults in run.finish(fleet) {
            run.faults.add(&faults);
        }
        background.finish(run);
        self.figures(run);
        Ok(())
    }
}

impl HistoryArgs {
    fn figures(&self, run: &mut Run<'_>) {
        let counts = run.sampler().measured().counts.clone();
        let count = |name| counts.get(name).copied().unwrap_or(0) as f64;
        let (pages, entries) = (count(PAGES), count(ENTRIES));
        let used = run.used();
        let seconds = used.time.as_secs_f64();
        if seconds == 0.0 || pages == 0.0 {
            return;
        }
        run.figure("pages_per_s", pages / seconds);
        run.figure("entries_per_s", entries / seconds);
        // With other clients' messages beside it, nobody can say whose the CPU is.
        if let (Some(cpu), None) = (used.server, self.background.rate) {
            run.figure("server_cpu_us_per_page", cpu.as_secs_f64() * 1e6 / pages);
            run.figure("server_cpu_us_per_entry", cpu.as_secs_f64() * 1e6 / entries);
        }
    }
}

/// How all read.
#[derive(Debug, Clone, Copy)]
struct Style {
    page: u32,
    forward: bool,
    own_stream: bool,
}

async fn read_all(mut share: Share, books: &Arc<Vec<Book>>, style: Style) -> Faults {
    let mut reading = JoinSet::new();
    for client in std::mem::take(&mut share.clients) {
        let (books, phases, meter) = (books.clone(), share.phases.clone(), share.meter.clone());
        reading.spawn_local(async move {
            let book = &books[client.number % books.len()];
            let reader =
                Reader { client, book, style, at: None, asked: 0, meter: &meter, faults: Faults::default() };
            reader.read(phases).await
        });
    }
    share.ready();
    let mut faults = Faults::default();
    while let Some(read) = reading.join_next().await {
        share.meter.disconnected();
        match read {
            Ok(found) => faults.add(&found),
            Err(_) => faults.disconnected += 1,
        }
    }
    faults
}

/// Somebody who reads one conversation.
struct Reader<'a> {
    client: Client,
    book: &'a Book,
    style: Style,
    /// Next to the end of the last page; `None`: reading begins.
    at: Option<Seq>,
    /// Requests on streams of their own.
    asked: u64,
    meter: &'a Meter,
    faults: Faults,
}

/// No answer comes any more.
struct Ended;

impl Reader<'_> {
    async fn read(mut self, mut phases: watch::Receiver<Phase>) -> Faults {
        loop {
            match until(&mut phases, |phase| phase.has_load() || phase.is_end()).await {
                phase if phase.is_end() => break,
                _ => {}
            }
            let asked = self.question();
            let start = clock::nanos();
            let answer = tokio::select! {
                biased;
                answer = timeout(DRAIN, self.ask(asked)) => answer,
                _ = until(&mut phases, |phase| *phase == Phase::Leaving) => break,
            };
            match answer {
                Ok(Ok(ServerBody::HistoryPage(page))) => {
                    let took = clock::nanos() - start;
                    let entries = page.entries.len() as u64;
                    self.meter.count(|interval| {
                        interval.delivered += entries;
                        interval.count(PAGES, 1);
                        interval.count(ENTRIES, entries);
                        interval.time("page", took);
                    });
                    self.take(&page);
                }
                Ok(Ok(ServerBody::Error(error))) => self.refused(&error).await,
                Ok(Ok(_)) => self.faults.refused += 1,
                Ok(Err(Ended)) => {
                    self.faults.disconnected += 1;
                    break;
                }
                Err(_) => {
                    self.faults.unanswered += 1;
                    break;
                }
            }
        }
        self.client.finish().await;
        self.faults
    }

    fn question(&self) -> RequestBody {
        let from = match (self.style.forward, self.at) {
            (true, at) => HistoryFrom::Forward(at.unwrap_or(Seq(1))),
            (false, at) => HistoryFrom::Backward(at),
        };
        RequestBody::History(History { conversation: self.book.conversation, from, limit: self.style.page })
    }

    async fn ask(&mut self, body: RequestBody) -> Result<ServerBody, Ended> {
        if self.style.own_stream
            && let Some(quic) = self.client.quic()
        {
            self.asked += 1;
            // The stream of the session is not used meanwhile, so no number is in use twice.
            let request = Request { id: RequestId(OWN_STREAMS + self.asked), body };
            return ask_on_own_stream(quic, &request).await.map(|message| message.body).map_err(|_| Ended);
        }
        let id = self.client.request(body);
        loop {
            match self.client.next().await {
                Ok(Received::Message(message)) if message.id == id => return Ok(message.body),
                Ok(Received::Message(_) | Received::Heartbeat) => {}
                Ok(Received::Closed) | Err(_) => return Err(Ended),
            }
        }
    }

    /// Every page begins where the one before it ended, and holds what was written.
    fn take(&mut self, page: &HistoryPage) {
        let head = self.book.head();
        self.faults.altered += u64::from((page.head, page.floor) != (head, Seq(1)));
        let (before, last) = match (self.style.forward, self.at) {
            (true, at) => (at.unwrap_or(Seq(1)).prev(), None),
            (false, at) => {
                let last = at.unwrap_or(head);
                (Seq(last.get().saturating_sub(page.entries.len() as u64)), Some(last))
            }
        };
        let mut cursor = before;
        self.book.follow(&mut cursor, &page.entries, &mut self.faults);
        // A page that ends early says so by its length, but an empty one would be asked for again and again.
        let expected = last.unwrap_or(if page.entries.is_empty() { head } else { cursor });
        self.faults.lost += expected.get().saturating_sub(cursor.get());
        self.at = if self.style.forward {
            (expected < head).then(|| expected.next())
        } else {
            (before > Seq(0) && before < expected).then_some(before)
        };
        self.meter.count(|interval| interval.count("conversations_read", u64::from(self.at.is_none())));
    }

    async fn refused(&mut self, error: &WireError) {
        let what = refusal::text(error);
        if !is_passing(error.code) {
            self.faults.refused += 1;
            return self.meter.count(|interval| interval.refuse(what));
        }
        self.meter.refused(what);
        sleep(refusal::wait(error)).await;
    }
}
