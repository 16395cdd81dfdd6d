//! From the command line to a connection: token, authorities, state file.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use tern_client::{
    Client, Config, Events, SqliteStorage, StartError, StorageError, Token, Transport, UserId,
};
use tokio::time::{Instant, sleep, timeout};

use crate::args::{self, Args};
use crate::book::Book;
use crate::fail::{Fail, hint};

/// Where systems keep the authorities that they trust.
const SYSTEM_CA: &[&str] = &[
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// A file of certificates has this.
const PEM_BEGINS: &str = "-----BEGIN CERTIFICATE-----";

/// Which of the user's two devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Gets everything, and remembers what it has shown.
    Tail,
    /// Gets everything too, and sends, beside `tail`.
    Chat,
    /// Sends and asks. A device of its own: the server lets a device be connected once, and `tail` is.
    OneShot,
}

/// What the command line says about the connection.
pub(crate) struct Prepared {
    pub(crate) config: Config,
    /// The state's file.
    pub(crate) path: PathBuf,
    /// What the token calls the user, unverified.
    pub(crate) sub: Option<String>,
    /// The file that says who is called what; all devices of the user share it.
    pub(crate) names: PathBuf,
}

/// From the command line to a configuration.
pub(crate) fn prepare(args: &Args, purpose: Purpose) -> Result<Prepared, Fail> {
    let server = args.server.clone().ok_or_else(|| missing("--server", "TERN_SERVER"))?;
    let token = token(args.token.as_deref().ok_or_else(|| missing("--token", "TERN_TOKEN"))?)?;
    let path = state_path(args, purpose, &server, &token)?;
    let mut names = state_path(args, Purpose::Chat, &server, &token)?.into_os_string();
    names.push(".names");
    let sub = subject(&token);
    let mut config = Config::new(server.clone(), authorities(args.ca.as_deref())?, Token::Fixed(token));
    config.server_name = args.server_name.clone();
    config.transport = match args.transport {
        args::Transport::Auto => Transport::Auto,
        args::Transport::Tcp => Transport::Tcp,
        args::Transport::Quic => Transport::Quic,
    };
    config.device = args.device;
    config.receive = purpose != Purpose::OneShot;
    config.client = concat!("tern-cli/", env!("CARGO_PKG_VERSION")).into();
    // A little later than our own, which says it better.
    config.connect_timeout = args.timeout + Duration::from_secs(1);
    config.close_timeout = args.timeout.min(Duration::from_secs(5));
    Ok(Prepared { config, path, sub, names: names.into() })
}

/// Connects, or says in one line why not. The book has who is called what, as far as the user has ever told.
pub(crate) async fn connect(args: &Args, purpose: Purpose) -> Result<(Client, Events, Book), Fail> {
    let Prepared { config, path, names, .. } = prepare(args, purpose)?;
    let server = config.server.clone();
    let storage = open(&path, purpose, args.timeout).await?;
    let connecting = Client::connect(config, storage);
    let quic = matches!(args.transport, args::Transport::Quic);
    let (client, events) = match timeout(args.timeout, connecting).await {
        Ok(connected) => connected.map_err(|error| match error.into() {
            Fail::Unreachable(why) => Fail::Unreachable(format!("{why}{}", hint(&why, args.ca.as_deref()))),
            other => other,
        })?,
        Err(_) if quic => {
            return Err(Fail::timeout(&format!("no answer from {server} over QUIC (UDP)"), args.timeout));
        }
        Err(_) => return Err(Fail::timeout("the server did not let us in", args.timeout)),
    };
    check_device(args, &client, &path)?;
    Ok((client, events, book(args, &names)))
}

/// Names make lines easier to read: no command fails for want of them.
fn book(args: &Args, names: &Path) -> Book {
    let mut book = Book::load(names).unwrap_or_default();
    let mut changed = false;
    for user in args.command.users() {
        changed |= user.sub.as_ref().is_some_and(|sub| book.learn(user.id, sub));
    }
    if changed {
        let _ = book.save(names);
    }
    book
}

/// A state has one device for ever.
pub(crate) fn check_device(args: &Args, client: &Client, path: &Path) -> Result<(), Fail> {
    match args.device.filter(|d| *d != client.device()) {
        None => Ok(()),
        Some(device) => Err(Fail::usage(format!(
            "the state {} is of device {}, not {device}: leave out --device, or give another --state",
            path.display(),
            client.device(),
        ))),
    }
}

/// Ctrl-C, or a polite request to end.
pub(crate) async fn interrupted() {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        if let Ok(mut terminate) = signal(SignalKind::terminate()) {
            tokio::select! {
                _ = tokio::signal::ctrl_c() => {}
                _ = terminate.recv() => {}
            }
            return;
        }
    }
    let _ = tokio::signal::ctrl_c().await;
}

/// One-shot commands of a script may overlap: they take turns.
pub(crate) async fn open(path: &Path, purpose: Purpose, limit: Duration) -> Result<SqliteStorage, Fail> {
    let deadline = Instant::now() + limit;
    loop {
        match SqliteStorage::open(path) {
            Err(StorageError::InUse(_)) if purpose == Purpose::OneShot && Instant::now() < deadline => {
                sleep(Duration::from_millis(20)).await;
            }
            other => {
                let storage = other.map_err(StartError::from)?;
                return Ok(match purpose {
                    Purpose::Chat => storage,
                    // They show what they get, and keep none of it.
                    _ => storage.history_bytes_max(0),
                });
            }
        }
    }
}

fn missing(option: &str, variable: &str) -> Fail {
    Fail::usage(format!("{option} is missing (or set {variable}); see tern --help"))
}

/// Errors never hold the token itself, nor what may be one by mistake.
fn token(given: &str) -> Result<String, Fail> {
    let token = match given.strip_prefix('@') {
        Some(path) => fs::read_to_string(path)
            .map_err(|e| Fail::usage(format!("the token's file {path} cannot be read: {e}")))?,
        None if !given.is_empty() && given.len() < 256 && Path::new(given).is_file() => {
            return Err(Fail::usage(
                "--token is the name of a file: write @ before it to read the token from there",
            ));
        }
        None => given.to_owned(),
    };
    let token = token.trim();
    if token.is_empty() {
        return Err(Fail::usage("the token is empty"));
    }
    if token.len() > tern_protocol::limits::TOKEN_BYTES_MAX {
        return Err(Fail::usage("the token is longer than 3072 bytes: is it one?"));
    }
    Ok(token.to_owned())
}

fn authorities(given: Option<&Path>) -> Result<Vec<u8>, Fail> {
    if let Some(path) = given {
        let name = path.display();
        let pem =
            fs::read(path).map_err(|e| Fail::usage(format!("the CA file {name} cannot be read: {e}")))?;
        if !String::from_utf8_lossy(&pem).contains(PEM_BEGINS) {
            return Err(Fail::usage(format!(
                "the CA file {name} has no certificate: PEM with {PEM_BEGINS} is expected"
            )));
        }
        return Ok(pem);
    }
    let own = env::var("SSL_CERT_FILE").ok();
    own.as_deref()
        .into_iter()
        .chain(SYSTEM_CA.iter().copied())
        .find_map(|path| fs::read(path).ok())
        .ok_or_else(|| Fail::usage("--ca is missing, and this system has no list of authorities"))
}

fn state_path(args: &Args, purpose: Purpose, server: &str, token: &str) -> Result<PathBuf, Fail> {
    let base = match &args.state {
        Some(path) => path.clone(),
        None => {
            let directory = env::var_os("XDG_STATE_HOME")
                .map(PathBuf::from)
                .filter(|p| p.is_absolute())
                .or_else(|| env::var_os("HOME").map(|home| PathBuf::from(home).join(".local/state")))
                .ok_or_else(|| Fail::usage("neither HOME nor XDG_STATE_HOME is set: give --state"))?;
            let user = subject(token).map_or("unknown".into(), |sub| UserId::from_sub(&sub).to_string());
            let server: String = server
                .chars()
                .map(|c| if c.is_ascii_alphanumeric() || ".-".contains(c) { c } else { '_' })
                .collect();
            directory.join("tern").join(format!("{user}-{server}.db"))
        }
    };
    Ok(match purpose {
        Purpose::Tail => base,
        Purpose::Chat | Purpose::OneShot => {
            let suffix = if purpose == Purpose::Chat { "chat" } else { "send" };
            let stem = base.file_stem().unwrap_or_default().to_string_lossy();
            let extension = base.extension().map(|e| format!(".{}", e.to_string_lossy())).unwrap_or_default();
            base.with_file_name(format!("{stem}-{suffix}{extension}"))
        }
    })
}

/// The `sub` of a token, not verified: it only names a file.
fn subject(token: &str) -> Option<String> {
    let claims = URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
    let claims: serde_json::Value = serde_json::from_slice(&claims).ok()?;
    Some(claims.get("sub")?.as_str()?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_subject_of_a_token() {
        let claims = URL_SAFE_NO_PAD.encode(r#"{"sub":"alice","exp":1}"#);
        assert_eq!(subject(&format!("e30.{claims}.sig")).as_deref(), Some("alice"));
        for broken in ["", "abc", "a.b.c", "e30.e30.sig"] {
            assert_eq!(subject(broken), None);
        }
    }
}
