//! `ternd serve` as a process: what a configuration means, and what is read again while it runs.

#[path = "../support/mod.rs"]
mod support;

mod certificates;
mod config;
mod idp;
mod jwks;
mod machine;
mod proxy;
mod revoked;
mod served;
