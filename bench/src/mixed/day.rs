//! What clients do all day, from the arguments to the checker's verdict: what the scenarios on it have in common.

use std::cell::RefCell;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tern_protocol::ids::UserId;
use tern_protocol::model::Kind;
use tokio::task::JoinSet;

use super::member::{Member, ROOMS_MAX};
use super::plan::{Load, Part, Plan, Shares, cast};
use super::room::Room;
use super::scene::{Orders, Scene, direct};
use super::service::Service;
use super::tail::Tail;
use crate::Error;
use crate::args::{Common, DayArgs};
use crate::chat::{Chat, Circle};
use crate::fleet::{Crew, Fleet, Phase, Share};
use crate::pace::Pace;
use crate::random::Random;
use crate::returning::{Patience, Returning};
use crate::run::Run;
use crate::scenario::party::load_figures;
use crate::stage::Stage;
use tern_check::stream::{Faults, judge};

/// Streams of randomness of one thread: who talks with whom, what happens when, what each client chooses.
const CAST: u64 = 1 << 32;
const PLAN: u64 = 2 << 32;
const CHOICE: u64 = 3 << 32;

impl DayArgs {
    fn shares(&self) -> Shares {
        Shares {
            direct: self.share_direct,
            group: self.share_group,
            history: self.share_history,
            vanish: self.share_vanish,
        }
    }

    /// Of groups, if there are to be any.
    fn sizes(&self) -> impl Iterator<Item = u32> {
        self.members.iter().copied().filter(|_| self.share_group > 0.0)
    }

    fn day(&self, connections: usize, service: Option<Arc<Service>>) -> Day {
        Day {
            load: Load {
                rate: self.rate / connections as f64,
                shares: self.shares(),
                away: Duration::from_secs_f64(self.away),
                pages: self.pages,
            },
            chats: self.chats as usize,
            sizes: self.sizes().map(|size| size as usize).collect(),
            idle: self.share_idle,
            reads: self.share_read,
            page: self.page,
            payload_bytes: self.payload as usize,
            mark_interval: Duration::from_secs_f64(self.mark_interval),
            service,
        }
    }

    /// In words.
    pub fn load(&self) -> String {
        let Shares { direct, group, history, vanish } = self.shares();
        let sizes: Vec<String> = self.sizes().map(|size| size.to_string()).collect();
        format!(
            "rate {}; direct {direct}, groups of {} {group}, history {history}, vanish {vanish}; idle {}",
            self.rate,
            sizes.join(" and "),
            self.share_idle
        )
    }

    /// Refuses arguments that contradict each other.
    ///
    /// # Errors
    /// [`Error::Arguments`].
    pub fn check(&self, common: &Common) -> Result<(), Error> {
        self.shares().check()?;
        Pace::at_rate(self.rate, common.connections)?;
        let per_thread = per_thread(common);
        let least = match common.connections % per_thread {
            0 => common.connections.min(per_thread),
            rest => rest,
        };
        let active = self.day(common.connections, None).active(least);
        let wanted = self.sizes().max().map_or(2, |size| size as usize);
        if active < wanted {
            return Err(Error::Arguments(format!(
                "{least} clients a thread, {active} of them not idle, are too few for conversations of {wanted}: raise \
                 --connections, or lower --members, --threads or --share-idle"
            )));
        }
        let rooms = self.chats as usize + self.sizes().count();
        if rooms > ROOMS_MAX {
            return Err(Error::Arguments(format!(
                "--chats and the sizes in --members make {rooms} conversations for each client: at most {ROOMS_MAX} \
                 are possible"
            )));
        }
        Ok(())
    }

    /// Clients live, while the run takes this course; then what they have found is judged. With `service`, they are those
    /// of a cluster, and say there how long they wait.
    ///
    /// # Errors
    /// When they cannot begin.
    pub fn live(
        &self,
        run: &mut Run<'_>,
        service: Option<Arc<Service>>,
        course: impl FnOnce(&mut Run<'_>, &Fleet<Faults>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let accounts = run.server()?.accounts(run.common.connections)?;
        let crew = Crew::new(accounts).together(per_thread(run.common));
        let day = self.day(run.common.connections, service);
        let fleet = run.fleet(&crew, async move |share| day.drive(share).await)?;
        run.attempt(|run| course(run, &fleet));
        for faults in run.finish(fleet) {
            run.faults.add(&faults);
        }
        figures(run);
        Ok(())
    }
}

/// Clients of each thread; the last one may have fewer.
fn per_thread(common: &Common) -> usize {
    common.connections.div_ceil(common.threads.max(1)).max(1)
}

fn figures(run: &mut Run<'_>) {
    load_figures(run);
    let (measured, seconds) = (run.sampler().measured().clone(), run.used().time.as_secs_f64());
    for name in [
        "departures",
        "returns",
        "sent_again",
        "numbered_again",
        "stored_by_an_earlier_try",
        "connections_lost",
        "paged_entries",
    ] {
        // Where something was counted, that counts.
        run.figure(name, 0.0);
    }
    let rates = [
        ("direct_messages_per_s", &["direct_ack", "direct_ack_after_return"][..]),
        ("group_messages_per_s", &["group_ack", "group_ack_after_return"]),
        ("direct_deliveries_per_s", &["direct_deliver", "direct_missed"]),
        ("group_deliveries_per_s", &["group_deliver", "group_missed"]),
        ("pages_per_s", &["page"]),
        ("returns_per_s", &["return"]),
    ];
    for (rate, timed) in rates {
        let count: u64 = timed.iter().filter_map(|name| measured.times.get(name)).map(|t| t.count()).sum();
        run.figure(rate, if seconds > 0.0 { count as f64 / seconds } else { 0.0 });
    }
}

/// What happens in a thread.
#[derive(Debug, Clone)]
struct Day {
    /// Of one client.
    load: Load,
    chats: usize,
    sizes: Vec<usize>,
    idle: f64,
    reads: f64,
    page: u32,
    payload_bytes: usize,
    mark_interval: Duration,
    /// Of a cluster.
    service: Option<Arc<Service>>,
}

impl Day {
    /// How many of so many clients are not idle.
    fn active(&self, clients: usize) -> usize {
        clients - ((clients as f64 * self.idle) as usize).min(clients)
    }

    async fn drive(self, mut share: Share) -> Result<Faults, Error> {
        let clients = std::mem::take(&mut share.clients);
        let active = self.active(clients.len());
        let random = |purpose: u64| Random::new(share.seed, purpose + share.thread as u64);
        let parts = cast(active, self.chats, &self.sizes, &mut random(CAST));
        let load = Load { rate: self.load.rate * clients.len() as f64, ..self.load };
        let plan = Plan::new(load, active, &parts, random(PLAN));
        let groups = parts.iter().filter(|part| part.kind == Kind::Group).count();
        let pace = Pace::at_rate(load.rate, active)?;
        let stage = Stage::new(pace, self.payload_bytes, share.meter.clone(), groups, None);
        let scene = Scene::new(stage, self.page, self.reads, clients.len(), self.service.clone());

        let users: Vec<UserId> = clients.iter().map(|client| client.user).collect();
        let mut beginnings = self.rooms(&parts, &users, share.seed);
        let orders: Vec<Rc<Orders>> = clients.iter().map(|_| Rc::default()).collect();
        let mut living = JoinSet::new();
        for (at, client) in clients.into_iter().enumerate() {
            let random = Random::new(share.seed, CHOICE + client.number as u64);
            let account = share.accounts[at].clone();
            let returning = Returning::new(account, share.dialer.clone(), Patience::IN_USE, random.clone());
            let Beginning { rooms, creates } = std::mem::take(&mut beginnings[at]);
            let member = Member::new(scene.clone(), orders[at].clone(), returning, rooms, creates, random);
            living.spawn_local(member.live(client));
        }
        scene.stage.prepare(&mut share.phases).await?;
        share.ready();

        let mut directing = pin!(direct(&scene, plan, &orders));
        let (mut led, mut directed) = (true, false);
        let mut chats: Vec<Vec<Chat>> = parts.iter().map(|_| Vec::new()).collect();
        let mut faults = Faults::default();
        while !living.is_empty() {
            // When nobody leads the run any more, it is over.
            scene.stage.enter(if led { *share.phases.borrow_and_update() } else { Phase::Leaving });
            scene.wake.notify_waiters();
            tokio::select! {
                changed = share.phases.changed(), if led => led = changed.is_ok(),
                () = &mut directing, if !directed => directed = true,
                all = collect(&mut living, &mut chats, &mut faults) => all?,
            }
        }
        let repeated = chats.iter().flatten().map(|chat| chat.log.repeated()).sum();
        if self.service.is_some() {
            scene.stage.meter.count(|interval| interval.count("pushed_again", repeated));
        }
        for chats in chats {
            faults.add(&judge(chats.iter().map(|chat| &chat.log)));
        }
        Ok(faults)
    }

    /// What each client begins with, in their order.
    fn rooms(&self, parts: &[Part], users: &[UserId], seed: u64) -> Vec<Beginning> {
        let mut beginnings: Vec<Beginning> = users.iter().map(|_| Beginning::default()).collect();
        let tail_length = self.load.pages as usize * self.page as usize;
        for (number, part) in parts.iter().enumerate() {
            let members = part.members.iter().map(|member| users[*member]).collect();
            let circle = Circle::new(part.kind, members, seed);
            let tail = Rc::new(RefCell::new(Tail::new(circle.conversation, tail_length)));
            for (place, member) in part.members.iter().enumerate() {
                let interval = self.mark_interval.as_nanos() as u64;
                let mut chat = Chat::new(circle.clone(), place, self.payload_bytes, interval);
                if self.service.is_some() {
                    chat.log = chat.log.with_repeats();
                }
                let Beginning { rooms, creates } = &mut beginnings[*member];
                if part.kind == Kind::Group && place == 0 {
                    creates.push(rooms.len());
                }
                rooms.push(Room::new(number, chat, tail.clone()));
            }
        }
        beginnings
    }
}

/// What a client begins with.
#[derive(Debug, Default)]
struct Beginning {
    rooms: Vec<Room>,
    /// Those that it creates.
    creates: Vec<usize>,
}

/// Waits until all have ended. May be dropped and called again.
async fn collect(
    living: &mut JoinSet<(Vec<(usize, Chat)>, Faults)>,
    chats: &mut [Vec<Chat>],
    faults: &mut Faults,
) -> Result<(), Error> {
    while let Some(lived) = living.join_next().await {
        let (own, found) = lived.map_err(|_| Error::Driver)?;
        faults.add(&found);
        own.into_iter().for_each(|(number, chat)| chats[number].push(chat));
    }
    Ok(())
}
