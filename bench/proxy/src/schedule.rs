//! When what goes wrong: the machine of the proxy, without sockets or a clock.
//!
//! All times count from the start of the proxy; those of events, in a plan that says when the first one comes, from when
//! they are begun. A decision about a packet depends on the seed, the device (the client's
//! IP address), the number of the flow among those of the device, the direction and the packet's number in it, and on
//! nothing else; so a run over TCP and one over QUIC with the same seed meet the same sequence of losses. What happens at
//! a time (blackouts, address changes, deaths) depends on the seed and the device: it happens to all flows of a device
//! at once, and to each device at its own times.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::counters::{Counters, Shared};
use super::dice::Dice;
use super::plan::FaultPlan;

/// A first SYN that is lost is sent again after this (RFC 6298, 2.1).
const SYN_RTO: Duration = Duration::from_secs(1);
/// TCP gives up doubling the wait.
const RTO_MAX: Duration = Duration::from_secs(120);
/// Tries of a chunk; the last one succeeds, however unlucky it was.
const TRIES_MAX: u64 = 15;
/// A datagram that is held back is overtaken by this many.
const OVERTAKEN_BY_MAX: u64 = 4;

/// Which way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    ToServer,
    ToClient,
}

/// What the seed says about a packet.
#[derive(Debug, Clone, Copy)]
struct Decision {
    dice: Dice,
    lost: bool,
    jitter: Duration,
    /// 0: by none.
    overtaken_by: u64,
    doubled: bool,
}

/// What becomes of a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// It arrives then, and not before what has come before it.
    Arrives(Duration),
    /// It does, twice.
    ArrivesTwice(Duration),
    /// It would arrive then, but has to wait until that many have overtaken it.
    IsHeld { due: Duration, overtaken_by: u64 },
    /// It never does.
    Dropped,
}

/// Something that happens again and again.
#[derive(Debug, Clone, Copy)]
struct Beat {
    first: Duration,
    every: Duration,
}

impl Beat {
    fn new(every_ms: u64, first_ms: Option<u64>, dice: Dice) -> Self {
        let every = Duration::from_millis(every_ms);
        let first = first_ms.map_or_else(|| every.mul_f64(dice.share()), Duration::from_millis);
        Self { first, every }
    }

    /// How often it has happened by then.
    fn count(&self, at: Duration) -> u64 {
        match at.checked_sub(self.first) {
            Some(since) => (since.as_nanos() / self.every.as_nanos()) as u64 + 1,
            None => 0,
        }
    }

    /// When it happens for the nth time, the first being 1.
    fn time(&self, n: u64) -> Duration {
        self.first + self.every.saturating_mul(u32::try_from(n - 1).unwrap_or(u32::MAX))
    }
}

/// When a device has which fault.
#[derive(Debug, Clone)]
pub(super) struct Timetable {
    blackouts: Option<(Beat, Duration)>,
    cuts: bool,
    address_changes: Option<Beat>,
    deaths: Option<Beat>,
}

/// What happens to a TCP connection at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Blow {
    /// Both ends are reset.
    Cut,
    /// The client's end is reset, and the server hears nothing of it.
    Moved,
    /// Neither hears anything.
    Died,
}

impl Timetable {
    pub(super) fn new(plan: &FaultPlan, seed: u64, device: IpAddr) -> Self {
        let device = device_dice(seed, device);
        let beat = |every_ms: Option<u64>, which| {
            every_ms.map(|ms| Beat::new(ms, plan.first_event_ms, device.of(which)))
        };
        let length = |beat| plan.blackout.map(|blackout| (beat, Duration::from_millis(blackout.for_ms)));
        Self {
            blackouts: beat(plan.blackout.map(|blackout| blackout.every_ms), 1).and_then(length),
            cuts: plan.blackout.is_some_and(|blackout| blackout.cuts),
            address_changes: beat(plan.address_change_every_ms, 2),
            deaths: beat(plan.silent_death_every_ms, 3),
        }
    }

    /// The number of the blackout at this time.
    fn blackout(&self, at: Duration) -> Option<u64> {
        let (beat, length) = self.blackouts.as_ref()?;
        let number = beat.count(at);
        (number > 0 && at < beat.time(number) + *length).then_some(number)
    }

    /// How often the address has changed.
    pub(super) fn address_changes(&self, at: Duration) -> u64 {
        self.address_changes.as_ref().map_or(0, |beat| beat.count(at))
    }

    /// How often the flows of the device have died.
    pub(super) fn deaths(&self, at: Duration) -> u64 {
        self.deaths.as_ref().map_or(0, |beat| beat.count(at))
    }

    /// When, after this time, somebody who tries gets through again for the first time: a blackout ends, the device has
    /// another address, or its flows have died and new ones live.
    pub(super) fn next_recovery(&self, after: Duration) -> Option<Duration> {
        let next = |beat: &Option<Beat>| beat.as_ref().map(|beat| beat.time(beat.count(after) + 1));
        let times = [self.next_blackout_end(after), next(&self.address_changes), next(&self.deaths)];
        times.into_iter().flatten().min()
    }

    fn next_blackout_end(&self, after: Duration) -> Option<Duration> {
        let (beat, length) = self.blackouts.as_ref()?;
        // That of the one before may be still to come.
        let before = beat.count(after.saturating_sub(*length)).max(1);
        [before, before + 1].into_iter().map(|n| beat.time(n) + *length).find(|end| *end > after)
    }

    /// What comes next after this time, and when.
    pub(super) fn next_blow(&self, after: Duration) -> Option<(Duration, Blow)> {
        let next = |beat: &Option<Beat>| beat.as_ref().map(|beat| beat.time(beat.count(after) + 1));
        let end = self.next_blackout_end(after).filter(|_| self.cuts);
        let blows =
            [(end, Blow::Cut), (next(&self.address_changes), Blow::Moved), (next(&self.deaths), Blow::Died)];
        let blows = blows.into_iter().filter_map(|(at, blow)| at.map(|at| (at, blow)));
        blows.min_by_key(|(at, _)| *at)
    }
}

/// One direction of a flow.
#[derive(Debug)]
struct Lane {
    dice: Dice,
    packets: u64,
    /// When what has come so far has left through the rate limit.
    free_at: Duration,
    /// When the last one arrives that is not held back.
    due: Duration,
}

/// A flow between a client and the server.
#[derive(Debug)]
pub(super) struct Path {
    plan: FaultPlan,
    lanes: [Lane; 2],
    times: Timetable,
    /// The last blackout that it ran into.
    blackout: u64,
    shared: Arc<Shared>,
}

impl Path {
    /// The nth flow of a device.
    pub(super) fn new(plan: &FaultPlan, seed: u64, device: IpAddr, flow: u64, shared: Arc<Shared>) -> Self {
        let times = Timetable::new(plan, seed, device);
        let dice = device_dice(seed, device).of(4).of(flow);
        let lane = |direction| {
            let dice = dice.of(direction);
            Lane { dice, packets: 0, free_at: Duration::ZERO, due: Duration::ZERO }
        };
        shared.count(|counters| counters.flows += 1);
        Self { plan: *plan, lanes: [lane(0), lane(1)], times, blackout: 0, shared }
    }

    /// Counts something that happened to the flow.
    pub(super) fn count(&self, count: impl FnOnce(&mut Counters)) {
        self.shared.count(count);
    }

    /// How long the times of events have counted; nothing comes at zero.
    fn of_events(&self, now: Duration) -> Duration {
        now.saturating_sub(self.shared.events_from())
    }

    /// How often the device's address has changed.
    pub(super) fn address_changes(&self, now: Duration) -> u64 {
        self.times.address_changes(self.of_events(now.min(self.shared.calm_from())))
    }

    /// How often the device's flows have died.
    pub(super) fn deaths(&self, now: Duration) -> u64 {
        self.times.deaths(self.of_events(now.min(self.shared.calm_from())))
    }

    /// What happens after this time to the flow, and when; not before events have begun.
    pub(super) fn next_blow(&self, after: Duration) -> Option<(Duration, Blow)> {
        let (at, blow) = self.times.next_blow(self.of_events(after))?;
        Some((self.shared.events_from().saturating_add(at), blow))
    }

    /// Whether there are no more faults at this time.
    pub(super) fn is_calm(&self, now: Duration) -> bool {
        now >= self.shared.calm_from()
    }

    /// A datagram of this length comes in now.
    pub(super) fn datagram(&mut self, direction: Direction, now: Duration, bytes: usize) -> Fate {
        let decision = self.decide(direction);
        if self.plan.swallows_udp {
            self.count(|counters| counters.swallowed += 1);
            return Fate::Dropped;
        }
        if self.is_blacked_out(direction, now) {
            self.count(|counters| counters.blacked_out += 1);
            return Fate::Dropped;
        }
        if decision.lost && !self.is_calm(now) {
            self.count(|counters| counters.lost += 1);
            return Fate::Dropped;
        }
        if self.backlog(direction, now) > Duration::from_millis(self.plan.queue_ms) {
            self.count(|counters| counters.overflowed += 1);
            return Fate::Dropped;
        }
        let due = self.travel(direction, now, bytes) + decision.jitter;
        self.count(|counters| counters.passed += 1);
        let due = due.max(self.lanes[direction as usize].due);
        if decision.overtaken_by > 0 && !self.is_calm(now) {
            self.count(|counters| counters.reordered += 1);
            return Fate::IsHeld { due, overtaken_by: decision.overtaken_by };
        }
        self.lanes[direction as usize].due = due;
        self.count(|counters| counters.delayed += u64::from(due > now));
        if decision.doubled && !self.is_calm(now) {
            self.count(|counters| counters.doubled += 1);
            return Fate::ArrivesTwice(due);
        }
        Fate::Arrives(due)
    }

    /// A chunk of a TCP stream comes in now; when it goes out.
    pub(super) fn chunk(&mut self, direction: Direction, now: Duration, bytes: usize) -> Duration {
        let round_trip = Duration::from_millis(2 * self.plan.delay_ms + self.plan.jitter_ms);
        self.send(direction, now, bytes, round_trip + Duration::from_millis(self.plan.rto_ms))
    }

    /// A SYN or its answer is sent now; when it arrives.
    pub(super) fn handshake(&mut self, direction: Direction, now: Duration) -> Duration {
        self.send(direction, now, 0, SYN_RTO)
    }

    fn send(&mut self, direction: Direction, now: Duration, bytes: usize, rto: Duration) -> Duration {
        let decision = self.decide(direction);
        let mut sent = now;
        let mut wait = rto.min(RTO_MAX);
        let mut lost = decision.lost && !self.is_calm(now);
        if lost {
            self.count(|counters| counters.lost += 1);
        }
        if self.is_blacked_out(direction, now) {
            self.count(|counters| counters.blacked_out += 1);
        }
        for retry in 1..TRIES_MAX {
            if !lost && !self.is_blacked_out(direction, sent) {
                break;
            }
            sent += wait;
            wait = (2 * wait).min(RTO_MAX);
            lost = decision.dice.of(retry).happens(self.plan.loss_share) && !self.is_calm(sent);
        }
        let due = self.travel(direction, sent, bytes) + decision.jitter;
        let lane = &mut self.lanes[direction as usize];
        lane.due = due.max(lane.due);
        let due = lane.due;
        self.count(|counters| {
            counters.passed += 1;
            counters.delayed += u64::from(due > now);
        });
        due
    }

    /// From when on the queue in front of the rate limit takes more.
    pub(super) fn takes_more_at(&self, direction: Direction) -> Duration {
        let free_at = self.lanes[direction as usize].free_at;
        free_at.saturating_sub(Duration::from_millis(self.plan.queue_ms))
    }

    fn backlog(&self, direction: Direction, now: Duration) -> Duration {
        self.lanes[direction as usize].free_at.saturating_sub(now)
    }

    /// When it has passed the rate limit and the way.
    fn travel(&mut self, direction: Direction, now: Duration, bytes: usize) -> Duration {
        let lane = &mut self.lanes[direction as usize];
        let mut leaves = now;
        if let Some(rate) = self.plan.rate_bytes_per_s {
            leaves = now.max(lane.free_at) + Duration::from_secs_f64(bytes as f64 / rate as f64);
            lane.free_at = leaves;
        }
        leaves + Duration::from_millis(self.plan.delay_ms)
    }

    fn decide(&mut self, direction: Direction) -> Decision {
        let lane = &mut self.lanes[direction as usize];
        let dice = lane.dice.of(lane.packets);
        lane.packets += 1;
        let [loss, jitter, reorder, by, double] = [101, 102, 103, 104, 105].map(|which| dice.of(which));
        let held = reorder.happens(self.plan.reorder_share);
        Decision {
            dice,
            lost: loss.happens(self.plan.loss_share),
            jitter: Duration::from_millis(self.plan.jitter_ms).mul_f64(jitter.share()),
            overtaken_by: if held { 1 + (by.share() * OVERTAKEN_BY_MAX as f64) as u64 } else { 0 },
            doubled: double.happens(self.plan.duplicate_share),
        }
    }

    fn is_blacked_out(&mut self, direction: Direction, at: Duration) -> bool {
        if direction == Direction::ToServer && self.plan.blackout.is_some_and(|it| it.answers_only) {
            return false;
        }
        let Some(number) = self.times.blackout(self.of_events(at)).filter(|_| !self.is_calm(at)) else {
            return false;
        };
        if number > self.blackout {
            self.blackout = number;
            self.count(|counters| counters.blackouts += 1);
        }
        true
    }
}

fn device_dice(seed: u64, device: IpAddr) -> Dice {
    let address = match device {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    };
    let bits = address.to_bits();
    Dice::new(seed).of((bits >> 64) as u64).of(bits as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Blackout;

    const MS: Duration = Duration::from_millis(1);
    const PHONE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
    const TO_SERVER: Direction = Direction::ToServer;

    fn path(plan: &FaultPlan, seed: u64) -> Path {
        Path::new(plan, seed, PHONE, 0, Arc::default())
    }

    fn counters(path: &Path) -> Counters {
        path.shared.counters()
    }

    /// Which of 10,000 packets are lost.
    fn losses(plan: &FaultPlan, seed: u64, mut send: impl FnMut(&mut Path, Duration)) -> Vec<u32> {
        let mut path = path(plan, seed);
        let mut lost = Vec::new();
        for n in 0..10_000 {
            let before = counters(&path).lost;
            send(&mut path, n * MS);
            lost.extend((counters(&path).lost > before).then_some(n));
        }
        lost
    }

    #[test]
    fn the_same_packets_are_lost_over_both_transports() {
        let plan = FaultPlan { loss_share: 0.05, jitter_ms: 10, reorder_share: 0.1, ..FaultPlan::default() };
        let datagrams =
            [1, 2].map(|seed| losses(&plan, seed, |path, now| _ = path.datagram(TO_SERVER, now, 100)));
        let chunks = [1, 2].map(|seed| losses(&plan, seed, |path, now| _ = path.chunk(TO_SERVER, now, 100)));
        assert_eq!(datagrams, chunks);
        assert_ne!(datagrams[0], datagrams[1]);
        datagrams.iter().for_each(|lost| assert!((430..570).contains(&lost.len()), "{}", lost.len()));
        let back = losses(&plan, 1, |path, now| _ = path.datagram(Direction::ToClient, now, 100));
        assert_ne!(back, datagrams[0], "each direction has its own");
    }

    #[test]
    fn nothing_arrives_before_its_time_or_out_of_order() {
        let plan = FaultPlan {
            loss_share: 0.02,
            delay_ms: 20,
            jitter_ms: 30,
            reorder_share: 0.1,
            ..FaultPlan::default()
        };
        let (mut datagrams, mut chunks) = (path(&plan, 1), path(&plan, 1));
        let (mut last_datagram, mut last_chunk) = (Duration::ZERO, Duration::ZERO);
        let mut held = [0; OVERTAKEN_BY_MAX as usize + 1];
        for now in (0..10_000).map(|n| n * MS) {
            match datagrams.datagram(TO_SERVER, now, 100) {
                Fate::Arrives(due) | Fate::ArrivesTwice(due) => {
                    assert!(due >= last_datagram.max(now + 20 * MS));
                    last_datagram = due;
                }
                Fate::IsHeld { overtaken_by, .. } => held[overtaken_by as usize] += 1,
                Fate::Dropped => {}
            }
            let lost = counters(&chunks).lost;
            let due = chunks.chunk(TO_SERVER, now, 100);
            // A round trip, the time-out, and the way there.
            let way = if counters(&chunks).lost > lost { 70 + 200 + 20 } else { 20 };
            assert!(due >= last_chunk.max(now + way * MS));
            last_chunk = due;
        }
        assert_eq!(held[0], 0);
        held[1..].iter().for_each(|count| assert!((150..350).contains(count), "{held:?}"));
        assert_eq!(counters(&datagrams).reordered, held.iter().sum::<u64>());
        assert_eq!(counters(&datagrams).passed + counters(&datagrams).lost, 10_000);
    }

    #[test]
    fn nothing_passes_a_blackout() {
        let blackout = Blackout { every_ms: 1000, for_ms: 300, cuts: false, answers_only: false };
        let plan = FaultPlan { blackout: Some(blackout), delay_ms: 1, ..FaultPlan::default() };
        let mut datagrams = path(&plan, 1);
        let mut dropped = 0;
        for now in (0..10_000).map(|n| n * MS) {
            let fate = datagrams.datagram(TO_SERVER, now, 100);
            assert_eq!(fate == Fate::Dropped, datagrams.times.blackout(now).is_some());
            dropped += u64::from(fate == Fate::Dropped);
            let due = path(&plan, 1).chunk(TO_SERVER, now, 100);
            assert_eq!(datagrams.times.blackout(due - MS), None, "sent when there was a network");
        }
        assert!((2700..=3000).contains(&dropped), "{dropped}");
        assert_eq!(counters(&datagrams).blacked_out, dropped);
        assert!((9..=10).contains(&counters(&datagrams).blackouts));
    }

    #[test]
    fn a_blackout_of_answers_lets_pass_what_goes_to_the_server() {
        let blackout = Blackout { every_ms: 1000, for_ms: 300, cuts: false, answers_only: true };
        let plan = FaultPlan { blackout: Some(blackout), first_event_ms: Some(100), ..FaultPlan::default() };
        let mut path = path(&plan, 1);
        assert_eq!(path.datagram(TO_SERVER, 200 * MS, 100), Fate::Arrives(200 * MS));
        assert_eq!(path.chunk(TO_SERVER, 200 * MS, 100), 200 * MS);
        assert_eq!(path.datagram(Direction::ToClient, 200 * MS, 100), Fate::Dropped);
        assert!(path.chunk(Direction::ToClient, 200 * MS, 100) >= 400 * MS);
    }

    #[test]
    fn the_first_event_comes_when_the_plan_says() {
        let blackout = Blackout { every_ms: 3_600_000, for_ms: 2000, cuts: false, answers_only: false };
        let plan = FaultPlan {
            blackout: Some(blackout),
            silent_death_every_ms: Some(3_600_000),
            first_event_ms: Some(3000),
            ..FaultPlan::default()
        };
        for last in [1, 2, 3] {
            let times = Timetable::new(&plan, last, IpAddr::from([127, 0, 0, last as u8]));
            assert_eq!(times.blackout(2999 * MS), None);
            assert_eq!(times.blackout(3000 * MS), Some(1));
            assert_eq!(times.blackout(5000 * MS), None);
            assert_eq!((times.deaths(2999 * MS), times.deaths(3000 * MS)), (0, 1));
            assert_eq!(times.next_recovery(Duration::ZERO), Some(3000 * MS));
            assert_eq!(times.next_recovery(3000 * MS), Some(5000 * MS));
        }
    }

    #[test]
    fn a_rate_is_kept() {
        let plan = FaultPlan { rate_bytes_per_s: Some(100_000), queue_ms: 50, ..FaultPlan::default() };
        // Twice as much comes as passes.
        let mut datagrams = path(&plan, 1);
        let fates: Vec<_> = (0..1000).map(|n| datagrams.datagram(TO_SERVER, n * MS, 200)).collect();
        let arrived = fates.iter().filter(|fate| matches!(fate, Fate::Arrives(_))).count();
        assert!((500..530).contains(&arrived), "{arrived}");
        assert_eq!(counters(&datagrams).overflowed as usize, 1000 - arrived);
        let mut chunks = path(&plan, 1);
        let mut now = Duration::ZERO;
        for n in 1..=1000 {
            now = now.max(chunks.takes_more_at(TO_SERVER));
            assert_eq!(chunks.chunk(TO_SERVER, now, 200), n * 2 * MS, "back to back");
        }
        assert_eq!(now, (999 * 2 - 50) * MS, "the queue was full and not more");
    }

    #[test]
    fn blows_come_in_their_order_and_to_each_device_at_its_own_time() {
        let blackout = Blackout { every_ms: 1000, for_ms: 900, cuts: true, answers_only: false };
        let plan = FaultPlan {
            blackout: Some(blackout),
            address_change_every_ms: Some(700),
            silent_death_every_ms: Some(5000),
            ..FaultPlan::default()
        };
        let times = path(&plan, 7).times;
        let mut now = Duration::ZERO;
        let (mut cuts, mut moves, mut deaths) = (0, 0, 0);
        while let Some((at, blow)) = times.next_blow(now).filter(|(at, _)| *at <= 60_000 * MS) {
            assert!(at > now);
            let just_before = at - Duration::from_nanos(1);
            match blow {
                Blow::Cut => {
                    assert!(times.blackout(just_before).is_some() && times.blackout(at).is_none());
                    cuts += 1;
                }
                Blow::Moved => {
                    assert_eq!(times.address_changes(at), times.address_changes(just_before) + 1);
                    moves += 1;
                }
                Blow::Died => {
                    assert_eq!(times.deaths(at), times.deaths(just_before) + 1);
                    deaths += 1;
                }
            }
            now = at;
        }
        assert!((59..=60).contains(&cuts) && (85..=86).contains(&moves) && deaths == 12);
        assert_eq!(times.next_blow(now), path(&plan, 7).times.next_blow(now));
        let others = [IpAddr::from([127, 0, 0, 2]), IpAddr::from([127, 0, 0, 3])];
        let others = others.map(|device| Timetable::new(&plan, 7, device).next_blow(now));
        assert!(others[0] != others[1] && others[0] != times.next_blow(now));
    }
}
