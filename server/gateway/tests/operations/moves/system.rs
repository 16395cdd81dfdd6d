//! A system that gives less than it should.

use rustix::process::{Pid, Resource, Rlimit};
use tern_client::Transport;
use tokio::net::TcpStream;

use super::{Move, Watch};
use crate::faults::Faults;
use crate::support::{PATIENCE, Session, Start, Ternd};

pub(super) async fn files_are_used_up(expected: &[Move]) {
    let data = tempfile::tempdir().expect("a temporary directory");
    let ternd = Ternd::start(data.path(), &Start::default());
    let mut watch = Watch::new(ternd.admin).await;
    let open_files = || {
        let files = std::fs::read_dir(format!("/proc/{}/fd", ternd.pid())).expect("it runs");
        files.count() as u64
    };
    let limit = open_files() + 8;
    let pid = Pid::from_raw(ternd.pid() as i32);
    let files = Rlimit { current: Some(limit), maximum: Some(limit) };
    rustix::process::prlimit(pid, Resource::Nofile, files).expect("lower is allowed");
    let using_up = async {
        while !watch.still(expected).is_empty() {
            let mut silent = Vec::new();
            for _ in 0..32 {
                silent.push(TcpStream::connect(ternd.address).await.expect("the kernel takes it"));
            }
            while open_files() < limit {
                tokio::task::yield_now().await;
            }
            // Those that were not accepted wait. The page needs files, too.
            drop(silent.split_off(4));
            watch.look().await;
        }
    };
    let used_up = tokio::time::timeout(PATIENCE, using_up).await;
    assert!(used_up.is_ok(), "they do not move: {:?}", watch.still(expected));
    ternd.login(Transport::Tcp, "alice", 1).await.is_served().await;
}

pub(super) async fn the_kernel_does_not_steer(expected: &[Move]) {
    let data = tempfile::tempdir().expect("a temporary directory");
    let faults = Faults::new(data.path());
    faults.set("no-steering");
    let ternd = Ternd::start(data.path(), &faults.start());
    let mut watch = Watch::new(ternd.admin).await;
    let connector = ternd.connector();
    let connection = connector.connect(Transport::Quic).await.expect("connected");
    let mut alice = Session::login(connection, &ternd.token("alice"), 1).await.expect("the token is good");
    let moving = async {
        while !watch.still(expected).is_empty() {
            // From a new port: the kernel gives it to a shard by chance.
            connector.rebind().expect("a free port");
            alice.is_served().await;
            watch.look().await;
        }
    };
    let moved = tokio::time::timeout(PATIENCE, moving).await;
    assert!(moved.is_ok(), "they do not move: {:?}", watch.still(expected));
}
