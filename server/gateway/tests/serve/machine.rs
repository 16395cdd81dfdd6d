//! What the machine allows, and who is told that the server is ready.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::process::Stdio;

use crate::served::{Files, Served, heartbeat, output, read};
use crate::support::PATIENCE;

#[test]
fn the_limit_of_open_files_is_raised_and_told() {
    let files = Files::new();
    let served = Served::start(files.serve_after("ulimit -Sn 300 && ulimit -Hn 3000 &&"));
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", served.pid())).expect("it runs");
    let line = limits.lines().find(|line| line.starts_with("Max open files")).expect("a line");
    let numbers: Vec<_> = line.split_whitespace().filter(|word| word.parse::<u32>().is_ok()).collect();
    assert_eq!(numbers, ["3000", "3000"], "{line}");
    let warning = served.logged("the limit of open files is low");
    assert!(warning.contains("WARN") && warning.contains("about 2744 TCP connections"), "{warning}");
}

#[test]
fn the_service_manager_is_told() {
    let files = Files::new();
    let path = files.path("notify");
    let socket = UnixDatagram::bind(&path).expect("a socket");
    socket.set_read_timeout(Some(PATIENCE)).expect("possible");
    let told = || {
        let mut buffer = [0; 64];
        let length = socket.recv(&mut buffer).expect("a word in time");
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    };
    let mut command = files.command(&["serve"]);
    command.env("NOTIFY_SOCKET", &path);
    let served = Served::spawn(command);
    assert_eq!(told(), "READY=1");
    served.logged("serving tcp=");
    served.signal(libc::SIGTERM);
    assert_eq!(told(), "STOPPING=1");
    served.logged("stopped");
}

/// The command gets the listener as the service manager would pass it.
fn activated(files: &Files, listener: &TcpListener) -> std::process::Command {
    let mut command = files.serve_after("exec 3<&0 </dev/null; export LISTEN_FDS=1 LISTEN_PID=$$;");
    command.stdin(Stdio::from(OwnedFd::from(listener.try_clone().expect("possible"))));
    command
}

#[tokio::test]
async fn nobody_is_refused_during_a_restart() {
    let mut files = Files::new();
    let ca = read(&files.path("first/ca.pem"));
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound");
    let listen = format!("listen = [\"{address}\"]\nlisten_quic = [\"127.0.0.1:0\"]");
    files.config = files.config.replace("listen = [\"127.0.0.1:0\"]", &listen);
    let come = |address: SocketAddr| {
        let stream = std::net::TcpStream::connect(address).expect("not refused");
        stream.set_nonblocking(true).expect("possible");
        tokio::net::TcpStream::from_std(stream).expect("in a runtime")
    };

    let mut early = Vec::from_iter((0..8).map(|_| come(address)));
    let mut served = Served::start(activated(&files, &listener));
    assert_eq!(served.tcp, [address]);
    early.push(come(address));
    for stream in early {
        heartbeat(stream, &ca).await.expect("served");
    }
    served.signal(libc::SIGTERM);
    assert!(served.wait().success());
    let between = come(address);
    let again = Served::start(activated(&files, &listener));
    heartbeat(between, &ca).await.expect("served by the next one");
    drop(again);

    files.config = files.config.replace(&address.to_string(), "127.0.0.1:0");
    let (status, _, errors) = output(activated(&files, &listener));
    assert!(!status.success() && errors.contains(&format!("a listener for {address}")), "{errors}");
}
