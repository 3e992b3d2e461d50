//! The lab of Kagemusha.
fn main() {}
