//! What the machine allows, and who is told that the server is ready.

use std::os::unix::net::UnixDatagram;
use std::process::Command;

use crate::served::{Files, Served};
use crate::support::PATIENCE;

/// The server with these limits of open files.
fn limited(files: &Files, soft: u32, hard: u32) -> Command {
    let plain = files.command(&["serve"]);
    let mut command = Command::new("sh");
    command.arg("-c").arg(format!("ulimit -Sn {soft} && ulimit -Hn {hard} && exec \"$0\" \"$@\""));
    command.arg(plain.get_program()).args(plain.get_args());
    command.envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command
}

#[test]
fn the_limit_of_open_files_is_raised_and_told() {
    let files = Files::new();
    let served = Served::start(limited(&files, 300, 3000));
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
