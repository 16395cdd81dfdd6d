//! ternd.
fn main() {}
