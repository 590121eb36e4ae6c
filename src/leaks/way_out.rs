//! What a process says at its end, and how it ends: so that it ends.
//!
//! Its other threads may have stopped for good, and have a lock of std's: that of
//! standard output or of standard error. There may be no memory, which it has
//! lived with until then.
#![cfg_attr(
    unix,
    expect(
        unsafe_code,
        reason = "keeps back signals, and ends without destructors"
    )
)]

#[cfg(target_os = "linux")]
use core::marker::PhantomData;
use core::time::Duration;
use std::fs;
use std::io::{self, Write};
use std::sync::mpsc;
use std::thread;
use std::time::Instant;

use crate::leaks::stream::StandardError;
use crate::record;
use crate::sync::{AtomicU32, Ordering};

/// How long a thread may go on having standard output while the process ends.
const PATIENCE: Duration = Duration::from_secs(1);

/// Writes to standard error, if there is one.
///
/// One call, so that other threads' lines do not come in between.
pub(crate) fn say(line: &str) {
    // Where standard error is closed there is no one left to tell.
    drop(StandardError { is_patient: true }.write_all(line.as_bytes()));
}

/// The same before the program runs, which is not kept from it by who does not read.
pub(crate) fn say_at_once(line: &str) {
    drop(StandardError { is_patient: false }.write_all(line.as_bytes()));
}

/// A line that says why there is no report, made without memory.
pub(crate) struct NoReport {
    line: [u8; 160],
    length: usize,
}

impl NoReport {
    /// None when there is memory for a report; `what` is there to be said if not.
    ///
    /// Whoever makes the report could not go on when memory ends in the middle,
    /// and would abort the program. So what it may take is asked for before.
    pub(crate) fn for_want_of_memory(what: &str) -> Option<Self> {
        let wanted = wanted();
        (!is_there(wanted)).then(|| {
            let mut line = io::Cursor::new([0; 160]);
            let mib = wanted >> 20;
            drop(writeln!(
                line,
                "{SENDER}{what}, for want of memory: give the program {mib} MiB more (ulimit -v)"
            ));
            let length = usize::try_from(line.position()).unwrap_or(0);
            let line = line.into_inner();
            Self { line, length }
        })
    }

    /// With the sender's name.
    pub(crate) fn line(&self) -> &str {
        let line = self.line.get(..self.length).unwrap_or(&[]);
        core::str::from_utf8(line).unwrap_or("")
    }

    /// Without.
    pub(super) fn bare(&self) -> &str {
        self.line().strip_prefix(SENDER).unwrap_or("")
    }
}

/// Whether the program's allocator has a block of so many bytes.
fn is_there(bytes: usize) -> bool {
    let mut spare = Vec::<u8>::new();
    let is_there = spare.try_reserve_exact(bytes).is_ok();
    // Or the compiler sees that nobody uses it, and does not ask.
    drop(core::hint::black_box(spare));
    is_there
}

/// What each line begins with.
const SENDER: &str = "heapledger: ";

/// More bytes than a report takes.
///
/// What it says of blocks and stacks the recorder knows. Most of the rest go into names: the program's file is mapped whole, and tables are built from it. On
/// 2026-11-22 a report made a program of 27 MB larger by 62 MB (`/usr/bin/time -v`, tests/ending.rs
/// in a debug build).
fn wanted() -> usize {
    const LEAST: usize = 64 << 20;
    // The main thread may have ended, and then has nothing there.
    let file = fs::metadata("/proc/thread-self/exe")
        .or_else(|_| fs::metadata("/proc/self/exe"))
        .map_or(0, |file| file.len());
    usize::try_from(file)
        .unwrap_or(usize::MAX)
        .saturating_mul(2)
        .saturating_add(LEAST)
        .saturating_add(record::report_bytes())
        .min(isize::MAX.unsigned_abs())
}

#[cfg(unix)]
unsafe extern "C" {
    fn _exit(code: core::ffi::c_int) -> !;
}

/// Runs `work`, which writes reports, and keeps back the signals that writing may send us: a full
/// file's and a broken pipe's. By default they end the process, which would not have got them
/// without the report. Writing then fails with an error.
#[cfg(target_os = "linux")]
pub(crate) fn undisturbed<R>(work: impl FnOnce() -> R) -> R {
    let _kept_back = KeptBack::new();
    work()
}

/// Elsewhere we do not call the system.
#[cfg(not(target_os = "linux"))]
pub(crate) fn undisturbed<R>(work: impl FnOnce() -> R) -> R {
    work()
}

/// The two signals are blocked on this thread, as long as this is there.
#[cfg(target_os = "linux")]
struct KeptBack {
    /// What the thread has blocked otherwise.
    before: libc::sigset_t,
    /// Those of the two that did not wait already, and so are of our own doing if they wait now.
    ours: libc::sigset_t,
    /// Of the thread that has blocked them.
    of_this_thread: PhantomData<*mut ()>,
}

#[cfg(target_os = "linux")]
impl KeptBack {
    fn new() -> Self {
        let none = || {
            // SAFETY: an array of numbers; `sigemptyset` makes the same.
            unsafe { core::mem::zeroed::<libc::sigset_t>() }
        };
        let (mut both, mut ours, mut waiting, mut before) = (none(), none(), none(), none());
        // SAFETY: a place for a set.
        unsafe { libc::sigpending(&raw mut waiting) };
        for signal in [libc::SIGPIPE, libc::SIGXFSZ] {
            // SAFETY: a set, and a signal that there is.
            unsafe { libc::sigaddset(&raw mut both, signal) };
            // SAFETY: as above.
            if unsafe { libc::sigismember(&raw const waiting, signal) } == 0 {
                // SAFETY: as above.
                unsafe { libc::sigaddset(&raw mut ours, signal) };
            }
        }
        // SAFETY: a set, and a place for one.
        unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const both, &raw mut before) };
        Self {
            before,
            ours,
            of_this_thread: PhantomData,
        }
    }
}

#[cfg(target_os = "linux")]
impl Drop for KeptBack {
    fn drop(&mut self) {
        let at_once = libc::timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let (ours, info) = (&raw const self.ours, core::ptr::null_mut());
        // SAFETY: a set, nobody who wants to know more, and a time; it takes what waits.
        while unsafe { libc::sigtimedwait(ours, info, &raw const at_once) } > 0 {}
        // SAFETY: the set that the thread had.
        unsafe {
            libc::pthread_sigmask(
                libc::SIG_SETMASK,
                &raw const self.before,
                core::ptr::null_mut(),
            )
        };
    }
}

/// Ends the process at once, but for what is in standard output.
///
/// Not by `std::process::exit`: the guard may be dropped while the process is
/// ending already, by the destructors of thread locals, and to end it a second
/// time is refused with an abort.
pub(super) fn end(code: u8) -> ! {
    flush(code);
    now(code)
}

/// Flushes standard output, for which the process goes on for a while at most.
fn flush(code: u8) {
    if flush_unless_kept() {
        return;
    }
    // The one who keeps it may be this very thread; if not, it gets no further.
    let last = small().spawn(move || {
        let since = Instant::now();
        while since.elapsed() < PATIENCE {
            // Not std's sleep, which panics when the system refuses.
            record::nap_for(100);
        }
        now(code)
    });
    if last.is_ok() {
        drop(io::stdout().flush());
    }
}

/// Whether a thread of ours waits for standard output's lock.
static IS_WAITED_FOR: AtomicU32 = AtomicU32::new(0);

/// Flushes standard output; false if a thread keeps it.
///
/// There is no way to ask whether its lock is free. So a thread waits for it, and
/// we for that thread. Where there is no memory for one, nothing is flushed.
pub(crate) fn flush_unless_kept() -> bool {
    // More than two threads take: what they are made with, their stacks, and those for their
    // signals. Who asks for the small part alone finds it, and the stack takes it.
    if !is_there(1 << 20) {
        return true;
    }
    // One is enough, however many reports a program has that keeps the lock all the time.
    if IS_WAITED_FOR.swap(1, Ordering::Relaxed) != 0 {
        return false;
    }
    let (tell, told) = mpsc::channel();
    let flushed = small().spawn(move || {
        #[cfg(target_os = "linux")]
        record::is_ours();
        record::quietly(|| {
            let mut out = io::stdout().lock();
            IS_WAITED_FOR.store(0, Ordering::Relaxed);
            let _ = tell.send(());
            drop(out.flush());
            let _ = tell.send(());
        });
    });
    if flushed.is_err() {
        IS_WAITED_FOR.store(0, Ordering::Relaxed);
        // There may be an unfinished line; to wait for ever would be worse.
        return true;
    }
    if told.recv_timeout(PATIENCE).is_err() {
        return false;
    }
    // Whoever reads it may be slow. Nor would the program's own end have gone on without him.
    let _ = told.recv();
    true
}

fn small() -> thread::Builder {
    thread::Builder::new().stack_size(128 << 10)
}

#[cfg(unix)]
fn now(code: u8) -> ! {
    // SAFETY: the declaration is POSIX's; it touches nothing and does not come back.
    unsafe { _exit(code.into()) }
}

#[cfg(not(unix))]
fn now(code: u8) -> ! {
    std::process::exit(code.into())
}
