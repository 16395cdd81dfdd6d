//! A `ternd serve` with a directory of its own for everything that its configuration names.
#![allow(dead_code, reason = "every test binary uses a part of it")]

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use tempfile::TempDir;
use tern_client::Transport;
use tern_client::raw::Connector;
use tern_protocol::limits::ALPN;
use tern_server::admin::get;
use tern_server::auth::Minter;
use tern_server::clock;
use tern_server::tls::DevIdentity;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::support::{PATIENCE, Session};

/// Files and a configuration; nothing runs yet.
pub(crate) struct Files {
    pub(crate) dir: TempDir,
    pub(crate) config: String,
}

impl Files {
    /// A certificate from an authority of its own, a key for tokens, a configuration that names them.
    pub(crate) fn new() -> Self {
        let files = Self { dir: tempfile::tempdir().expect("a temporary directory"), config: String::new() };
        files.certificate("first");
        Minter::load_or_create(files.dir.path()).expect("a key");
        let config = "data = \"data\"\nlisten = [\"127.0.0.1:0\"]\nshards = 2\n\n\
                      [tls]\ncertificate = \"server.pem\"\nkey = \"server.key\"\n\n\
                      [tokens]\n\n[[tokens.keys]]\nalgorithm = \"EdDSA\"\nfile = \"token.pub\"\n";
        Self { config: config.into(), ..files }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Replaces a file in one step.
    pub(crate) fn put(&self, name: &str, contents: impl AsRef<[u8]>) {
        let new = self.path(".new");
        fs::write(&new, contents).expect("writable");
        fs::set_permissions(&new, fs::Permissions::from_mode(0o600)).expect("possible");
        fs::rename(new, self.path(name)).expect("renamed");
    }

    /// Puts a certificate of the authority with this name in the server's place; returns the authority's.
    pub(crate) fn certificate(&self, authority: &str) -> Vec<u8> {
        let made = self.path(authority);
        let made =
            DevIdentity::load_or_create(&made, &[], clock::wall()).map(|_| made).expect("a certificate");
        for name in ["server.pem", "server.key"] {
            self.put(name, fs::read(made.join(name)).expect("made"));
        }
        fs::read(made.join("ca.pem")).expect("made")
    }

    pub(crate) fn token(&self, user: &str) -> String {
        let minter = Minter::load_or_create(self.dir.path()).expect("a key");
        minter.mint(user, Duration::from_secs(3600), clock::wall()).expect("a good name")
    }

    /// `ternd` with these arguments and the configuration.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        self.put("tern.toml", &self.config);
        let mut command = Command::new(env!("CARGO_BIN_EXE_ternd"));
        command.args(arguments).arg("--config").arg(self.path("tern.toml"));
        command.env("TERN_LOG", "info").env("NO_COLOR", "1").env("TERN_ADMIN_LISTEN", "127.0.0.1:0");
        command
    }

    /// `ternd serve`, after these words of a shell.
    pub(crate) fn serve_after(&self, words: &str) -> Command {
        let plain = self.command(&["serve"]);
        let mut command = Command::new("sh");
        command
            .arg("-c")
            .arg(format!("{words} exec \"$0\" \"$@\""))
            .arg(plain.get_program())
            .args(plain.get_args());
        command.envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command
    }

    pub(crate) fn serve(&self) -> Served {
        Served::start(self.command(&["serve"]))
    }
}

#[derive(Default)]
struct Log {
    lines: Mutex<(Vec<String>, bool)>,
    more: Condvar,
}

/// A server process. Dropping it kills it.
pub(crate) struct Served {
    child: Child,
    log: Arc<Log>,
    /// TCP addresses.
    pub(crate) tcp: Vec<SocketAddr>,
    /// QUIC addresses.
    pub(crate) quic: Vec<SocketAddr>,
    /// Where it answers for metrics; once it serves.
    admin: Option<SocketAddr>,
}

impl Served {
    /// Starts it and waits until it serves.
    pub(crate) fn start(command: Command) -> Self {
        let mut served = Self::spawn(command);
        let line = served.logged("serving tcp=");
        let addresses = |name: &str| {
            let list = line.split_once(&format!("{name}=[")).and_then(|(_, rest)| rest.split_once("] "));
            let (list, _) = list.expect("a list of addresses");
            list.split(", ").map(|address| address.parse().expect("an address")).collect()
        };
        (served.tcp, served.quic) = (addresses("tcp"), addresses("quic"));
        let admin = line.split_once("admin=").and_then(|(_, rest)| rest.split(' ').next()?.parse().ok());
        served.admin = Some(admin.expect("an address"));
        served
    }

    /// Starts it.
    pub(crate) fn spawn(mut command: Command) -> Self {
        let mut child = command.stderr(Stdio::piped()).spawn().expect("ternd can be started");
        let log = Arc::new(Log::default());
        let (stderr, into) = (child.stderr.take().expect("piped"), log.clone());
        std::thread::spawn(move || {
            let mut lines = BufReader::new(stderr).lines();
            while let Some(Ok(line)) = lines.next() {
                eprintln!("ternd: {line}");
                into.lines.lock().expect("not poisoned").0.push(line);
                into.more.notify_all();
            }
            into.lines.lock().expect("not poisoned").1 = true;
            into.more.notify_all();
        });
        Self { child, log, tcp: Vec::new(), quic: Vec::new(), admin: None }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The first line with this text, which is waited for.
    pub(crate) fn logged(&self, text: &str) -> String {
        self.logged_times(text, 1)
    }

    /// The line that is the nth with this text.
    pub(crate) fn logged_times(&self, text: &str, n: usize) -> String {
        let lines = self.log.lines.lock().expect("not poisoned");
        let found = |lines: &[String]| lines.iter().filter(|line| line.contains(text)).nth(n - 1).cloned();
        let waits = |(lines, ended): &mut (Vec<String>, bool)| found(lines).is_none() && !*ended;
        let (lines, _) = self.log.more.wait_timeout_while(lines, PATIENCE, waits).expect("not poisoned");
        found(&lines.0).unwrap_or_else(|| panic!("not logged: {text}"))
    }

    /// Everything that it has logged, once it has ended.
    pub(crate) fn log_to_the_end(mut self) -> String {
        self.signal(libc::SIGTERM);
        self.wait();
        let lines = self.log.lines.lock().expect("not poisoned");
        let waits = |(_, ended): &mut (Vec<String>, bool)| !*ended;
        let (lines, _) = self.log.more.wait_timeout_while(lines, PATIENCE, waits).expect("not poisoned");
        assert!(lines.1, "its standard error is at its end");
        lines.0.join("\n")
    }

    #[allow(unsafe_code)]
    pub(crate) fn signal(&self, signal: i32) {
        // SAFETY: kill(2) takes plain numbers, and the child has not been waited for, so the id is still its own.
        assert_eq!(unsafe { libc::kill(self.pid() as libc::pid_t, signal) }, 0, "ternd can be signalled");
    }

    /// A counter or gauge with its labels, as it is now.
    pub(crate) async fn metric(&self, name: &str) -> u64 {
        let page = get(self.admin.expect("it serves"), "/metrics").await.expect("it answers").1;
        let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {name} in:\n{page}")).parse().expect("a number")
    }

    /// Waits for its end.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        self.child.wait().expect("ternd was started")
    }

    /// Connections to its first address that trust this authority.
    pub(crate) fn connector(&self, ca: &[u8]) -> Connector {
        Connector::new(&self.tcp[0].to_string(), None, ca).expect("good")
    }

    /// A logged-in connection.
    pub(crate) async fn login(
        &self,
        connector: &Connector,
        transport: Transport,
        token: &str,
        device: u64,
    ) -> Session {
        let connection = connector.connect(transport).await.expect("ternd accepts connections");
        Session::login(connection, token, device).await.expect("the token is good")
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a program wrote, and how it ended.
pub(crate) fn output(mut command: Command) -> (ExitStatus, String, String) {
    let output = command.output().expect("ternd can be started");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    (output.status, text(output.stdout), text(output.stderr))
}

/// A file in a directory.
pub(crate) fn read(path: &Path) -> Vec<u8> {
    fs::read(path).expect("readable")
}

/// What every client does with a stream that has just been connected, until a heartbeat comes back.
pub(crate) async fn heartbeat(stream: TcpStream, ca: &[u8]) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca).expect("PEM")).expect("an authority");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("TLS")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![ALPN.to_vec()];
    let name = "localhost".try_into().expect("a name");
    let mut stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
    stream.write_all(&[0]).await?;
    stream.read_u8().await?;
    Ok(stream)
}
