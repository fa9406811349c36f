#![no_main]
//! The fuzz target `mount_flags`: what it checks is in the module of that name.

#![allow(clippy::disallowed_methods, reason = "of the macro")]

libfuzzer_sys::fuzz_target!(|data: &[u8]| rockpool_fuzz::mount_flags::check(data));
