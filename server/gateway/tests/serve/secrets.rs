//! What must not be in a log: keys, tokens, what people write. And who may read the files that they are in.

use std::fs::{Permissions, set_permissions};
use std::os::unix::fs::PermissionsExt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jsonwebtoken::{Algorithm, EncodingKey};
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use serde_json::json;
use tern_protocol::error::ErrorCode;
use tern_protocol::model::{Change, Target};
use tern_server::clock;

use crate::jwt::{signed, unsigned};
use crate::served::{Files, output, read};
use crate::support::{Session, TRANSPORTS, group, message, refused, user};

/// In everything that a client sends and only its recipients may see.
const WRITTEN: &str = "between-the-two-of-us";
/// What an operator may put into the wrong file.
const MISPLACED: &str = "bWlzcGxhY2VkLXNlY3JldA";
const SHARED: &[u8] = b"a secret that the app's backend and ternd share";

fn with_shared_secret() -> Files {
    let mut files = Files::new();
    files.config.push_str("\n[[tokens.keys]]\nalgorithm = \"HS256\"\nfile = \"shared.secret\"\n");
    files.put("shared.secret", STANDARD.encode(SHARED));
    files
}

/// The forms in which bytes get into a log: as text, in hexadecimal, in base64, and as `Debug` prints a list.
fn forms(secret: &[u8]) -> Vec<String> {
    let hex: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
    let list = format!("{secret:?}").trim_matches(['[', ']']).to_owned();
    let mut forms = vec![hex, list, STANDARD.encode(secret).trim_end_matches('=').to_owned()];
    forms.extend(String::from_utf8(secret.to_vec()));
    forms
}

#[tokio::test]
async fn no_log_holds_a_secret_or_what_people_write() {
    let files = with_shared_secret();
    let mut command = files.command(&["serve"]);
    command.env("TERN_LOG", "trace");
    let served = crate::served::Served::start(command);
    let connector = served.connector(&read(&files.path("first/ca.pem")));
    let mut tokens = Vec::new();
    for (transport, device) in TRANSPORTS.into_iter().zip(1..) {
        let token = files.token("alice");
        let mut alice = served.login(&connector, transport, &token, device).await;
        tokens.push(token);
        alice.text(user("bob"), WRITTEN).await.expect("stored");
        alice.create(group(device), WRITTEN, &["bob"]).await;
        alice.change(group(device), message(WRITTEN)).await.expect("stored");
        // Refused ones as well: to a stranger's group, a title that it has already.
        let unknown = Target::Conversation(group(99));
        assert_eq!(refused(alice.send(unknown, message(WRITTEN)).await), ErrorCode::UnknownConversation);
        let same = Change::Title { title: WRITTEN.into() };
        assert_eq!(refused(alice.change(group(device), same).await), ErrorCode::NoChange);

        // Good by the shared secret, then expired, signed by somebody else, and not signed.
        let shared = EncodingKey::from_secret(SHARED);
        let stranger = EncodingKey::from_secret(&[7; 32]);
        let (header, now) = (json!({ "alg": "HS256", "typ": "JWT" }), clock::wall().0 / 1000);
        let claims = |exp: u64| json!({ "sub": "bob", "exp": exp });
        let good = signed(&header, &claims(now + 3600), Algorithm::HS256, &shared);
        let bad = [
            signed(&header, &claims(now - 3600), Algorithm::HS256, &shared),
            signed(&header, &claims(now + 3600), Algorithm::HS256, &stranger),
            unsigned(&json!({ "alg": "none" }), &claims(now + 3600)) + ".",
            format!("{MISPLACED}.{WRITTEN}"),
        ];
        let mut bob = served.login(&connector, transport, &good, device).await;
        bob.log_from(group(device), 1).await.expect("a member");
        for token in &bad {
            let connection = connector.connect(transport).await.expect("ternd accepts connections");
            assert!(Session::login(connection, token, 7).await.is_err(), "{token}");
        }
        tokens.push(good);
        tokens.extend(bad);

        // A frame that is no request.
        let mut carol = served.login(&connector, transport, &files.token("carol"), device).await;
        let frame = [&[WRITTEN.len() as u8][..], WRITTEN.as_bytes()].concat();
        carol.connection().send_bytes(&frame).await.expect("written");
        assert_eq!(carol.closing_error().await, ErrorCode::Malformed);
    }

    // Files that are not what they should be.
    let server_key = String::from_utf8(read(&files.path("server.key"))).expect("PEM");
    files.put("server.key", format!("-----BEGIN PRIVATE KEY-----\n{MISPLACED}\n-----END PRIVATE KEY-----\n"));
    files.put("shared.secret", format!("{MISPLACED} is not base64"));
    served.signal(libc::SIGHUP);
    served.logged("Certificate not changed");
    served.logged("Token keys not changed");

    let token_key = String::from_utf8(read(&files.path("token.key"))).expect("PEM");
    let secret = read(&files.path("data/server.secret"));
    let log = served.log_to_the_end();
    assert!(log.contains("TRACE") && log.contains("DEBUG"), "everything is logged");
    assert!(log.contains("login refused") && log.contains("told an error"), "also what went wrong");

    let pem_lines = server_key.lines().chain(token_key.lines()).filter(|line| !line.starts_with("-----"));
    let mut secrets: Vec<String> = pem_lines.map(str::to_owned).collect();
    // The header and the claims of a token are no secrets by themselves, and nothing to log.
    secrets.extend(tokens.iter().flat_map(|token| token.split('.')).map(str::to_owned));
    let keys = [&server_key, &token_key].map(|pem| {
        let key = PrivateKeyDer::from_pem_slice(pem.as_bytes()).expect("a private key");
        key.secret_der().to_vec()
    });
    // At the end of an Ed25519 key is its seed.
    let seed = keys[1].last_chunk::<32>().expect("longer");
    for bytes in [SHARED, &secret, WRITTEN.as_bytes(), MISPLACED.as_bytes(), &keys[0], &keys[1], seed] {
        secrets.extend(forms(bytes));
    }
    secrets.extend(tokens.iter().flat_map(|token| forms(token.as_bytes())));
    for secret in secrets.iter().filter(|secret| !secret.is_empty()) {
        let line = log.lines().find(|line| line.contains(secret.as_str()));
        assert!(line.is_none(), "{secret} is in the log: {line:?}");
    }
}

#[test]
fn a_shared_secret_that_others_may_read_is_told() {
    let files = with_shared_secret();
    let secret = files.path("shared.secret");
    for (mode, told) in [(0o600, false), (0o644, true)] {
        set_permissions(&secret, Permissions::from_mode(mode)).expect("possible");
        let (status, _, errors) = output(files.command(&["config", "check"]));
        assert!(status.success(), "{errors}");
        assert_eq!(
            errors.contains("shared.secret") && errors.contains("chmod 600"),
            told,
            "{mode:o}: {errors}"
        );
    }
    // Everybody may have the public key.
    set_permissions(files.path("token.pub"), Permissions::from_mode(0o644)).expect("possible");
    set_permissions(secret, Permissions::from_mode(0o600)).expect("possible");
    let (_, _, errors) = output(files.command(&["config", "check"]));
    assert!(!errors.contains("chmod 600"), "{errors}");
}
