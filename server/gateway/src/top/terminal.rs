//! The terminal of `ternd top`: taken, drawn on, given back as it was.

use std::io::{self, Read, Write};

use rustix::termios::{self, LocalModes, OptionalActions, Termios};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

/// Another screen than the shell's; no cursor; lines do not wrap.
const ENTER: &str = "\x1b[?1049h\x1b[?25l\x1b[?7l";
const LEAVE: &str = "\x1b[?7h\x1b[?25h\x1b[?1049l";
/// Cursor to the corner.
const HOME: &str = "\x1b[H";
/// Clear from the cursor to the end of its line.
const CLEAR_LINE: &str = "\x1b[K";

/// Of a terminal that does not know its size.
const DEFAULT_SIZE: Size = Size { columns: 80, rows: 24 };
/// The last character of a line that goes on. Not every terminal has others than ASCII's.
const CUT: char = '>';
const CTRL_C: u8 = 3;
const ESCAPE: u8 = 0x1b;
/// What comes of one key, or of several at once.
const KEYS_BYTES: usize = 64;

/// Of a screen, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Size {
    pub(super) columns: usize,
    pub(super) rows: usize,
}

/// What happens to a terminal.
pub(super) enum Event {
    /// Somebody wants this to end.
    End,
    /// It has another size.
    Resized,
}

/// A screen and a keyboard. Dropping it gives them back.
pub(super) struct Terminal {
    /// How the keyboard was; `None` when standard input is no terminal.
    before: Option<Termios>,
    keys: mpsc::Receiver<()>,
    signals: [Signal; 3],
    resized: Signal,
}

impl Terminal {
    /// Takes the terminal of this process.
    ///
    /// # Errors
    /// When it cannot be written to, or the system refuses signals.
    pub(super) fn take() -> io::Result<Self> {
        let [interrupt, terminate, hangup] =
            [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()].map(signal);
        let resized = signal(SignalKind::window_change())?;
        let (ends, keys) = mpsc::channel(1);
        let mut terminal = Self { before: None, keys, signals: [interrupt?, terminate?, hangup?], resized };
        if let Ok(before) = termios::tcgetattr(io::stdin()) {
            let mut modes = before.clone();
            // Ctrl-Z too is a key without a meaning: the shell would be left with this screen.
            modes.local_modes.remove(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG);
            termios::tcsetattr(io::stdin(), OptionalActions::Now, &modes)?;
            terminal.before = Some(before);
            std::thread::Builder::new().name("keys".to_owned()).spawn(move || read_keys(&ends))?;
        }
        write(ENTER)?;
        Ok(terminal)
    }

    /// Its size now.
    pub(super) fn size(&self) -> Size {
        let size = termios::tcgetwinsize(io::stdout()).ok();
        match size.map(|size| (usize::from(size.ws_col), usize::from(size.ws_row))) {
            None | Some((0, _) | (_, 0)) => DEFAULT_SIZE,
            Some((columns, rows)) => Size { columns, rows },
        }
    }

    /// What happens next.
    pub(super) async fn event(&mut self) -> Event {
        let Self { keys, signals: [interrupt, terminate, hangup], resized, .. } = self;
        tokio::select! {
            Some(()) = keys.recv() => Event::End,
            _ = interrupt.recv() => Event::End,
            _ = terminate.recv() => Event::End,
            _ = hangup.recv() => Event::End,
            _ = resized.recv() => Event::Resized,
        }
    }

    /// Shows these lines, as many as the screen has, in place of what was there; what has no room is cut off.
    ///
    /// # Errors
    /// When it cannot be written to.
    pub(super) fn show(&self, lines: &[&str], size: Size) -> io::Result<()> {
        // Cleared before: behind a full line the cursor may still be on its last character.
        let lines: Vec<_> = lines
            .iter()
            .take(size.rows)
            .map(|line| CLEAR_LINE.to_owned() + &cut(line, size.columns))
            .collect();
        // Behind the last line there is no new one, which would move all of them up.
        write(&(HOME.to_owned() + &lines.join("\r\n")))
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // Nothing can be done about a terminal that is gone.
        let _ = write(LEAVE);
        if let Some(before) = &self.before {
            let _ = termios::tcsetattr(io::stdin(), OptionalActions::Now, before);
        }
    }
}

/// Says when a key is read that ends this. The thread ends with the process.
fn read_keys(ends: &mpsc::Sender<()>) {
    let mut bytes = [0; KEYS_BYTES];
    while let Ok(n @ 1..) = io::stdin().read(&mut bytes) {
        if means_end(&bytes[..n]) && ends.blocking_send(()).is_err() {
            return;
        }
    }
}

/// Whether there is `q`, Ctrl-C or Escape among these. Other keys begin with Escape, and may have a `q` in them.
fn means_end(mut keys: &[u8]) -> bool {
    loop {
        keys = match keys {
            [] => return false,
            [ESCAPE] | [ESCAPE, ESCAPE, ..] | [b'q' | b'Q' | CTRL_C, ..] => return true,
            [ESCAPE, b'[', rest @ ..] => {
                let last = rest.iter().position(|byte| (b'@'..=b'~').contains(byte));
                last.map_or(&[], |last| &rest[last + 1..])
            }
            [ESCAPE, b'O', _, rest @ ..] | [ESCAPE, _, rest @ ..] | [_, rest @ ..] => rest,
        }
    }
}

/// A line of so many characters at most.
fn cut(line: &str, columns: usize) -> String {
    if line.chars().count() <= columns {
        return line.to_owned();
    }
    line.chars().take(columns.saturating_sub(1)).chain([CUT]).collect()
}

/// To standard output, at once.
///
/// # Errors
/// When nobody takes it.
pub(super) fn write(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_end_it_are_told_from_others() {
        for keys in ["q", "Q", "\x03", "\x1b", "xq", "\x1b\x1b", "\x1b[Aq", "\x1b[1;5A\x1b", "\x1bOPq"] {
            assert!(means_end(keys.as_bytes()), "{keys:?}");
        }
        for keys in ["", "x", "\x1b[A", "\x1b[1;5q", "\x1b[1;5", "\x1bOq", "\x1bOP", "\x1bq", "\r", "\x1a"] {
            assert!(!means_end(keys.as_bytes()), "{keys:?}");
        }
    }

    #[test]
    fn lines_are_cut_to_the_screen() {
        let cases = [("abc", 3, "abc"), ("abcd", 3, "ab>"), ("äöü", 3, "äöü"), ("abc", 1, ">"), ("", 5, "")];
        for (line, columns, expected) in cases {
            assert_eq!(cut(line, columns), expected);
        }
    }
}
