//! A cell of the matrix: four people, two of them behind a bad network, who talk in three direct chats and a group.

use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tern_check::{Key, Shown, Stage, assert_none};
use tern_client::{Client, Config, MemoryStorage, SqliteStorage, Token, Transport};
use tern_protocol::ids::{ClientSeq, ConversationId, DeviceId, Seq};
use tern_protocol::model::{Change, Entry, Sender, Target};
use tern_proxy::{Proxy, clock};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::app::{App, Happening, Measure, Outage, Outcome, Progress};
use crate::fault::{FIRST_MS, Fault};
use crate::namespace::Network;
use crate::record::{Book, Recorded};
use crate::support::{Session, Ternd, group, user};
use crate::table::Row;

/// Nothing takes this long, unless it is broken: the longest wait before another try is 30 s, and it may come twice.
const PATIENCE: Duration = Duration::from_secs(120);
const PEOPLE: usize = 4;
/// The first of them are behind the bad network.
const BEHIND: usize = 2;
/// Those who talk to each other directly.
const CHATS: [(usize, usize); 3] = [(0, 1), (0, 2), (1, 3)];
/// Of the app of each; others only ask.
const DEVICE: u64 = 1;
/// After the old address has stopped to work, the system says so.
const TOLD_AFTER: Duration = Duration::from_millis(50);

/// What happens to the people of a cell.
pub(crate) enum Trouble {
    /// Two of them are behind a bad network.
    Network(Box<Fault>),
    /// Their server dies.
    Server(Arc<Outage>),
    /// Two of them are in a network that goes away, and their system says so.
    Gone { name: String, network: Arc<Network>, outage: Arc<Outage> },
}

pub(crate) struct Cell<'a> {
    pub(crate) number: u64,
    pub(crate) transport: Transport,
    pub(crate) trouble: Trouble,
    pub(crate) directory: &'a Path,
}

/// How people of a cell connect and are known.
struct People<'a> {
    cell: &'a Cell<'a>,
    names: [String; PEOPLE],
    group: ConversationId,
    book: Book,
}

impl Cell<'_> {
    fn name(&self) -> String {
        match &self.trouble {
            Trouble::Network(fault) => format!("{} over {:?}", fault.name, self.transport),
            Trouble::Server(_) => format!("the server dies, over {:?}", self.transport),
            Trouble::Gone { name, .. } => format!("{name} over {:?}", self.transport),
        }
    }

    /// Everybody opens their app.
    pub(crate) async fn start(&self, ternd: &Ternd) -> Started<'_> {
        let names = std::array::from_fn(|person| format!("{}-{person}", self.number));
        let people = People { cell: self, names, group: group(self.number), book: Book::new() };
        people.create_group(ternd).await;
        let proxy = match &self.trouble {
            Trouble::Network(fault) => {
                Some(Proxy::start(ternd.address, fault.plan, self.number).expect("a plan that can be kept"))
            }
            Trouble::Server(_) | Trouble::Gone { .. } => None,
        };
        let happening = Arc::default();
        let progress = Arc::new(watch::Sender::new(Progress::default()));
        let moved = watch::Sender::new(0);
        let apps = (0..PEOPLE).map(|person| {
            let (app, config) =
                people.app(person, ternd, proxy.as_ref(), &happening, &progress, moved.subscribe());
            let recorded = people.storage(person);
            let run = app.run(async move || match recorded {
                (Some(file), book, sender) => {
                    let storage = SqliteStorage::open(file)?;
                    Client::start(config, Recorded { storage, sender, book }).await
                }
                (None, book, sender) => {
                    let storage = MemoryStorage::new();
                    Client::start(config, Recorded { storage, sender, book }).await
                }
            });
            match &self.trouble {
                Trouble::Gone { network, .. } if person < BEHIND => tokio::spawn(network.run(run)),
                _ => tokio::spawn(run),
            }
        });
        let apps = apps.collect();
        Started { people, apps, proxy, happening, progress, moved }
    }
}

/// A cell whose apps run.
pub(crate) struct Started<'a> {
    people: People<'a>,
    apps: Vec<JoinHandle<Outcome>>,
    proxy: Option<Proxy>,
    happening: Arc<OnceLock<Happening>>,
    progress: Arc<watch::Sender<Progress>>,
    moved: watch::Sender<u64>,
}

impl<'a> Started<'a> {
    /// The system tells those behind the bad network that it is another one.
    pub(crate) fn tell(&self) {
        self.moved.send_modify(|times| *times += 1);
    }

    /// Waits until those behind the bad network have been told by their system that no way leads to the server.
    pub(crate) async fn cut_off(&self) {
        let mut progress = self.progress.subscribe();
        let cut_off = progress.wait_for(|progress| progress.cut_off == BEHIND);
        let cut_off = tokio::time::timeout(PATIENCE, cut_off).await;
        let cut_off = cut_off.unwrap_or_else(|_| {
            panic!("{}: nobody is told that the network is gone within {PATIENCE:?}", self.people.cell.name())
        });
        cut_off.expect("it has the sender itself");
    }

    /// Waits until so many sends have been answered.
    pub(crate) async fn answered(&self, count: u64) {
        let mut acked = self.people.book.lock().acked.subscribe();
        let answered = tokio::time::timeout(PATIENCE, acked.wait_for(|acked| *acked >= count)).await;
        let answered =
            answered.unwrap_or_else(|_| panic!("{}: answers within {PATIENCE:?}", self.people.cell.name()));
        answered.expect("the book is open as long as anybody waits");
    }

    /// What is to happen to the network happens now that everybody is there.
    async fn happen(&self, proxy: &Proxy, fault: &Fault) {
        let mut progress = self.progress.subscribe();
        let online = tokio::time::timeout(PATIENCE, progress.wait_for(|it| it.online == PEOPLE)).await;
        let online = online.unwrap_or_else(|_| {
            panic!("{}: not everybody is online within {PATIENCE:?}", self.people.cell.name())
        });
        drop(online.expect("it has the sender itself"));
        proxy.begin_events();
        let at = clock::nanos() + FIRST_MS * 1_000_000;
        let recoveries = proxy.forecast().recoveries(proxy.address.ip());
        self.happening.set(Happening { recoveries, at }).expect("it happens once");
        if fault.is_told {
            tokio::time::sleep_until(clock::instant(at) + TOLD_AFTER).await;
            self.tell();
        }
    }

    /// Until everybody has everything.
    pub(crate) async fn end(self) -> Ran<'a> {
        if let (Some(proxy), Trouble::Network(fault)) = (&self.proxy, &self.people.cell.trouble) {
            self.happen(proxy, fault).await;
        }
        let Self { people, apps, proxy, happening: _, progress, moved: _moved } = self;
        let mut outcomes = Vec::new();
        let name = people.cell.name();
        for app in apps {
            let ended = tokio::time::timeout(PATIENCE, app).await;
            let ended = ended.unwrap_or_else(|_| {
                panic!("{name}: not everybody has everything within {PATIENCE:?}: {:?}", *progress.borrow())
            });
            outcomes.push(ended.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic())));
        }
        if let (Some(proxy), Trouble::Network(fault)) = (&proxy, &people.cell.trouble) {
            let counters = proxy.counters();
            assert!((fault.happened)(&counters), "{name}: nothing has happened: {counters:?}");
            proxy.calm_down();
        }
        Ran { people, outcomes, _proxy: proxy }
    }
}

/// A cell whose apps have everything.
pub(crate) struct Ran<'a> {
    people: People<'a>,
    outcomes: Vec<Outcome>,
    _proxy: Option<Proxy>,
}

impl Ran<'_> {
    /// Closes the clients and compares what they had with the server's logs.
    pub(crate) async fn check(self, ternd: &Ternd) -> Row {
        let name = self.people.cell.name();
        let (mut row, mut views) = (Row::default(), Vec::new());
        for (person, outcome) in self.outcomes.into_iter().enumerate() {
            let Outcome { view, targets, client, events, online_after, times, sends } = outcome;
            assert!(client.close().await, "{name}: nothing was left to do");
            drop(events);
            row.sends += sends;
            if person < BEHIND {
                row.online.push(online_after);
                row.times.extend(times.into_iter().map(Duration::from_nanos));
            }
            views.push((view, targets));
        }
        let people = &self.people;
        let direct = CHATS.map(|(one, other)| (people.chat(one, other), one));
        for (conversation, reader) in direct.into_iter().chain([(people.group, 0)]) {
            let mut session = ternd.login(Transport::Tcp, &people.names[reader], DEVICE + 10).await;
            let log = session.log_from(conversation, 1).await.expect("a member");
            let stored = receipts(&mut session, conversation).await;
            session.close().await;
            let head = log.last().map_or(Seq(0), |last: &Entry| last.seq);
            let mut book = people.book.lock();
            book.history.check_receipts(conversation, head, &stored);
            let mut violations = book.history.check(conversation, &log, Stage::Settled);
            for (view, targets) in &views {
                if targets.iter().any(|(target, _)| *target == conversation) {
                    violations.extend(view.check(conversation, &log));
                }
            }
            assert_none(&violations, &name);
        }
        let book = people.book.lock();
        assert_none(book.history.broken(), &name);
        let totals = book.history.totals();
        assert_eq!((totals.sends, totals.acked), (row.sends + 1, row.sends + 1), "{name}: and the group");
        row
    }
}

async fn receipts(session: &mut Session, conversation: ConversationId) -> Vec<Shown> {
    let page = session.receipts(conversation, None, 0).await.expect("a member");
    assert_eq!(page.next, None, "four people fit a page");
    let shown =
        page.receipts.into_iter().map(|it| Shown { user: it.user, delivered: it.delivered, read: it.read });
    shown.collect()
}

impl People<'_> {
    fn sender(&self, person: usize, device: u64) -> Sender {
        Sender { user: user(&self.names[person]), device: DeviceId::new(device).expect("not 0") }
    }

    fn chat(&self, one: usize, other: usize) -> ConversationId {
        ConversationId::direct(user(&self.names[one]), user(&self.names[other]))
    }

    async fn create_group(&self, ternd: &Ternd) {
        let mut owner = ternd.login(Transport::Tcp, &self.names[0], DEVICE + 1).await;
        let mut members: Vec<_> = self.names[1..].iter().map(|name| user(name)).collect();
        members.sort();
        let change = Change::Create { title: "everybody".to_owned(), members };
        let sender = self.sender(0, DEVICE + 1);
        let key = Key { conversation: self.group, sender, client_seq: ClientSeq(1) };
        self.book.lock().history.issue(key, &change);
        let target = Target::Conversation(self.group);
        let ok = owner.send_as(target, key.client_seq, change).await.expect("created");
        self.book.lock().ack(key, &ok);
        owner.close().await;
    }

    fn app(
        &self,
        person: usize,
        ternd: &Ternd,
        proxy: Option<&Proxy>,
        happening: &Arc<OnceLock<Happening>>,
        progress: &Arc<watch::Sender<Progress>>,
        moved: watch::Receiver<u64>,
    ) -> (App, Config) {
        let sender = self.sender(person, DEVICE);
        let is_behind = person < BEHIND;
        let proxy = proxy.filter(|_| is_behind);
        let server = proxy.map_or(ternd.address, |proxy| proxy.address);
        let measure = match (&self.cell.trouble, proxy) {
            (Trouble::Network(fault), Some(_)) if fault.ends => Measure::Network(happening.clone(), None),
            (Trouble::Server(outage), _) => Measure::Outage(outage.clone()),
            (Trouble::Gone { outage, .. }, _) if is_behind => Measure::Outage(outage.clone()),
            _ => Measure::Answers,
        };
        let mut targets = vec![(self.group, Target::Conversation(self.group))];
        for (one, other) in CHATS.into_iter().filter(|(one, other)| [*one, *other].contains(&person)) {
            let peer = user(&self.names[if one == person { other } else { one }]);
            targets.push((self.chat(one, other), Target::User(peer)));
        }
        let app = App {
            name: self.names[person].clone(),
            sender,
            targets,
            book: self.book.clone(),
            apps: PEOPLE,
            progress: progress.clone(),
            measure,
            moved: if is_behind { moved } else { watch::channel(0).1 },
        };
        let token = Token::Fixed(ternd.token(&self.names[person]));
        let config = Config {
            transport: self.cell.transport,
            device: Some(sender.device),
            ..Config::new(server.to_string(), ternd.ca(), token)
        };
        (app, config)
    }

    /// In a file, for every second of them.
    fn storage(&self, person: usize) -> (Option<std::path::PathBuf>, Book, Sender) {
        let file = self.cell.directory.join(&self.names[person]);
        (person.is_multiple_of(2).then_some(file), self.book.clone(), self.sender(person, DEVICE))
    }
}
