//! The rounds: each cluster has each load in turn, all of it again and again.

use std::process::ExitCode;
use std::time::Duration;

use tern_client::Transport;
use tern_core::routing::SlotMap;
use tern_protocol::model::Kind;

use super::hops::{Hops, Place};
use super::host::{Host, Starting};
use super::table;
use crate::Error;
use crate::args::{Common, NodesArgs, TransportArg};
use crate::chat::Circle;
use crate::client::Account;
use crate::fleet::{Crew, Fleet, address_of};
use crate::outcome::Outcome;
use crate::pace::Pace;
use crate::run::{Round, Run, conclude, prepare};
use crate::scenario::party::{Findings, Party};

/// Does it; prints and writes what comes out.
pub fn execute(args: &NodesArgs) -> ExitCode {
    let outcomes = check(args).and_then(|transport| {
        prepare(&args.common)?;
        course(args, transport)
    });
    match outcomes {
        Ok(outcomes) => conclude(&outcomes, &args.common, true),
        Err(error) => {
            eprintln!("tern-bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn check(args: &NodesArgs) -> Result<Transport, Error> {
    let problem = |text: &str| Err(Error::Arguments(text.into()));
    let Common { server, data, ternd, .. } = &args.common;
    if server.is_some() || data.is_some() || ternd.is_some() {
        return problem(
            "`nodes` starts its own nodes on a store in memory: leave --server, --data and --ternd out",
        );
    }
    args.conversations()?;
    Pace::at_rate(args.rate, 1)?;
    match args.common.transport {
        TransportArg::Tcp => Ok(Transport::Tcp),
        TransportArg::Quic => Ok(Transport::Quic),
        TransportArg::Both => problem("`nodes` takes one transport of clients at a time: tcp or quic"),
    }
}

fn course(args: &NodesArgs, transport: Transport) -> Result<Vec<Outcome>, Error> {
    let shards = args.common.shards.unwrap_or(1);
    // They find each other at the same time.
    let starting = args.nodes.iter().map(|nodes| Starting::new(*nodes, shards));
    let starting = starting.collect::<Result<Vec<_>, _>>()?;
    let hosts = starting.into_iter().map(Starting::whole).collect::<Result<Vec<_>, _>>()?;
    let mut legs = Vec::new();
    for host in &hosts {
        for rate in [Some(args.rate), None] {
            legs.push(Leg::gather(args, transport, host, rate)?);
        }
    }
    for number in 0..args.rounds {
        for leg in &mut legs {
            leg.round(args, number);
        }
        if legs.iter().any(|leg| leg.run.has_ended_early()) {
            break;
        }
    }
    let mut measured: Vec<_> = legs.into_iter().map(|leg| leg.part(args)).collect();
    table::add_costs(&mut measured);
    for one in &measured {
        println!("{}", crate::table::table(&one.outcome));
    }
    println!("{}", table::table(&measured));
    Ok(measured.into_iter().map(|one| one.outcome).collect())
}

/// One load on one cluster.
struct Leg<'a> {
    nodes: usize,
    rate: Option<f64>,
    party: Party,
    run: Run<'a>,
    fleet: Fleet<Findings>,
    hops: Hops,
    rounds: Vec<Round>,
}

/// What came out of it.
pub(super) struct Measured {
    pub(super) nodes: usize,
    /// `None`: as many messages as the window allows.
    pub(super) rate: Option<f64>,
    pub(super) hops: Hops,
    pub(super) rounds: Vec<Round>,
    pub(super) outcome: Outcome,
}

impl<'a> Leg<'a> {
    /// Everybody is there.
    fn gather(
        args: &'a NodesArgs,
        transport: Transport,
        host: &Host,
        rate: Option<f64>,
    ) -> Result<Self, Error> {
        let (members, count) = (args.members as usize, args.conversations()? * args.members as usize);
        let party = Party {
            kind: kind(args),
            members,
            senders: members,
            pace: match rate {
                Some(rate) => Pace::at_rate(rate, count)?,
                None => Pace::Window(args.window as usize),
            },
            payload_bytes: args.payload as usize,
            mark_interval: Duration::ZERO,
            returns: None,
            storm: None,
        };
        let server = host.server()?;
        let accounts = server.accounts(count)?;
        let places = places(args, host, &accounts);
        let hops = hops(args, host, &places);
        let before = host.sessions()?;
        let mut run = Run::new(&args.common, transport, rate);
        run.use_server(server);
        let fleet =
            party.gather(&mut run, &Crew::new(accounts).together(members).spread(args.common.seed))?;
        let come = host.sessions()?.into_iter().zip(before).map(|(all, before)| all.saturating_sub(before));
        let expected = host.nodes().map(|node| places.iter().filter(|place| place.node == node).count());
        if !come.clone().eq(expected.clone()) {
            let (come, expected) = (come.collect::<Vec<_>>(), expected.collect::<Vec<_>>());
            return Err(Error::Scenario(format!("the nodes have {come:?} clients: expected {expected:?}")));
        }
        Ok(Self { nodes: host.nodes().len(), rate, party, run, fleet, hops, rounds: Vec::new() })
    }

    fn load(&self, args: &NodesArgs) -> String {
        let conversations = match kind(args) {
            Kind::Direct => "direct chats".to_owned(),
            Kind::Group => format!("groups of {}", args.members),
        };
        let nodes = if self.nodes == 1 { "node" } else { "nodes" };
        let load = self.rate.map_or(format!("window {}", args.window), |rate| format!("rate {rate}"));
        format!("{} {nodes}, {conversations}, {load}", self.nodes)
    }

    fn round(&mut self, args: &NodesArgs, number: u32) {
        if !args.common.quiet {
            eprintln!("round {} of {}: {}", number + 1, args.rounds, self.load(args));
        }
        let Self { run, fleet, rounds, .. } = self;
        run.attempt(|run| {
            rounds.push(run.round_and_pause(fleet, number, run.duration() / args.rounds)?);
            Ok(())
        });
    }

    /// Everybody goes, and what was seen is judged.
    fn part(self, args: &NodesArgs) -> Measured {
        let load = self.load(args);
        let Self { nodes, rate, party, mut run, fleet, hops, rounds } = self;
        if rounds.len() < args.rounds as usize {
            run.attempt(|_| Err(Error::Scenario("not all rounds have been run".into())));
        }
        party.part(&mut run, fleet);
        run.figure("nodes", nodes as f64);
        run.figure("sends_forwarded", hops.sends_forwarded);
        run.figure("deliveries_crossed", hops.deliveries_crossed);
        run.figure("links_per_message", hops.links_per_message);
        Measured { nodes, rate, hops, rounds, outcome: run.outcome("nodes", load, Ok(())) }
    }
}

fn kind(args: &NodesArgs) -> Kind {
    if args.members == 2 { Kind::Direct } else { Kind::Group }
}

/// Where these are connected.
fn places(args: &NodesArgs, host: &Host, accounts: &[Account]) -> Vec<Place> {
    let nodes: Vec<_> = host.nodes().collect();
    let node = |account| nodes[address_of(args.common.seed, account, nodes.len())];
    accounts.iter().map(|account| Place { user: account.user, node: node(account) }).collect()
}

fn hops(args: &NodesArgs, host: &Host, places: &[Place]) -> Hops {
    let conversations = places.chunks(args.members as usize).map(|members| {
        let users = members.iter().map(|member| member.user).collect();
        (Circle::new(kind(args), users, args.common.seed).conversation, members)
    });
    Hops::of(conversations, args.members as usize, &SlotMap::new(host.nodes()))
}
