//! What a process says at its end, and how it ends, without waiting for others.
//!
//! Its other threads may have stopped for good, and have a lock of std's: that of
//! standard output or of standard error.
#![cfg_attr(
    unix,
    expect(
        unsafe_code,
        reason = "writes past std's locks, and ends the process without its destructors"
    )
)]

use core::time::Duration;
use std::io::{self, Write};
use std::sync::mpsc;
use std::thread;

/// How long a thread may go on having standard output while the process ends.
const PATIENCE: Duration = Duration::from_secs(1);

/// Writes to standard error, if there is one.
///
/// One call, so that other threads' lines do not come in between.
pub(crate) fn say(line: &str) {
    // Where standard error is closed there is no one left to tell.
    drop(StandardError.write_all(line.as_bytes()));
}

/// Standard error without a lock, and without a buffer, which std's has not either.
struct StandardError;

impl Write for StandardError {
    #[cfg(unix)]
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // SAFETY: the declaration below is POSIX's, and the bytes are there.
        let written = unsafe { write(2, bytes.as_ptr().cast(), bytes.len()) };
        usize::try_from(written).map_err(|_| io::Error::last_os_error())
    }

    #[cfg(not(unix))]
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        io::stderr().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(unix)]
unsafe extern "C" {
    fn write(file: core::ffi::c_int, bytes: *const core::ffi::c_void, length: usize) -> isize;
    fn _exit(code: core::ffi::c_int) -> !;
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

/// Flushes standard output, unless a thread keeps it.
///
/// There is no way to ask whether its lock is free. So a thread waits for it, and
/// we for that thread.
fn flush(code: u8) {
    let (tell, told) = mpsc::channel();
    let flushed = thread::Builder::new().spawn(move || {
        let mut out = io::stdout().lock();
        let _ = tell.send(());
        drop(out.flush());
        let _ = tell.send(());
    });
    if flushed.is_err() {
        // There may be an unfinished line; to wait for ever would be worse.
        return;
    }
    if told.recv_timeout(PATIENCE).is_ok() {
        // Whoever reads it may be slow. Nor would the program's own end have gone on without him.
        let _ = told.recv();
        return;
    }
    // The one who keeps it may be this very thread; if not, it gets no further.
    let last = thread::Builder::new().spawn(move || {
        thread::sleep(PATIENCE);
        now(code)
    });
    if last.is_ok() {
        drop(io::stdout().flush());
    }
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
