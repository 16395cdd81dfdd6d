//! tern.
fn main() {}
