//! File, environment, flags; several addresses.

use tern_client::Transport;
use tern_client::raw::Connector;

use crate::served::{Files, output, read};
use crate::support::{Session, TRANSPORTS};

#[test]
fn flags_go_before_the_environment_and_that_before_the_file() {
    let files = Files::new();
    let show = |arguments: &[&str]| {
        let mut command = files.command(&[&["config", "show", "--effective"], arguments].concat());
        command.env("TERN_SHARDS", "3").env("TERN_LISTEN", "127.0.0.1:1,[::1]:1");
        let (status, shown, errors) = output(command);
        assert!(status.success(), "{errors}");
        shown
    };
    let line = |shown: &str, start: &str| {
        let line = shown.lines().find(|line| line.starts_with(start)).map(str::to_owned);
        line.unwrap_or_else(|| panic!("no {start:?} in:\n{shown}"))
    };
    let shown = show(&[]);
    assert!(line(&shown, "shards = 3 ").ends_with("# TERN_SHARDS"));
    assert!(line(&shown, "listen = [\"127.0.0.1:1\", \"[::1]:1\"]").ends_with("# TERN_LISTEN"));
    assert!(line(&shown, "leeway_seconds = 30").ends_with("# default"));
    let shown = show(&["--shards", "4"]);
    assert!(line(&shown, "shards = 4 ").ends_with("# --shards"));
    let place = format!("# {}:1", files.path("tern.toml").display());
    assert!(line(&shown, "data = ").ends_with(&place), "{shown}");
}

#[test]
fn what_cannot_be_used_is_refused_with_its_place() {
    let check = |change: (&str, &str), environment: Option<(&str, &str)>, expected: &[&str]| {
        let mut files = Files::new();
        files.config = files.config.replace(change.0, change.1);
        for command in [&["config", "check"][..], &["serve"]] {
            let mut command = files.command(command);
            command.envs(environment);
            let (status, _, errors) = output(command);
            assert!(!status.success(), "{expected:?}");
            assert!(expected.iter().all(|part| errors.contains(part)), "{expected:?}: {errors}");
        }
    };
    check(("shards", "shrads"), None, &["tern.toml:3: shrads: ", "did you mean \"shards\"?"]);
    check(("server.key", "none.key"), None, &["tern.toml:7: tls.key: ", "none.key", "no such file"]);
    check(
        ("\"server.pem", "\"token.pub"),
        None,
        &["tern.toml:6: tls.certificate: ", "has no certificate in it"],
    );
    check(("\"server", "\"none"), None, &["tern.toml:6: tls.certificate: ", "tern.toml:7: tls.key: "]);
    check(("token.pub", "server.pem"), None, &["tern.toml:13: tokens.keys[0].file: ", "Ed25519 public key"]);
    let http = "[tokens.jwks]\nurl = \"http://127.0.0.1:1/keys\"\nca = \"first/ca.pem\"\n\n[[tokens.keys]]";
    check(("[[tokens.keys]]", http), None, &["tern.toml:12: tokens.jwks.url: is an http address", "https"]);
    check(("", ""), Some(("TERN_LISTEN", "nowhere")), &["TERN_LISTEN: ", "expected", "[::]:7443"]);
    let node = "[cluster]\nlisten = \"127.0.0.1:7444\"\nca = \"ca.pem\"\ncertificate = \"n.pem\"\nkey = \"n.key\"\n\n[tls]";
    check(("[tls]", node), None, &["tern.toml:5: cluster: clusters need store.kind = \"fdb\""]);
    for shards in ["0", "abc"] {
        let expected = ["TERN_SHARDS: shards: ", shards, ": expected a whole number from 1 to 1024"];
        check(("", ""), Some(("TERN_SHARDS", shards)), &expected);
    }
    let remote = Some(("TERN_ADMIN_LISTEN", "0.0.0.0:0"));
    check(("", ""), remote, &["TERN_ADMIN_LISTEN: admin.listen: ", "0.0.0.0:0", "allow_remote = true"]);
    let mut files = Files::new();
    files.config = files.config.replace("\"data\"", "\"/proc/tern\"");
    let (status, _, errors) = output(files.command(&["config", "check"]));
    assert!(!status.success() && errors.contains("tern.toml:1: data: /proc/tern cannot be made"), "{errors}");
    let files = Files::new();
    let mut command = files.command(&["config", "check"]);
    command.env("TERN_SHRADS", "4").env("TERN_SERVER", "localhost");
    let (status, said, errors) = output(command);
    assert!(status.success() && said.contains("can be used"), "{errors}");
    assert!(!files.path("data").exists(), "it only tries");
    let warnings = Vec::from_iter(errors.lines().filter(|line| line.contains("WARN")));
    assert!(
        matches!(warnings[..], [one] if one.contains("TERN_SHRADS") && one.contains("TERN_SHARDS")),
        "{errors}"
    );
}

/// IPv6 and IPv4 with one port, and a port for QUIC alone.
#[tokio::test]
async fn every_address_is_served() {
    let mut files = Files::new();
    files.config = files.config.replace(
        "listen = [\"127.0.0.1:0\"]",
        "listen = [\"127.0.0.1:0\", \"[::1]:0\"]\nlisten_quic = [\"127.0.0.1:0\", \"[::1]:0\", \"127.0.0.1:0\"]",
    );
    let served = files.serve();
    assert_eq!((served.tcp.len(), served.quic.len()), (2, 3));
    assert_eq!(served.tcp, served.quic[..2], "the same ports for both");
    let ca = read(&files.path("first/ca.pem"));
    let mut device = 0;
    let mut login = async |address: std::net::SocketAddr, transport: Transport| {
        let connector = Connector::new(&address.to_string(), None, &ca).expect("good");
        let connection = connector.connect(transport).await.expect("it listens there");
        device += 1;
        Session::login(connection, &files.token("alice"), device).await.expect("good")
    };
    let mut sessions = Vec::new();
    for address in &served.tcp {
        for transport in TRANSPORTS {
            sessions.push(login(*address, transport).await);
        }
    }
    sessions.push(login(served.quic[2], Transport::Quic).await);
    for session in &mut sessions {
        session.is_served().await;
    }
    served.signal(libc::SIGTERM);
}
