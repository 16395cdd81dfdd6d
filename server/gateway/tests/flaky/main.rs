//! Real clients behind bad networks, and with a server that dies: nothing is lost, doubled or out of order, and everybody
//! has everything in the end. How long it took is printed.
//!
//! - `fault`: the matrix; `gone`: networks that go away with an error, each in a `namespace`; `cell`: one of them; `app`:
//!   somebody in it; `record`: what the checker is told; `table`: figures.
//!
//! `TERN_FLAKY=all` runs the whole matrix, which takes some minutes; `TERN_FLAKY=loss`, say, what of it has that in its
//! name.
#![cfg(target_os = "linux")]

mod app;
mod cell;
mod fault;
mod gone;
mod namespace;
mod record;
mod table;

#[path = "../support/mod.rs"]
mod support;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures_util::{StreamExt, stream};
use tern_client::Transport;
use tern_proxy::clock;

use app::Outage;
use cell::{Cell, Trouble};
use fault::Fault;
use support::{Start, Ternd};

/// Cells at a time: more take each other's time, and it is theirs that is measured.
const AT_A_TIME: usize = 12;

/// The server dies when so many sends have been answered.
const ANSWERED: u64 = 16;

/// The cells to run, numbered.
fn cells() -> Vec<(usize, (Fault, Transport))> {
    let which = std::env::var("TERN_FLAKY").unwrap_or_default();
    let faults = fault::faults().into_iter().filter(|fault| which == "all" || fault.name.contains(&which));
    let cells =
        faults.flat_map(|fault| fault.transports(!which.is_empty()).map(move |transport| (fault, transport)));
    let cells: Vec<_> = cells.enumerate().collect();
    assert!(!cells.is_empty(), "TERN_FLAKY={which}: \"all\" is expected, or a part of a fault's name");
    cells
}

#[tokio::test]
async fn through_bad_networks_everything_comes_once_and_in_order() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let ternd = Ternd::start(&directory.path().join("server"), &Start::default());
    let mut cells = cells();
    // The long ones first.
    cells.sort_by_key(|(_, (fault, _))| {
        std::cmp::Reverse(fault.plan.blackout.map(|blackout| blackout.for_ms))
    });
    let run = |(number, (fault, transport)): (usize, (Fault, Transport))| {
        let (ternd, directory) = (&ternd, directory.path());
        async move {
            let trouble = Trouble::Network(Box::new(fault));
            let cell = Cell { number: number as u64 + 1, transport, trouble, directory };
            let row = cell.start(ternd).await.end().await.check(ternd).await;
            (number, (fault.name.to_owned(), format!("{transport:?}"), fault.ends, row))
        }
    };
    let mut rows: Vec<_> =
        stream::iter(cells.into_iter().map(run)).buffer_unordered(AT_A_TIME).collect().await;
    rows.sort_by_key(|(number, _)| *number);
    table::print(&rows.into_iter().map(|(_, row)| row).collect::<Vec<_>>());
    ternd.kill();
}

#[tokio::test]
async fn over_the_death_of_the_server_everything_comes_once_and_in_order() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let runs = [Transport::Quic, Transport::Tcp, Transport::Auto].map(|transport| {
        let directory = directory.path().join(format!("{transport:?}"));
        async move {
            let mut ternd = Ternd::start(&directory.join("server"), &Start::default());
            let outage = Arc::new(Outage::default());
            let trouble = Trouble::Server(outage.clone());
            let cell = Cell { number: 1, transport, trouble, directory: &directory };
            let started = cell.start(&ternd).await;
            started.answered(ANSWERED).await;
            outage.begun.store(clock::nanos(), Ordering::Relaxed);
            let restart = tokio::task::spawn_blocking(move || {
                ternd.restart(libc::SIGKILL);
                ternd
            });
            let ternd = restart.await.expect("it starts again");
            outage.over.store(clock::nanos(), Ordering::Relaxed);
            let row = started.end().await.check(&ternd).await;
            ternd.kill();
            ("the server dies".to_owned(), format!("{transport:?}"), true, row)
        }
    });
    table::print(&futures_util::future::join_all(runs).await);
}
