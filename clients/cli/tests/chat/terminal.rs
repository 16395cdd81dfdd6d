//! A program on a pseudo-terminal, and what a person would see there.

use std::io::{Read, Write};
use std::num::NonZeroU16;
use std::process::{Child, ExitStatus};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use pty_process::Size;
use pty_process::blocking::{Command, Pty, open};
use vt100::{Color, Parser};

/// Whatever is waited for is there by then, or never.
const PATIENCE: Duration = Duration::from_secs(20);
/// Between two presses of a key, unless the screen changes before.
const REPEAT: Duration = Duration::from_millis(50);

/// Keys as terminals send them.
pub(crate) mod key {
    pub(crate) const ENTER: &str = "\r";
    pub(crate) const TAB: &str = "\t";
    pub(crate) const ESC: &str = "\x1b";
    pub(crate) const UP: &str = "\x1b[A";
    pub(crate) const PAGE_UP: &str = "\x1b[5~";
    pub(crate) const CTRL_END: &str = "\x1b[1;5F";
    pub(crate) const CTRL_F: &str = "\x06";
    pub(crate) const CTRL_G: &str = "\x07";
    pub(crate) const CTRL_L: &str = "\x0c";
    pub(crate) const CTRL_N: &str = "\x0e";
    pub(crate) const CTRL_Q: &str = "\x11";
    pub(crate) const F1: &str = "\x1bOP";
    pub(crate) const END: &str = "\x1b[F";
    pub(crate) const CLICK_FIRST_ROW: &str = "\x1b[<0;4;2M\x1b[<0;4;2m";
    pub(crate) const WHEEL_UP_AT_MESSAGES: &str = "\x1b[<64;50;10M";
}

struct Seen {
    screen: Mutex<Parser>,
    changed: Condvar,
}

/// A program, for a terminal as most people have it.
pub(crate) fn program(path: &str) -> Command {
    Command::new(path).env("TERM", "xterm-256color").env("TZ", "UTC").env_remove("NO_COLOR")
}

/// A terminal with a program in it.
pub(crate) struct Terminal {
    name: String,
    pty: Arc<Pty>,
    seen: Arc<Seen>,
    child: Child,
}

impl Terminal {
    /// Starts it in a terminal of so many columns and rows.
    pub(crate) fn start(name: &str, command: Command, size: (u16, u16)) -> Self {
        let (pty, pts) = open().expect("a pseudo-terminal");
        pty.resize(Size::new(size.1, size.0)).expect("a size");
        let child = command.spawn(pts).expect("the program starts");
        let pty = Arc::new(pty);
        let (columns, rows) = (NonZeroU16::new(size.0).unwrap(), NonZeroU16::new(size.1).unwrap());
        let screen = Mutex::new(Parser::new(rows, columns, 0));
        let seen = Arc::new(Seen { screen, changed: Condvar::new() });
        let (reader, writer) = (pty.clone(), seen.clone());
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            // An error means that nobody holds the other end any more.
            while let Ok(read) = (&*reader).read(&mut buffer)
                && read > 0
            {
                writer.screen.lock().unwrap().process(&buffer[..read]);
                writer.changed.notify_all();
            }
        });
        Self { name: name.into(), pty, seen, child }
    }

    /// Types.
    pub(crate) fn keys(&self, keys: &str) {
        (&*self.pty).write_all(keys.as_bytes()).expect("the terminal takes keys");
    }

    pub(crate) fn resize(&self, columns: u16, rows: u16) {
        let mut parser = self.seen.screen.lock().unwrap();
        let size = (NonZeroU16::new(rows).unwrap(), NonZeroU16::new(columns).unwrap());
        parser.screen_mut().set_size(size.0, size.1);
        self.pty.resize(Size::new(rows, columns)).expect("a size");
    }

    /// Something that is on the screen, and not by the program: a terminal's own idea of how wide something was.
    pub(crate) fn scribble(&self, what: &str) {
        self.seen.screen.lock().unwrap().process(format!("\x1b7\x1b[5;20H{what}\x1b8").as_bytes());
    }

    /// Waits until the screen is so, and returns its text.
    pub(crate) fn wait(&self, what: &str, mut is_so: impl FnMut(&vt100::Screen) -> bool) -> String {
        let deadline = Instant::now() + PATIENCE;
        let mut parser = self.seen.screen.lock().unwrap();
        while !is_so(parser.screen()) {
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "{} never saw {what}:\n{}", self.name, text(parser.screen()));
            parser = self.seen.changed.wait_timeout(parser, left).unwrap().0;
        }
        let text = text(parser.screen());
        if std::env::var_os("TERN_TEST_SCREENS").is_some() {
            println!("--- {} sees {what}:\n{text}", self.name);
        }
        text
    }

    /// Whether this is there at present.
    pub(crate) fn shows(&self, unwanted: &str) -> bool {
        text(self.seen.screen.lock().unwrap().screen()).contains(unwanted)
    }

    /// Waits until this text is on the screen, and returns all of it.
    pub(crate) fn sees(&self, wanted: &str) -> String {
        self.wait(wanted, |screen| text(screen).contains(wanted))
    }

    /// Presses a key again and again until this text is on the screen.
    pub(crate) fn repeats(&self, key: &str, wanted: &str) {
        let deadline = Instant::now() + PATIENCE;
        let mut parser = self.seen.screen.lock().unwrap();
        while !text(parser.screen()).contains(wanted) {
            assert!(
                Instant::now() < deadline,
                "{} never saw {wanted}:\n{}",
                self.name,
                text(parser.screen())
            );
            self.keys(key);
            parser = self.seen.changed.wait_timeout(parser, REPEAT).unwrap().0;
        }
    }

    /// Waits until a line has both, in this order.
    pub(crate) fn sees_line(&self, first: &str, second: &str) -> String {
        self.wait(&format!("{first} … {second}"), |screen| line(screen, first, second).is_some())
    }

    /// Waits until the mark behind this text, on one line, has this colour.
    pub(crate) fn sees_colored(&self, first: &str, mark: &str, color: Color) {
        self.wait(&format!("{first} … {mark} in {color:?}"), |screen| {
            let Some(row) = line(screen, first, mark) else { return false };
            let columns = screen.size().1.get();
            let last = (0..columns)
                .rev()
                .filter_map(|c| screen.cell(row, c))
                .find(|c| !c.contents().trim().is_empty());
            last.is_some_and(|cell| mark.ends_with(cell.contents()) && cell.fgcolor() == color)
        });
    }

    /// Waits for the end of the program, which has to leave the terminal as it was.
    pub(crate) fn ended(&mut self) -> ExitStatus {
        self.wait("the terminal given back", |screen| {
            !screen.alternate_screen()
                && !screen.hide_cursor()
                && !screen.bracketed_paste()
                && screen.mouse_protocol_mode() == vt100::MouseProtocolMode::None
        });
        self.child.wait().expect("it was started")
    }

    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).expect("it runs");
    }

    /// Whether what is typed is echoed by the system, line by line, as a shell wants it.
    pub(crate) fn is_cooked(&self) -> bool {
        let modes = rustix::termios::tcgetattr(&*self.pty).expect("it is a terminal").local_modes;
        use rustix::termios::LocalModes;
        modes.contains(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG)
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What is on the screen, line by line.
pub(crate) fn text(screen: &vt100::Screen) -> String {
    let columns = screen.size().1.get();
    let rows: Vec<String> = screen.rows(0, columns).map(|row| row.trim_end().to_owned()).collect();
    rows.join("\n")
}

fn line(screen: &vt100::Screen, first: &str, second: &str) -> Option<u16> {
    let columns = screen.size().1.get();
    let is_so = |row: String| row.find(first).is_some_and(|at| row[at + first.len()..].contains(second));
    screen.rows(0, columns).position(is_so).map(|row| row as u16)
}
