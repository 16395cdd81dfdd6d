//! Users and devices whose tokens are refused.

use std::time::Duration;

use tern_protocol::error::ErrorCode;
use tern_protocol::model::WallMillis;
use tern_server::auth::Minter;
use tern_server::clock;

use crate::served::{Files, read};
use crate::support::{PATIENCE, Session, TRANSPORTS};

const HOUR: u64 = 3600;

/// A time in TOML, on this day at the earliest.
fn toml_time(at: WallMillis) -> String {
    let at = time::OffsetDateTime::from_unix_timestamp((at.0 / 1000) as i64).expect("a time");
    let (date, time) = (at.date(), at.time());
    format!("{date}T{:02}:{:02}:{:02}Z", time.hour(), time.minute(), time.second())
}

#[tokio::test]
async fn whoever_is_revoked_is_cut_off_and_kept_out() {
    let mut files = Files::new();
    files.config = files.config.replace("[tokens]\n", "[tokens]\nrevoked = \"revoked.toml\"\n");
    files.put("revoked.toml", "[[revoked]]\nuser = \"mallory\"\n");
    let served = files.serve();
    let connector = served.connector(&read(&files.path("first/ca.pem")));
    let login = async |transport, token: &str, device| {
        let connection = connector.connect(transport).await.expect("ternd accepts connections");
        Session::login(connection, token, device).await.map_err(|error| error.code)
    };
    let token = |user: &str| files.token(user);
    let later = WallMillis(clock::wall().0 + HOUR * 1000);
    for (transport, base) in TRANSPORTS.into_iter().zip([0, 10]) {
        // Since the start, or since the end of the round before.
        let refused =
            async { while let Ok(_before) = login(transport, &token("mallory"), base + 1).await {} };
        tokio::time::timeout(PATIENCE, refused).await.expect("refused");
        let mut alice = login(transport, &token("alice"), base + 1).await.expect("good");
        let mut phone = login(transport, &token("bob"), base + 1).await.expect("good");
        let mut tablet = login(transport, &token("bob"), base + 2).await.expect("good");
        let mut carol = login(transport, &token("carol"), base + 1).await.expect("good");

        let revoked = format!(
            "[[revoked]]\nuser = \"alice\"\nbefore = {}\n\n[[revoked]]\nuser = \"bob\"\ndevice = \"{:x}\"\n",
            toml_time(later),
            base + 1
        );
        files.put("revoked.toml", revoked);
        served.signal(libc::SIGHUP);
        assert_eq!(alice.closing_error().await, ErrorCode::TokenInvalid);
        assert_eq!(phone.closing_error().await, ErrorCode::TokenInvalid);
        tablet.is_served().await;
        carol.is_served().await;
        assert_eq!(login(transport, &token("alice"), base + 1).await.err(), Some(ErrorCode::TokenInvalid));
        assert_eq!(login(transport, &token("bob"), base + 1).await.err(), Some(ErrorCode::TokenInvalid));
        login(transport, &token("mallory"), base + 1).await.expect("no longer revoked");
        // A token that is made after that time is good again.
        let minter = Minter::load_or_create(files.dir.path()).expect("a key");
        let fresh = minter.mint("alice", Duration::from_secs(2 * HOUR), later).expect("a good name");
        let mut alice = login(transport, &fresh, base + 1).await.expect("good");

        // A broken file revokes nobody and pardons nobody.
        files.put("revoked.toml", "[[revoked]]\nuser = \"carol\"\ndevise = \"1\"\n");
        served.signal(libc::SIGHUP);
        let line = served.logged_times("Revocations not changed", usize::from(base > 0) + 1);
        assert!(line.contains("revoked.toml:3: unknown field `devise`"), "{line}");
        assert_eq!(login(transport, &token("bob"), base + 1).await.err(), Some(ErrorCode::TokenInvalid));
        for session in [&mut alice, &mut tablet, &mut carol] {
            session.is_served().await;
        }
        files.put("revoked.toml", "[[revoked]]\nuser = \"mallory\"\n");
        served.signal(libc::SIGHUP);
    }
}
