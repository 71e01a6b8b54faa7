//! `tandem-worker`: one rank.
fn main() {}
