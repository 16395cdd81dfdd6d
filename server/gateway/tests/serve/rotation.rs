//! Everything that is replaced under load: certificate, keys, revocations. Whoever is not meant does not notice.

use std::time::Duration;

use tern_client::Transport;
use tern_client::raw::Connector;
use tern_protocol::error::ErrorCode;
use tern_protocol::ids::{Seq, UserId};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::idp::{SigningKey, key_set};
use crate::served::{Files, Served, read};
use crate::support::{PATIENCE, Session, TRANSPORTS};

/// Sends that each pair has to get through between two changes.
const STEP: u64 = 20;

/// Two connections, one of which sends to the other all the time.
struct Pair {
    stored: watch::Receiver<u64>,
    sending: JoinHandle<()>,
    hearing: JoinHandle<()>,
}

impl Pair {
    fn new(sender: Session, listener: Session, stop: &watch::Receiver<bool>) -> Self {
        let (count, stored) = watch::channel(0);
        let (told, total) = watch::channel(None);
        let sending = send_until(sender, listener.user(), count, stop.clone(), told);
        Self { stored, sending: tokio::spawn(sending), hearing: tokio::spawn(hear_all(listener, total)) }
    }
}

/// Each send is stored under the next seq, on this one connection.
async fn send_until(
    mut sender: Session,
    to: UserId,
    stored: watch::Sender<u64>,
    stop: watch::Receiver<bool>,
    total: watch::Sender<Option<u64>>,
) {
    let mut sent = 0;
    while !*stop.borrow() {
        sent += 1;
        let ok = sender.text(to, "all the time").await.expect("stored");
        assert_eq!((ok.seq, ok.duplicate), (Seq(sent), false));
        stored.send_replace(sent);
    }
    total.send_replace(Some(sent));
}

/// Each entry is pushed once, in order, on this one connection.
async fn hear_all(mut listener: Session, mut total: watch::Receiver<Option<u64>>) {
    let mut heard = 0;
    while total.borrow().is_none_or(|total| heard < total) {
        tokio::select! {
            (_, entry) = listener.pushed() => {
                heard += 1;
                assert_eq!(entry.seq, Seq(heard));
            }
            _ = total.changed() => {}
        }
    }
}

struct Rotation {
    files: Files,
    served: Served,
    pairs: Vec<Pair>,
    stop: watch::Sender<bool>,
    devices: u64,
}

impl Rotation {
    fn connector(&self, authority: &str) -> Connector {
        let connector = self.served.connector(&read(&self.files.path(&format!("{authority}/ca.pem"))));
        connector.without_resumption().expect("good")
    }

    /// A login on a new connection, or the code of its refusal.
    async fn login(&mut self, transport: Transport, token: &str) -> Result<Session, ErrorCode> {
        self.devices += 1;
        let connection =
            self.connector("second").connect(transport).await.expect("ternd accepts connections");
        Session::login(connection, token, self.devices).await.map_err(|error| error.code)
    }

    /// A pair for each transport on which to send.
    async fn begin(&mut self, key: &SigningKey, authority: &str) {
        let connector = self.connector(authority);
        for (from, to) in [(Transport::Tcp, Transport::Quic), (Transport::Quic, Transport::Tcp)] {
            let n = self.pairs.len();
            let [sender, listener] = ["sender", "listener"].map(|name| key.token(&format!("{name} {n}")));
            let sender = self.served.login(&connector, from, &sender, 1).await;
            let listener = self.served.login(&connector, to, &listener, 1).await;
            self.pairs.push(Pair::new(sender, listener, &self.stop.subscribe()));
        }
    }

    /// Until every pair has got on.
    async fn load(&self) {
        for pair in &self.pairs {
            let mut stored = pair.stored.clone();
            let enough = *stored.borrow() + STEP;
            let got_on = tokio::time::timeout(PATIENCE, stored.wait_for(|stored| *stored >= enough));
            got_on.await.expect("it goes on").expect("it was cut off");
            assert!(!pair.sending.is_finished() && !pair.hearing.is_finished(), "it was cut off");
        }
    }

    /// Replaces a file and has it read; over when a login with this token ends so on both transports.
    async fn replace(
        &mut self,
        name: &str,
        contents: impl AsRef<[u8]>,
        token: &str,
        ends: Option<ErrorCode>,
    ) {
        self.files.put(name, contents);
        self.served.signal(libc::SIGHUP);
        for transport in TRANSPORTS {
            let taken_up = async {
                while self.login(transport, token).await.err() != ends {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            };
            tokio::time::timeout(PATIENCE, taken_up).await.expect("taken up");
        }
    }

    async fn sessions(&self) -> u64 {
        let mut sessions = 0;
        for shard in 0..2 {
            sessions += self.served.metric(&format!("tern_sessions{{shard=\"{shard}\"}}")).await;
        }
        sessions
    }
}

#[tokio::test]
async fn what_is_replaced_under_load_ends_only_whom_it_is_about() {
    let mut files = Files::new();
    let [old, new] = [SigningKey::new(), SigningKey::new()];
    files.config.truncate(files.config.find("[[tokens.keys]]").expect("it has keys"));
    files.config += "leeway_seconds = 0\nrevoked = \"revoked.toml\"\n\n[tokens.jwks]\nfile = \"jwks.json\"\n\n\
                     [limits]\ndevice_sends_per_second = 0\ndevice_sends_burst = 0\n\
                     user_sends_per_second = 0\nuser_sends_burst = 0\n";
    files.put("jwks.json", key_set(&[&old]));
    files.put("revoked.toml", "");
    let served = files.serve();
    let mut rotation =
        Rotation { files, served, pairs: Vec::new(), stop: watch::Sender::new(false), devices: 0 };
    rotation.begin(&old, "first").await;
    rotation.load().await;

    // Without being told: the files are looked at.
    rotation.files.certificate("second");
    let renewed = async {
        for transport in TRANSPORTS {
            while rotation.connector("second").connect(transport).await.is_err() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            assert!(rotation.connector("first").connect(transport).await.is_err(), "the old one is gone");
        }
    };
    tokio::time::timeout(PATIENCE, renewed).await.expect("taken up");
    rotation.load().await;

    // A second key: its tokens are good, and those of the first one still are.
    let keys = [key_set(&[&old, &new]), key_set(&[&new])];
    assert_eq!(
        rotation.login(Transport::Tcp, &new.token("early")).await.err(),
        Some(ErrorCode::TokenInvalid)
    );
    rotation.replace("jwks.json", &keys[0], &new.token("probe"), None).await;
    rotation.load().await;
    rotation.begin(&new, "second").await;
    let (mut brief, mut mallory) = (Vec::new(), Vec::new());
    for transport in TRANSPORTS {
        let ends = old.token_for("brief", Duration::from_secs(15));
        brief.push(rotation.login(transport, &ends).await.expect("the first key is still there"));
        mallory.push(rotation.login(transport, &new.token("mallory")).await.expect("good"));
    }

    // Without the first one: nobody logs in with it, and whoever has stays until the token ends.
    let refused = Some(ErrorCode::TokenInvalid);
    rotation.replace("jwks.json", &keys[1], &old.token("probe"), refused).await;
    for session in &mut brief {
        session.is_served().await;
    }
    rotation.load().await;

    let revoked = "[[revoked]]\nuser = \"mallory\"\n";
    rotation.replace("revoked.toml", revoked, &new.token("mallory"), refused).await;
    rotation.load().await;
    for session in &mut mallory {
        assert_eq!(session.closing_error().await, ErrorCode::TokenInvalid);
    }
    for session in &mut brief {
        assert_eq!(session.closing_error().await, ErrorCode::TokenExpired);
    }
    rotation.load().await;

    // Both of each pair are left; those that have gone are taken off the list a moment later.
    let pairs = 2 * rotation.pairs.len() as u64;
    let left = async { while rotation.sessions().await != pairs {} };
    tokio::time::timeout(PATIENCE, left).await.expect("nobody else is there");
    rotation.stop.send_replace(true);
    for pair in rotation.pairs {
        pair.sending.await.expect("every send was stored");
        tokio::time::timeout(PATIENCE, pair.hearing).await.expect("in time").expect("every entry was pushed");
    }
}
