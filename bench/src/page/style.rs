//! Which colour and dash a run has, the same in every plot of its scenario.

use maud::{Markup, html};

/// Runs that can be told apart: six colours, each once solid and once dashed.
const RUNS_MAX: usize = 12;

/// How the runs of one scenario are drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Palette {
    /// Each in its own style.
    Runs,
    /// Too many for that: thin lines, a colour for each transport.
    Transports,
}

impl Palette {
    pub(super) fn new(runs: usize) -> Self {
        if runs <= RUNS_MAX { Self::Runs } else { Self::Transports }
    }

    /// The CSS class of a run, by its place among those of its scenario.
    pub(super) fn class(self, index: usize, transport: &str) -> String {
        match self {
            Self::Runs => format!("s{}", index % RUNS_MAX),
            Self::Transports => format!("s{} many", transport_index(transport)),
        }
    }
}

fn transport_index(transport: &str) -> usize {
    match transport {
        "tcp" => 0,
        "quic" => 1,
        _ => 2,
    }
}

/// A short piece of a line of this class.
pub(super) fn sample(class: &str) -> Markup {
    html! {
        svg.sample width="26" height="10" viewBox="0 0 26 10" aria-hidden="true" {
            path class={ "line " (class) } d="M1 5H25" {}
        }
    }
}
