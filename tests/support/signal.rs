//! How tests handle signals.

use std::ffi::c_int;

/// Calls `handler` when `signal` comes. The handler is of the kind without
/// `SA_SIGINFO`, which must not be among `flags`.
pub(crate) fn handle(signal: c_int, handler: unsafe extern "C" fn(c_int), flags: c_int) {
    assert_eq!(flags & libc::SA_SIGINFO, 0);
    // SAFETY: zero is a valid value: no flags, no mask, the default handler.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = handler as usize;
    action.sa_flags = flags;
    // SAFETY: the handler has the type that goes with these flags, and lives for ever.
    let failed = unsafe { libc::sigaction(signal, &raw const action, std::ptr::null_mut()) };
    assert_eq!(failed, 0);
}
