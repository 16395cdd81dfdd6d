//! The terminal, taken and given back.

use std::io::{self, BufWriter, Stdout, Write};
use std::{env, panic};

use ratatui::backend::{Backend, ClearType, CrosstermBackend};
use ratatui::crossterm::cursor::Show;
use ratatui::crossterm::event::{
    DisableBracketedPaste, DisableFocusChange, DisableMouseCapture, EnableBracketedPaste, EnableFocusChange,
    EnableMouseCapture,
};
use ratatui::crossterm::execute;
use ratatui::crossterm::terminal::{
    EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode,
};
use ratatui::style::Color;
use ratatui::{Frame, Terminal};

/// A screen goes out in one write.
const BUFFER_BYTES: usize = 64 * 1024;

/// The whole terminal, until it is dropped; a panic gives it back too.
pub(super) struct Screen {
    terminal: Terminal<CrosstermBackend<BufWriter<Stdout>>>,
    /// The user wants none (<https://no-color.org>).
    is_plain: bool,
}

impl Screen {
    /// # Errors
    /// When standard output is no terminal, or one that cannot do this.
    pub(super) fn take() -> io::Result<Self> {
        enable_raw_mode()?;
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            give_back();
            before(info);
        }));
        // From here on dropping it gives the terminal back.
        let backend = CrosstermBackend::new(BufWriter::with_capacity(BUFFER_BYTES, io::stdout()));
        let terminal = Terminal::new(backend).inspect_err(|_| give_back())?;
        let is_plain = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let screen = Self { terminal, is_plain };
        execute!(
            io::stdout(),
            EnterAlternateScreen,
            EnableMouseCapture,
            EnableBracketedPaste,
            EnableFocusChange
        )?;
        Ok(screen)
    }

    /// Draws a frame, or what has changed since the last one.
    ///
    /// # Errors
    /// When the terminal is gone.
    pub(super) fn draw(&mut self, view: impl FnOnce(&mut Frame<'_>)) -> io::Result<()> {
        let is_plain = self.is_plain;
        self.terminal.draw(|frame| {
            view(frame);
            // In place of a colour, crossterm would write what takes bold and reversed back as well.
            if is_plain {
                for cell in &mut frame.buffer_mut().content {
                    (cell.fg, cell.bg) = (Color::Reset, Color::Reset);
                }
            }
        })?;
        Ok(())
    }

    /// Clears it: the next frame is drawn whole. A terminal that takes a character for wider or narrower than it is
    /// taken for here leaves parts of older frames.
    ///
    /// # Errors
    /// When the terminal is gone.
    pub(super) fn wipe(&mut self) -> io::Result<()> {
        // Not by `Terminal::clear`, which asks where the cursor is: the answer would come as a key.
        self.terminal.backend_mut().clear_region(ClearType::All)?;
        self.terminal.swap_buffers();
        Ok(())
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        give_back();
    }
}

/// Nothing can be done about a terminal that is gone.
fn give_back() {
    let _ = execute!(
        io::stdout(),
        DisableFocusChange,
        DisableBracketedPaste,
        DisableMouseCapture,
        LeaveAlternateScreen,
        Show
    );
    let _ = disable_raw_mode();
    let _ = io::stdout().flush();
}
