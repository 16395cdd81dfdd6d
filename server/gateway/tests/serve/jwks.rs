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

/// What an address may do instead of publishing keys, and what is logged of it.
enum Bad {
    Answers(Vec<u8>, &'static str),
    Hangs,
    IsGone,
}

impl Bad {
    fn all() -> Vec<Self> {
        let answer = |head: &str, body: &[u8]| [b"HTTP/1.1 ", head.as_bytes(), b"\r\n\r\n", body].concat();
        let sized =
            |body: &str| answer(&format!("200 OK\r\nContent-Length: {}", body.len()), body.as_bytes());
        let megabytes = vec![b' '; 10_000_000];
        vec![
            // First, since it takes its time.
            Self::Hangs,
            Self::Answers(answer("500 Oh\r\nContent-Length: 0", b""), "500"),
            Self::Answers(answer("302 Found\r\nLocation: http://x/\r\nContent-Length: 0", b""), "302"),
            // The end of the connection is the end of the answer.
            Self::Answers(answer("200 OK", &megabytes), "more than 262144 bytes"),
            Self::Answers(answer("200 OK\r\nContent-Length: 10000000", &megabytes), "more than 262144 bytes"),
            Self::Answers(sized("none"), "JSON Web Key Set"),
            Self::Answers(sized("{\"keys\": []}"), "no key in the set"),
            Self::Answers(b"gopher".to_vec(), "no HTTP answer"),
            Self::IsGone,
        ]
    }

    /// From here on.
    fn begin(&self, idp: &mut Option<Idp>) {
        let publisher = idp.as_ref().expect("it is there");
        match self {
            Self::Answers(answer, _) => publisher.answers(answer.clone()),
            Self::Hangs => publisher.hangs_after("HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{"),
            Self::IsGone => *idp = None,
        }
    }

    fn logged(&self) -> &'static str {
        match self {
            Self::Answers(_, logged) => logged,
            Self::Hangs => "no answer within 10 s",
            Self::IsGone => "cannot connect to localhost",
        }
    }
}

/// Its own authority, and a configuration that names it.
fn published(more: &str) -> (Files, Idp) {
    let mut files = without_keys();
    let idp = Idp::start(&files.path("idp"));
    files.config += &idp.section(more);
    (files, idp)
}

#[tokio::test]
async fn old_keys_are_good_while_new_ones_cannot_be_fetched() {
    let [key, unknown] = [SigningKey::new(), SigningKey::new()];
    let mut cases = Vec::new();
    for bad in Bad::all() {
        let (files, idp) = published("refresh_seconds = 1");
        idp.publish(&[&key]);
        let served = files.serve();
        let mut idp = Some(idp);
        bad.begin(&mut idp);
        cases.push((bad, files, idp, served));
    }
    for (bad, files, _idp, served) in &cases {
        for transport in TRANSPORTS {
            assert_eq!(login(files, served, transport, &key.token("alice")).await, None);
        }
        // Also while an answer is waited for.
        let refused = login(files, served, Transport::Quic, &unknown.token("alice")).await;
        assert_eq!(refused, Some(ErrorCode::TokenInvalid));
        let line = served.logged("published keys cannot be fetched: the old ones are used");
        assert!(line.contains("ERROR") && line.contains(bad.logged()), "{}: {line}", bad.logged());
        for transport in TRANSPORTS {
            assert_eq!(login(files, served, transport, &key.token("alice")).await, None);
        }
    }
}

#[tokio::test]
async fn what_was_fetched_once_is_enough_to_start_again() {
    let [key, next] = [SigningKey::new(), SigningKey::new()];
    let (mut files, idp) = published("");
    idp.publish(&[&key]);
    drop(files.serve());
    drop(idp);
    let again = files.serve();
    again.logged("those of the last run are used");
    assert_eq!(login(&files, &again, Transport::Tcp, &key.token("alice")).await, None);
    let refused = login(&files, &again, Transport::Tcp, &next.token("alice")).await;
    assert_eq!(refused, Some(ErrorCode::TokenInvalid));
    drop(again);
    // But not from another address.
    files.config = files.config.replace("/jwks.json", "/jwks.json?other");
    let (status, _, errors) = output(files.command(&["serve"]));
    assert!(!status.success() && errors.contains("tokens.jwks.url"), "{errors}");
}

#[test]
fn a_server_that_never_had_keys_does_not_start() {
    let start = |bad: Bad| {
        std::thread::spawn(move || {
            let (files, idp) = published("");
            let mut idp = Some(idp);
            bad.begin(&mut idp);
            let (status, _, errors) = output(files.command(&["serve"]));
            let told = errors.contains("tokens.jwks.url") && errors.contains(bad.logged());
            assert!(!status.success() && told, "{}: {errors}", bad.logged());
        })
    };
    let starting: Vec<_> = Bad::all().into_iter().map(start).collect();
    for start in starting {
        start.join().expect("told, and ended");
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
