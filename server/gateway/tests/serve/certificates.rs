//! Certificates are replaced under live connections.

use std::os::unix::fs::PermissionsExt;

use tern_client::raw::Connector;

use crate::served::{Files, Served, output, read};
use crate::support::{Session, TRANSPORTS};

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

#[test]
fn a_certificate_that_ends_soon_is_told() {
    let files = Files::new();
    let served = files.serve();
    let line = served.logged("the certificate expires on=");
    assert!(line.contains("INFO"), "{line}");
    let key = rcgen::KeyPair::generate().expect("a key");
    let mut params = rcgen::CertificateParams::new(vec!["localhost".into()]).expect("a name");
    params.not_after = time::OffsetDateTime::now_utc() + time::Duration::hours(60);
    files.put("server.key", key.serialize_pem());
    files.put("server.pem", params.self_signed(&key).expect("signed").pem());
    served.signal(libc::SIGHUP);
    let line = served.logged("the certificate expires soon");
    assert!(line.contains("WARN") && line.contains("days=2"), "{line}");
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
