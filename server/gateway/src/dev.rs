//! `ternd dev` and `ternd token`: a server that needs nothing, and tokens for it.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::auth::{Minter, Verifier};
use crate::cli::{Dev, Token};
use crate::clock;
use crate::server::{Server, Setup};
use crate::tls::DevIdentity;
use crate::tls::files::{self, Access};

/// Tokens of a development server are good for a month.
const LIFETIME: Duration = Duration::from_secs(30 * 24 * 3600);
/// Of a development server's clients, which run on the same machine.
const LEEWAY: Duration = Duration::from_secs(30);

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
    create_private(&dev.data)?;
    let data = dev.data.canonicalize()?;
    let names = if dev.listen.ip().is_loopback() || dev.listen.ip().is_unspecified() {
        Vec::new()
    } else {
        vec![dev.listen.ip().to_string()]
    };
    let now = clock::wall();
    let identity = DevIdentity::load_or_create(&data, &names, now)?;
    let minter = Minter::load_or_create(&data)?;
    let server = Server::start(Setup {
        tcp: dev.listen,
        quic: dev.listen,
        shards: dev.shards,
        identity: identity.identity,
        verifier: Verifier::new(vec![minter.token_key()?], LEEWAY),
        data: data.clone(),
    })?;
    let tokens = ["alice", "bob"].map(|user| minter.mint(user, LIFETIME, now));
    let [alice, bob] = tokens;
    let (alice, bob) = (alice?, bob?);
    let greeting = if dev.json {
        let line = serde_json::json!({
            "tcp": server.tcp.to_string(),
            "quic": server.quic.to_string(),
            "ca": data.join("ca.pem"),
            "data": data,
            "tokens": { "alice": alice, "bob": bob },
        });
        line.to_string()
    } else {
        let ca = shown(&data.join("ca.pem"));
        let tern = tern_command();
        let file = |user: &str, token: &str| -> Result<PathBuf, Box<dyn Error>> {
            let path = data.join(format!("{user}.token"));
            files::replace(&path, Access::Owner, token.as_bytes())?;
            Ok(shown(&path))
        };
        let (alice, bob) = (file("alice", &alice)?, file("bob", &bob)?);
        let call = |token: &Path, command: &str| {
            format!(
                "  {tern} --server {} --ca {} --token @{} {command}",
                server.tcp,
                ca.display(),
                token.display()
            )
        };
        format!(
            "ternd is serving on {} (TCP and QUIC), with its data in {}\n\n\
             Bob listens, in a second terminal:\n\n{}\n\n\
             Alice writes, in a third:\n\n{}\n\n\
             Over QUIC: add --transport quic. For another user: ternd token NAME --data {}\n\
             Ctrl-C stops the server.",
            server.tcp,
            shown(&data).display(),
            call(&bob, "tail"),
            call(&alice, "send --to bob \"hello bob\""),
            shown(&data).display(),
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
    let here = std::env::current_dir().ok();
    here.and_then(|here| path.strip_prefix(here).ok()).unwrap_or(path).to_owned()
}

/// How to call the client: the one beside this program, or cargo when this is a build tree without it.
fn tern_command() -> String {
    let beside = std::env::current_exe().ok().and_then(|exe| Some(exe.parent()?.join("tern")));
    match beside {
        Some(path) if path.is_file() => shown(&path).display().to_string(),
        Some(path) if path.components().any(|part| part.as_os_str() == "target") => {
            "cargo run -q --release --bin tern --".to_owned()
        }
        _ => "tern".to_owned(),
    }
}
