//! Limits that a test puts on its process.

use std::mem::MaybeUninit;

/// Lets the process have so many bytes of addresses and no more, as `ulimit -v` does.
pub(crate) fn limit_addresses(soft: u64) {
    let mut limit = MaybeUninit::uninit();
    // SAFETY: a place for the limit.
    let failed = unsafe { libc::getrlimit(libc::RLIMIT_AS, limit.as_mut_ptr()) };
    assert_eq!(failed, 0);
    // SAFETY: filled in above.
    let mut limit: libc::rlimit = unsafe { limit.assume_init() };
    limit.rlim_cur = soft.min(limit.rlim_max);
    // SAFETY: only reads the limit.
    let failed = unsafe { libc::setrlimit(libc::RLIMIT_AS, &raw const limit) };
    assert_eq!(failed, 0);
}
