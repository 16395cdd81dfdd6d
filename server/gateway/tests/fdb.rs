//! `ternd serve --store fdb`, on the cluster whose cluster file `TERN_FDB_CLUSTER_FILE` names, under a prefix of its own.
//! What needs the cluster counts as ignored without the variable.

#[path = "serve/served.rs"]
mod served;
mod support;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use libtest_mimic::{Arguments, Completion, Trial};
use served::{Files, Served, output};
use support::{TRANSPORTS, message, texts, user};
use tern_client::Transport;
use tern_protocol::ids::{ClientSeq, ConversationId};
use tern_protocol::model::Target;
use tern_protocol::request::HistoryFrom;
use tern_store::Kv;
use tern_store_fdb::Fdb;

const VARIABLE: &str = "TERN_FDB_CLUSTER_FILE";

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let trials = vec![
        on_cluster(
            "what_one_server_has_stored_another_one_serves",
            what_one_server_has_stored_another_one_serves,
        ),
        on_cluster("a_backup_is_not_made_here", a_backup_is_not_made_here),
        Trial::test("a_data_directory_with_a_store_is_refused", || {
            a_data_directory_with_a_store_is_refused();
            Ok(())
        }),
        Trial::test("a_cluster_file_that_is_not_there_is_named", || {
            a_cluster_file_that_is_not_there_is_named();
            Ok(())
        }),
    ];
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn on_cluster<F: Future<Output = ()> + 'static>(name: &str, test: fn(Cluster) -> F) -> Trial {
    Trial::ignorable_test(name, move || {
        let Some(file) = std::env::var_os(VARIABLE).map(PathBuf::from) else {
            return Ok(Completion::ignored_with(format!("{VARIABLE} names no cluster")));
        };
        let prefix = format!("tern-test/{:016x}/", getrandom::u64()?);
        block_on(test(Cluster { file, prefix }));
        Ok(Completion::Completed)
    })
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(future)
}

/// `ternd serve` with this cluster file.
fn serve(files: &Files, cluster_file: &Path) -> Command {
    let mut command = files.command(&["serve", "--store", "fdb"]);
    command.arg("--cluster-file").arg(cluster_file);
    command
}

/// A part of it, which is cleared in the end.
struct Cluster {
    file: PathBuf,
    prefix: String,
}

impl Cluster {
    /// A server on it; its data directory is nobody else's.
    fn serve(&self, files: &Files) -> Served {
        Served::start(serve(files, &self.file))
    }

    fn files(&self) -> Files {
        let files = Files::new();
        let store = format!("[store]\nprefix = \"{}\"\n\n[tls]", self.prefix);
        Files { config: files.config.replacen("[tls]", &store, 1), ..files }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let clear = || {
            block_on(async {
                let store =
                    Fdb::open(&self.file, self.prefix.as_bytes()).await.expect("the cluster is there");
                let mut tidy = store.begin();
                tidy.clear_range(&[], &[0xFF]);
                tidy.commit().await.expect("what the test has written is removed");
            });
        };
        // A runtime may be waiting on this thread.
        std::thread::scope(|scope| scope.spawn(clear).join()).expect("it is cleared");
    }
}

async fn what_one_server_has_stored_another_one_serves(cluster: Cluster) {
    let (files, other) = (cluster.files(), cluster.files());
    let ca = files.certificate("first");
    let id = ConversationId::direct(user("alice"), user("bob"));
    let first = {
        let mut served = cluster.serve(&files);
        let connector = served.connector(&ca);
        let mut alice = served.login(&connector, Transport::Tcp, &files.token("alice"), 1).await;
        let mut bob = served.login(&connector, Transport::Quic, &files.token("bob"), 2).await;
        let first = alice.text(user("bob"), "first").await.expect("it is stored");
        assert_eq!(bob.pushed().await.1.seq, first.seq);
        bob.text(user("alice"), "second").await.expect("it is stored");
        served.signal(libc::SIGKILL);
        served.wait();
        first
    };
    // The key that signs tokens is the app's, and the same everywhere.
    for name in ["token.key", "token.pub"] {
        other.put(name, served::read(&files.path(name)));
    }
    let served = cluster.serve(&other);
    let connector = served.connector(&other.certificate("first"));
    for transport in TRANSPORTS {
        let mut alice = served.login(&connector, transport, &files.token("alice"), 1).await;
        let again = alice.send_as(Target::User(user("bob")), ClientSeq(1), message("first")).await;
        assert_eq!(
            again.expect("it is known").seq,
            first.seq,
            "a retry gets the number that it got the first time"
        );
        let page = alice.history(id, HistoryFrom::Backward(None), 10).await.expect("she is a member");
        assert_eq!(texts(&page.entries), ["first", "second"]);
        alice.close().await;
    }
    assert_eq!(served.metric("tern_loads_total{result=\"failed\"}").await, 0);
    let log = served.log_to_the_end();
    assert!(log.contains("stopped"), "it ends well: {log}");
}

async fn a_backup_is_not_made_here(cluster: Cluster) {
    let files = cluster.files();
    let _served = cluster.serve(&files);
    let mut backup = Command::new(env!("CARGO_BIN_EXE_ternd"));
    backup.arg("backup").arg("--data").arg(files.path("data")).arg(files.path("backup"));
    let (status, _, error) = output(backup);
    assert!(!status.success() && error.contains("FoundationDB's own tools"), "{status}: {error}");
}

/// `ternd serve` with this cluster file, which ends by itself: what it says.
fn refused(files: &Files, cluster_file: &Path) -> String {
    let (status, _, error) = output(serve(files, cluster_file));
    assert_eq!(status.code(), Some(1), "{error}");
    error
}

fn a_data_directory_with_a_store_is_refused() {
    let files = Files::new();
    drop(files.serve());
    let error = refused(&files, Path::new("/nowhere/fdb.cluster"));
    assert!(error.contains("data/store holds what this server has stored"), "{error}");
}

fn a_cluster_file_that_is_not_there_is_named() {
    let error = refused(&Files::new(), Path::new("/nowhere/fdb.cluster"));
    assert!(error.contains("cannot read the cluster file /nowhere/fdb.cluster"), "{error}");
}
