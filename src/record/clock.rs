//! The recorder's clock, which may be read, and waited for, inside the allocator.
//!
//! Not `Instant`: it panics when the system has no time for it, and when it
//! subtracts, and the compiler cannot tell that neither ever happens. Nor
//! `sleep`, which panics when the system refuses.

use crate::sync::{AtomicU32, AtomicU64, Ordering};

/// When the clock was started, in nanoseconds of the system's; 0 before.
static START: AtomicU64 = AtomicU64::new(0);

/// Milliseconds since the start, as of some recent look.
static RECENT: AtomicU32 = AtomicU32::new(0);

/// Starts the clock at 0, the first time.
pub(super) fn start() {
    let now = system_ns().max(1);
    let _ = START.compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed);
}

/// Milliseconds since the start; 0 before.
pub(super) fn now() -> u64 {
    match START.load(Ordering::Relaxed) {
        0 => 0,
        start => system_ns().saturating_sub(start) / 1_000_000,
    }
}

/// The same, remembered for [`recent`].
pub(super) fn look() -> u64 {
    let now = now();
    RECENT.store(ms(now), Ordering::Relaxed);
    now
}

/// The same as records keep it, which stops after 49 days.
pub(super) fn look_ms() -> u32 {
    ms(look())
}

/// What [`look`] gave, as records keep it.
pub(super) fn ms(now: u64) -> u32 {
    u32::try_from(now).unwrap_or(u32::MAX)
}

/// The same, some milliseconds late: what costs no more than a look at the system's own
/// last look.
#[inline]
pub(super) fn glance() -> u32 {
    let (start, recent) = (START.load(Ordering::Relaxed), recent());
    let now = ms(coarse_ns().saturating_sub(start) / 1_000_000);
    // It is behind the other clock, and time does not go back.
    if now > recent {
        RECENT.store(now, Ordering::Relaxed);
        return now;
    }
    recent
}

/// The same as somebody has last read it.
pub(super) fn recent() -> u32 {
    RECENT.load(Ordering::Relaxed)
}

/// Nanoseconds since some moment of the system's; they never go back.
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
pub(super) fn system_ns() -> u64 {
    read_ns(libc::CLOCK_MONOTONIC)
}

/// The same as the kernel has last looked, every 1 to 10 ms.
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
fn coarse_ns() -> u64 {
    read_ns(libc::CLOCK_MONOTONIC_COARSE)
}

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
fn read_ns(clock: libc::clockid_t) -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: fills the record in, or leaves it as it is; may be called from a signal handler.
    unsafe { libc::clock_gettime(clock, &raw mut time) };
    // Neither is ever negative, and all of it fits for 584 years.
    let (seconds, ns) = (time.tv_sec.cast_unsigned(), time.tv_nsec.cast_unsigned());
    seconds.wrapping_mul(1_000_000_000).wrapping_add(ns)
}

/// The same since the first call, as std has it.
#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
pub(super) fn system_ns() -> u64 {
    static FIRST: once_cell::sync::OnceCell<std::time::Instant> = once_cell::sync::OnceCell::new();
    let first = FIRST.get_or_init(std::time::Instant::now);
    // One more, so that the first call's answer is a start.
    u64::try_from(first.elapsed().as_nanos()).map_or(u64::MAX, |ns| ns.saturating_add(1))
}

/// Elsewhere there is one clock only.
#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
fn coarse_ns() -> u64 {
    system_ns()
}

/// Gives the core away for 100 µs, or until a signal comes.
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
pub(super) fn nap() {
    nap_for(1);
}

/// The same for as many times 100 µs; less than a second. Comes back at once where the system
/// refuses.
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
pub(crate) fn nap_for(times: u32) {
    sleep(&libc::timespec {
        tv_sec: 0,
        tv_nsec: i64::from(times).wrapping_mul(100_000),
    });
}

/// Not the C library's sleep: there a thread may be cancelled, which no one expects of `malloc`
/// and `free`, nor that they change `errno`.
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
fn sleep(time: &libc::timespec) {
    // SAFETY: takes nothing, and the thread that calls is there.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: the calling thread's own, which nobody else writes.
    let kept = unsafe { errno.read() };
    let time: *const libc::timespec = time;
    let rest: *mut libc::timespec = core::ptr::null_mut();
    // SAFETY: reads the record; what was left to wait for is not asked.
    unsafe { libc::syscall(libc::SYS_nanosleep, time, rest) };
    // SAFETY: as above.
    unsafe { errno.write(kept) };
}

/// The same, as std has it.
#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
pub(super) fn nap() {
    nap_for(1);
}

/// The same.
#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
pub(crate) fn nap_for(times: u32) {
    std::thread::sleep(core::time::Duration::from_micros(100 * u64::from(times)));
}

#[cfg(test)]
mod tests {
    use super::{now, recent, start, system_ns};

    #[test]
    fn it_goes_forward_at_the_pace_of_the_system_s_clock() {
        start();
        let (before, ns) = (now(), system_ns());
        let std = std::time::Instant::now();
        while std.elapsed().as_millis() < 30 {
            std::thread::yield_now();
        }
        assert!(now() >= before + 29 && system_ns() >= ns + 30_000_000);
        assert!(u64::from(super::look_ms()) >= before + 29 && recent() > 0);
    }

    /// Bug prevented: a C program's thread that another has asked to end is unwound out of
    /// `malloc` or `free`, which wait for a lock of the recorder's.
    #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
    #[test]
    fn no_thread_is_cancelled_in_a_nap() {
        unsafe extern "C" {
            safe fn pthread_setcancelstate(
                state: libc::c_int,
                old: &mut libc::c_int,
            ) -> libc::c_int;
        }
        const DISABLED: libc::c_int = 1;
        let thread = std::thread::spawn(|| {
            // SAFETY: takes nothing.
            let this = unsafe { libc::pthread_self() };
            // SAFETY: the calling thread, which is there.
            let cancelled = unsafe { libc::pthread_cancel(this) };
            super::nap();
            let mut old = DISABLED;
            // Before anything else that would end it here.
            let disabled = pthread_setcancelstate(DISABLED, &mut old);
            assert_eq!((cancelled, disabled, old), (0, 0, 0));
        });
        thread.join().expect("it has woken up");
    }

    /// Bug prevented: a `free` that waits changes `errno` between a call that fails and the
    /// look at why.
    #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
    #[test]
    fn a_nap_that_is_cut_short_leaves_errno_as_it_was() {
        // SAFETY: takes nothing.
        let errno = unsafe { libc::__errno_location() };
        // SAFETY: the calling thread's own.
        unsafe { errno.write(77) };
        let never = libc::timespec {
            tv_sec: 0,
            tv_nsec: -1,
        };
        super::sleep(&never);
        let errno = std::io::Error::last_os_error().raw_os_error();
        assert_eq!(errno, Some(77));
    }
}
