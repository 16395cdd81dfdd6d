//! Networks of the test's own: namespaces of the kernel, of which each has a link to the one that the server is in.
//!
//! Nothing outside of them is touched, and nothing of them is left when the test has ended, however it has.
//!
//! ```text
//!   this process (a namespace of its own)               a network: one for each cell
//!   ternd on SERVER, of `lo` ── tern7 10.77.7.1 ══════ 10.77.7.2 eth0 ── those behind the bad network
//! ```

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Mutex;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::sync::{oneshot, watch};

use crate::support::needs;

/// Where the server listens: an address that does not go away with a link.
pub(crate) const SERVER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
/// Set in a process that has a namespace to itself.
const INSIDE: &str = "TERN_IN_NAMESPACE";

/// Whether this process has a namespace to itself. If it has not, runs this test in one that has, or says that it cannot.
pub(crate) fn is_inside(test: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    let options = match unshare_options() {
        Ok(options) => options,
        Err(why) => {
            needs::cannot_run(test, &why);
            return false;
        }
    };
    let program = std::env::current_exe().expect("a test is a program");
    let output = Command::new("unshare")
        .args(options)
        .arg(program)
        .args(["--exact", test, "--nocapture"])
        .env(INSIDE, "1")
        .output();
    let output = output.expect("unshare is there: it was just used");
    let (said, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    eprintln!("{errors}");
    assert!(
        output.status.success() && said.contains("1 passed"),
        "in a namespace: {}\n{said}",
        output.status
    );
    false
}

/// What it takes here to get a namespace, or why there is none.
fn unshare_options() -> Result<&'static [&'static str], String> {
    let ways: [&[&str]; 2] = [&["--net"], &["--map-root-user", "--net"]];
    let mut said = Vec::new();
    for options in ways {
        match Command::new("unshare").args(options).args(["ip", "link", "set", "lo", "up"]).output() {
            Ok(output) if output.status.success() => return Ok(options),
            Ok(output) => said.push(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
            Err(error) => said.push(format!("unshare: {error}")),
        }
    }
    Err(format!(
        "no network namespace can be made: {}. This test needs `unshare` (package util-linux), `ip` (package iproute2) \
         and the right to make namespaces: root, or a kernel that lets users do so (user.max_user_namespaces); in a \
         container, --cap-add SYS_ADMIN --cap-add NET_ADMIN",
        said.join("; ")
    ))
}

/// The server's end: its address is there from now on.
pub(crate) fn prepare() {
    ip("link set lo up");
    ip(&format!("address add {SERVER}/32 dev lo"));
}

/// In this process's namespace.
fn ip(arguments: &str) {
    let output =
        Command::new("ip").args(arguments.split(' ')).output().expect("ip is there: it was just used");
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A network with a link to the server.
pub(crate) struct Network {
    shell: Mutex<Shell>,
    pid: u32,
    /// Those who are in it stay until it is dropped.
    alive: watch::Sender<()>,
}

/// In the namespace, which lives as long as it does; it ends when nobody can tell it anything any more.
struct Shell {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Network {
    /// Number 1 to 254. In its shell `$router` is the other end of its link, `$address` its own, `$another` one that is
    /// free.
    pub(crate) fn new(number: u8) -> Self {
        let mut child = Command::new("unshare")
            .args(["--net", "sh"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("unshare is there: it was just used");
        let (input, output) = (child.stdin.take(), BufReader::new(child.stdout.take().expect("piped")));
        let pid = child.id();
        let network =
            Self { shell: Shell { child, input, output }.into(), pid, alive: watch::Sender::new(()) };
        // It answers from within.
        network.run_script(&format!(
            "router=10.77.{number}.1 address=10.77.{number}.2 another=10.77.{number}.3; ip link set lo up"
        ));
        ip(&format!("link add name tern{number} type veth peer name eth0 netns {pid}"));
        ip(&format!("address add 10.77.{number}.1/24 dev tern{number}"));
        ip(&format!("link set tern{number} up"));
        network.run_script(
            "ip address add $address/24 dev eth0 && ip link set eth0 up && ip route add default via $router",
        );
        network
    }

    /// Does this in it, as a shell would, and waits until it is done.
    pub(crate) fn run_script(&self, script: &str) {
        let mut shell = self.shell.lock().expect("nobody panics while holding it");
        let said = shell.run(script);
        drop(shell);
        assert!(said.last().is_some_and(|last| last == "= 0"), "{script}: {said:?}");
    }

    /// What becomes of this, which happens in the network: all of its sockets are there, and those of its tasks.
    pub(crate) fn run<F>(&self, what: F) -> impl Future<Output = F::Output> + Send + use<F>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        let (done, outcome) = oneshot::channel();
        let (pid, mut alive) = (self.pid, self.alive.subscribe());
        let thread = std::thread::spawn(move || {
            let namespace = File::open(format!("/proc/{pid}/ns/net")).expect("the shell lives");
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
                .expect("whoever has made it may enter it");
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(async {
                // Nobody waits if the test has failed elsewhere.
                let _ = done.send(what.await);
                // Until the sender is gone.
                while alive.changed().await.is_ok() {}
            });
        });
        async move {
            match (outcome.await, thread) {
                (Ok(outcome), _) => outcome,
                (Err(_), thread) => std::panic::resume_unwind(thread.join().expect_err("it has panicked")),
            }
        }
    }
}

impl Shell {
    /// What it has said, the last line being the exit status.
    fn run(&mut self, script: &str) -> Vec<String> {
        let input = self.input.as_mut().expect("taken at the end only");
        // Nothing that is started may read what is meant for the shell.
        writeln!(input, "{{ {script}; }} 2>&1 </dev/null; echo \"= $?\"").expect("the shell reads");
        let mut said = Vec::new();
        while said.last().is_none_or(|last: &String| !last.starts_with("= ")) {
            let mut line = String::new();
            let length = self.output.read_line(&mut line).expect("the shell writes lines");
            assert!(length > 0, "the shell has ended: {script}: {said:?}");
            said.push(line.trim_end().to_owned());
        }
        said
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        self.input = None;
        let _ = self.child.wait();
    }
}
