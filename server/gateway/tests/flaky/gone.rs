//! Networks that go away with an error: no way leads to the server, and the kernel says so.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures_util::{StreamExt, stream};
use tern_client::Transport::{self, Auto, Quic, Tcp};
use tern_proxy::clock;

use crate::AT_A_TIME;
use crate::app::Outage;
use crate::cell::{Cell, Trouble};
use crate::namespace::{self, Network, SERVER};
use crate::support::{Start, Ternd};
use crate::table;

/// It happens when so many sends have been answered.
const ANSWERED: u64 = 16;

/// How a network goes away and comes back.
#[derive(Debug, Clone, Copy)]
struct Gone {
    name: &'static str,
    /// Until those in it have been told by the kernel, several times; `None`: it is another network at once.
    away: Option<&'static str>,
    back: &'static str,
    /// Whether the system tells the app when it goes away, and when it comes back.
    is_told: bool,
}

const ANOTHER: &str =
    "ip address flush dev eth0 && ip address add $another/24 dev eth0 && ip route add default via $router";

/// The long ones first: a dead link is found by its silence.
const NETWORKS: [Gone; 6] = [
    Gone {
        name: "the interface goes down",
        away: Some("ip link set eth0 down"),
        back: "ip link set eth0 up && ip route add default via $router",
        is_told: false,
    },
    Gone {
        name: "the address is removed",
        away: Some("ip address flush dev eth0"),
        back: ANOTHER,
        is_told: false,
    },
    Gone { name: "another address", away: None, back: ANOTHER, is_told: false },
    Gone {
        name: "the interface goes down, told",
        away: Some("ip link set eth0 down"),
        back: "ip link set eth0 up && ip route add default via $router",
        is_told: true,
    },
    // The server's packets still come.
    Gone {
        name: "the way is forbidden, told",
        away: Some("ip route replace prohibit default"),
        back: "ip route replace default via $router",
        is_told: true,
    },
    Gone { name: "another address, told", away: None, back: ANOTHER, is_told: true },
];

impl Gone {
    async fn run(
        self,
        number: u8,
        transport: Transport,
        ternd: &Ternd,
        directory: &std::path::Path,
    ) -> table::Row {
        let network = Arc::new(Network::new(number));
        let outage = Arc::new(Outage::default());
        let trouble =
            Trouble::Gone { name: self.name.to_owned(), network: network.clone(), outage: outage.clone() };
        let cell = Cell { number: number.into(), transport, trouble, directory };
        let started = cell.start(ternd).await;
        started.answered(ANSWERED).await;
        outage.begun.store(clock::nanos(), Ordering::Relaxed);
        if let Some(away) = self.away {
            network.run_script(away);
            if self.is_told {
                started.tell();
            }
            started.cut_off().await;
        }
        network.run_script(self.back);
        outage.over.store(clock::nanos(), Ordering::Relaxed);
        if self.is_told {
            started.tell();
        }
        started.end().await.check(ternd).await
    }
}

#[tokio::test]
async fn over_networks_that_go_away_with_an_error_everything_comes_once_and_in_order() {
    if !namespace::is_inside(
        "gone::over_networks_that_go_away_with_an_error_everything_comes_once_and_in_order",
    ) {
        return;
    }
    namespace::prepare();
    let directory = tempfile::tempdir().expect("a temporary directory");
    let listen = (SERVER, 0).into();
    let ternd = Ternd::start(&directory.path().join("server"), &Start { listen, ..Start::default() });
    let cells = NETWORKS.into_iter().flat_map(|gone| [Quic, Tcp, Auto].map(|transport| (gone, transport)));
    let run = |(number, (gone, transport)): (u8, (Gone, Transport))| {
        let (ternd, directory) = (&ternd, directory.path());
        async move {
            let row = gone.run(number, transport, ternd, directory).await;
            (number, (gone.name.to_owned(), format!("{transport:?}"), true, row))
        }
    };
    let mut rows: Vec<_> =
        stream::iter((1..).zip(cells).map(run)).buffer_unordered(AT_A_TIME).collect().await;
    rows.sort_by_key(|(number, _)| *number);
    table::print(&rows.into_iter().map(|(_, row)| row).collect::<Vec<_>>());
    ternd.kill();
}
