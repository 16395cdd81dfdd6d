//! What happens in a run, made from its seed before it begins; so a step can be left out, to see whether it matters.

use tern_check::random::Random;

use crate::rude::Session;

/// A step: so long after the one before it, in milliseconds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Milliseconds after the step before.
    pub after_ms: u64,
    /// What.
    pub action: Action,
}

/// Devices, users and groups are numbers, taken modulo how many there are.
#[expect(missing_docs, reason = "the variants say what their fields are")]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// A device sends so many messages of so many bytes to a user (even) or a group (odd).
    Send { device: u64, to: u64, count: u64, bytes: u64 },
    /// A device makes a group of the users whose bit is set.
    Create { device: u64, users: u64 },
    /// A device changes a group: adds, removes or makes an admin of a user, hands it over, names it, or leaves it.
    Change { device: u64, group: u64, user: u64, what: u64 },
    /// The user has seen everything that the device has of one conversation.
    Read { device: u64, conversation: u64 },
    /// A client without an SDK does in one connection what is allowed and what is not.
    Rude { session: Session, to: u64 },
    /// A client without an SDK sends as many messages as the session has moves, while a device is away: more than fit into a
    /// page.
    Fill { session: Session, to: u64, bytes: u64, away: u64 },
    /// The app ends without a word, and comes back.
    CrashApp { device: u64, away_ms: u64 },
    /// The device has no network for a while; the connection dies in silence.
    Offline { device: u64, away_ms: u64 },
    /// The device moves to another network and says so.
    Move { device: u64 },
    /// The connection dies in silence, and the device could make another.
    Forget { device: u64 },
    /// The connection is reset.
    Reset { device: u64 },
    /// Nothing arrives for a while, then everything.
    Stall { device: u64, ms: u64 },
    /// The app takes no events for a while.
    Busy { device: u64, ms: u64 },
    /// The server is killed, and starts again.
    Kill { down_ms: u64 },
    /// The server is stopped well, and starts again.
    Stop { down_ms: u64 },
    /// A second server runs beside the first on the same store, and then takes its place.
    Second { beside_ms: u64 },
    /// The store fails now and then.
    Fail { commits_per_mille: u16, reads_per_mille: u16, ms: u64 },
    /// The store is slow.
    Slow { commit_ms: u64, ms: u64 },
    /// Two nodes of a cluster do not reach each other.
    CutLink { one: u64, other: u64, ms: u64 },
    /// A node of a cluster does not reach the store, and is told so, or waits.
    CutStore { node: u64, ms: u64, hangs: bool },
    /// No node of a cluster reaches the store.
    CutStores { ms: u64, hangs: bool },
    /// A node of a cluster stands still, and goes on with what it believed.
    Pause { node: u64, ms: u64 },
    /// The wall clock of a node of a cluster is so far ahead from now on.
    SetClock { node: u64, ahead_ms: i64 },
    /// Nothing happens for minutes, or for hours.
    Rest { minutes: u64 },
    /// Everything works until everybody has everything.
    Calm,
    /// The devices whose bit is set have no network for so long, and the server is off for the most of it.
    Days { away: u64, hours: u64 },
}

/// A node stands still for so long at most.
pub const PAUSE_MS_MAX: u64 = 20_000;
/// Clocks of nodes are so far from each other at most, unless the plan says otherwise: with what passes until a break is
/// noticed, that is less than the minute for which nodes look back.
pub const SKEW_MS_MAX: u64 = 40_000;
/// Or so far from the simulation's.
const CLOCK_OFF_MS: u64 = 600_000;

/// A run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// What everything else is drawn from.
    pub seed: u64,
    /// People.
    pub users: u64,
    /// Devices; the first ones are one for each user.
    pub devices: u64,
    /// Threads of the server.
    pub shards: u16,
    /// Servers when all is well; 0: one, now and then with a second one beside it.
    pub nodes: u64,
    /// Bytes take so long, in milliseconds, at least and at most.
    pub latency_ms: (u64, u64),
    /// What happens.
    pub steps: Vec<Step>,
}

impl Plan {
    /// The plan of a seed.
    pub fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let users = random.within(2..7);
        let devices = users + random.below(users);
        let latency = random.within(0..40);
        let count = random.within(20..150);
        let mut steps = Vec::new();
        while steps.len() < count as usize {
            let step = step(&mut random);
            let fails = matches!(step.action, Action::Fail { .. });
            steps.push(step);
            if fails && random.chance(800) {
                unsure(&mut random, &mut steps);
            }
        }
        Self {
            seed,
            users,
            devices,
            shards: random.within(1..4) as u16,
            nodes: 0,
            latency_ms: (latency, latency + random.below(100)),
            steps,
        }
    }
}

impl Plan {
    /// Whether there is ever more than one server: then they are a cluster.
    pub fn is_linked(&self) -> bool {
        self.nodes > 0 || self.steps.iter().any(|step| matches!(step.action, Action::Second { .. }))
    }

    /// A short plan of a seed, on a cluster of three: everybody writes to everybody, and in the midst of it a link breaks, or
    /// a node dies, stands still or loses the store; then all is quiet, and who has not been told by then never will be.
    pub fn storm(seed: u64) -> Self {
        let mut random = Random::new(seed.rotate_left(32));
        let (users, latency) = (random.within(4..7), random.below(20));
        let mut steps = Vec::new();
        let step = |after_ms, action| Step { after_ms, action };
        for device in 0..2 {
            steps.push(step(500, Action::Create { device, users: u64::MAX }));
        }
        steps.push(step(0, Action::Calm));
        for _ in 0..3 {
            let (sends, node) = (random.within(5..30), random.below(100));
            let fault_at = random.below(sends);
            for n in 0..sends {
                let (device, to) = (random.below(1_000), random.below(1_000));
                let bytes = random.below(100);
                // Few within the moments in which it matters, so that no later one brings to light what is missing.
                let after_ms = random.below(if n < fault_at { 100 } else { 400 });
                // Who has no SDK does not send again; nobody is away for long.
                let (moves, seed) = (random.within(1..3), random.below(2_000));
                let action = match random.one_in(4) {
                    true => {
                        Action::Fill { session: Session { user: to, moves, seed }, to, bytes, away: device }
                    }
                    false => Action::Send { device, to, count: 1, bytes },
                };
                steps.push(step(after_ms, action));
                if n == fault_at {
                    if random.one_in(3) {
                        // What a node has stored then it may never have learnt.
                        let (commits_per_mille, ms) =
                            (random.within(100..900) as u16, random.within(100..3_000));
                        steps.push(step(0, Action::Fail { commits_per_mille, reads_per_mille: 0, ms }));
                    }
                    let fault = match random.below(8) {
                        0..3 => {
                            Action::CutLink { one: node, other: node + 1, ms: random.within(1_000..20_000) }
                        }
                        3..5 => Action::Kill { down_ms: random.within(1..20_000) },
                        5 => Action::Pause { node, ms: random.within(1_000..PAUSE_MS_MAX) },
                        6 => Action::Stop { down_ms: random.within(1..3_000) },
                        _ => Action::CutStore {
                            node,
                            ms: random.within(1_000..20_000),
                            hangs: random.chance(500),
                        },
                    };
                    steps.push(step(random.below(30), fault));
                }
            }
            steps.push(step(random.below(10_000), Action::Calm));
        }
        Self {
            seed,
            users,
            devices: users + random.below(users),
            shards: random.within(1..3) as u16,
            nodes: 3,
            latency_ms: (latency, latency + random.below(20)),
            steps,
        }
    }

    /// Whether the clocks of all nodes agree as far as they have to.
    pub fn clocks_agree(&self) -> bool {
        let agrees = |ahead: i64| (0..SKEW_MS_MAX as i64).contains(&ahead);
        self.steps
            .iter()
            .all(|step| !matches!(step.action, Action::SetClock { ahead_ms, .. } if !agrees(ahead_ms)))
    }

    /// The plan of a seed, on a cluster.
    pub fn cluster(seed: u64) -> Self {
        let mut plan = Self::new(seed);
        let mut random = Random::new(!seed);
        plan.nodes = random.within(2..4);
        // Some clusters' clocks are far off; then nodes may not find what they have missed.
        let clocks_are_off = random.one_in(8);
        let ahead = |random: &mut Random| match clocks_are_off && random.chance(500) {
            true => random.below(2 * CLOCK_OFF_MS) as i64 - CLOCK_OFF_MS as i64,
            false => random.below(SKEW_MS_MAX) as i64,
        };
        for at in (0..plan.steps.len()).rev() {
            let ms = |random: &mut Random| match random.below(10) {
                0 => random.within(60_000..1_200_000),
                1..4 => random.within(1..60_000),
                _ => random.within(1..8_000),
            };
            let (node, other) = (random.below(100), random.below(100));
            let action = match random.below(36) {
                0..2 => Action::CutLink { one: node, other, ms: ms(&mut random) },
                2 => Action::CutStore { node, ms: ms(&mut random), hangs: random.chance(500) },
                3 => Action::Kill { down_ms: random.within(1..10_000) },
                4 => Action::Stop { down_ms: random.within(1..3_000) },
                5 => Action::Calm,
                6..8 => {
                    let most = if random.chance(500) { 5_000 } else { PAUSE_MS_MAX };
                    Action::Pause { node, ms: random.within(1_000..most) }
                }
                8 => Action::SetClock { node, ahead_ms: ahead(&mut random) },
                9 if random.chance(300) => {
                    Action::CutStores { ms: random.within(1..20_000), hangs: random.chance(500) }
                }
                _ => continue,
            };
            plan.steps.insert(at, Step { after_ms: random.below(300), action });
        }
        plan
    }
}

/// While the store hardly answers, somebody sends a little and never asks what became of it. Then all is quiet: what may
/// have been stored is there for everybody, or never will be.
fn unsure(random: &mut Random, steps: &mut Vec<Step>) {
    for _ in 0..random.within(1..5) {
        let session = Session { user: random.below(1_000), moves: random.within(1..3), seed: random.any() };
        let to = random.below(1_000);
        let action = if random.chance(500) {
            Action::Fill { session, to, bytes: 16, away: random.below(1_000) }
        } else {
            Action::Rude { session, to }
        };
        steps.push(Step { after_ms: random.below(100), action });
    }
    steps.push(Step { after_ms: random.below(4_000), action: Action::Calm });
}

fn step(random: &mut Random) -> Step {
    // Most things happen close together; that is when they meet.
    let after_ms = match random.below(10) {
        0..4 => random.below(5),
        4..8 => random.below(300),
        _ => random.below(8_000),
    };
    Step { after_ms, action: action(random) }
}

fn action(random: &mut Random) -> Action {
    let (device, user) = (random.below(1_000), random.below(1_000));
    let short = |random: &mut Random| random.within(1..3_000);
    let long = |random: &mut Random| {
        if random.chance(100) { random.within(1..600_000) } else { random.within(1..20_000) }
    };
    let session = |random: &mut Random, moves| Session { user, moves, seed: random.any() };
    match random.below(200) {
        0..64 => {
            let count = if random.chance(80) { random.within(2..90) } else { 1 };
            let bytes = if random.chance(30) { random.within(1_000..60_000) } else { random.below(100) };
            Action::Send { device, to: user, count, bytes }
        }
        64..72 => Action::Create { device, users: random.any() },
        72..92 => Action::Change { device, group: random.below(1_000), user, what: random.below(100) },
        92..103 => Action::Read { device, conversation: random.below(1_000) },
        103..119 => {
            let moves = random.within(1..12);
            Action::Rude { session: session(random, moves), to: random.below(1_000) }
        }
        119..122 => {
            let (count, bytes) = match random.below(100) {
                0..70 => (random.within(10..40), random.within(20_000..60_000)),
                70..97 => (random.within(60..400), random.below(2_000)),
                97..99 => (random.within(1_000..1_300), 16),
                _ => (random.within(4_100..4_300), 16),
            };
            Action::Fill { session: session(random, count), to: random.below(1_000), bytes, away: device }
        }
        122..125 => Action::Calm,
        125..133 => Action::CrashApp { device, away_ms: long(random) },
        133..143 => Action::Offline { device, away_ms: long(random) },
        143..149 => Action::Move { device },
        149..153 => Action::Forget { device },
        153..161 => Action::Reset { device },
        161..167 => Action::Stall { device, ms: long(random) },
        167..171 => Action::Busy { device, ms: long(random) },
        171..177 => Action::Kill { down_ms: short(random) },
        177..181 => Action::Stop { down_ms: short(random) },
        181..184 => Action::Second { beside_ms: long(random) },
        184..191 => Action::Fail {
            commits_per_mille: random.within(10..900) as u16,
            reads_per_mille: random.below(500) as u16,
            ms: long(random),
        },
        191..197 => Action::Slow { commit_ms: random.within(20..3_000), ms: long(random) },
        _ => match random.below(100) {
            0..4 => Action::Rest { minutes: random.within(60..400) },
            4..12 => Action::Days { away: random.any(), hours: random.within(24..120) },
            _ => Action::Rest { minutes: random.within(1..30) },
        },
    }
}
