//! ternd: configuration, store, shards, wait.

use std::error::Error;
use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use tern_server::cli::{Cli, Command, ConfigCommand, Sources};
use tern_server::config::{ConfigError, EXAMPLE, Loaded};
use tern_server::notify::{State, notify};
use tern_server::serve::Upkeep;
use tern_server::server::Server;
use tern_server::{dev, offline, serve, top};
use tokio::signal::unix::{SignalKind, signal};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let filter = tracing_subscriber::EnvFilter::try_from_env("TERN_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colours).init();
    match run(cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ternd: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<(), Box<dyn Error>> {
    match command {
        Command::Dev(args) => run_server(async || {
            let running = dev::start(&args)?;
            print(&running.greeting)?;
            Ok((running.server, None))
        }),
        Command::Serve(sources) => run_server(async || {
            let (server, upkeep) = serve::start(&load(&sources)?).await?;
            Ok((server, Some(upkeep)))
        }),
        Command::Top(args) => runtime()?.block_on(top::run(&args)),
        Command::Token(args) => print(&dev::token(&args)?),
        Command::Config(ConfigCommand::Example) => print(EXAMPLE.trim_end()),
        Command::Config(ConfigCommand::Check(sources)) => {
            runtime()?.block_on(serve::check(&load(&sources)?))?;
            print(&format!("{} can be used", sources.config.display()))
        }
        Command::Config(ConfigCommand::Show { effective, sources }) => {
            print(load(&sources)?.show(effective).trim_end())
        }
        Command::Store(command) => Ok(offline::run(command, &mut |line| drop(print(line)))?),
    }
}

fn load(sources: &Sources) -> Result<Loaded, ConfigError> {
    Loaded::read(&sources.config, &sources.overrides)
}

fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

/// Starts a server and runs it until SIGTERM or SIGINT.
fn run_server(
    start: impl AsyncFnOnce() -> Result<(Server, Option<Upkeep>), Box<dyn Error>>,
) -> Result<(), Box<dyn Error>> {
    let runtime = runtime()?;
    let ended = runtime.block_on(async {
        // Before the server says that it is ready, so that nobody's signal comes too early.
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut hangup = signal(SignalKind::hangup())?;
        let (server, upkeep) = start().await?;
        let keep_up_to_date = async {
            match upkeep {
                Some(upkeep) => upkeep.run(hangup).await,
                // With the terminal that it was started from, a development server goes too.
                None => drop(hangup.recv().await),
            }
        };
        notify(State::Ready);
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            () = keep_up_to_date => {}
        }
        notify(State::Stopping);
        let second_signal = async {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            eprintln!("ternd: stopped at once by a second signal");
            // From here, without dropping anything: closing a store waits for it, and it may hang.
            std::process::exit(1)
        };
        tokio::select! {
            () = server.stop() => Ok(()),
            stopped = second_signal => stopped,
        }
    });
    // Not for ever: a file system that hangs may still be asked for its size.
    runtime.shutdown_timeout(Duration::from_secs(1));
    ended
}

/// One line, or more, to standard output; that nobody reads it is no reason to stop a server.
fn print(text: &str) -> Result<(), Box<dyn Error>> {
    let _ = writeln!(std::io::stdout().lock(), "{text}");
    Ok(())
}
