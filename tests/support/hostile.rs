//! Where programs allocate that make it hard to record them: while a panic
//! unwinds, on a stack that is nearly too small, on one that is not the thread's.

use std::ffi::c_void;
use std::hint::black_box;
use std::mem::MaybeUninit;
use std::ptr::null_mut;

/// Allocates while it unwinds.
struct Unwinding;

impl Drop for Unwinding {
    fn drop(&mut self) {
        drop(black_box(vec![1u8; 40]));
    }
}

/// Panics `depth` calls deep, and each of them allocates while it is unwound.
#[inline(never)]
pub(crate) fn unwind(depth: usize) {
    let _guard = Unwinding;
    assert!(depth > 0, "as planned");
    unwind(depth - 1);
    black_box(());
}

/// Waits for a thread as C makes it, with so many bytes of stack.
pub(crate) fn run_on_a_stack_of(
    size: usize,
    start: extern "C" fn(*mut c_void) -> *mut c_void,
    argument: *mut c_void,
) {
    let mut attributes = MaybeUninit::uninit();
    // SAFETY: initialises the attributes.
    let failed = unsafe { libc::pthread_attr_init(attributes.as_mut_ptr()) };
    assert_eq!(failed, 0);
    // SAFETY: initialised above.
    let failed = unsafe { libc::pthread_attr_setstacksize(attributes.as_mut_ptr(), size) };
    assert_eq!(failed, 0);
    let mut thread = MaybeUninit::uninit();
    // SAFETY: initialised attributes, a place for the thread, and a function of the right type.
    let made =
        unsafe { libc::pthread_create(thread.as_mut_ptr(), attributes.as_ptr(), start, argument) };
    assert_eq!(made, 0);
    // SAFETY: made above and not yet joined.
    let thread = unsafe { thread.assume_init() };
    // SAFETY: it was created above and is joined once.
    let failed = unsafe { libc::pthread_join(thread, null_mut()) };
    assert_eq!(failed, 0);
}

/// Runs `body` while the calling thread has another stack for the handlers that
/// want one.
pub(crate) fn with_another_stack(body: impl FnOnce()) {
    let mut other = vec![0u8; 256 * 1024];
    set_other_stack(&libc::stack_t {
        ss_sp: other.as_mut_ptr().cast(),
        ss_flags: 0,
        ss_size: other.len(),
    });
    body();
    set_other_stack(&libc::stack_t {
        ss_sp: null_mut(),
        ss_flags: libc::SS_DISABLE,
        ss_size: 0,
    });
    drop(other);
}

fn set_other_stack(stack: &libc::stack_t) {
    // SAFETY: no handler is running, and the memory lives until another call of ours takes it
    // away; if a case panics before that, its process ends.
    let failed = unsafe { libc::sigaltstack(stack, null_mut()) };
    assert_eq!(failed, 0);
}
