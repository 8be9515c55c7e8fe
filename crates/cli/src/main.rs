//! recast
fn main() {}
