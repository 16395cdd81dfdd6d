//! `ternd dev` and `ternd token`: a server that needs nothing, and tokens for it.

use std::error::Error;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tern_store::embedded;

use crate::admin;
use crate::auth::{Minter, Verifier};
use crate::cli::{Dev, Token};
use crate::clock;
use crate::descriptors;
use crate::limits::Limits;
use crate::server::{Server, Setup};
use crate::store::Place;
use crate::tls::files::{self, Access};
use crate::tls::{CurrentIdentity, DevIdentity, SECRETS_FILE};
use crate::transport::inherited::Inherited;
use crate::transport::{self, ShardCount, Steering};

/// Tokens of a development server are good for a month.
const LIFETIME: Duration = Duration::from_secs(30 * 24 * 3600);
/// Tokens are minted on the same machine, by the same clock.
const LEEWAY: Duration = Duration::ZERO;

/// A development server, running.
pub struct Running {
    /// The server.
    pub server: Server,
    /// What to print.
    pub greeting: String,
}

/// Makes what is missing and starts the server.
///
/// # Errors
/// What [`Server::start`] says, and files that cannot be read or written.
pub fn start(dev: &Dev) -> Result<Running, Box<dyn Error>> {
    descriptors::raise();
    if embedded::exists(&dev.data.join("store"))?
        && dev.data.join(SECRETS_FILE).exists()
        && !Minter::exists(&dev.data)
    {
        return Err(format!(
            "{} is the data directory of a ternd serve, and ternd dev would give tokens for everybody in it; nothing was \
             done. Name another directory with --data",
            dev.data.display()
        )
        .into());
    }
    if !dev.data.exists() {
        // Nothing is made for a server that then cannot have its address.
        let address = [dev.listen];
        let one = ShardCount::new(1).ok_or("no shard")?;
        drop(transport::bind_all(&address, &address, &Inherited::default(), one, Steering::Kernel)?);
    }
    let data = create_private(&dev.data)
        .and_then(|()| dev.data.canonicalize())
        .map_err(|error| format!("cannot make the data directory {}: {error}", dev.data.display()))?;
    let mut names = dev.names.clone();
    if !dev.listen.ip().is_loopback() && !dev.listen.ip().is_unspecified() {
        names.push(dev.listen.ip().to_string());
    }
    let admin = match dev.admin {
        Some(address) => vec![address],
        None => vec![admin::DEFAULT_ADDRESS, SocketAddr::new(admin::DEFAULT_ADDRESS.ip(), 0)],
    };
    admin.iter().try_for_each(|address| admin::check(*address, false))?;
    let now = clock::wall();
    let identity = DevIdentity::load_or_create(&data, &names, now)?;
    let minter = Minter::load_or_create(&data)?;
    let server = Server::start(Setup {
        tcp: vec![dev.listen],
        quic: vec![dev.listen],
        inherited: Inherited::default(),
        proxies: Vec::new(),
        admin,
        shards: dev.shards.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from)),
        identity: CurrentIdentity::new(identity.identity),
        verifier: Verifier::new(vec![minter.token_key()?], LEEWAY),
        limits: if dev.limits { Limits::default() } else { Limits::OFF },
        cluster: None,
        reloads: Arc::default(),
        data: data.clone(),
        store: Place::Embedded,
    })?;
    let (tcp, quic) = (server.tcp[0], server.quic[0]);
    let tokens = ["alice", "bob"].map(|user| minter.mint(user, LIFETIME, now));
    let [alice, bob] = tokens;
    let (alice, bob) = (alice?, bob?);
    let greeting = if dev.json {
        let line = serde_json::json!({
            "tcp": tcp.to_string(),
            "quic": quic.to_string(),
            "admin": server.admin.to_string(),
            "ca": data.join("ca.pem"),
            "data": data,
            "tokens": { "alice": alice, "bob": bob },
        });
        line.to_string()
    } else {
        let ca = shown(&data.join("ca.pem"));
        let (tern, ternd) = (command("tern"), command("ternd"));
        let address = reachable(tcp);
        let file = |user: &str, token: &str| -> Result<PathBuf, Box<dyn Error>> {
            let path = data.join(format!("{user}.token"));
            files::replace(&path, Access::Owner, token.as_bytes())?;
            Ok(shown(&path))
        };
        let (alice, bob) = (file("alice", &alice)?, file("bob", &bob)?);
        let call = |token: &Path, command: &str| {
            format!(
                "  {tern} --server {address} --ca {} --token {} {command}",
                quoted(&ca.display().to_string()),
                quoted(&format!("@{}", token.display()))
            )
        };
        format!(
            "ternd is serving on {} (TCP and QUIC), with its data in {}\n\n\
             Alice chats, in a second terminal (Ctrl-N, then bob, writes to him):\n\n{}\n\n\
             Bob chats, in a third:\n\n{}\n\n\
             A token for another user:\n\n  {ternd} token NAME --data {}\n\n\
             What the server does, live:\n\n  {ternd} top --admin {}\n\n\
             Ctrl-C stops the server.",
            tcp,
            shown(&data).display(),
            call(&alice, "chat"),
            call(&bob, "chat"),
            quoted(&shown(&data).display().to_string()),
            server.admin,
        )
    };
    Ok(Running { server, greeting })
}

/// A token for a user of the development server whose data this is.
///
/// # Errors
/// When there is no such server, or its key cannot be read.
pub fn token(token: &Token) -> Result<String, Box<dyn Error>> {
    if !Minter::exists(&token.data) {
        let data = token.data.display();
        return Err(format!("{data} is not the data directory of a ternd dev: name it with --data").into());
    }
    let minter = Minter::load_or_create(&token.data)?;
    Ok(minter.mint(&token.user, Duration::from_secs(token.lifetime), clock::wall())?)
}

fn create_private(directory: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)
}

/// A path as short as it can be typed from here.
fn shown(path: &Path) -> PathBuf {
    std::env::current_dir().map_or_else(|_| path.to_owned(), |here| from(&here, path))
}

fn from(here: &Path, path: &Path) -> PathBuf {
    match path.strip_prefix(here) {
        Ok(rest) if rest.as_os_str().is_empty() => ".".into(),
        Ok(rest) => rest.to_owned(),
        Err(_) => path.to_owned(),
    }
}

/// A program as a shell runs it: one without a directory would be looked for in PATH.
fn called(program: &Path) -> String {
    let is_bare = program.parent().is_some_and(|parent| parent.as_os_str().is_empty());
    let program = program.display();
    quoted(&if is_bare { format!("./{program}") } else { program.to_string() })
}

/// How to call one of the programs: the one beside this one, or cargo when this is a build tree without it.
fn command(name: &str) -> String {
    let beside = std::env::current_exe().ok().and_then(|exe| Some(exe.parent()?.join(name)));
    match beside {
        Some(path) if path.is_file() => called(&shown(&path)),
        Some(path) if path.components().any(|part| part.as_os_str() == "target") => {
            format!("cargo run -q --release --bin {name} --")
        }
        _ => name.to_owned(),
    }
}

/// An address that a client on this machine can connect to.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

/// A word as a shell takes it.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "@%+=:,./-_".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_for_a_shell() {
        assert_eq!(quoted("@tern-data/bob.token"), "@tern-data/bob.token");
        assert_eq!(quoted("data 3/ca.pem"), "'data 3/ca.pem'");
        assert_eq!(quoted("it's"), "'it'\\''s'");
    }

    #[test]
    fn programs_are_called_so_that_a_shell_finds_them() {
        for (here, program, call) in [
            ("/opt/tern", "/opt/tern/tern", "./tern"),
            ("/opt", "/opt/tern/tern", "tern/tern"),
            ("/home/a b", "/home/a b/tern", "./tern"),
            ("/home", "/home/a b/tern", "'a b/tern'"),
            ("/home", "/usr/bin/tern", "/usr/bin/tern"),
        ] {
            assert_eq!(called(&from(Path::new(here), Path::new(program))), call, "{here} {program}");
        }
        assert_eq!(from(Path::new("/srv/data"), Path::new("/srv/data")), Path::new("."));
    }

    #[test]
    fn clients_are_sent_to_an_address_that_the_certificate_has() {
        let reach = |address: &str| reachable(address.parse().expect("an address")).to_string();
        assert_eq!(reach("0.0.0.0:7443"), "127.0.0.1:7443");
        assert_eq!(reach("[::]:7443"), "[::1]:7443");
        assert_eq!(reach("192.0.2.7:1"), "192.0.2.7:1");
    }
}
