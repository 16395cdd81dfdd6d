//! What goes wrong, and how much of it: the options.

use std::fmt;

use clap::{Args, ValueEnum};

/// The faults of a network, the same in both directions.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FaultPlan {
    /// Packets that get lost, 0 to 0.9. TCP: chunks that come later by a retransmission, and all behind them.
    pub loss_share: f64,
    /// Milliseconds from one end to the other.
    pub delay_ms: u64,
    /// Up to this many milliseconds more, for each packet anew. It does not change the order.
    pub jitter_ms: u64,
    /// Datagrams that up to 4 later ones overtake, 0 to 1. TCP has none: its segments are put in order again.
    pub reorder_share: f64,
    /// Datagrams that arrive twice, 0 to 1. TCP has none: what has come is not taken again.
    pub duplicate_share: f64,
    /// A network that swallows datagrams and says nothing. TCP passes.
    pub swallows_udp: bool,
    /// What a flow takes in each direction, bytes per second.
    pub rate_bytes_per_s: Option<u64>,
    /// With a rate: the milliseconds that the queue in front of it holds. Above: datagrams are dropped, TCP is made to
    /// wait.
    pub queue_ms: u64,
    /// Times in which nothing passes.
    pub blackout: Option<Blackout>,
    /// Every so many milliseconds the client gets another address: the server sees a flow of datagrams come from a new
    /// port, and what it sends to the old one is lost. TCP: the client's end is reset, and the server hears nothing of
    /// it.
    pub address_change_every_ms: Option<u64>,
    /// Every so many milliseconds all flows of a device die without a word: nothing passes any more, nothing is closed.
    /// New ones live.
    pub silent_death_every_ms: Option<u64>,
    /// When the first blackout, address change and death come, in milliseconds from [`Proxy::begin_events`], above 0: for
    /// those who are to be there when it happens. `None`: at a time of each device's own, before one of their periods is
    /// over, counted from the start of the proxy.
    ///
    /// [`Proxy::begin_events`]: crate::Proxy::begin_events
    pub first_event_ms: Option<u64>,
    /// TCP: a chunk that is lost comes after a round trip and this many milliseconds, at the earliest; lost again, after
    /// twice that. Linux has 200.
    pub rto_ms: u64,
}

/// Times in which nothing passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Blackout {
    /// From the beginning of one to the beginning of the next, in milliseconds.
    pub every_ms: u64,
    /// How long each lasts, in milliseconds.
    pub for_ms: u64,
    /// TCP connections that live through one are reset at its end, as by a translator that has forgotten them.
    pub cuts: bool,
    /// What goes to the server passes: it hears its clients, and they do not hear it.
    pub answers_only: bool,
}

impl Default for FaultPlan {
    /// A network without faults.
    fn default() -> Self {
        Self {
            loss_share: 0.0,
            delay_ms: 0,
            jitter_ms: 0,
            reorder_share: 0.0,
            duplicate_share: 0.0,
            swallows_udp: false,
            rate_bytes_per_s: None,
            queue_ms: 500,
            blackout: None,
            address_change_every_ms: None,
            silent_death_every_ms: None,
            first_event_ms: None,
            rto_ms: 200,
        }
    }
}

impl fmt::Display for FaultPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} to {} ms each way", self.delay_ms, self.delay_ms + self.jitter_ms)?;
        if self.loss_share > 0.0 {
            write!(f, ", {} % lost", 100.0 * self.loss_share)?;
        }
        if self.reorder_share > 0.0 {
            write!(f, ", {} % reordered", 100.0 * self.reorder_share)?;
        }
        if self.duplicate_share > 0.0 {
            write!(f, ", {} % doubled", 100.0 * self.duplicate_share)?;
        }
        if self.swallows_udp {
            write!(f, ", no UDP")?;
        }
        if let Some(rate) = self.rate_bytes_per_s {
            write!(f, ", {rate} B/s")?;
        }
        let events = [
            ("another address", self.address_change_every_ms),
            ("a silent death", self.silent_death_every_ms),
        ];
        if let Some(Blackout { every_ms, for_ms, cuts, answers_only }) = self.blackout {
            let cuts = if cuts { ", which cuts TCP" } else { "" };
            let what = if answers_only { "no answers" } else { "nothing" };
            write!(f, ", {what} for {for_ms} ms every {every_ms} ms{cuts}")?;
        }
        for (event, every_ms) in events {
            if let Some(every_ms) = every_ms {
                write!(f, ", {event} every {every_ms} ms")?;
            }
        }
        Ok(())
    }
}

/// A plan that cannot be carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// A share.
    #[error("the share of lost packets is from 0 to 0.9, those of reordered and doubled ones from 0 to 1")]
    Share,
    /// A period or a rate.
    #[error("a rate, the time of the first event and the time from one to the next are above 0")]
    Zero,
    /// A blackout.
    #[error("a blackout is shorter than the time from one to the next")]
    Blackout,
    /// A time.
    #[error("times are up to an hour")]
    TooLong,
}

impl FaultPlan {
    const MS_MAX: u64 = 3_600_000;

    /// Whether it can be carried out.
    ///
    /// # Errors
    /// [`PlanError`].
    pub fn check(&self) -> Result<(), PlanError> {
        let shares = [self.reorder_share, self.duplicate_share];
        if !(0.0..=0.9).contains(&self.loss_share) || shares.iter().any(|share| !(0.0..=1.0).contains(share))
        {
            return Err(PlanError::Share);
        }
        let periods =
            [self.blackout.map(|b| b.every_ms), self.address_change_every_ms, self.silent_death_every_ms];
        if periods.contains(&Some(0)) || self.first_event_ms == Some(0) || self.rate_bytes_per_s == Some(0) {
            return Err(PlanError::Zero);
        }
        if self.blackout.is_some_and(|blackout| blackout.for_ms >= blackout.every_ms) {
            return Err(PlanError::Blackout);
        }
        let times = [self.delay_ms, self.jitter_ms, self.queue_ms, self.rto_ms];
        if times
            .into_iter()
            .chain(self.first_event_ms)
            .chain(periods.into_iter().flatten())
            .any(|ms| ms > Self::MS_MAX)
        {
            return Err(PlanError::TooLong);
        }
        Ok(())
    }
}

/// Networks with a name. Where the numbers have no source here, they are chosen to show the effect in a short run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Network {
    /// A busy wireless network: 5 to 20 ms each way, 0.5 % loss, a little reordering
    Wifi,
    /// 150 ms there and back, 1.6 Mbit/s (the "slow 4G, fast 3G" of Lighthouse and WebPageTest), jitter, 1 % loss
    #[value(name = "3g")]
    ThreeG,
    /// LTE (35 ms each way, as WebPageTest has it) with 4 s without any network every 15 s
    Tunnel,
    /// LTE at 300 km/h: a new cell every 12 s with half a second's silence (measured on Chinese railways, Wang et al.,
    /// MobiCom 2019: every 11 s or so), 2 % loss, another address every 30 s
    Train,
    /// A translator that forgets its flows every 20 s (RFC 9308, 3.2: some do after half a minute without traffic): QUIC
    /// gets another port, TCP is reset
    Nat,
}

impl Network {
    /// What goes wrong there.
    pub fn plan(self) -> FaultPlan {
        let lte = FaultPlan { delay_ms: 35, jitter_ms: 10, ..FaultPlan::default() };
        match self {
            Self::Wifi => FaultPlan {
                loss_share: 0.005,
                delay_ms: 5,
                jitter_ms: 15,
                reorder_share: 0.002,
                ..FaultPlan::default()
            },
            Self::ThreeG => FaultPlan {
                loss_share: 0.01,
                delay_ms: 75,
                jitter_ms: 30,
                rate_bytes_per_s: Some(200_000),
                ..FaultPlan::default()
            },
            Self::Tunnel => FaultPlan {
                blackout: Some(Blackout {
                    every_ms: 15_000,
                    for_ms: 4_000,
                    cuts: false,
                    answers_only: false,
                }),
                loss_share: 0.005,
                ..lte
            },
            Self::Train => FaultPlan {
                loss_share: 0.02,
                blackout: Some(Blackout { every_ms: 12_000, for_ms: 500, cuts: false, answers_only: false }),
                address_change_every_ms: Some(30_000),
                ..lte
            },
            Self::Nat => FaultPlan {
                delay_ms: 10,
                jitter_ms: 5,
                address_change_every_ms: Some(20_000),
                ..FaultPlan::default()
            },
        }
    }
}

/// Options for a [`FaultPlan`].
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Faults")]
pub struct FaultArgs {
    /// A network to begin with, which the other options change [default: `train` if there are none, else one without
    /// faults]
    #[arg(long, value_enum)]
    pub network: Option<Network>,
    /// Share of packets that get lost, 0 to 0.9. TCP: that come later by a retransmission, with all behind them
    #[arg(long, value_name = "SHARE")]
    pub loss: Option<f64>,
    /// Milliseconds from one end to the other
    #[arg(long, value_name = "MS")]
    pub delay_ms: Option<u64>,
    /// Up to this much more, for each packet anew
    #[arg(long, value_name = "MS")]
    pub jitter_ms: Option<u64>,
    /// Share of datagrams that up to 4 later ones overtake, 0 to 1 (QUIC)
    #[arg(long, value_name = "SHARE")]
    pub reorder: Option<f64>,
    /// Share of datagrams that arrive twice, 0 to 1 (QUIC)
    #[arg(long, value_name = "SHARE")]
    pub duplicate: Option<f64>,
    /// Bytes per second that a connection takes in each direction
    #[arg(long, value_name = "B")]
    pub link_rate: Option<u64>,
    /// With --link-rate or a network that has one: milliseconds that the queue in front of it holds
    #[arg(long, value_name = "MS")]
    pub queue_ms: Option<u64>,
    /// A time without any network: how often, and for how long
    #[arg(long, value_name = "EVERY_MS:FOR_MS", value_parser = parse_blackout)]
    pub blackout: Option<Blackout>,
    /// Reset the TCP connections that have lived through a blackout
    #[arg(long)]
    pub blackout_cuts: bool,
    /// How often a client gets another address: QUIC has to follow, TCP is cut
    #[arg(long, value_name = "EVERY_MS")]
    pub address_change: Option<u64>,
    /// How often the flows of a client die without a word
    #[arg(long, value_name = "EVERY_MS")]
    pub silent_death: Option<u64>,
    /// TCP: the shortest wait for a retransmission, besides the round trip
    #[arg(long, value_name = "MS")]
    pub rto_ms: Option<u64>,
}

impl FaultArgs {
    /// What they say.
    ///
    /// # Errors
    /// [`PlanError`].
    pub fn plan(&self) -> Result<FaultPlan, PlanError> {
        let network = match self.network {
            Some(network) => network.plan(),
            None if self.names_none() => Network::Train.plan(),
            None => FaultPlan::default(),
        };
        let blackout = self.blackout.or(network.blackout);
        let plan = FaultPlan {
            loss_share: self.loss.unwrap_or(network.loss_share),
            delay_ms: self.delay_ms.unwrap_or(network.delay_ms),
            jitter_ms: self.jitter_ms.unwrap_or(network.jitter_ms),
            reorder_share: self.reorder.unwrap_or(network.reorder_share),
            duplicate_share: self.duplicate.unwrap_or(network.duplicate_share),
            rate_bytes_per_s: self.link_rate.or(network.rate_bytes_per_s),
            queue_ms: self.queue_ms.unwrap_or(network.queue_ms),
            blackout: blackout.map(|b| Blackout { cuts: b.cuts || self.blackout_cuts, ..b }),
            address_change_every_ms: self.address_change.or(network.address_change_every_ms),
            silent_death_every_ms: self.silent_death.or(network.silent_death_every_ms),
            rto_ms: self.rto_ms.unwrap_or(network.rto_ms),
            ..network
        };
        plan.check()?;
        Ok(plan)
    }

    fn names_none(&self) -> bool {
        let shares = self.loss.or(self.reorder).or(self.duplicate);
        let times = self.delay_ms.or(self.jitter_ms).or(self.address_change).or(self.silent_death);
        shares.is_none() && times.is_none() && self.blackout.is_none() && self.link_rate.is_none()
    }
}

fn parse_blackout(text: &str) -> Result<Blackout, String> {
    let (every, length) = text.split_once(':').ok_or("two numbers of milliseconds, as in 15000:4000")?;
    let number = |text: &str| text.parse().map_err(|error| format!("{text}: {error}"));
    Ok(Blackout { every_ms: number(every)?, for_ms: number(length)?, cuts: false, answers_only: false })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        faults: FaultArgs,
    }

    #[track_caller]
    fn check(options: &str, expected: Result<FaultPlan, PlanError>) {
        let cli = Cli::try_parse_from(["proxy"].into_iter().chain(options.split_whitespace()));
        assert_eq!(cli.unwrap_or_else(|error| panic!("{error}")).faults.plan(), expected);
    }

    #[test]
    fn options() {
        let none = FaultPlan::default;
        check("", Ok(Network::Train.plan()));
        check("--rto-ms 300", Ok(FaultPlan { rto_ms: 300, ..Network::Train.plan() }));
        check("--loss 0.05 --delay-ms 50", Ok(FaultPlan { loss_share: 0.05, delay_ms: 50, ..none() }));
        check(
            "--network train --loss 0 --blackout 1000:10 --blackout-cuts",
            Ok(FaultPlan {
                loss_share: 0.0,
                blackout: Some(Blackout { every_ms: 1000, for_ms: 10, cuts: true, answers_only: false }),
                ..Network::Train.plan()
            }),
        );
        check("--loss 1", Err(PlanError::Share));
        check("--reorder NaN", Err(PlanError::Share));
        check("--duplicate 0.1", Ok(FaultPlan { duplicate_share: 0.1, ..none() }));
        check("--duplicate 1.1", Err(PlanError::Share));
        check("--blackout 10:10", Err(PlanError::Blackout));
        check("--blackout 0:0", Err(PlanError::Zero));
        check("--link-rate 0", Err(PlanError::Zero));
        check("--delay-ms 18446744073709551615", Err(PlanError::TooLong));
        for network in Network::value_variants() {
            assert_eq!(network.plan().check(), Ok(()), "{network:?}");
        }
    }
}
