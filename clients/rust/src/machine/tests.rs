//! The machine against scripts, and against a small model of a server under random faults.

mod catch_up;
mod epoch;
mod limited;
mod links;
mod marks;
mod model;
mod network;
mod random;
mod rig;
mod sends;
