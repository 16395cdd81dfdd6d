//! The terminal, taken and given back.

use std::io::{self, BufWriter, Stdout, Write};
use std::panic;

use ratatui::Terminal;
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

/// A screen goes out in one write.
const BUFFER_BYTES: usize = 64 * 1024;

/// The whole terminal, until it is dropped; a panic gives it back too.
pub(super) struct Screen {
    pub(super) terminal: Terminal<CrosstermBackend<BufWriter<Stdout>>>,
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
        let screen = Self { terminal: Terminal::new(backend).inspect_err(|_| give_back())? };
        execute!(
            io::stdout(),
            EnterAlternateScreen,
            EnableMouseCapture,
            EnableBracketedPaste,
            EnableFocusChange
        )?;
        Ok(screen)
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
