//! The day of a real app: clients with several conversations, direct chats and groups, who write, read, look back, go
//! away and come back, or do nothing at all.
//!
//! - [`day`]: from the arguments to the verdict; [`course`]: the measured time, in which the server may be killed.
//! - [`plan`]: who does what when.
//! - [`scene`]: has it done; what the clients of a thread share.
//! - [`member`]: one client; [`room`]: its part in one conversation.
//! - [`tail`]: what is shown twice has to be the same; [`service`]: how long clients wait for the server.

pub mod course;
pub mod day;
pub mod member;
pub mod plan;
pub mod room;
pub mod scene;
pub mod service;
pub mod tail;
