//! The ways into this module that no Rust code calls.
//!
//! ```text
//!   the loader, before `main` ──▶ start ──▶ look, and mostly that is all
//!                                   ├──▶ atexit(at_exit) ──wait──▶ last report, if one is wanted
//!                                   └──▶ sigaction(on_signal) ──post──▶ helper ──▶ report
//! ```

use core::cell::UnsafeCell;
use core::ffi::{c_int, c_void};
use core::mem::MaybeUninit;
use core::panic::UnwindSafe;
use std::io;
use std::panic::catch_unwind;
use std::time::Instant;

use once_cell::sync::OnceCell;

use crate::environment::settings::Signal;
use crate::environment::work::Moments;
use crate::environment::{VARIABLE, check, work};
use crate::record::{self, Owner};
use crate::sync::{AtomicU64, Ordering};

/// What the loader calls before `main`, after the C library's own beginnings and std's.
// `used` is kept through the linking of a library into a program, also by all kinds of LTO.
// SAFETY: the section holds functions of this type; C passes three arguments, and one that takes
// none leaves them alone.
#[used]
#[unsafe(link_section = ".init_array")]
static START: extern "C" fn() = start;

extern "C" fn start() {
    record::note_files();
    let Some(value) = std::env::var_os(VARIABLE) else {
        return;
    };
    match value.to_str() {
        Some("") => {}
        _ if gains_rights() => work::tell("HEAPLEDGER is not heeded by a set-user-id program"),
        _ if !is_the_program() => {
            work::tell("HEAPLEDGER is for the program, and is not heeded by a shared library");
        }
        Some(value) => arrange(value),
        None => work::tell(
            "HEAPLEDGER does nothing: it is not UTF-8; a file whose path is not can be named \
             from the folder that the program is started in",
        ),
    }
}

fn arrange(value: &str) {
    if let Some(moments) = work::begin(value) {
        record::quietly(|| attend(&moments));
    }
}

/// Has us called at these moments.
fn attend(moments: &Moments) {
    if let Some(signal) = moments.signal
        && let Err(error) = listen(signal)
    {
        work::tell(&format!("{VARIABLE}: no report on a signal: {error}"));
    }
    // Also when there is no report then: one that is under way is waited for.
    // SAFETY: the handler lives as long as the program, which we are a part of.
    if unsafe { libc::atexit(at_exit) } != 0 {
        work::tell(&format!("{VARIABLE}: no report at exit: no memory"));
    }
}

/// Whether the one who started the program has fewer rights than it has.
fn gains_rights() -> bool {
    // SAFETY: only asks for a number that the kernel has given to the process.
    unsafe { libc::getauxval(libc::AT_SECURE) != 0 }
}

/// Whether this code is a part of the program itself.
///
/// A library can be closed, and a handler of it would then lead nowhere.
fn is_the_program() -> bool {
    // SAFETY: as above.
    let headers = unsafe { libc::getauxval(libc::AT_PHDR) };
    let here = (start as extern "C" fn() as *const c_void).addr();
    // A program without a loader has nothing but itself.
    let Some(here) = file_at(here).filter(|_| headers != 0) else {
        return true;
    };
    // Its table of segments is anywhere in it: tools move it behind the rest.
    usize::try_from(headers).is_ok_and(|headers| file_at(headers) == Some(here))
}

/// Where the loaded file begins that has this address.
fn file_at(address: usize) -> Option<usize> {
    let mut info = MaybeUninit::<libc::Dl_info>::zeroed();
    let address = core::ptr::without_provenance(address);
    // SAFETY: the address is only compared; `info` is a place for the answer, and zeros are one.
    let found = unsafe { libc::dladdr(address, info.as_mut_ptr()) };
    // SAFETY: all of its fields may be zero.
    let info = unsafe { info.assume_init() };
    (found != 0).then(|| info.dli_fbase.addr())
}

/// The main thread's locals are gone here, and other threads may still run.
extern "C" fn at_exit() {
    caught(wait_for_what_was_posted);
    caught(work::last_report);
    if check::is_ours()
        && let Some(code) = caught(check::end).unwrap_or_else(check::after_a_panic)
    {
        end(code);
    }
}

/// Does this; `None` if it panics, which has been told of then.
///
/// Out of what C has called a panic does not come: the program would be aborted, for a report that
/// it knows nothing of.
fn caught<R>(work: impl FnOnce() -> R + UnwindSafe) -> Option<R> {
    catch_unwind(work).ok()
}

/// Goes on to end the process, which is ending, with this code instead.
///
/// What C programs have not written yet is written after all handlers, and without waiting for a
/// stream that another thread is reading from: `fflush` would wait.
#[cfg(target_env = "gnu")]
fn end(code: u8) -> ! {
    // SAFETY: glibc makes each handler known as called before it calls it, and takes an `exit` in
    // one for the wish to go on with the next, and with this code (stdlib/exit.c says so). It is
    // called on the thread that is in `exit` already, so no other can be in the way.
    unsafe { libc::exit(code.into()) }
}

/// The same where a second `exit` may be an error, as with musl. There the end itself waits for
/// all streams, and so nothing is lost by waiting here.
#[cfg(not(target_env = "gnu"))]
fn end(code: u8) -> ! {
    // SAFETY: null stands for all streams.
    unsafe { libc::fflush(core::ptr::null_mut()) };
    // SAFETY: touches nothing and does not come back.
    unsafe { libc::_exit(code.into()) }
}

/// What the handler posts to and the helper waits for.
///
/// In memory, and so nobody can close it who closes all files.
struct Post(UnsafeCell<MaybeUninit<libc::sem_t>>);

// SAFETY: a semaphore is made for use by several threads at once; it is initialised before the
// handler is installed and the helper started, and never destroyed.
unsafe impl Sync for Post {}

static POST: Post = Post(UnsafeCell::new(MaybeUninit::uninit()));

/// How often it was posted to, and how often the helper has done what that was for.
static POSTED: AtomicU64 = AtomicU64::new(0);
static DONE: AtomicU64 = AtomicU64::new(0);

/// The process that has the helper.
static OWNER: OnceCell<Owner> = OnceCell::new();

/// Only posts: nothing else may be done where a signal has interrupted.
extern "C" fn on_signal(_: c_int) {
    // SAFETY: the place is the calling thread's own.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: as above.
    let before = unsafe { *errno };
    // Set before this handler was installed, and so only loaded; nobody is waited for.
    if OWNER.get().is_some_and(|owner| owner.is_here()) {
        // SAFETY: initialised before this handler was installed; may be called in a handler.
        let is_posted = unsafe { libc::sem_post(POST.0.get().cast()) } == 0;
        // After it: another handler that ends the process in between does not wait for a report
        // that nobody writes.
        POSTED.fetch_add(is_posted.into(), Ordering::Release);
    } else {
        const LINE: &[u8] = b"heapledger: no report on a signal in the child of a fork\n";
        // SAFETY: the bytes are there for ever; may be called in a handler.
        unsafe { libc::write(2, LINE.as_ptr().cast(), LINE.len()) };
    }
    // SAFETY: as above.
    unsafe { *errno = before };
}

fn helper() {
    record::is_ours();
    // Not quietly all the time: what stays apart of a report is known when its work is done.
    loop {
        // SAFETY: initialised before this thread was started.
        if unsafe { libc::sem_wait(POST.0.get().cast()) } == 0 {
            // Should it panic on what it reads, the next one is written.
            caught(work::report);
            DONE.fetch_add(1, Ordering::Release);
        }
    }
}

/// At exit: waits until the helper has written the reports that were wanted by then.
///
/// The helper is there as long as the process that has started it, and takes no signals. But it may
/// wait for somebody to read a report, or for a lock of the inner allocator's that a handler which
/// ends the process has interrupted: so not for ever. In the child of a fork there is no helper.
fn wait_for_what_was_posted() {
    if OWNER.get().is_some_and(|owner| owner.is_here()) {
        let posted = POSTED.load(Ordering::Acquire);
        let (mut done, mut since) = (DONE.load(Ordering::Acquire), Instant::now());
        while done < posted && since.elapsed() < work::PATIENCE {
            // Not std's sleep, which panics when the system refuses. A millisecond.
            record::nap_for(10);
            let now = DONE.load(Ordering::Acquire);
            if now != done {
                (done, since) = (now, Instant::now());
            }
        }
    }
}

/// Starts the helper, and then has the handler called on this signal.
fn listen(signal: Signal) -> io::Result<()> {
    let number = match signal {
        Signal::Hup => libc::SIGHUP,
        Signal::Usr1 => libc::SIGUSR1,
        Signal::Usr2 => libc::SIGUSR2,
    };
    // SAFETY: its own memory, not yet used by anybody: for this process, and at nothing.
    checked(unsafe { libc::sem_init(POST.0.get().cast(), 0, 0) })?;
    // Only `start` comes here, and it runs once.
    let _ = OWNER.set(Owner::here());
    without_signals(|| {
        std::thread::Builder::new()
            .name(String::from("heapledger"))
            .spawn(helper)
    })??;
    // SAFETY: zeros are an action.
    let mut action: libc::sigaction = unsafe { core::mem::zeroed() };
    action.sa_sigaction = on_signal as extern "C" fn(c_int) as usize;
    // What the program waits for goes on, where the system can. On the stack for signals, if the
    // thread has one: other runtimes' threads may have no room on their own.
    action.sa_flags = libc::SA_RESTART | libc::SA_ONSTACK;
    // SAFETY: the action is whole, and its handler does nothing but what a handler may.
    checked(unsafe { libc::sigaction(number, &raw const action, core::ptr::null_mut()) })
}

/// Runs `work` with all signals blocked: a thread that it starts never gets any.
fn without_signals<R>(work: impl FnOnce() -> R) -> io::Result<R> {
    let mut all = MaybeUninit::<libc::sigset_t>::uninit();
    let mut before = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: a place for the set.
    checked(unsafe { libc::sigfillset(all.as_mut_ptr()) })?;
    let set = |set, old| {
        // SAFETY: `set` is filled in, and `old` a place for a set or null.
        match unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, set, old) } {
            0 => Ok(()),
            error => Err(io::Error::from_raw_os_error(error)),
        }
    };
    set(all.as_ptr(), before.as_mut_ptr())?;
    let result = work();
    set(before.as_ptr(), core::ptr::null_mut())?;
    Ok(result)
}

fn checked(answer: c_int) -> io::Result<()> {
    if answer == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    use super::caught;

    /// Bug prevented: a report at exit that panics aborts the program, which loses its code.
    #[test]
    fn a_panic_does_not_leave_what_c_has_called() {
        assert_eq!(caught(|| 7), Some(7));
        let panics = || -> u8 { panic!("as a report may") };
        assert_eq!(caught(panics), None);
    }
}
