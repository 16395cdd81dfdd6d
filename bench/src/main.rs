//! tern-bench.
fn main() {}
