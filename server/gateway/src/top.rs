//! `ternd top`: a live view of one node, from its metrics.

mod frame;
mod reading;

use std::error::Error;
use std::io::{self, IsTerminal, Write};

use hyper::StatusCode;

use crate::admin;
use crate::cli::Top;
use crate::clock::Stamp;
use crate::metrics::text;
use reading::Reading;

/// Cursor to the corner.
const HOME: &str = "\x1b[H";
/// Clear from the cursor to the end of its line.
const CLEAR_LINE: &str = "\x1b[K";
/// Clear what is below.
const CLEAR_BELOW: &str = "\x1b[J";

/// Draws until it is interrupted, or once. To a terminal each frame takes the place of the one before.
///
/// # Errors
/// When the first readings fail, or `--once`; later, what is wrong is shown until it is right again.
pub async fn run(args: &Top) -> Result<(), Box<dyn Error>> {
    let terminal = io::stdout().is_terminal() && !args.once;
    let mut before = read(args).await?;
    if terminal {
        write(&format!("{HOME}{CLEAR_BELOW}"))?;
    }
    loop {
        tokio::time::sleep(args.interval).await;
        let shown = match read(args).await {
            Ok(now) => {
                let shown = frame::draw(args.admin, &before, &now);
                before = now;
                shown
            }
            Err(error) if args.once || !terminal => return Err(error),
            Err(error) => format!("ternd top: {error}\n"),
        };
        let shown = match terminal {
            true => format!("{HOME}{}{CLEAR_BELOW}", shown.replace('\n', &format!("{CLEAR_LINE}\n"))),
            false => shown,
        };
        match write(&shown) {
            // Nobody reads on.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            written => written?,
        }
        if args.once {
            return Ok(());
        }
    }
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

fn write(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}
