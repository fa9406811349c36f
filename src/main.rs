//! The `rockpool` binary.

fn main() {}
