//! What every store promises, and the operations on it, on a real cluster: the one whose cluster file
//! `TERN_FDB_CLUSTER_FILE` names. Each case has a prefix of its own there, and leaves nothing behind. Without the
//! variable they count as ignored.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use libtest_mimic::{Arguments, Completion, Failed, Trial};
use tern_store::conformance::{CASES, Case};
use tern_store::limits::PREFIX_BYTES_MAX;
use tern_store::{CommitError, Kv, RangeQuery, ops};
use tern_store_fdb::{Fdb, OpenError};

const VARIABLE: &str = "TERN_FDB_CLUSTER_FILE";

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let of_store = CASES.iter().map(|case| ("store", case));
    let of_operations = ops::conformance::cases().map(|case| ("operations", case));
    let own: [Case; 2] = [
        ("prefixes_keep_systems_apart", |_| Box::pin(prefixes_keep_systems_apart())),
        ("a_recent_version_hides_no_conflict", |_| Box::pin(a_recent_version_hides_no_conflict())),
    ];
    let on_cluster = of_store.chain(of_operations).map(|(kind, case)| (kind, *case));
    let on_cluster = on_cluster.chain(own.map(|case| ("adapter", case)));
    let trials = on_cluster.map(|(kind, (name, case))| {
        Trial::ignorable_test(format!("{kind}::{name}"), move || match cluster_file() {
            Some(file) => {
                on_a_store_of_its_own(&file, case);
                Ok(Completion::Completed)
            }
            None => Ok(Completion::ignored_with(format!("{VARIABLE} names no cluster"))),
        })
    });
    let of_opening = [
        trial("a_file_that_is_not_there_is_named", a_file_that_is_not_there_is_named),
        trial("a_file_that_is_none_is_named", a_file_that_is_none_is_named),
        trial("a_cluster_that_does_not_answer_is_not_waited_for", a_cluster_that_does_not_answer),
        trial("prefixes_are_bounded", prefixes_are_bounded),
    ];
    libtest_mimic::run(&arguments, trials.chain(of_opening).collect()).exit_code()
}

fn trial(name: &str, test: fn()) -> Trial {
    Trial::test(format!("opening::{name}"), move || -> Result<(), Failed> {
        test();
        Ok(())
    })
}

fn cluster_file() -> Option<PathBuf> {
    std::env::var_os(VARIABLE).map(PathBuf::from)
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().expect("a runtime").block_on(future)
}

/// A prefix that nobody else has.
fn prefix() -> Vec<u8> {
    format!("tern-test/{:016x}/", getrandom::u64().expect("random numbers")).into_bytes()
}

fn open(file: &Path, prefix: &[u8]) -> Arc<dyn Kv> {
    Arc::new(block_on(Fdb::open(file, prefix)).expect("the cluster can be opened"))
}

async fn clear(kv: &dyn Kv) {
    let mut tidy = kv.begin();
    tidy.clear_range(&[], &[0xFF]);
    tidy.commit().await.expect("what a test has written is removed");
}

fn on_a_store_of_its_own(
    file: &Path,
    case: fn(Arc<dyn Kv>) -> futures_util::future::LocalBoxFuture<'static, ()>,
) {
    let kv = open(file, &prefix());
    let ended = catch_unwind(AssertUnwindSafe(|| block_on(case(kv.clone()))));
    block_on(clear(&*kv));
    ended.unwrap_or_else(|panic| resume_unwind(panic));
}

async fn prefixes_keep_systems_apart() {
    let file = cluster_file().expect("it is asked for above");
    let common = prefix();
    let open =
        async |part: &str| Fdb::open(&file, &[&common, part.as_bytes()].concat()).await.expect("it is there");
    let (one, other) = (open("a").await, open("b").await);
    let all =
        async |kv: &Fdb| kv.begin().range(RangeQuery::new([], [0xFF], 9)).await.expect("a range can be read");
    for kv in [&one, &other] {
        let mut tx = kv.begin();
        tx.set(b"\xFE", "last".into());
        tx.commit().await.expect("commits");
    }
    let mut tx = one.begin();
    tx.clear_range(&[], &[0xFF]);
    tx.commit().await.expect("commits");
    assert_eq!(all(&one).await, []);
    assert_eq!(all(&other).await, [(b"\xFE"[..].into(), b"last"[..].into())]);
    let mut tx = other.begin();
    tx.clear(b"\xFE");
    tx.commit().await.expect("commits");
}

/// Two processes that count together: whoever has read what the other has changed since, does not count.
async fn a_recent_version_hides_no_conflict() {
    let file = cluster_file().expect("it is asked for above");
    let prefix = prefix();
    let open = async || Fdb::open(&file, &prefix).await.expect("it is there");
    let (one, other) = (open().await, open().await);
    let add = async |kv: &Fdb| {
        let mut tx = kv.begin_recent();
        let before = tx.get(b"count").await.expect("it can be read").map_or(0, |count| count[0]);
        tx.set(b"count", vec![before.wrapping_add(1)].into());
        tx.commit().await.map(|_| ())
    };
    let (mut count, mut stale) = (0u8, 0);
    for _ in 0..1_000 {
        if stale >= 3 {
            break;
        }
        for kv in [&one, &other] {
            let mut attempts = 1..100;
            while let Err(error) = add(kv).await {
                assert_eq!(error, CommitError::Conflict);
                assert!(attempts.next().is_some(), "what it has missed, it asks for");
                stale += 1;
            }
            count = count.wrapping_add(1);
            let stored = kv.begin().get(b"count").await.expect("it can be read");
            assert_eq!(stored.as_deref(), Some(&[count][..]), "none is lost");
        }
    }
    assert!(stale >= 3, "recent versions are not what is read at");
    clear(&one).await;
}

/// What is said when a cluster file with this text is opened.
fn refused(text: &str) -> (OpenError, PathBuf) {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("fdb.cluster");
    std::fs::write(&path, text).expect("it can be written");
    (block_on(Fdb::open(&path, b"")).err().expect("it is refused"), path)
}

fn a_file_that_is_not_there_is_named() {
    let error = block_on(Fdb::open(Path::new("/nowhere/fdb.cluster"), b"")).err().expect("it is refused");
    let text = error.to_string();
    assert!(text.contains("/nowhere/fdb.cluster: ") && text.contains("fdb.cluster` of the"), "{text}");
}

fn a_file_that_is_none_is_named() {
    for text in ["", "nonsense", "a:b@c"] {
        let (error, path) = refused(text);
        assert!(matches!(&error, OpenError::NoClusterFile(named) if *named == path), "{text:?}: {error}");
    }
}

fn a_cluster_that_does_not_answer() {
    let (error, path) = refused("nobody:here@127.0.0.1:1");
    assert!(matches!(&error, OpenError::Unreachable(named) if *named == path), "{error}");
    assert!(error.to_string().contains("fdbcli"), "{error}");
}

fn prefixes_are_bounded() {
    for prefix in [&[b'x'; PREFIX_BYTES_MAX + 1][..], &[0xFF], &[0xFF, 1]] {
        let error = block_on(Fdb::open(Path::new("/nowhere"), prefix)).err().expect("it is refused");
        assert!(matches!(error, OpenError::Prefix), "{error}");
    }
}
