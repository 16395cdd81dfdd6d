//! `tern chat` as people use it: a real server, real terminals, keys in, screens out.

mod terminal;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use rustix::process::Signal;
use serde_json::Value;
use terminal::{Terminal, key};
use tern_client::{ConversationId, UserId};
use tern_server::cli::Dev;
use tern_server::dev::{self, Running};
use tern_server::interrupt::Interrupt;
use tern_server::offline;
use vt100::Color;

/// A server that can be stopped and started again at the same address, on the same data.
struct House {
    directory: tempfile::TempDir,
    runtime: tokio::runtime::Runtime,
    running: Option<Running>,
    address: SocketAddr,
    tokens: Value,
}

impl House {
    fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let directory = tempfile::tempdir().unwrap();
        let address = "127.0.0.1:0".parse().unwrap();
        let mut house = Self { directory, runtime, running: None, address, tokens: Value::Null };
        house.start();
        house
    }

    fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    fn start(&mut self) {
        let dev = Dev {
            data: self.data(),
            listen: self.address,
            shards: Some(1),
            names: vec![],
            admin: None,
            limits: false,
            json: true,
        };
        let _entered = self.runtime.enter();
        let running = dev::start(&dev).unwrap();
        let said: Value = serde_json::from_str(&running.greeting).unwrap();
        self.address = said["tcp"].as_str().unwrap().parse().unwrap();
        self.tokens = said["tokens"].clone();
        self.running = Some(running);
    }

    fn stop(&mut self) {
        let running = self.running.take().expect("it runs");
        self.runtime.block_on(running.server.stop());
    }

    /// Stops, does something with the data, and starts again.
    fn meanwhile(&mut self, act: impl FnOnce(&Path, &Path, &Interrupt)) {
        self.stop();
        let interrupt = Interrupt::listen().unwrap();
        act(&self.data(), &self.directory.path().join("backup"), &interrupt);
        self.start();
    }

    fn terminal(&self, user: &str, size: (u16, u16)) -> Terminal {
        self.terminal_with(user, size, &[])
    }

    fn terminal_with(&self, user: &str, size: (u16, u16), more: &[(&str, &str)]) -> Terminal {
        let server = self.address.to_string();
        let state = self.home(user).join("state");
        let envs = [
            ("TERN_SERVER", server.as_str()),
            ("TERN_CA", path(&self.data().join("ca.pem"))),
            ("TERN_TOKEN", self.tokens[user].as_str().unwrap()),
            ("TERN_STATE", path(&state)),
        ];
        let envs = envs.iter().chain(more).copied();
        let command = terminal::program(env!("CARGO_BIN_EXE_tern")).arg("chat").envs(envs);
        Terminal::start(user, command, size)
    }

    /// A command of alice's that is refused; what it says.
    fn refuses(&self, args: &[&str]) -> String {
        let ca = self.data().join("ca.pem");
        self.refuses_with(&["--ca", path(&ca)], args)
    }

    fn refuses_with(&self, ca: &[&str], args: &[&str]) -> String {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_tern"))
            .args(["--server", &self.address.to_string()])
            .args(ca)
            .env("SSL_CERT_FILE", self.directory.path().join("other.pem"))
            .args(["--token", self.tokens["alice"].as_str().unwrap()])
            .args(["--state", path(&self.home("alice").join("state"))])
            .args(args)
            .output()
            .unwrap();
        assert!(!output.status.success(), "{args:?}");
        String::from_utf8(output.stderr).unwrap()
    }

    fn home(&self, user: &str) -> PathBuf {
        self.directory.path().join(user)
    }
}

fn path(path: &Path) -> &'static str {
    Box::leak(path.to_str().expect("it is UTF-8").to_owned().into_boxed_str())
}

fn write_to(terminal: &Terminal, names: &str) {
    terminal.keys(key::CTRL_N);
    terminal.sees("New conversation");
    terminal.keys(names);
    terminal.keys(key::ENTER);
    terminal.wait("the conversation", |screen| {
        let text = terminal::text(screen);
        !text.contains("New conversation") && text.contains("write a message")
    });
}

/// Leaves what shows this text. Keys that follow Escape at once would be taken for Alt with a key.
fn escape(terminal: &Terminal, shown: &str) {
    terminal.keys(key::ESC);
    terminal.wait(&format!("no {shown}"), |screen| !terminal::text(screen).contains(shown));
}

fn say(terminal: &Terminal, text: &str) {
    terminal.keys(text);
    terminal.sees(&format!("> {text}"));
    terminal.keys(key::ENTER);
}

#[test]
fn two_people_and_a_server_that_restarts() {
    let mut house = House::new();
    let mut alice = house.terminal("alice", (80, 24));
    alice.sees("online");
    alice.sees("No conversations yet.");
    write_to(&alice, "bob");
    say(&alice, "hello bob 👋");
    alice.sees_line("hello bob 👋", "✓");

    let mut bob = house.terminal("bob", (80, 24));
    // He does not know yet whose id that is.
    bob.sees_line("hello bob 👋", " 1");
    alice.sees_line("hello bob 👋", "✓✓");
    alice.sees_colored("hello bob 👋", "✓✓", Color::Default);
    bob.keys(key::CLICK_FIRST_ROW);
    bob.sees("who is this? Ctrl-G gives a name");
    alice.sees_colored("hello bob 👋", "✓✓", Color::Idx(6));
    bob.keys(&format!("{}n", key::CTRL_G));
    bob.sees("Name:");
    bob.keys(&format!("alice{}", key::ENTER));
    bob.sees("n name");
    escape(&bob, "n name");
    say(&bob, "hi alice");
    alice.sees_line("hi alice", ":");

    house.stop();
    alice.sees("offline, retry in");
    bob.sees("offline, retry in");
    say(&alice, "are you there?");
    alice.sees_line("are you there?", "◷");
    alice.keys(key::CTRL_Q);
    alice.sees("1 message waits; it goes out when tern chat runs again");
    assert!(alice.ended().success());
    // What was queued survives the end of the program.
    let mut alice = house.terminal("alice", (80, 24));
    alice.sees("offline, retry in");
    alice.sees_line("◷ are you there?", "");
    alice.keys(key::ENTER);
    alice.sees_line("are you there?", "◷");
    // So does what was said before.
    alice.sees_line("hi alice", ":");
    say(&alice, "write back");
    alice.sees_line("write back", "◷");

    house.start();
    alice.sees_colored("are you there?", "✓✓", Color::Idx(6));
    alice.sees_colored("write back", "✓✓", Color::Idx(6));
    alice.sees_line("hi alice", ":");
    let shown = bob.sees_line("write back", ":");
    assert_eq!(shown.matches("are you there?").count(), 1, "once:\n{shown}");
    say(&bob, "here I am");
    alice.sees_line("here I am", ":");
    alice.keys("half a thought");
    alice.sees("> half a thought");
    bob.sees_line("here I am", "✓✓");
    bob.keys(key::CTRL_Q);
    assert!(bob.ended().success());
    assert!(!bob.shows("waits;"));
    assert!(bob.is_cooked());
    alice.signal(Signal::TERM);
    assert!(alice.ended().success());
    assert!(alice.is_cooked());
    let alice = house.terminal("alice", (80, 24));
    alice.sees_line("here I am", "");
    alice.keys(key::ENTER);
    alice.sees("> half a thought");
    house.stop();
}

#[test]
fn a_group_and_a_long_conversation() {
    let mut house = House::new();
    let alice = house.terminal("alice", (100, 30));
    alice.sees("online");
    alice.keys(key::CTRL_N);
    alice.keys(&format!("bob carol{}Lunch 日本{}", key::TAB, key::ENTER));
    alice.sees("Lunch 日本");
    alice.sees("you made the group \"Lunch 日本\" with carol, bob");
    alice.sees("3 members");
    alice.keys(key::CTRL_G);
    alice.sees_line("carol", "member");
    alice.sees_line("you", "owner");
    alice.keys("a");
    alice.sees("Add:");
    alice.keys(&format!("dave{}", key::ENTER));
    alice.sees_line("dave", "member");
    escape(&alice, "l leave");
    alice.sees("4 members");
    for n in 0..40 {
        alice.keys(&format!("message number {n}{}", key::ENTER));
    }
    alice.sees_line("message number 39", "✓");

    let plain = house.terminal_with("bob", (80, 24), &[("NO_COLOR", "1")]);
    plain.wait("the chosen row without colours", |screen| {
        let cells: Vec<_> =
            (0..24).flat_map(|row| (0..80).filter_map(move |at| screen.cell(row, at))).collect();
        let chosen = (1..3).all(|row| screen.cell(row, 1).is_some_and(vt100::Cell::inverse));
        let is_default =
            |cell: &&vt100::Cell| cell.fgcolor() == Color::Default && cell.bgcolor() == Color::Default;
        chosen && terminal::text(screen).contains("● online") && cells.iter().all(is_default)
    });
    drop(plain);
    let bob = house.terminal("bob", (80, 24));
    bob.sees_line("Lunch 日本", ":");
    bob.sees_line("user ", " 40");
    bob.keys(key::ENTER);
    bob.sees("> write a message");
    // Until the page of older messages is here, there is nothing to scroll to.
    bob.repeats(key::PAGE_UP, "─ new ─");
    bob.sees("lines below, Ctrl-End");
    bob.repeats(key::WHEEL_UP_AT_MESSAGES, "made the group \"Lunch 日本\"");
    bob.keys(key::CTRL_END);
    bob.sees("message number 39");
    bob.keys(&format!("{}NUMBER 7", key::CTRL_F));
    bob.sees_line("message number 7", ":");
    escape(&bob, "Find:");
    bob.keys(key::CTRL_END);
    bob.keys(key::F1);
    bob.sees("waits for the server");
    escape(&bob, "waits for the server");
    bob.scribble("junk");
    bob.sees("junk");
    bob.keys(key::CTRL_L);
    bob.wait("all drawn anew", |screen| {
        let text = terminal::text(screen);
        !text.contains("junk") && text.contains("message number 39") && text.contains("Ctrl-Q quit")
    });
    alice.keys("us 👩\u{200d}👩\u{200d}👧 👍🏽.");
    alice.sees("> us 👩👩👧 👍.");
    alice.keys(key::ENTER);
    bob.sees_line("us 👩👩👧 👍.", ":");
    bob.resize(40, 12);
    bob.sees("us 👩👩👧 👍.");
    bob.sees("Enter send  F1 help  Tab list");
    bob.keys(key::F1);
    bob.sees("more below ↓");
    bob.keys(key::END);
    bob.sees("read; in groups, by everybody");
    escape(&bob, "by everybody");
    bob.resize(50, 15);
    bob.sees("message number 39");
    bob.keys(key::TAB);
    bob.sees_line("message number 39", "");
    bob.keys(key::UP);
    bob.resize(120, 40);
    bob.sees("message number 20");
    house.stop();
}

/// (the authority that is given; what is said)
#[test]
fn an_authority_that_does_not_vouch_for_the_server() {
    let mut house = House::new();
    let made = rcgen::generate_simple_self_signed(vec!["elsewhere".into()]).unwrap();
    let other = house.directory.path().join("other.pem");
    std::fs::write(&other, made.cert.pem()).unwrap();
    for (ca, said) in [
        (&["--ca", path(&other)][..], format!("is the CA in {} that of this server?", other.display())),
        (&[], "none of this system's CAs vouches for it: name the server's with --ca".into()),
    ] {
        let told = house.refuses_with(ca, &["conversations"]);
        assert!(told.contains(&said), "{told}");
    }
    house.stop();
}

/// (what is asked; what is said)
#[test]
fn what_the_server_calls_invalid_is_told_by_the_command() {
    let mut house = House::new();
    let chat = ConversationId::direct(UserId::from_sub("alice"), UserId::from_sub("bob")).to_string();
    for (args, said) in [
        (&["send", "--to", "bob", "--reply-to", "99", "hi"][..], "has no 99: give --reply-to a seq"),
        (&["send", "--to", "bob", "--reply-to", "0", "hi"], "--reply-to"),
        (&["group", "add", &chat, "carol"], "is a direct chat, which stays as it is"),
        (&["read", "--to", "bob", "--upto", "99"], "unknown_conversation"),
    ] {
        let told = house.refuses(args);
        assert!(told.contains(said), "{args:?}: {told}");
    }
    let alice = house.terminal("alice", (80, 24));
    alice.sees("online");
    write_to(&alice, "bob");
    say(&alice, "hello");
    alice.sees_line("hello", "✓");
    let told = house.refuses(&["read", "--to", "bob", "--upto", "99"]);
    assert_eq!(told, "tern: invalid_argument: the conversation has no 99: give --upto a seq that it has\n");
    house.stop();
}

#[test]
fn what_a_restored_server_has_lost_is_sent_again() {
    let mut house = House::new();
    let alice = house.terminal("alice", (80, 24));
    alice.sees("online");
    write_to(&alice, "bob");
    say(&alice, "early");
    alice.sees_line("early", "✓");
    house.meanwhile(|data, file, interrupt| {
        offline::backup(data, file, false, interrupt, &mut |_| {}).unwrap();
    });
    say(&alice, "late");
    let mut bob = house.terminal("bob", (80, 24));
    bob.sees_line("late", " 2");
    bob.keys(key::CLICK_FIRST_ROW);
    bob.sees("> write a message");
    say(&bob, "seen");
    alice.sees_line("seen", ":");
    bob.keys(key::CTRL_Q);
    assert!(bob.ended().success());
    house.meanwhile(|data, file, interrupt| {
        std::fs::rename(data.join("store"), data.join("broken")).unwrap();
        offline::restore(file, data, interrupt, &mut |_| {}).unwrap();
    });
    let shown = alice.sees("lacks what you wrote here");
    assert!(shown.contains("bob: 1 message lost") && shown.contains("late"), "{shown}");
    alice.keys(key::ENTER);
    alice.sees_line("late", "✓");
    let mut alice = alice;
    alice.keys(key::CTRL_Q);
    assert!(alice.ended().success());
    // Asked once.
    let asked = std::fs::read_to_string(house.home("alice").join("state-chat.asked")).unwrap();
    assert_eq!(asked.lines().count(), 1, "{asked}");
    let alice = house.terminal("alice", (80, 24));
    alice.sees("online");
    let bob = house.terminal("bob", (80, 24));
    bob.keys(key::CLICK_FIRST_ROW);
    bob.sees("1 message lost");
    escape(&bob, "lacks what");
    say(&bob, "all there");
    let shown = alice.sees_line("all there", "");
    assert!(!shown.contains("lost"), "{shown}");
    house.stop();
}
