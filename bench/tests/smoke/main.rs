//! Every scenario against a small server, over both transports: figures come out, and no promise is broken.

mod failures;
mod flaky;
mod floor;
mod group;
mod history;
mod hostile;
mod idle;
mod mixed;
mod nodes;
mod send;
mod storm;
mod support;
mod sync;
