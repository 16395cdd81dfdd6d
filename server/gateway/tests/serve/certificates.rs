//! Certificates are replaced under live connections.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};
use tern_client::raw::Connector;
use tern_server::cluster::quic::{LinkEndpoint, LinkIdentity};
use tern_server::config::EXAMPLE;
use time::{Duration, OffsetDateTime};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::served::{Files, Served, output, read};
use crate::support::{Session, TRANSPORTS, needs};

struct Clients {
    /// Trust the first authority, and have tickets of the server.
    before: Vec<(Connector, Session)>,
}

async fn accepted(served: &Served, ca: &[u8]) -> [bool; 2] {
    let connector = served.connector(ca).without_resumption().expect("good");
    let mut accepted = [false; 2];
    for (transport, accepted) in TRANSPORTS.into_iter().zip(&mut accepted) {
        *accepted = connector.connect(transport).await.is_ok();
    }
    accepted
}

#[tokio::test]
async fn a_new_certificate_takes_effect_and_drops_nobody() {
    let files = Files::new();
    let first = read(&files.path("first/ca.pem"));
    let served = files.serve();
    let token = files.token("alice");
    let mut clients = Clients { before: Vec::new() };
    for (transport, device) in TRANSPORTS.into_iter().zip(1..) {
        let connector = served.connector(&first);
        let session = served.login(&connector, transport, &token, device).await;
        clients.before.push((connector, session));
    }
    assert_eq!(accepted(&served, &first).await, [true; 2]);

    // Without being told: the files are looked at.
    let second = files.certificate("second");
    served.logged("Certificate read again");
    assert_eq!(accepted(&served, &second).await, [true; 2], "new connections get the new certificate");
    assert_eq!(accepted(&served, &first).await, [false; 2], "and not the old one");

    for ((connector, session), (transport, device)) in
        clients.before.iter_mut().zip(TRANSPORTS.into_iter().zip(11..))
    {
        session.is_served().await;
        // A ticket from before is still good: its client is shown no certificate, and would not trust the new one.
        let mut resumed = served.login(connector, transport, &token, device).await;
        resumed.is_served().await;
    }

    // A broken one changes nothing; the next good one does.
    files.put("server.pem", "-----BEGIN CERTIFICATE-----\nnonsense\n");
    served.signal(libc::SIGHUP);
    let error = served.logged("server.pem is not a PEM file");
    assert!(error.contains("ERROR") && error.contains("Certificate not changed"), "{error}");
    assert_eq!(accepted(&served, &second).await, [true; 2]);
    let third = files.certificate("third");
    served.signal(libc::SIGHUP);
    served.logged_times("Certificate read again", 2);
    assert_eq!(accepted(&served, &third).await, [true; 2]);
    for (_, session) in &mut clients.before {
        session.is_served().await;
    }
}

/// Puts a certificate of its own in the server's place, for localhost if nothing else is changed.
fn put_own(files: &Files, change: impl FnOnce(&mut CertificateParams)) {
    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::new(vec!["localhost".into()]).expect("a name");
    change(&mut params);
    files.put("server.key", key.serialize_pem());
    files.put("server.pem", params.self_signed(&key).expect("signed").pem());
}

#[test]
fn a_certificate_that_ends_soon_is_told() {
    let files = Files::new();
    let served = files.serve();
    let line = served.logged("the certificate expires on=");
    assert!(line.contains("INFO"), "{line}");
    let ends_in = |hours| {
        put_own(&files, |params| params.not_after = OffsetDateTime::now_utc() + Duration::hours(hours));
    };
    ends_in(60);
    served.signal(libc::SIGHUP);
    let line = served.logged("the certificate has to be renewed now");
    assert!(line.contains("WARN") && line.contains("days=2"), "{line}");
    ends_in(-1);
    served.signal(libc::SIGHUP);
    let line = served.logged("no client accepts the certificate");
    assert!(line.contains("WARN") && line.contains("it has expired on="), "{line}");
    let (status, _, errors) = output(files.command(&["config", "check"]));
    let expected = "tern.toml:6: tls.certificate: ";
    assert!(!status.success() && errors.contains(expected) && errors.contains("has expired on"), "{errors}");
}

#[test]
fn a_certificate_that_no_client_accepts_is_refused() {
    let files = Files::new();
    let refused = |expected: &str| {
        for command in ["config check", "serve"] {
            let (status, _, errors) = output(files.command(&Vec::from_iter(command.split(' '))));
            assert!(!status.success() && errors.contains("tern.toml:6: tls.certificate: "), "{errors}");
            assert!(
                errors.contains(expected) && errors.contains("CA:FALSE -addext subjectAltName"),
                "{errors}"
            );
        }
    };
    put_own(&files, |params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained));
    refused("CA:TRUE");
    put_own(&files, |params| params.subject_alt_names.clear());
    refused("names no server");
}

/// As it is in the example configuration and in spec/operations.md.
#[tokio::test]
async fn the_documented_command_makes_a_certificate_that_clients_accept() {
    let words = |text: &str| {
        let begin = text.find("openssl req -x509").expect("a command");
        let command =
            text[begin..].split_once("-out server.pem").expect("its end").0.to_owned() + "-out server.pem";
        Vec::from_iter(
            command.split_whitespace().filter(|word| !["\\", "#"].contains(word)).map(str::to_owned),
        )
    };
    let command = words(EXAMPLE);
    assert_eq!(command, words(include_str!("../../../../spec/operations.md")));
    let files = Files::new();
    let mut openssl = Command::new(&command[0]);
    let name = |word: &String| word.replace("DNS:chat.example.com", "IP:127.0.0.1");
    openssl.args(command[1..].iter().map(name)).current_dir(files.dir.path());
    match openssl.output() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return needs::cannot_run("the command of the example", "there is no openssl");
        }
        made => {
            let made = made.expect("it runs");
            assert!(made.status.success(), "{made:?}");
        }
    }
    let served = files.serve();
    assert_eq!(accepted(&served, &read(&files.path("server.pem"))).await, [true; 2]);
}

#[test]
fn a_key_that_others_may_read_is_told() {
    let files = Files::new();
    let key = files.path("server.key");
    for (mode, told) in [(0o600, false), (0o640, false), (0o644, true)] {
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(mode)).expect("possible");
        let (status, _, errors) = output(files.command(&["config", "check"]));
        assert!(status.success(), "{errors}");
        assert_eq!(errors.contains("server.key") && errors.contains("chmod 600"), told, "{mode:o}: {errors}");
    }
}

/// The commands of spec/operations.md, each in its lines.
fn documented(section: &str) -> Vec<String> {
    let text = include_str!("../../../../spec/operations.md");
    let (_, section) = text.split_once(&format!("\n## {section}\n")).expect("a section");
    let section = section.split("\n## ").next().unwrap_or(section);
    let mut commands = Vec::<String>::new();
    for line in section.lines().filter_map(|line| line.strip_prefix("    ")) {
        match commands
            .last_mut()
            .and_then(|last| last.strip_suffix('\\').map(str::to_owned).map(|s| (last, s)))
        {
            Some((last, begun)) => *last = begun + line.trim_start(),
            None => commands.push(line.to_owned()),
        }
    }
    commands
}

#[tokio::test]
async fn the_documented_commands_make_nodes_that_accept_each_other() {
    let commands = documented("A cluster's certificates");
    let [authority, node, look, ..] = &commands[..] else { panic!("three commands: {commands:#?}") };
    assert!(node.contains("node-1.key"), "{node}");
    let dir = tempfile::tempdir().expect("a temporary directory");
    let run = |command: &str| {
        let run = Command::new("sh").args(["-c", command]).current_dir(dir.path()).output().expect("a shell");
        assert!(run.status.success(), "{command}: {run:?}");
        String::from_utf8_lossy(&run.stdout).into_owned()
    };
    if Command::new("openssl").arg("version").output().is_err() {
        return needs::cannot_run("the commands for a cluster's certificates", "there is no openssl");
    }
    run(authority);
    run(node);
    run(&node.replace("node-1", "node-2"));
    let told = run(look);
    assert!(told.contains("DNS:tern-node") && told.contains("notAfter="), "{told}");
    let endpoint = |name: &str| {
        let path = |name: &str| dir.path().join(name);
        for key in [format!("{name}.key"), "cluster-ca.key".to_owned()] {
            let mode = std::fs::metadata(path(&key)).expect("made").permissions().mode();
            assert_eq!(mode & 0o077, 0, "{key}: {mode:o}");
        }
        let (certificate, key) = (path(&format!("{name}.pem")), path(&format!("{name}.key")));
        let identity = LinkIdentity::load(&path("cluster-ca.pem"), &certificate, &key).expect("good");
        LinkEndpoint::bind("127.0.0.1:0".parse().expect("an address"), &identity).expect("a free port")
    };
    let (one, two) = (endpoint("node-1"), endpoint("node-2"));
    let (dialled, accepted) = tokio::join!(one.connect(two.address()), two.accept());
    let (mut dialled, mut accepted) = (dialled.expect("accepted"), accepted.expect("a link"));
    dialled.write_u8(7).await.expect("up");
    assert_eq!(accepted.read_u8().await.expect("up"), 7);
}
