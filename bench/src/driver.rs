//! Threads that drive the clients: each has a runtime and its share of them, and nothing is shared but the phase.

use std::sync::{Arc, mpsc};
use std::thread;

use futures_util::{StreamExt, TryStreamExt, stream};
use tern_client::Transport;
use tern_client::raw::Connector;
use tokio::sync::watch;
use tokio::task::LocalSet;

use crate::Error;
use crate::args::Common;
use crate::client::{Account, Client};
use crate::server::Server;

/// Clients that share a UDP socket and TLS session tickets.
const CLIENTS_PER_CONNECTOR: usize = 50;

/// What all clients do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Wait until all are connected.
    Ready,
    /// The scenario's load, not measured.
    Warmup,
    /// The same, measured.
    Measuring,
    /// Finish what is under way.
    Draining,
}

/// All clients, connected.
pub struct Fleet<R> {
    phase: watch::Sender<Phase>,
    threads: Vec<thread::JoinHandle<Result<R, Error>>>,
}

impl<R: Send + 'static> Fleet<R> {
    /// Connects all clients, and has each thread run `work` on its share: neighbours stay together, in twos.
    ///
    /// # Errors
    /// The first client's that could not connect.
    pub fn connect<W>(server: &Server, args: &Common, work: W) -> Result<Self, Error>
    where
        W: AsyncFn(Vec<Client>, watch::Receiver<Phase>) -> R + Clone + Send + 'static,
    {
        let accounts = server.accounts(args.connections)?;
        let threads = args.threads.clamp(1, accounts.len().div_ceil(2));
        let per_thread = accounts.len().div_ceil(2).div_ceil(threads) * 2;
        let shares: Vec<Vec<Account>> = accounts.chunks(per_thread).map(<[_]>::to_vec).collect();
        let ramp = (args.ramp / shares.len()).max(1);
        let (phase, _) = watch::channel(Phase::Ready);
        let (connected, connections) = mpsc::channel();
        let target = Arc::new((server.address.to_string(), server.ca.clone()));
        let transport = args.transport.into();
        let spawn = |share: Vec<Account>| {
            let (target, connected, work) = (target.clone(), connected.clone(), work.clone());
            let phase = phase.subscribe();
            let run = async move || {
                let clients = connect_all(&target.0, &target.1, transport, share, ramp).await?;
                // Nobody waits for it any more when another thread has failed.
                let _ = connected.send(());
                drop(connected);
                Ok(work(clients, phase).await)
            };
            thread::Builder::new()
                .name("tern-bench".into())
                .spawn(move || {
                    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                    let runtime = runtime.map_err(Error::io("cannot start a runtime"))?;
                    runtime.block_on(LocalSet::new().run_until(run()))
                })
                .map_err(Error::io("cannot start a thread"))
        };
        let threads = shares.into_iter().map(spawn).collect::<Result<Vec<_>, _>>()?;
        drop(connected);
        if connections.iter().count() < threads.len() {
            drop(phase);
            return Err(join(threads).err().unwrap_or(Error::Driver));
        }
        Ok(Self { phase, threads })
    }

    /// All go on to the next phase.
    pub fn enter(&self, phase: Phase) {
        self.phase.send_replace(phase);
    }

    /// Waits until all are done.
    ///
    /// # Errors
    /// A thread's.
    pub fn join(self) -> Result<Vec<R>, Error> {
        join(self.threads)
    }
}

fn join<R>(threads: Vec<thread::JoinHandle<Result<R, Error>>>) -> Result<Vec<R>, Error> {
    let results: Vec<_> = threads.into_iter().map(|thread| thread.join()).collect();
    results.into_iter().map(|result| result.unwrap_or(Err(Error::Driver))).collect()
}

async fn connect_all(
    address: &str,
    ca: &[u8],
    transport: Transport,
    accounts: Vec<Account>,
    at_once: usize,
) -> Result<Vec<Client>, Error> {
    let connectors = (0..accounts.len().div_ceil(CLIENTS_PER_CONNECTOR))
        .map(|_| Connector::new(address, None, ca))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| Error::Server(error.to_string()))?;
    stream::iter(accounts.iter().enumerate())
        .map(async |(i, account)| {
            // Not in a row, so that sockets are used evenly from the start.
            let connector = &connectors[i % connectors.len()];
            Client::login(connector, transport, account)
                .await
                .map_err(|problem| Error::Client { client: account.number, problem })
        })
        .buffered(at_once)
        .try_collect()
        .await
}
