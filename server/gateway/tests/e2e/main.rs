//! The real server over both transports, as clients see it.

#[path = "../support/mod.rs"]
mod support;

mod catch_up;
mod direct;
mod groups;
mod many;
mod once;
mod receipts;
