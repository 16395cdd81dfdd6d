//! `tern`: chat in a terminal.
//!
//! - [`args`]: the command line.
//! - [`session`]: token, state file, connection.
//! - [`oneshot`]: commands that ask or change one thing and end.
//! - [`book`]: who is called what.
//! - [`chat`]: conversations in the whole terminal.
//! - [`tail`]: what happens, as it happens.
//! - [`output`]: lines and JSON.
//! - [`mod@file`]: small files, replaced as a whole.
//! - [`fail`]: one clear line and an exit code.

mod args;
mod book;
mod chat;
mod fail;
mod file;
mod oneshot;
mod output;
mod session;
mod tail;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let args = args::Args::parse();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail::Fail::usage(format!("no runtime: {error}")).report(),
    };
    let result = runtime.block_on(run(args));
    // A read of the terminal may still block a thread; nothing is lost with it.
    runtime.shutdown_background();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(fail) => fail.report(),
    }
}

async fn run(args: args::Args) -> Result<(), fail::Fail> {
    match args.command {
        args::Command::Chat => chat::run(&args).await,
        args::Command::Tail(ref tail) => tail::run(&args, tail).await,
        _ => oneshot::run(&args).await,
    }
}
