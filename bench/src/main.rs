//! tern-bench: command line, scenario, report.

use std::process::ExitCode;

use clap::Parser;
use tern_bench::args::{Cli, Scenario};
use tern_bench::{floor, idle, page, send};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A promise was broken. 1 says that the run itself went wrong, 2 is clap's.
const BROKEN: u8 = 3;

fn main() -> ExitCode {
    let result = match Cli::parse().scenario {
        Scenario::Send(args) => send::run(&args),
        Scenario::Idle(args) => idle::run(&args),
        Scenario::Report(args) => page::run(&args).map(|()| true).map_err(Into::into),
        Scenario::Floor(args) => floor::scenario::run(&args).map(|()| true),
        Scenario::Relay(args) => floor::relay::run(&args).map(|()| true),
        Scenario::FloorStore(args) => floor::store::run(&args).map(|()| true),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => {
            eprintln!("tern-bench: the server has broken a promise: see \"faults\"");
            BROKEN.into()
        }
        Err(error) => {
            eprintln!("tern-bench: {error}");
            ExitCode::FAILURE
        }
    }
}
