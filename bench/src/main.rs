//! tern-bench: the command line and what it leads to.

use std::process::ExitCode;

use clap::Parser;
use tern_bench::args::{Cli, Command};
use tern_bench::run::execute;
use tern_bench::{floor, nodes, page};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match Cli::parse().scenario {
        Command::Send(scenario) => execute(&scenario),
        Command::Group(scenario) => execute(&scenario),
        Command::Flaky(scenario) => execute(&scenario),
        Command::Idle(scenario) => execute(&scenario),
        Command::Storm(scenario) => execute(&scenario),
        Command::Sync(scenario) => execute(&scenario),
        Command::History(scenario) => execute(&scenario),
        Command::Mixed(scenario) => execute(&scenario),
        Command::Cluster(scenario) => execute(&scenario),
        Command::Hostile(scenario) => execute(&scenario),
        Command::Nodes(args) => nodes::course::execute(&args),
        Command::Floor(args) => said(floor::scenario::run(&args)),
        Command::Report(args) => said(page::run(&args)),
        Command::Relay(args) => floor::relay::run(&args),
        Command::FloorStore(args) => floor::store::run(&args),
        Command::NodesHost(args) => nodes::host::run(&args),
    }
}

fn said(result: Result<(), impl std::fmt::Display>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tern-bench: {error}");
            ExitCode::FAILURE
        }
    }
}
