//! Conversations full of talkers: what `send`, `group` and `flaky` have in common.

use std::rc::Rc;
use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt, stream};
use tern_protocol::model::Kind;
use tokio::task::JoinSet;

use crate::Error;
use crate::args::WithFloor;
use crate::chat::{Chat, Circle};
use crate::client::{Account, Client};
use crate::fleet::{Crew, Fleet, Phase, Share, until};
use crate::floor::{Floor, FloorPlan};
use crate::pace::Pace;
use crate::random::Random;
use crate::returning::{Patience, Returning};
use crate::run::{Between, Run};
use crate::stage::{Role, Stage, Storm};
use crate::talk::Talker;
use tern_check::stream::{Faults, judge};
use tern_proxy::{Forecast, Recoveries, device_address};

/// Who come by themselves come so many at once in each thread.
const ARRIVALS: usize = 64;

/// Conversations of the same shape.
#[derive(Debug, Clone, Copy)]
pub struct Party {
    /// Direct chats of two, or groups, which are created first.
    pub kind: Kind,
    /// Of each.
    pub members: usize,
    /// Of these, so many send.
    pub senders: usize,
    /// When.
    pub pace: Pace,
    /// How much.
    pub payload_bytes: usize,
    /// From a message until its recipient says "delivered".
    pub mark_interval: Duration,
    /// Who loses the connection comes back; `None`: is out.
    pub returns: Option<Returns>,
    /// Whether they are all cut off when the measured time begins.
    pub storm: Option<Storm>,
}

/// How members come back.
#[derive(Debug, Clone, Copy)]
pub struct Returns {
    /// How patiently.
    pub patience: Patience,
    /// What the proxy is going to do that they are connected through, and by themselves in the first place; `None`: they
    /// are connected to the server beforehand.
    pub forecast: Option<Forecast>,
}

/// A client who is logged in, and what it needs to be so again.
type Arrival = (Client, Option<(Returning, Option<Recoveries>)>);

/// What a thread finds.
#[derive(Debug, Default)]
pub struct Findings {
    /// What is wrong.
    pub faults: Faults,
    unreceipted: u64,
}

impl Party {
    /// The whole course: connect, create, load, check.
    ///
    /// # Errors
    /// When it cannot begin. What goes wrong later is in the run's result.
    pub fn run(self, run: &mut Run<'_>, between: Option<&mut dyn Between>) -> Result<(), Error> {
        let accounts = run.server()?.accounts(run.common.connections)?;
        self.run_with(run, Crew::new(accounts).together(self.members), between)
    }

    /// The same with these clients, whose number is a multiple of `members`.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub fn run_with(
        self,
        run: &mut Run<'_>,
        crew: Crew,
        between: Option<&mut dyn Between>,
    ) -> Result<(), Error> {
        let fleet = self.gather(run, &crew)?;
        match between {
            Some(between) => run.measure_with(&fleet, between),
            None => run.measure(&fleet),
        }
        self.part(run, fleet);
        Ok(())
    }

    /// The first step of the course: everybody is there and every group exists.
    ///
    /// # Errors
    /// When that cannot be.
    pub fn gather(self, run: &mut Run<'_>, crew: &Crew) -> Result<Fleet<Findings>, Error> {
        run.fleet(crew, async move |share| self.drive(share).await)
    }

    /// The last step: everything that is under way arrives, and what was seen is judged.
    pub fn part(self, run: &mut Run<'_>, fleet: Fleet<Findings>) {
        let mut unreceipted = 0;
        for findings in run.finish(fleet) {
            run.faults.add(&findings.faults);
            unreceipted += findings.unreceipted;
        }
        load_figures(run);
        run.figure("acked_without_receipt", unreceipted as f64);
    }

    /// What the machine allows with the same load, to be measured in between, if these arguments want that.
    ///
    /// # Errors
    /// When they do, and it cannot be.
    pub fn floor(
        &self,
        run: &Run<'_>,
        connections: usize,
        wanted: &WithFloor,
    ) -> Result<Option<Floor>, Error> {
        let plan = FloorPlan {
            transport: run.transport,
            connections,
            members: self.members,
            senders: self.senders,
            pace: self.pace,
            mark_interval: self.mark_interval,
            payload_bytes: self.payload_bytes,
            shards: run.common.shards,
            threads: run.common.threads,
            ramp: run.common.ramp,
        };
        Floor::along(plan, wanted, run)
    }

    async fn drive(self, mut share: Share) -> Result<Findings, Error> {
        let groups = share.accounts.len() / self.members;
        let to_create = if self.kind == Kind::Group { groups } else { 0 };
        let stage = Stage::new(self.pace, self.payload_bytes, share.meter.clone(), to_create, self.storm);
        let mut circles = Vec::with_capacity(groups);
        let mut talking = JoinSet::new();
        let mut arrived = self.arrivals(&mut share).await?.into_iter();
        for number in 0..groups {
            let members: Vec<Arrival> = arrived.by_ref().take(self.members).collect();
            let circle = self.circle(&members, share.seed);
            for (place, (client, journey)) in members.into_iter().enumerate() {
                let interval = self.mark_interval.as_nanos() as u64;
                let chat = Chat::new(circle.clone(), place, self.payload_bytes, interval);
                let role = self.role(client.number);
                let mut talker = Talker::new(client, chat, stage.clone(), role);
                if let Some((returning, recoveries)) = journey {
                    talker = talker.returning(returning, recoveries);
                }
                talking.spawn_local(async move { (number, talker.talk().await) });
            }
            circles.push(circle);
        }
        stage.prepare(&mut share.phases).await?;
        share.ready();
        let mut chats: Vec<Vec<Chat>> = (0..groups).map(|_| Vec::new()).collect();
        let mut led = true;
        loop {
            // When nobody leads the run any more, it is over.
            stage.enter(if led { *share.phases.borrow_and_update() } else { Phase::Leaving });
            circles.iter().for_each(|circle| circle.wake.notify_waiters());
            tokio::select! {
                changed = share.phases.changed(), if led => led = changed.is_ok(),
                all = collect(&mut talking, &mut chats) => {
                    all?;
                    break;
                }
            }
        }
        let mut findings = Findings::default();
        for chats in chats {
            findings.faults.add(&judge(chats.iter().map(|chat| &chat.log)));
            findings.unreceipted += chats.iter().map(|chat| chat.unreceipted() as u64).sum::<u64>();
        }
        Ok(findings)
    }

    /// All of a thread's clients, in the order of their numbers.
    async fn arrivals(&self, share: &mut Share) -> Result<Vec<Arrival>, Error> {
        let Some(returns) = self.returns else {
            return Ok(share.clients.drain(..).map(|client| (client, None)).collect());
        };
        let returning = |account: &Account| {
            let random = Random::new(share.seed, account.number as u64);
            Returning::new(account.clone(), share.dialer.clone(), returns.patience, random)
        };
        let Some(forecast) = returns.forecast else {
            let spread = self.storm.map_or(Duration::ZERO, |storm| storm.spread);
            let journeys = share.accounts.iter().map(|account| (returning(account).within(spread), None));
            return Ok(std::mem::take(&mut share.clients).into_iter().zip(journeys.map(Some)).collect());
        };
        let arrive = async |account: &Account| {
            let mut returning = returning(account).with_own_socket();
            let recoveries = forecast.recoveries(device_address(account.number));
            match returning.come().await {
                Ok(client) => Ok((client, Some((returning, Some(recoveries))))),
                Err(problem) => Err(Error::Client { client: account.number, problem }),
            }
        };
        let mut phases = share.phases.clone();
        tokio::select! {
            all = stream::iter(&share.accounts).map(arrive).buffered(ARRIVALS).try_collect() => all,
            _ = until(&mut phases, |phase| *phase == Phase::Leaving) => {
                Err(Error::Scenario("the clients do not get through to the server".into()))
            }
        }
    }

    fn circle(&self, members: &[Arrival], seed: u64) -> Rc<Circle> {
        Circle::new(self.kind, members.iter().map(|(client, _)| client.user).collect(), seed)
    }

    fn role(&self, number: usize) -> Role {
        let (group, place) = (number / self.members, number % self.members);
        let sender = (place < self.senders).then_some(group * self.senders + place);
        Role { sender, creates: self.kind == Kind::Group && place == 0, is_first: place == 0 }
    }
}

/// What goes with messages that are sent and received, by a schedule or not.
pub fn load_figures(run: &mut Run<'_>) {
    let measured = run.sampler().measured().clone();
    let unsent = run.sampler().whole().unsent;
    run.figure("marks", measured.marks as f64);
    run.figure("receipts", measured.receipts as f64);
    run.figure("heads_moved", measured.heads_moved as f64);
    run.figure("pulls", measured.pulls as f64);
    if let Some(shape) = run.shape() {
        run.figure("messages_per_fsync", shape.messages_per_group);
        run.figure("messages_per_transaction", shape.messages_per_transaction);
    }
    if let Some(late) = measured.late.summary() {
        run.figure("unsent", unsent as f64);
        run.figure("sent_late_p50_ms", late.p50);
        run.figure("sent_late_p99_ms", late.p99);
        run.figure("sent_late_max_ms", late.max);
    }
}

/// Waits until all have ended. May be dropped and called again.
async fn collect(talking: &mut JoinSet<(usize, Chat)>, chats: &mut [Vec<Chat>]) -> Result<(), Error> {
    while let Some(talked) = talking.join_next().await {
        let (number, chat) = talked.map_err(|_| Error::Driver)?;
        chats[number].push(chat);
    }
    Ok(())
}
