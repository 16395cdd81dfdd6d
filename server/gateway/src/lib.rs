//! Under construction.

pub mod auth;
pub mod tls;
pub mod transport;
