//! What goes wrong, over which transports, and how it shows that it did.

use tern_client::Transport::{self, Auto, Quic, Tcp};
use tern_proxy::counters::Counters;
use tern_proxy::plan::{Blackout, FaultPlan};

/// When what happens once happens, in milliseconds from when everybody is online.
pub(crate) const FIRST_MS: u64 = 1_000;
/// What comes again after so long does not come again in a run.
const ONCE_MS: u64 = 3_600_000;

/// A fault.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fault {
    pub(crate) name: &'static str,
    pub(crate) plan: FaultPlan,
    /// The system tells the client when the fault happens, as it does when it has joined another network.
    pub(crate) is_told: bool,
    /// Whether there is a time at which the network is back.
    pub(crate) ends: bool,
    /// Whether it has happened.
    pub(crate) happened: fn(&Counters) -> bool,
    /// Run each time.
    pub(crate) always: &'static [Transport],
    /// Run when everything is.
    pub(crate) also: &'static [Transport],
}

impl Fault {
    /// The transports to run it over.
    pub(crate) fn transports(&self, everything: bool) -> impl Iterator<Item = Transport> + use<> {
        let also = if everything { self.also } else { &[] };
        self.always.iter().chain(also).copied()
    }
}

fn fault(name: &'static str, plan: FaultPlan, happened: fn(&Counters) -> bool) -> Fault {
    let ends = plan.blackout.is_some()
        || plan.address_change_every_ms.is_some()
        || plan.silent_death_every_ms.is_some();
    let plan = FaultPlan { first_event_ms: Some(FIRST_MS), ..plan };
    Fault { name, plan, is_told: false, ends, happened, always: &[Quic, Tcp], also: &[Auto] }
}

fn loss(name: &'static str, share: f64) -> Fault {
    let plan = FaultPlan { loss_share: share, delay_ms: 20, ..FaultPlan::default() };
    Fault { always: &[], also: &[Quic, Tcp, Auto], ..fault(name, plan, |counters| counters.lost > 0) }
}

fn blackout(name: &'static str, for_ms: u64, answers_only: bool) -> Fault {
    let blackout = Blackout { every_ms: ONCE_MS, for_ms, cuts: false, answers_only };
    let plan = FaultPlan { blackout: Some(blackout), ..FaultPlan::default() };
    fault(name, plan, |counters| counters.blackouts > 0)
}

/// All of them.
pub(crate) fn faults() -> Vec<Fault> {
    let none = FaultPlan::default;
    let rebinding = FaultPlan { address_change_every_ms: Some(ONCE_MS), ..none() };
    let death = FaultPlan { silent_death_every_ms: Some(ONCE_MS), ..none() };
    let everything = FaultPlan {
        loss_share: 0.05,
        delay_ms: 100,
        jitter_ms: 50,
        reorder_share: 0.05,
        duplicate_share: 0.05,
        blackout: Some(Blackout { every_ms: 7_000, for_ms: 1_000, cuts: false, answers_only: false }),
        address_change_every_ms: Some(11_000),
        ..none()
    };
    vec![
        loss("loss 1 %", 0.01),
        loss("loss 5 %", 0.05),
        Fault { always: &[Quic, Tcp, Auto], also: &[], ..loss("loss 20 %", 0.2) },
        Fault {
            always: &[Auto],
            also: &[Quic, Tcp],
            ..fault("300 ms each way", FaultPlan { delay_ms: 300, ..none() }, |counters| counters.delayed > 0)
        },
        Fault {
            always: &[Quic],
            also: &[],
            ..fault("20 % reordered", FaultPlan { reorder_share: 0.2, delay_ms: 20, ..none() }, |counters| {
                counters.reordered > 0
            })
        },
        Fault {
            always: &[Quic],
            also: &[],
            ..fault("20 % doubled", FaultPlan { duplicate_share: 0.2, ..none() }, |counters| {
                counters.doubled > 0
            })
        },
        blackout("no network for 2 s", 2_000, false),
        blackout("no network for 15 s", 15_000, false),
        blackout("no answers for 15 s", 15_000, true),
        Fault { always: &[], also: &[Quic, Tcp, Auto], ..blackout("no network for 40 s", 40_000, false) },
        Fault {
            always: &[Quic, Tcp, Auto],
            also: &[],
            ..fault("rebinding", rebinding, |counters| counters.moved + counters.cut > 0)
        },
        Fault { is_told: true, ..fault("another address", death, |counters| counters.died > 0) },
        Fault {
            always: &[Quic, Tcp, Auto],
            also: &[],
            ..fault("the link dies", death, |counters| counters.died > 0)
        },
        Fault {
            always: &[Auto],
            also: &[],
            ..fault("UDP is swallowed", FaultPlan { swallows_udp: true, ..rebinding }, |counters| {
                counters.swallowed > 0 && counters.cut > 0
            })
        },
        Fault {
            always: &[Auto],
            also: &[Quic, Tcp],
            ..fault("a bit of everything", everything, |counters| counters.lost > 0 && counters.blackouts > 0)
        },
    ]
}
