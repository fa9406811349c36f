#![no_main]
//! The fuzz target `operations`: what it checks is in the module of that name.

#![allow(clippy::disallowed_methods, reason = "of the macro")]

libfuzzer_sys::fuzz_target!(|data: &[u8]| rockpool_fuzz::operations::check(data));
