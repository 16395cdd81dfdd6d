//! `tern chat`: conversations in the whole terminal.
//!
//! ```text
//!  keys, mouse ─┐                                              ┌─> history, members, sends, marks (client)
//!  client ──────┼─> update(model, event) ─> model, effects ─> run
//!  answers ─────┘                             │
//!                                             └─> view(model) ─> screen
//! ```
//!
//! - [`model`]: what is known; plain data.
//! - [`update`], [`keys`]: what an event changes, and what is to be done about it; no I/O.
//! - [`view`], [`messages`], [`status`], [`help`], [`layout`]: the model as a screen.
//! - [`mod@lost`]: what a server that was set back has lost, and the offer to send it again.
//! - [`drafts`]: what was being written survives the end.
//! - [`text`], [`input`]: what strangers write is made harmless, and everything is counted in columns.
//! - [`mod@run`], [`terminal`]: carries effects out; the terminal is left as it was found.

mod drafts;
mod help;
mod input;
mod keys;
mod layout;
mod lost;
mod messages;
mod model;
mod run;
mod status;
mod terminal;
#[cfg(test)]
mod tests;
pub(crate) mod text;
mod update;
mod view;

pub(crate) use run::run;
