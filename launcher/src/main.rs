//! `tandem`: the launcher.
fn main() {}
