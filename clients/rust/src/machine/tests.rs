//! The machine against scripts, and against a small model of a server under random faults.

mod cases;
mod epoch;
mod model;
mod network;
mod random;
mod sends;
