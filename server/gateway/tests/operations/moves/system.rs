//! A system that gives less than it should, and files that are replaced by good and by bad ones.

use rustix::process::{Pid, Resource, Rlimit};
use tern_client::Transport;
use tern_server::metrics::catalog;
use tokio::net::TcpStream;

use super::{Move, Watch, admin};
use crate::faults::Faults;
use crate::served::Files;
use crate::support::{PATIENCE, Session, Start, Ternd};

pub(super) async fn files_are_used_up(expected: &[Move]) {
    let data = tempfile::tempdir().expect("a temporary directory");
    let ternd = Ternd::start(data.path(), &Start::default());
    let mut watch = Watch::new(ternd.admin).await;
    let descriptors = || {
        let files = std::fs::read_dir(format!("/proc/{}/fd", ternd.pid())).expect("it runs");
        let number = |file: std::io::Result<std::fs::DirEntry>| file.ok()?.file_name().to_str()?.parse().ok();
        files.filter_map(number).collect::<Vec<u64>>()
    };
    // The limit is one of numbers, and those in use have gaps between them.
    let limit = descriptors().into_iter().max().expect("its standard streams") + 9;
    // The thread of the control socket waits in accept(2), which holds a number that is not listed.
    let full = limit as usize - 1;
    let pid = Pid::from_raw(ternd.pid() as i32);
    let files = Rlimit { current: Some(limit), maximum: Some(limit) };
    rustix::process::prlimit(pid, Resource::Nofile, files).expect("lower is allowed");
    let using_up = async {
        while !watch.still(expected).is_empty() {
            let mut silent = Vec::new();
            // More than there are numbers.
            for _ in 0..limit {
                silent.push(TcpStream::connect(ternd.address).await.expect("the kernel takes it"));
            }
            while descriptors().len() < full {
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

/// The key of RFC 8037, appendix A.
const KEY_SET: &str =
    r#"{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"a","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;

pub(super) async fn files_are_replaced(expected: &[Move]) {
    let mut files = Files::new();
    files.put("jwks.json", KEY_SET);
    files.put("revoked.toml", "");
    files.config = files.config.replace("[tokens]\n", "[tokens]\nrevoked = \"revoked.toml\"\n");
    files.config += "\n[tokens.jwks]\nfile = \"jwks.json\"\n";
    let served = files.serve();
    let mut watch = Watch::new(admin(&served)).await;
    served.signal(libc::SIGHUP);
    let good: &[_] = &["certificate ok", "token_keys ok", "key_set ok", "revocations ok"];
    watch.until(&[(&catalog::RELOADS, good)]).await;
    for name in ["server.pem", "token.pub", "jwks.json", "revoked.toml"] {
        files.put(name, "what nobody can use");
    }
    served.signal(libc::SIGHUP);
    watch.until(expected).await;
}
