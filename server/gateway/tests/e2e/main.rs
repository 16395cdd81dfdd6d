//! The real server over both transports, as clients see it.

#[path = "../support/mod.rs"]
mod support;

mod bulk;
mod catch_up;
mod direct;
mod groups;
mod life;
mod many;
mod once;
mod receipts;
mod restored;
mod sdk;
mod slow;
