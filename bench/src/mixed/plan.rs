//! Who does what when, and who talks with whom: all from the seed, and nothing from what the server does.

use std::time::Duration;

use tern_protocol::model::Kind;

use crate::Error;
use crate::random::Random;

/// The shares of a whole may differ from it by this much, as decimal fractions do.
const ROUNDING: f64 = 1e-6;
/// Somebody who is there is looked for so often, before somebody does it who has to come back first.
const DRAWS: usize = 64;
/// Who was to be back then is taken to be back after so much more.
const COMING: u64 = 500_000_000;
/// Nobody is away for more times the mean than this.
const AWAY_MAX: f64 = 5.0;

/// Of all that clients do, so much is ...
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Shares {
    /// a message in a direct chat,
    pub direct: f64,
    /// a message in a group,
    pub group: f64,
    /// a look back into a conversation,
    pub history: f64,
    /// going away for a while.
    pub vanish: f64,
}

impl Shares {
    /// Refuses what is no whole.
    ///
    /// # Errors
    /// [`Error::Arguments`], with what is expected.
    pub fn check(&self) -> Result<(), Error> {
        let Self { direct, group, history, vanish } = *self;
        let sum = direct + group + history + vanish;
        if (sum - 1.0).abs() > ROUNDING {
            return Err(Error::Arguments(format!(
                "--share-direct {direct}, --share-group {group}, --share-history {history} and --share-vanish {vanish} \
                 are shares of one whole and have to add up to 1, not to {}",
                (sum * 1e6).round() / 1e6
            )));
        }
        if self.messages() == 0.0 {
            return Err(Error::Arguments(
                "--share-direct and --share-group are both 0: there would be no messages".into(),
            ));
        }
        Ok(())
    }

    /// The share of messages.
    pub fn messages(&self) -> f64 {
        self.direct + self.group
    }
}

/// A conversation to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Direct chat or group.
    pub kind: Kind,
    /// By their places among the clients who do something; the first one creates a group.
    pub members: Vec<usize>,
}

/// Who talks with whom: everybody with the same number of others, and in one group of every size as far as the clients
/// fill groups.
pub fn cast(clients: usize, chats: usize, sizes: &[usize], random: &mut Random) -> Vec<Part> {
    let mut parts = Vec::new();
    let ring = shuffled(clients, random);
    // Neighbours on a ring, first the next ones; with two clients both are the same one.
    let distances = (1..=chats.div_ceil(2)).take_while(|distance| 2 * distance <= clients);
    for distance in distances {
        let whole = if 2 * distance == clients { clients / 2 } else { clients };
        // With an odd number of chats, the last of them is that of a pair.
        let step = if 2 * distance > chats { 2 } else { 1 };
        for at in (0..whole).step_by(step) {
            let members = vec![ring[at], ring[(at + distance) % clients]];
            parts.push(Part { kind: Kind::Direct, members });
        }
    }
    for size in sizes {
        let order = shuffled(clients, random);
        let groups =
            order.chunks_exact(*size).map(|members| Part { kind: Kind::Group, members: members.to_vec() });
        parts.extend(groups);
    }
    parts
}

fn shuffled(count: usize, random: &mut Random) -> Vec<usize> {
    let mut all: Vec<usize> = (0..count).collect();
    for last in (1..count).rev() {
        all.swap(last, random.below(last as u64 + 1) as usize);
    }
    all
}

/// What a client is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// Send to the conversation at this place among its own.
    Send(usize),
    /// Look back from the newest entry of that conversation, so many pages.
    LookBack(usize, u32),
    /// Go, and come back after this.
    Vanish(Duration),
}

/// One thing of the plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// In nanoseconds after the plan's beginning.
    pub at: u64,
    /// Who.
    pub client: usize,
    /// What.
    pub act: Act,
}

/// How much of what is planned.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    /// Messages per second.
    pub rate: f64,
    /// And what else.
    pub shares: Shares,
    /// How long somebody is away in the mean.
    pub away: Duration,
    /// Most pages of one look back.
    pub pages: u32,
}

/// The places of a client's conversations among its own.
#[derive(Debug, Clone, Default)]
struct Places {
    direct: Vec<usize>,
    group: Vec<usize>,
}

/// An endless row of steps.
#[derive(Debug)]
pub struct Plan {
    load: Load,
    random: Random,
    period: f64,
    done: u64,
    places: Vec<Places>,
    away_until: Vec<u64>,
    /// The last step, if it was a message.
    last_send: Option<Step>,
    /// Who has a direct chat, and who is in a group.
    with_direct: Vec<usize>,
    with_group: Vec<usize>,
}

impl Plan {
    /// For the clients of these conversations.
    pub fn new(load: Load, clients: usize, parts: &[Part], random: Random) -> Self {
        let mut places = vec![Places::default(); clients];
        for part in parts {
            for member in &part.members {
                let own = &mut places[*member];
                let place = own.direct.len() + own.group.len();
                match part.kind {
                    Kind::Direct => own.direct.push(place),
                    Kind::Group => own.group.push(place),
                }
            }
        }
        let with = |has: fn(&Places) -> bool| (0..clients).filter(|client| has(&places[*client])).collect();
        Self {
            load,
            random,
            period: 1e9 * load.shares.messages() / load.rate,
            done: 0,
            last_send: None,
            with_direct: with(|own| !own.direct.is_empty()),
            with_group: with(|own| !own.group.is_empty()),
            places,
            away_until: vec![0; clients],
        }
    }

    /// Somebody of these who is there.
    fn who(&mut self, of: fn(&Self) -> &Vec<usize>, at: u64) -> usize {
        let mut client = 0;
        for _ in 0..DRAWS {
            let drawn = self.random.below(of(self).len() as u64) as usize;
            client = of(self)[drawn];
            if self.away_until[client] <= at {
                break;
            }
        }
        client
    }

    fn one_of(&mut self, places: &[usize]) -> usize {
        places[self.random.below(places.len() as u64) as usize]
    }
}

impl Iterator for Plan {
    type Item = Step;

    fn next(&mut self) -> Option<Step> {
        let mut at = (self.done as f64 * self.period) as u64;
        self.done += 1;
        let Shares { direct, group, history, .. } = self.load.shares;
        let drawn = self.random.fraction();
        let (client, act) = if drawn < direct {
            let client = self.who(|plan| &plan.with_direct, at);
            let places = self.places[client].direct.clone();
            (client, Act::Send(self.one_of(&places)))
        } else if drawn < direct + group {
            let client = self.who(|plan| &plan.with_group, at);
            let places = self.places[client].group.clone();
            (client, Act::Send(self.one_of(&places)))
        } else if drawn < direct + group + history {
            let client = self.who(|plan| &plan.with_direct, at);
            let Places { direct, group } = &self.places[client];
            let place = self.random.below((direct.len() + group.len()) as u64) as usize;
            let pages = 1 + self.random.below(self.load.pages.into()) as u32;
            (client, Act::LookBack(place, pages))
        } else {
            // Half of them are gone as soon as they have sent something.
            let gone = self.last_send.filter(|_| self.random.below(2) == 0);
            let client = match gone {
                Some(send) => send.client,
                None => self.who(|plan| &plan.with_direct, at),
            };
            at = gone.map_or(at, |send| send.at);
            let away = self.load.away.mul_f64((-(1.0 - self.random.fraction()).ln()).min(AWAY_MAX));
            self.away_until[client] = at + away.as_nanos() as u64 + COMING;
            (client, Act::Vanish(away))
        };
        let step = Step { at, client, act };
        self.last_send = matches!(act, Act::Send(_)).then_some(step);
        Some(step)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHARES: Shares = Shares { direct: 0.5, group: 0.3, history: 0.15, vanish: 0.05 };
    const LOAD: Load = Load { rate: 100.0, shares: SHARES, away: Duration::from_secs(2), pages: 4 };

    fn plan(seed: u64) -> (Vec<Part>, Plan) {
        let mut random = Random::new(seed, 0);
        let parts = cast(50, 4, &[3, 20], &mut random);
        let plan = Plan::new(LOAD, 50, &parts, random);
        (parts, plan)
    }

    #[test]
    fn shares_are_those_of_a_whole() {
        let check = |direct, group, history, vanish| Shares { direct, group, history, vanish }.check();
        assert!(check(0.6, 0.3, 0.08, 0.02).is_ok());
        assert!(check(0.1, 0.2, 0.3, 0.4).is_ok());
        let error = check(0.6, 0.3, 0.1, 0.1).expect_err("it is more than 1").to_string();
        assert!(error.contains("add up to 1, not to 1.1"), "{error}");
        assert!(check(0.0, 0.0, 0.5, 0.5).is_err());
    }

    #[test]
    fn everybody_has_chats_and_groups() {
        let count = |parts: &[Part], client, kind| {
            parts.iter().filter(|part| part.kind == kind && part.members.contains(&client)).count()
        };
        let parts = plan(7).0;
        assert!((0..50).all(|client| count(&parts, client, Kind::Direct) == 4));
        let groups = |size: usize| {
            parts.iter().filter(|part| part.kind == Kind::Group && part.members.len() == size).count()
        };
        assert_eq!((groups(3), groups(20)), (16, 2));
        for clients in 2..9 {
            for chats in 1..9 {
                let parts = cast(clients, chats, &[], &mut Random::new(1, 0));
                let mut pairs: Vec<_> = parts.into_iter().map(|part| part.members).collect();
                pairs.iter_mut().for_each(|pair| pair.sort_unstable());
                let all = pairs.len();
                pairs.sort_unstable();
                pairs.dedup();
                assert_eq!(pairs.len(), all, "{chats} chats of {clients} clients: no pair twice");
                assert!(pairs.iter().all(|pair| pair[0] != pair[1]));
            }
        }
    }

    #[test]
    fn a_seed_gives_the_same_plan() {
        let steps = |seed| plan(seed).1.take(1_000).collect::<Vec<_>>();
        assert_eq!(steps(1), steps(1));
        assert_ne!(steps(1), steps(2));
    }

    #[test]
    fn what_is_planned_is_what_was_asked_for() {
        let steps: Vec<_> = plan(1).1.take(20_000).collect();
        let seconds = steps[steps.len() - 1].at as f64 / 1e9;
        let sends = steps.iter().filter(|step| matches!(step.act, Act::Send(_))).count() as f64;
        assert!((95.0..105.0).contains(&(sends / seconds)), "{} messages a second", sends / seconds);
        let share = |is: fn(&Act) -> bool| {
            steps.iter().filter(|step| is(&step.act)).count() as f64 / steps.len() as f64
        };
        let vanish = share(|act| matches!(act, Act::Vanish(_)));
        let history = share(|act| matches!(act, Act::LookBack(..)));
        assert!((0.045..0.055).contains(&vanish), "{vanish} of all");
        assert!((0.14..0.16).contains(&history), "{history} of all");
    }

    #[test]
    fn who_is_away_does_nothing() {
        let mut away_until = [0; 50];
        for Step { at, client, act } in plan(1).1.take(20_000) {
            assert!(at >= away_until[client], "{client} is away");
            if let Act::Vanish(away) = act {
                away_until[client] = at + away.as_nanos() as u64;
            }
        }
    }
}
