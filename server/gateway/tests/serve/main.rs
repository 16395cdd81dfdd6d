//! `ternd serve` as a process: what a configuration means, and what is read again while it runs.

#[path = "../support/jwt.rs"]
mod jwt;
#[path = "../support/mod.rs"]
mod support;

mod certificates;
mod config;
mod idp;
mod jwks;
mod machine;
mod proxy;
mod revoked;
mod rotation;
mod rs256;
mod secrets;
mod served;
mod tls_versions;
