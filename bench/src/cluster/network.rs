//! Networks of the run's own: a namespace of the kernel for each node, one for the store, and one for the clients, with a
//! bridge between them.
//!
//! ```text
//!   clients (this program) 10.78.0.1 ── bridge ─┬─ 10.78.0.11 node 1
//!                                               ├─ 10.78.0.12 node 2
//!                                               └─ 10.78.0.100 store
//! ```
//!
//! They have no names, so they collide with nothing, and the kernel removes them with the last process in them, however
//! that ends.
//!
//! Every host knows the hardware address of every other by a fixed entry. A way is cut by giving both ends an address that
//! nobody has: packets go out, and nobody takes them, nobody says so, as behind a dead switch. A route to nowhere, a link
//! that is down or a firewall's refusal would tell the sender.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::process::{Child, ChildStdin, Command, Output, Stdio};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::Error;

/// Nobody's.
const NOWHERE: &str = "02:74:65:72:00:ff";

/// What it takes, for the person at the terminal.
const NEEDS: &str = "expected root on Linux with `unshare`, `nsenter` and `setpriv` (package util-linux) and `ip` (package \
                     iproute2), and the right to make network namespaces; in a container, --cap-add SYS_ADMIN \
                     --cap-add NET_ADMIN";

/// A place in the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Host {
    /// This program.
    Clients,
    /// A node, from 1.
    Node(usize),
    /// FoundationDB.
    Store,
}

impl Host {
    /// Where it is.
    pub fn address(self) -> Ipv4Addr {
        let last = match self {
            Self::Clients => 1,
            Self::Node(number) => u8::try_from(10 + number).unwrap_or(u8::MAX),
            Self::Store => 100,
        };
        Ipv4Addr::new(10, 78, 0, last)
    }

    fn hardware(self) -> String {
        format!("02:74:65:72:00:{:02x}", self.address().octets()[3])
    }

    fn device(self) -> &'static str {
        match self {
            Self::Clients => "bridge",
            Self::Node(_) | Self::Store => "eth0",
        }
    }
}

/// All places, and the ways between them.
pub struct Network {
    places: Vec<(Host, Namespace)>,
}

impl Network {
    /// With so many nodes. This thread is in it from now on, in the clients' place.
    ///
    /// # Errors
    /// What is missing on this machine.
    pub fn new(nodes: usize) -> Result<Self, Error> {
        let hosts = (1..=nodes).map(Host::Node).chain([Host::Store]);
        let places = std::iter::once(Host::Clients).chain(hosts);
        let places = places.map(|host| Ok((host, Namespace::new()?))).collect::<Result<Vec<_>, Error>>()?;
        let network = Self { places };
        network.build()?;
        network.namespace(Host::Clients)?.enter()?;
        Ok(network)
    }

    fn build(&self) -> Result<(), Error> {
        let clients = Host::Clients;
        let mut center = format!(
            "link set lo up\nlink add name bridge address {} type bridge\naddress add {}/24 dev bridge\n\
             link set bridge up\n",
            clients.hardware(),
            clients.address()
        );
        for (host, namespace) in self.others(clients) {
            let (port, pid, hardware) = (port(*host), namespace.pid(), host.hardware());
            let _ = writeln!(
                center,
                "link add name {port} type veth peer name eth0 address {hardware} netns {pid}\n\
                 link set {port} master bridge\nlink set {port} up"
            );
        }
        self.namespace(clients)?.ip(&center)?;
        for (host, namespace) in self.others(clients) {
            let address = host.address();
            namespace
                .ip(&format!("link set lo up\naddress add {address}/24 dev eth0\nlink set eth0 up\n"))?;
        }
        for (one, _) in &self.places {
            for (other, _) in self.others(*one) {
                self.point(*one, *other, &other.hardware())?;
            }
        }
        Ok(())
    }

    /// Nothing that one of the two sends reaches the other any more.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn cut(&self, one: Host, other: Host) -> Result<(), Error> {
        self.point(one, other, NOWHERE)?;
        self.point(other, one, NOWHERE)
    }

    /// As it was.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn mend(&self, one: Host, other: Host) -> Result<(), Error> {
        self.point(one, other, &other.hardware())?;
        self.point(other, one, &one.hardware())
    }

    /// All but this one.
    pub fn all_but(&self, host: Host) -> impl Iterator<Item = Host> {
        self.others(host).map(|(other, _)| *other)
    }

    /// A program that is started there. It ends when this thread does, whatever ends that.
    ///
    /// # Errors
    /// When there is no such place.
    pub fn command(&self, host: Host, program: &std::path::Path) -> Result<Command, Error> {
        let mut command = self.namespace(host)?.command("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(program);
        Ok(command)
    }

    fn point(&self, from: Host, to: Host, hardware: &str) -> Result<(), Error> {
        let (address, device) = (to.address(), from.device());
        self.namespace(from)?
            .ip(&format!("neigh replace {address} lladdr {hardware} nud permanent dev {device}\n"))
    }

    fn namespace(&self, host: Host) -> Result<&Namespace, Error> {
        let place = self.places.iter().find(|(other, _)| *other == host);
        place.map(|(_, namespace)| namespace).ok_or(Error::Driver)
    }

    fn others(&self, host: Host) -> impl Iterator<Item = &(Host, Namespace)> {
        self.places.iter().filter(move |(other, _)| *other != host)
    }
}

/// The bridge's end of its link.
fn port(host: Host) -> String {
    format!("port{}", host.address().octets()[3])
}

/// A namespace, which is there as long as the process that holds it, which ends when nobody can tell it anything any more.
struct Namespace {
    holder: Child,
    input: Option<ChildStdin>,
}

impl Namespace {
    fn new() -> Result<Self, Error> {
        let failed = |why: String| Error::Server(format!("no network namespace can be made: {why}; {NEEDS}"));
        let holder = Command::new("unshare")
            .args(["--net", "cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let mut holder = holder.map_err(|error| failed(format!("unshare: {error}")))?;
        let (mut input, output) = (holder.stdin.take().ok_or(Error::Driver)?, holder.stdout.take());
        // It answers from within.
        let mut line = String::new();
        let answers = writeln!(input, "there")
            .and_then(|()| BufReader::new(output.ok_or(std::io::ErrorKind::NotFound)?).read_line(&mut line));
        let namespace = Self { holder, input: Some(input) };
        match answers {
            Ok(length) if length > 0 => Ok(namespace),
            _ => Err(failed(namespace.last_words())),
        }
    }

    fn last_words(mut self) -> String {
        self.input = None;
        let said = self.holder.stderr.take().map(std::io::read_to_string);
        said.and_then(Result::ok).unwrap_or_default().trim().to_owned()
    }

    fn pid(&self) -> u32 {
        self.holder.id()
    }

    fn path(&self) -> String {
        format!("/proc/{}/ns/net", self.pid())
    }

    /// A program that is started in it.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.path())).arg("--").arg(program);
        command
    }

    /// Lines for `ip`.
    fn ip(&self, lines: &str) -> Result<(), Error> {
        let run = || -> std::io::Result<Output> {
            let mut ip = self.command("ip");
            ip.args(["-batch", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
            let mut ip = ip.spawn()?;
            if let Some(mut input) = ip.stdin.take() {
                input.write_all(lines.as_bytes())?;
            }
            ip.wait_with_output()
        };
        let failed = |why: &str| Error::Server(format!("a network cannot be set up: {why}; {NEEDS}"));
        let output = run().map_err(|error| failed(&error.to_string()))?;
        if output.status.success() {
            return Ok(());
        }
        Err(failed(String::from_utf8_lossy(&output.stderr).trim()))
    }

    /// This thread is in it from now on, and so is whatever it starts.
    fn enter(&self) -> Result<(), Error> {
        let namespace = File::open(self.path()).map_err(Error::io(format!("cannot open {}", self.path())))?;
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
            .map_err(|error| Error::Server(format!("the network cannot be entered: {error}; {NEEDS}")))
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        self.input = None;
        let _ = self.holder.wait();
    }
}
