//! `tern-bench report`: what runs have written with `--json`, as one HTML page that needs nothing beside it.
//!
//! - `run`: the files, read.
//! - `number`: figures as people read them; `scale`: where a figure is on an axis.
//! - `chart`: lines, as SVG; `bars`: runs side by side; `table`: rows and columns. They know nothing of runs.
//! - `style`: which colour and dash a run has.
//! - `scenario`: the plots of one scenario; `columns`: the tables of all runs; `render`: the page.

mod bars;
mod chart;
mod columns;
mod number;
mod render;
mod run;
mod scale;
mod scenario;
mod style;
mod table;
#[cfg(test)]
mod tests;

use std::path::PathBuf;

/// `report`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What runs have written with --json
    #[arg(required = true, value_name = "RUN.json")]
    pub runs: Vec<PathBuf>,
    /// The page
    #[arg(short, long, value_name = "FILE", default_value = "report.html")]
    pub output: PathBuf,
}

/// Why there is no page.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file that cannot be read.
    #[error("cannot read {}: {error}", file.display())]
    Read {
        /// Which.
        file: PathBuf,
        /// What the system said.
        error: std::io::Error,
    },
    /// A file that is something else.
    #[error("{}: no report of a run: {problem}; expected what a scenario writes with --json FILE", file.display())]
    Format {
        /// Which.
        file: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The page cannot be written.
    #[error("cannot write {}: {error}", file.display())]
    Write {
        /// Where to.
        file: PathBuf,
        /// What the system said.
        error: std::io::Error,
    },
}

/// Writes the page.
///
/// # Errors
/// When a file is no report of a run, or the page cannot be written.
pub fn run(args: &Args) -> Result<(), Error> {
    let mut runs = Vec::new();
    for file in &args.runs {
        runs.append(&mut run::load(file)?);
    }
    let page = render::page(&runs).into_string();
    std::fs::write(&args.output, page).map_err(|error| Error::Write { file: args.output.clone(), error })?;
    println!("{} ({})", args.output.display(), number::runs(runs.len()));
    Ok(())
}
