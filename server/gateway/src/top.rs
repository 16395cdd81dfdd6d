//! `ternd top`: a live view of one node, from its metrics.

mod frame;
mod reading;
mod terminal;

use std::error::Error;
use std::io::{self, IsTerminal};
use std::time::Duration;

use hyper::StatusCode;
use tern_protocol::model::WallMillis;
use tokio::time::MissedTickBehavior;

use crate::admin;
use crate::cli::Top;
use crate::clock::{self, Stamp};
use crate::metrics::{catalog, text};
use reading::Reading;
use terminal::{Event, Terminal, write};

/// Of what is not shown on a terminal.
const PAPER_COLUMNS: usize = 80;
/// The last line on a terminal.
const KEYS: &str = "q, Esc or Ctrl-C: end";
/// How long an answer may take before the screen says that there is none.
const SILENCE: Duration = Duration::from_secs(2);
/// Between two looks at how long there has been no answer.
const REFRESH: Duration = Duration::from_secs(1);

/// Draws until somebody ends it, or once.
///
/// # Errors
/// When the first reading fails; with `--once` or without a terminal, any. On a terminal the screen says since when
/// there has been no answer, until there is one again.
pub async fn run(args: &Top) -> Result<(), Box<dyn Error>> {
    let view = View::new(args, read(args).await?);
    let is_terminal = io::stdout().is_terminal() && !args.once;
    let shown = if is_terminal { watch(view).await } else { print(view).await };
    shown.or_else(|error| match error.downcast_ref::<io::Error>() {
        // Nobody reads on.
        Some(broken) if broken.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        _ => Err(error),
    })
}

/// One frame, or one after the other.
async fn print(mut view: View<'_>) -> Result<(), Box<dyn Error>> {
    loop {
        view.take(next(view.args).await?);
        write(&view.frame(PAPER_COLUMNS, None))?;
        if view.args.once {
            return Ok(());
        }
    }
}

/// Each frame takes the place of the one before.
async fn watch(mut view: View<'_>) -> Result<(), Box<dyn Error>> {
    let mut terminal = Terminal::take()?;
    let mut refresh = tokio::time::interval(REFRESH);
    refresh.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let next = next(view.args);
        tokio::pin!(next);
        let answer = loop {
            let size = terminal.size();
            let frame = view.frame(size.columns, Some(size.rows - 1));
            let mut lines: Vec<_> = frame.lines().collect();
            lines.resize(size.rows - 1, "");
            lines.push(KEYS);
            terminal.show(&lines, size)?;
            tokio::select! {
                answer = &mut next => break answer,
                event = terminal.event() => match event {
                    Event::End => return Ok(()),
                    Event::Resized => {}
                },
                _ = refresh.tick() => {}
            }
        };
        match answer {
            Ok(now) => view.take(now),
            Err(_) => view.is_silent = true,
        }
    }
}

/// The next reading, when it is time.
async fn next(args: &Top) -> Result<Reading, Box<dyn Error>> {
    tokio::time::sleep(args.interval).await;
    read(args).await
}

async fn read(args: &Top) -> Result<Reading, Box<dyn Error>> {
    let (status, page) = admin::get(args.admin, "/metrics").await?;
    let at = Stamp::take();
    let samples = (status == StatusCode::OK).then(|| text::parse(&page)).flatten();
    let samples = samples
        .ok_or_else(|| format!("{} answers, but not with a ternd's metrics ({status})", args.admin))?;
    let (status, why) = admin::get(args.admin, "/ready").await?;
    let state = if status == StatusCode::OK { "ready".to_owned() } else { why.trim().to_owned() };
    Ok(Reading { at, samples, state })
}

/// What is known of a server.
struct View<'a> {
    args: &'a Top,
    /// The reading before `now`, if that was of the same process.
    before: Option<Reading>,
    now: Reading,
    /// When `now` came.
    wall: WallMillis,
    /// The last question had no answer.
    is_silent: bool,
}

impl<'a> View<'a> {
    fn new(args: &'a Top, now: Reading) -> Self {
        Self { args, before: None, now, wall: clock::wall(), is_silent: false }
    }

    fn take(&mut self, now: Reading) {
        let before = std::mem::replace(&mut self.now, now);
        let started = |reading: &Reading| reading.sum(catalog::START_TIME.name, &[]);
        self.before = (started(&before) == started(&self.now)).then_some(before);
        (self.wall, self.is_silent) = (clock::wall(), false);
    }

    fn frame(&self, columns: usize, rows: Option<usize>) -> String {
        let admin = self.args.admin;
        let silence = Duration::from_micros(self.now.at.micros());
        let title = if self.is_silent || silence > self.args.interval + SILENCE {
            let seconds = self.wall.0 / 1_000;
            let [hour, minute, second] = [seconds / 3_600 % 24, seconds / 60 % 60, seconds % 60];
            let since = format!("{hour:02}:{minute:02}:{second:02} UTC ({} s)", silence.as_secs());
            format!("no answer since {since} from {admin}")
        } else {
            let version = self.now.values(catalog::BUILD_INFO.name, "version").join(" ");
            format!("ternd {version} at {admin}: {}", self.now.state)
        };
        let before = self.before.as_ref().unwrap_or(&self.now);
        frame::draw(&title, before, &self.now, columns, rows)
    }
}
