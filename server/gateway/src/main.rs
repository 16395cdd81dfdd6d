//! ternd: configuration, store, shards, wait.

use std::error::Error;
use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use clap::Parser;
use tern_server::cli::{Cli, ClusterCommand, Command, ConfigCommand, Sources};
use tern_server::config::{ConfigError, EXAMPLE, Loaded, strangers};
use tern_server::run::{runtime, server_until_signal};
use tern_server::{dev, offline, serve, status, top};

/// What was asked for was done, and something is wrong with what was looked at.
const EXIT_WRONG: u8 = 3;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let filter = tracing_subscriber::EnvFilter::try_from_env("TERN_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colours).init();
    match run(cli.command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("ternd: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<ExitCode, Box<dyn Error>> {
    let done = match command {
        Command::Dev(args) => server_until_signal(async || {
            let running = dev::start(&args)?;
            print(&running.greeting)?;
            Ok((running.server, None))
        }),
        Command::Serve(sources) => server_until_signal(async || {
            let (server, upkeep) = serve::start(&load(&sources)?).await?;
            Ok((server, Some(upkeep)))
        }),
        Command::Top(args) => runtime()?.block_on(top::run(&args)),
        Command::Cluster(ClusterCommand::Status(args)) => {
            let is_well = runtime()?.block_on(status::run(&args))?;
            return Ok(if is_well { ExitCode::SUCCESS } else { ExitCode::from(EXIT_WRONG) });
        }
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
    };
    done.map(|()| ExitCode::SUCCESS)
}

fn load(sources: &Sources) -> Result<Loaded, ConfigError> {
    let names = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    strangers(names).iter().for_each(|stranger| tracing::warn!("{stranger}"));
    Loaded::read(&sources.config, &sources.overrides)
}

/// One line, or more, to standard output; that nobody reads it is no reason to stop a server.
fn print(text: &str) -> Result<(), Box<dyn Error>> {
    let _ = writeln!(std::io::stdout().lock(), "{text}");
    Ok(())
}
