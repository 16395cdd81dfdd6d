//! Keys that are published, and replaced while the server runs.

use tern_client::Transport;
use tern_protocol::error::ErrorCode;

use crate::idp::{Idp, SigningKey, key_set};
use crate::served::{Files, Served, output, read};
use crate::support::{Session, TRANSPORTS};

/// A login on a fresh connection: nothing, or the code of its refusal.
async fn login(files: &Files, served: &Served, transport: Transport, token: &str) -> Option<ErrorCode> {
    let connector = served.connector(&read(&files.path("first/ca.pem")));
    let connection = connector.connect(transport).await.expect("ternd accepts connections");
    Session::login(connection, token, 1).await.err().map(|error| error.code)
}

/// The configuration without keys of its own.
fn without_keys() -> Files {
    let mut files = Files::new();
    let end = files.config.find("[[tokens.keys]]").expect("it has keys");
    files.config.truncate(end);
    files
}

#[tokio::test]
async fn a_new_key_is_fetched_when_a_token_names_it() {
    let mut files = without_keys();
    let idp = Idp::start(&files.path("idp"));
    let [old, new, unknown] = [SigningKey::new(), SigningKey::new(), SigningKey::new()];
    idp.publish(&[&old]);
    files.config += &idp.section("");
    let served = files.serve();
    assert_eq!(idp.requests(), 1);
    for transport in TRANSPORTS {
        assert_eq!(login(&files, &served, transport, &old.token("alice")).await, None);
    }
    // Both keys for a while, and the first client with the new one is let in.
    idp.publish(&[&old, &new]);
    assert_eq!(login(&files, &served, Transport::Tcp, &new.token("alice")).await, None);
    assert_eq!(idp.requests(), 2);
    assert_eq!(login(&files, &served, Transport::Quic, &old.token("alice")).await, None);
    // What nobody publishes is refused, and does not have the backend asked again and again.
    for _ in 0..20 {
        let refused = login(&files, &served, Transport::Tcp, &unknown.token("alice")).await;
        assert_eq!(refused, Some(ErrorCode::TokenInvalid));
    }
    assert_eq!(idp.requests(), 2);
}

#[tokio::test]
async fn old_keys_are_good_while_new_ones_cannot_be_fetched() {
    let mut files = without_keys();
    let idp = Idp::start(&files.path("idp"));
    let [key, next] = [SigningKey::new(), SigningKey::new()];
    idp.publish(&[&key]);
    files.config += &idp.section("refresh_seconds = 1");
    let served = files.serve();
    for (answer, expected) in [("HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n".to_owned(), "500")] {
        idp.answers(answer);
        let line = served.logged("published keys cannot be fetched: the old ones are used");
        assert!(line.contains(expected), "{line}");
        assert_eq!(login(&files, &served, Transport::Tcp, &key.token("alice")).await, None);
    }
    drop(served);
    // The next start has those of the last run, but not at another address.
    let again = files.serve();
    again.logged("those of the last run are used");
    assert_eq!(login(&files, &again, Transport::Tcp, &key.token("alice")).await, None);
    assert_eq!(
        login(&files, &again, Transport::Tcp, &next.token("alice")).await,
        Some(ErrorCode::TokenInvalid)
    );
    drop(again);
    files.config = files.config.replace("/jwks.json", "/jwks.json?other");
    for (answer, expected) in [
        ("HTTP/1.1 302 Found\r\nLocation: http://x/\r\nContent-Length: 0\r\n\r\n".to_owned(), "302"),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 999999\r\n\r\n".to_owned() + &" ".repeat(999_999),
            "262144 bytes",
        ),
        ("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nnone".to_owned(), "JSON Web Key Set"),
        ("gopher".to_owned(), "HTTP"),
    ] {
        idp.answers(answer);
        let (status, _, errors) = output(files.command(&["serve"]));
        assert!(
            !status.success() && errors.contains("tokens.jwks.url") && errors.contains(expected),
            "{errors}"
        );
    }
}

#[tokio::test]
async fn keys_are_fetched_regularly() {
    let mut files = without_keys();
    let idp = Idp::start(&files.path("idp"));
    let [old, new] = [SigningKey::new(), SigningKey::new()];
    idp.publish(&[&old]);
    files.config += &idp.section("refresh_seconds = 1");
    let served = files.serve();
    assert_eq!(login(&files, &served, Transport::Tcp, &old.token("alice")).await, None);
    // Without a token that names the new one.
    idp.publish(&[&new]);
    served.logged_times("published keys fetched", 2);
    let refused = login(&files, &served, Transport::Tcp, &old.token("alice")).await;
    assert_eq!(refused, Some(ErrorCode::TokenInvalid));
    assert_eq!(login(&files, &served, Transport::Tcp, &new.token("alice")).await, None);
}

#[tokio::test]
async fn a_hangup_has_keys_fetched_at_once() {
    let mut files = without_keys();
    let idp = Idp::start(&files.path("idp"));
    let [old, new] = [SigningKey::new(), SigningKey::new()];
    idp.publish(&[&old]);
    files.config += &idp.section("refresh_seconds = 86400");
    let served = files.serve();
    idp.publish(&[&new]);
    served.signal(libc::SIGHUP);
    served.logged_times("published keys fetched", 2);
    let refused = login(&files, &served, Transport::Tcp, &old.token("alice")).await;
    assert_eq!(refused, Some(ErrorCode::TokenInvalid));
}

#[test]
fn nobody_else_is_believed_to_be_the_backend() {
    let mut files = without_keys();
    let idp = Idp::start(&files.path("idp"));
    idp.publish(&[&SigningKey::new()]);
    files.config += &idp.section("").replace("idp/ca.pem", "first/ca.pem");
    let (status, _, errors) = output(files.command(&["config", "check"]));
    assert!(!status.success() && errors.contains("invalid peer certificate"), "{errors}");
    assert_eq!(idp.requests(), 0);
    assert!(!files.path("data").exists(), "a check changes nothing");
}

#[tokio::test]
async fn key_files_are_read_again() {
    let mut files = Files::new();
    let [old, new] = [SigningKey::new(), SigningKey::new()];
    files.put("jwks.json", key_set(&[&old]));
    files.config += "\n[tokens.jwks]\nfile = \"jwks.json\"\n";
    let served = files.serve();
    let own = files.token("alice");
    for (token, refusal) in
        [(&own, None), (&old.token("alice"), None), (&new.token("alice"), Some(ErrorCode::TokenInvalid))]
    {
        assert_eq!(login(&files, &served, Transport::Tcp, token).await, refusal);
    }
    files.put("jwks.json", key_set(&[&new]));
    served.logged("Key set read again");
    for (token, refusal) in
        [(&own, None), (&new.token("alice"), None), (&old.token("alice"), Some(ErrorCode::TokenInvalid))]
    {
        assert_eq!(login(&files, &served, Transport::Tcp, token).await, refusal);
    }
    files.put("jwks.json", "{}");
    files.put("token.pub", new.public_pem());
    served.signal(libc::SIGHUP);
    served.logged("Key set not changed");
    served.logged("Token keys read again");
    assert_eq!(login(&files, &served, Transport::Tcp, &new.token("alice")).await, None);
    assert_eq!(login(&files, &served, Transport::Tcp, &own).await, Some(ErrorCode::TokenInvalid));
}
