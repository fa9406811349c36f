//! The table of open descriptors that the calling thread has.
//!
//! Owns: closing many at once. Never: knows what a descriptor is for.

use std::os::fd::RawFd;

/// Closes every descriptor but these, which come in ascending order. Allocates nothing: a child calls it right after a fork.
pub(super) fn close_all_but(keep: &[RawFd]) {
    let mut from = 0;
    for kept in keep {
        let kept = kept.cast_unsigned();
        if kept > from {
            close_range(from, kept - 1);
        }
        from = kept + 1;
    }
    close_range(from, u32::MAX);
}

/// Every descriptor from `first` to `last`. What is open there must be nobody's: an owner would close a stranger later.
#[expect(unsafe_code, reason = "rustix has no close_range")]
fn close_range(first: u32, last: u32) {
    // SAFETY: the call takes three integers. Its only failures are arguments that are not in order, and Linux before 5.9.
    unsafe { libc::syscall(libc::SYS_close_range, first, last, 0_u32) };
}
