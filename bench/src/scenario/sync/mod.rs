//! Users with many conversations come back after they have missed something in each: how long until they have it?

mod catch_up;

use std::rc::Rc;
use std::sync::Arc;

use tern_client::raw::Received;
use tern_protocol::event::ServerBody;
use tern_protocol::ids::ConversationId;
use tern_protocol::limits::MARKS_MAX;
use tern_protocol::request::{Mark, RequestBody};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::Error;
use crate::args::{Common, SyncArgs};
use crate::client::Account;
use crate::fill::{Chapter, Draft, fill};
use crate::fleet::{Crew, Dialer, Phase, Share, until};
use crate::meter::Meter;
use crate::random::Random;
use crate::run::{DRAIN, Run, Scenario};
use crate::scenario::background::Background;
use catch_up::{Back, CatchUp, Shelf};
use tern_check::stream::Faults;

/// Groups that one writer writes to.
const GROUPS_PER_WRITER: usize = 25;

impl Scenario for SyncArgs {
    const NAME: &'static str = "sync";

    fn common(&self) -> &Common {
        &self.common
    }

    fn load(&self) -> String {
        let way = if self.at_once { "all at once" } else { "one after the other" };
        format!(
            "{} conversations, {} missed in each, {way}{}",
            self.conversations,
            self.missed,
            self.background.text()
        )
    }

    fn rate(&self) -> Option<f64> {
        self.background.rate
    }

    fn check(&self) -> Result<(), Error> {
        if self.common.connections == 0 {
            return Err(Error::Arguments(
                "sync needs --connections above 0: these are the users who come back".into(),
            ));
        }
        if self.groups() > self.conversations {
            return Err(Error::Arguments(format!(
                "--groups {} are more than the {} --conversations that they are among",
                self.groups(),
                self.conversations
            )));
        }
        self.background.check()
    }

    fn run(&self, run: &mut Run<'_>) -> Result<(), Error> {
        let users = run.server()?.accounts(self.common.connections)?;
        let shelves = Arc::new(self.prepare(run, &users)?);
        let crew = Crew { connected: false, ..Crew::new(users) };
        let turn = if self.at_once { Semaphore::MAX_PERMITS } else { 1 };
        let (turn, range) = (Arc::new(Semaphore::new(turn)), self.range as usize);
        let fleet = run.fleet(&crew, async move |share| come_and_go(share, &shelves, turn, range).await)?;
        run.clients = Some(self.common.connections as u64);
        let background = Background::start(run, &self.background)?;
        run.attempt(|run| {
            run.enter(&fleet, Phase::Warmup);
            run.hold(run.warmup())?;
            background.enter(Phase::Measuring);
            run.measure_while(&fleet, |run| run.hold(run.duration()))
        });
        let mut round_trips = (0, 0);
        for findings in run.finish(fleet) {
            run.faults.add(&findings.faults);
            let (list, all) = findings.round_trips;
            round_trips = (list.max(round_trips.0), all.max(round_trips.1));
        }
        background.finish(run);
        run.figure("round_trips_list", round_trips.0.into());
        run.figure("round_trips_all", round_trips.1.into());
        self.figures(run);
        Ok(())
    }
}

impl SyncArgs {
    fn groups(&self) -> u32 {
        self.groups.unwrap_or(self.conversations / 2)
    }

    /// Fills every user's conversations.
    fn prepare(&self, run: &mut Run<'_>, users: &[Account]) -> Result<Vec<Shelf>, Error> {
        let groups = self.groups() as usize;
        let direct = self.conversations as usize - groups;
        let group_writers = groups.div_ceil(GROUPS_PER_WRITER);
        let writers = run.server()?.accounts(users.len() * (direct + group_writers))?;
        let mut drafts = Vec::with_capacity(writers.len());
        let seed = self.common.seed;
        for (user, writers) in users.iter().zip(writers.chunks(direct + group_writers)) {
            let (direct, of_groups) = writers.split_at(direct);
            let draft = |writer: &Account, chapters| Draft { writer: writer.clone(), chapters };
            drafts.extend(direct.iter().map(|writer| draft(writer, vec![Chapter::Direct(user.user)])));
            for (number, writer) in of_groups.iter().enumerate() {
                let mut random = Random::of_user(seed, writer.user);
                // Groups of three.
                let third = writers[(number + 1) % writers.len()].user;
                let members: Vec<_> =
                    [user.user, third].into_iter().filter(|member| *member != writer.user).collect();
                let left = groups - number * GROUPS_PER_WRITER;
                let group =
                    |_| Chapter::Group(ConversationId::group_from_random(random.bytes()), members.clone());
                drafts.push(draft(writer, (0..left.min(GROUPS_PER_WRITER)).map(group).collect()));
            }
        }
        // One that the user has seen before.
        let messages = self.missed as usize + 1;
        let mut books = fill(run, drafts, messages, self.payload as usize)?.into_iter();
        let shelf = |_| {
            let mut books: Vec<_> = books.by_ref().take(self.conversations as usize).collect();
            books.sort_unstable_by_key(|book| book.conversation);
            Shelf { books, missed: self.missed.into() }
        };
        Ok(users.iter().map(shelf).collect())
    }

    fn figures(&self, run: &mut Run<'_>) {
        let counts = run.sampler().measured().counts.clone();
        let count = |name| counts.get(name).copied().unwrap_or(0) as f64;
        let (returns, entries) = (count(RETURNS), count(ENTRIES));
        let used = run.used();
        // With other clients' messages beside it, nobody can say whose the CPU is.
        if let (Some(cpu), None, true) = (used.server, self.background.rate, returns > 0.0) {
            run.figure("server_cpu_ms_per_return", cpu.as_secs_f64() * 1e3 / returns);
            run.figure("server_cpu_us_per_entry", cpu.as_secs_f64() * 1e6 / entries.max(1.0));
        }
    }
}

/// Names of figures.
const RETURNS: &str = "returns";
const ENTRIES: &str = "entries";

/// What a thread finds.
#[derive(Debug, Default)]
struct Findings {
    faults: Faults,
    /// The most that were needed, for the list and for everything.
    round_trips: (u32, u32),
}

async fn come_and_go(
    mut share: Share,
    shelves: &Arc<Vec<Shelf>>,
    turn: Arc<Semaphore>,
    range: usize,
) -> Result<Findings, Error> {
    let shares = std::mem::take(&mut share.accounts);
    for account in &shares {
        mark(&share, account, &shelves[account.number]).await?;
    }
    share.ready();
    let mut users = JoinSet::new();
    for account in shares {
        let user = User {
            account,
            shelves: shelves.clone(),
            range,
            turn: turn.clone(),
            dialer: share.dialer.clone(),
            phases: share.phases.clone(),
            meter: share.meter.clone(),
            findings: Findings::default(),
        };
        users.spawn_local(user.come_and_go());
    }
    let mut all = Findings::default();
    while let Some(found) = users.join_next().await {
        let found = found.map_err(|_| Error::Driver)??;
        all.faults.add(&found.faults);
        let (list, everything) = found.round_trips;
        all.round_trips = (list.max(all.round_trips.0), everything.max(all.round_trips.1));
    }
    Ok(all)
}

/// The user was here before, and has read all that is known then.
async fn mark(share: &Share, account: &Account, shelf: &Shelf) -> Result<(), Error> {
    let failed = |what: String| Error::Scenario(format!("what a user has read cannot be marked: {what}"));
    let login = share.dialer.login_patiently(account).await;
    let mut client = login.map_err(|problem| Error::Client { client: account.number, problem })?;
    for books in shelf.books.chunks(MARKS_MAX) {
        let mark = |book| {
            let known = shelf.known(book);
            Mark { conversation: book.conversation, delivered: known, read: known }
        };
        let id = client.request(RequestBody::Mark(books.iter().map(mark).collect()));
        loop {
            match timeout(DRAIN, client.next()).await {
                Ok(Ok(Received::Message(message))) if message.id == id => match message.body {
                    ServerBody::MarkOk => break,
                    other => return Err(failed(format!("{other:?}"))),
                },
                Ok(Ok(Received::Message(_) | Received::Heartbeat)) => {}
                Ok(Ok(Received::Closed) | Err(_)) => return Err(failed("the connection has ended".into())),
                Err(_) => return Err(failed("no answer".into())),
            }
        }
    }
    client.finish().await;
    share.meter.disconnected();
    Ok(())
}

/// Who comes back again and again, each time as if after the same absence.
struct User {
    account: Account,
    shelves: Arc<Vec<Shelf>>,
    range: usize,
    turn: Arc<Semaphore>,
    dialer: Rc<Dialer>,
    phases: watch::Receiver<Phase>,
    meter: Arc<Meter>,
    findings: Findings,
}

impl User {
    async fn come_and_go(mut self) -> Result<Findings, Error> {
        let mut phases = self.phases.clone();
        let turn = self.turn.clone();
        while !until(&mut phases, |phase| phase.has_load() || phase.is_end()).await.is_end() {
            let over =
                async |phases: &mut watch::Receiver<Phase>| _ = until(phases, |phase| phase.is_end()).await;
            let _turn = tokio::select! {
                turn = turn.acquire() => turn,
                () = over(&mut phases) => break,
            };
            self.come_back().await?;
        }
        Ok(self.findings)
    }

    async fn come_back(&mut self) -> Result<(), Error> {
        let login = self.dialer.login_patiently(&self.account).await;
        let mut client = login.map_err(|problem| Error::Client { client: self.account.number, problem })?;
        let shelf = &self.shelves[self.account.number];
        let catch_up = CatchUp::new(&mut client, shelf, self.range, &self.meter);
        let mut phases = self.phases.clone();
        tokio::select! {
            caught_up = timeout(DRAIN, catch_up.run()) => match caught_up {
                Ok((back, faults)) => self.note(back.ok(), &faults),
                Err(_) => self.findings.faults.unanswered += 1,
            },
            _ = until(&mut phases, |phase| *phase == Phase::Leaving) => {}
        }
        client.finish().await;
        self.meter.disconnected();
        Ok(())
    }

    fn note(&mut self, back: Option<Back>, faults: &Faults) {
        self.findings.faults.add(faults);
        let Some(back) = back else {
            self.findings.faults.disconnected += 1;
            return;
        };
        let (list, all) = &mut self.findings.round_trips;
        *list = back.list_round_trips.max(*list);
        *all = back.all_round_trips.max(*all);
        self.meter.count(|interval| {
            interval.delivered += back.entries;
            interval.count(RETURNS, 1);
            interval.count(ENTRIES, back.entries);
            interval.time("list", back.list_nanos);
            interval.time("all", back.all_nanos);
        });
    }
}
