//! Tern's state machines. Each takes an input and the time, and returns effects; none has a socket, a clock, a thread
//! or randomness, and `no_std` makes the compiler prove it. The gateway executes the effects; a simulator can run the
//! very same machines.
//!
//! In the order of a message's way:
//!
//! - [`session`]: one connection: login, limits, what a request becomes.
//! - [`address`]: how many connections of one address have not logged in yet.
//! - [`rate`]: how often somebody may do something.
//! - [`work`]: what requests that are no sends count as.
//! - [`admission`]: whether one more send is taken up.
//! - [`routing`]: which node and shard own a conversation, which ones are a user's home.
//! - [`cluster`]: which nodes there are.
//! - [`conversation`]: the owner: batch, sequence, commit, ack, publish.
//!   - [`dedup`]: has this send been stored before?
//!   - [`sequencer`]: numbers entries and proves that there is no gap.
//!   - [`membership`]: who may do what, and what a change does to the members.
//!   - [`receipts`]: watermarks, and whom to tell.
//! - [`fanout`]: from an audience to the sessions of a shard.
//! - [`outbound`]: one connection's queue and the slow-reader rule.
//! - [`home`]: where a user's devices are connected; takes over old connections.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod address;
pub mod admission;
pub mod cluster;
pub mod conversation;
pub mod dedup;
pub mod fanout;
pub mod home;
pub mod limits;
pub mod membership;
pub mod outbound;
pub mod rate;
pub mod receipts;
pub mod routing;
pub mod sequencer;
pub mod session;
pub mod time;
pub mod work;
