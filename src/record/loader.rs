//! What must not be under way when the process forks.
//!
//! The child has only the thread that forked. What another thread was doing
//! then is never finished there, and a lock that it held never becomes free:
//! our own locks know that ([`Lock`]), others do not, and the child hangs when
//! it comes to one. So what takes such a lock is done behind a door, one thread
//! at a time, and a fork waits until nobody is behind it:
//!
//! - glibc makes the lock of `dl_iterate_phdr` free in the child of no fork, and
//!   each recording asks the loader at its start;
//! - names are looked up under a lock of the `backtrace` crate's, and the
//!   program's environment is read under one of std's;
//! - what is made once (the clock, the room for records, what is learned of
//!   the allocator's own frames) is waited for by whoever finds it being made.
//!
//! What other code does with these locks, we cannot help.

use core::mem;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
use std::path::PathBuf;

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
use once_cell::sync::OnceCell;

use crate::ledger;
use crate::record::clock::nap;
use crate::record::fork;
use crate::record::lock::{Guard, Lock};
use crate::symbols::{Around, Symbols};
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
use crate::symbols::{File, Reader, Unread};
use crate::sync::{AtomicU32, Ordering};
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
use crate::sync::{AtomicU64, AtomicUsize};
use crate::unwind;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
use crate::unwind::Mapped;

/// How long those who come to a door let a fork go first, in naps of 100 µs.
const COURTESY: u32 = 100;

/// A lock that is held by whoever is behind it, and by the thread that forks.
#[derive(Debug)]
pub(super) struct Door {
    lock: Lock,
    /// Threads that are about to fork.
    wanted: AtomicU32,
    /// Whether the thread that forks holds it; only for that thread.
    is_closed: AtomicU32,
}

impl Door {
    pub(super) const fn new() -> Self {
        Self {
            lock: Lock::new(),
            wanted: AtomicU32::new(0),
            is_closed: AtomicU32::new(0),
        }
    }

    /// Whether the thread with this [word](fork::me) is behind it.
    pub(super) fn is_held_by(&self, me: u64) -> bool {
        self.lock.is_taken_by(me)
    }

    /// Goes in. `None` when a signal handler has interrupted whoever is behind
    /// the door, and when that one does not come out in ten seconds.
    pub(super) fn enter(&self) -> Option<Guard<'_>> {
        fork::watch();
        // The lock is not fair, and a fork would wait long for its turn.
        for _ in 0..COURTESY {
            if self.wanted.load(Ordering::Relaxed) == 0 {
                break;
            }
            nap();
        }
        self.lock.acquire_leisurely()
    }

    /// Before a fork.
    ///
    /// Not without end: somebody behind the door may wait for a lock that the
    /// thread holds that forks, as when a library forks while it is loaded.
    pub(super) fn close(&self) {
        self.wanted.fetch_add(1, Ordering::Relaxed);
        if let Some(guard) = self.lock.acquire_patiently() {
            mem::forget(guard);
            self.is_closed.store(1, Ordering::Relaxed);
        }
        self.wanted.fetch_sub(1, Ordering::Relaxed);
    }

    /// After it, in the parent.
    pub(super) fn reopen(&self) {
        if self.is_closed.swap(0, Ordering::Relaxed) != 0 {
            self.lock.release();
        }
    }

    /// After it, in the child, where nobody else is.
    pub(super) fn reopen_in_the_child(&self) {
        self.wanted.store(0, Ordering::Relaxed);
        self.reopen();
    }
}

static DOOR: Door = Door::new();

/// Does what must not be under way when the process forks, in a normal context.
pub(super) fn ask<R>(question: impl FnOnce() -> R) -> R {
    // Without the lock, if it cannot be had, there is the danger, but no harm yet.
    let _inside = DOOR.enter();
    question()
}

/// Names for addresses, looked up behind the door, and where there is stack for it.
pub(crate) fn symbols() -> Symbols {
    let symbols = Symbols::behind(Around {
        door: |look_up| ask(look_up),
        deep: unwind::with_stack_enough,
        cache: |look_up| ledger::apart::stays(look_up),
        result: |make| ledger::apart::leaves(make),
    });
    #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
    let symbols = symbols.with_files(files().into_iter());
    symbols
}

/// How many files there were when this one was loaded; 0 before.
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
static AT_THE_START: AtomicUsize = AtomicUsize::new(0);
/// How many had ever been closed by then: once there are more, who was there at the start
/// cannot be told by a number.
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
static CLOSED_BY_THEN: AtomicU64 = AtomicU64::new(0);

/// Remembers which files there are, and where the program lies. Before `main`, as this file is loaded.
#[cfg(target_os = "linux")]
pub(crate) fn note_files() {
    #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
    {
        let (files, closed) = unwind::note_files();
        AT_THE_START.store(files, Ordering::Relaxed);
        CLOSED_BY_THEN.store(closed, Ordering::Relaxed);
    }
}

/// The files that are loaded, and who reads their names.
///
/// `backtrace` has a list of the files that were loaded when it was first asked for a name, by us
/// or by the program, and of their paths. What was there at the start is in it. What was opened
/// after that is in it when it was first asked by us, and the file was there by then. The program's
/// path in it is the one of the start only if the program was still there when we first asked; else
/// we read its file ourselves, wherever it lies.
///
/// Not all files are read as the others are, since `backtrace` knows more of them.
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
fn files() -> Vec<File> {
    static FIRST: OnceCell<(Vec<Mapped>, bool)> = OnceCell::new();
    ask(|| {
        let all = || {
            let (_, closed) = unwind::files();
            let is_known = closed == CLOSED_BY_THEN.load(Ordering::Relaxed);
            let known = AT_THE_START.load(Ordering::Relaxed);
            // The program itself is always there.
            unwind::mapped_in_two(if is_known { known.max(1) } else { 1 })
        };
        let [early, later] = all();
        let (first, has_program) = FIRST.get_or_init(|| {
            // In this order: what was there before it was asked is in its list.
            let looked = all();
            let was_there = unwind::is_where_it_was();
            let list = in_list(looked, is_first_asked());
            // Where the program was moved meanwhile, nobody knows which path is in the list.
            (list, was_there && unwind::is_where_it_was())
        });
        let early = early.into_iter().map(|file| (file, true));
        let later = later.into_iter().map(|file| {
            let is_in_list = first.contains(&file);
            (file, is_in_list)
        });
        early
            .chain(later)
            .map(|(file, is)| readable(file, is, *has_program))
            .collect()
    })
}

/// What is in the list of `backtrace` for certain, of the files from the start and the later
/// ones that were there before it was asked. The former are kept too: who they are is not known
/// any more once a file has been closed.
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
fn in_list([early, later]: [Vec<Mapped>; 2], is_first_asked: bool) -> Vec<Mapped> {
    let later = is_first_asked.then_some(later);
    early
        .into_iter()
        .chain(later.into_iter().flatten())
        .collect()
}

/// A file, and who reads it. `has_program` says whether the list has the program's path of the
/// start.
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
fn readable(file: Mapped, is_in_list: bool, has_program: bool) -> File {
    let what_runs = file.is_what_runs();
    let is_what_runs = matches!(what_runs, Ok(true));
    if file.is_program && !is_what_runs {
        let (path, why) = match what_runs {
            // Where it lies only `backtrace` knows.
            Ok(_) => (file.path, None),
            Err(error) => (program_for_people(), Some(Unread::by(&error))),
        };
        return File {
            start: file.start,
            end: file.end,
            bias: file.bias,
            path,
            program: why.or(Some(Unread::UNKNOWN)),
            reader: Reader::Backtrace,
            // It may have been read before.
            is_there: Box::new(move || why.is_none().then_some(true)),
        };
    }
    let (reader, read_at) = if is_what_runs {
        // The list has its path of an earlier time.
        let path = unwind::program_at_the_start();
        (Reader::Program(unwind::running()), path)
    } else if is_in_list {
        (Reader::Backtrace, PathBuf::from(&file.path))
    } else {
        (Reader::Ourselves, PathBuf::from(&file.path))
    };
    File {
        start: file.start,
        end: file.end,
        bias: file.bias,
        path: file.path.clone(),
        program: is_what_runs.then_some(Unread::UNKNOWN),
        reader,
        is_there: Box::new(move || {
            if is_what_runs && !has_program {
                // By the path that is in the list another file may be read.
                return Some(false);
            }
            file.is_at(&read_at)
        }),
    }
}

/// Where the program was at the start; without `/proc`, where it would be read.
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
fn program_for_people() -> String {
    let path = unwind::program_at_the_start().display().to_string();
    if path.is_empty() {
        String::from(unwind::PROGRAM)
    } else {
        path
    }
}

/// Asks `backtrace` for a name that there is not; whether nobody has asked it before. Then it
/// makes its list, which takes memory; else it takes none.
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
fn is_first_asked() -> bool {
    let allocations = || ledger::own().map_or(0, |slot| slot.allocations.own());
    let before = allocations();
    let nowhere = core::ptr::without_provenance_mut(2);
    ledger::apart::stays(|| backtrace::resolve(nowhere, |_| {}));
    allocations() != before
}

/// Gives back what looking up names has read, which else stays for the next time.
pub(crate) fn forget_symbols() {
    ask(|| ledger::apart::stays(backtrace::clear_symbol_cache));
}

/// Before a fork.
pub(super) fn close() {
    DOOR.close();
}

/// After it, in the parent.
pub(super) fn reopen() {
    DOOR.reopen();
}

/// After it, in the child.
pub(super) fn reopen_in_the_child() {
    DOOR.reopen_in_the_child();
}

#[cfg(test)]
mod tests {
    use core::sync::atomic::{AtomicBool, Ordering};
    use core::time::Duration;

    use super::Door;

    /// Bug prevented: once any library has been closed, the C library is taken for one that was
    /// opened late, and loses the names that its debug information in a file apart has.
    #[test]
    #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
    fn files_from_the_start_are_in_the_list_whoever_has_asked_first() {
        use super::{Mapped, in_list};

        let file = |path: &str| Mapped {
            path: path.into(),
            ..Mapped::default()
        };
        let looked = || [vec![file("app"), file("libc.so")], vec![file("late.so")]];
        let paths = |files: Vec<Mapped>| -> Vec<String> {
            files.into_iter().map(|file| file.path).collect()
        };
        let list = paths(in_list(looked(), true));
        assert_eq!(list, ["app", "libc.so", "late.so"]);
        assert_eq!(paths(in_list(looked(), false)), ["app", "libc.so"]);
    }

    /// Bug prevented: a fork while another thread holds a lock that never
    /// becomes free in the child.
    #[test]
    fn a_fork_waits_until_nobody_is_behind_the_door_and_nobody_goes_in_meanwhile() {
        let door = Door::new();
        let (came_out, forked) = (AtomicBool::new(false), AtomicBool::new(false));
        std::thread::scope(|scope| {
            let inside = door.enter().expect("nobody is in");
            scope.spawn(|| {
                door.close();
                assert!(came_out.load(Ordering::SeqCst));
                scope.spawn(|| {
                    assert!(door.enter().is_some());
                    assert!(forked.load(Ordering::SeqCst));
                });
                std::thread::sleep(Duration::from_millis(50));
                forked.store(true, Ordering::SeqCst);
                door.reopen();
            });
            std::thread::sleep(Duration::from_millis(50));
            came_out.store(true, Ordering::SeqCst);
            drop(inside);
        });
    }

    /// Bug prevented: a hundred checks that fail at the same moment take all the time to look
    /// whether the door is free, and whoever is behind it gets none.
    #[test]
    #[cfg(target_os = "linux")]
    #[expect(unsafe_code, reason = "asks how often the thread has slept")]
    fn who_waits_before_the_door_looks_rarely() {
        let slept = || {
            // SAFETY: zeros are a record.
            let mut usage = unsafe { core::mem::zeroed::<libc::rusage>() };
            // SAFETY: fills the record in.
            unsafe { libc::getrusage(libc::RUSAGE_THREAD, &raw mut usage) };
            usage.ru_nvcsw
        };
        let door = Door::new();
        std::thread::scope(|scope| {
            let inside = door.enter().expect("nobody is in");
            let other = scope.spawn(|| {
                let before = slept();
                assert!(door.enter().is_some());
                slept() - before
            });
            std::thread::sleep(Duration::from_millis(500));
            drop(inside);
            // Every 100 µs: thousands of times.
            let times = other.join().expect("it came in");
            assert!(times < 600, "{times}");
        });
    }

    /// Bug prevented: a signal handler that forks waits for the thread that it
    /// has interrupted; or opens a door to others that this one is behind.
    #[test]
    fn who_is_behind_the_door_may_fork_and_is_still_behind_it() {
        let door = Door::new();
        let inside = door.enter().expect("nobody is in");
        door.close();
        door.reopen();
        assert!(door.lock.is_taken());
        drop(inside);
        assert!(!door.lock.is_taken());
        // And the handlers may be called twice.
        door.close();
        door.close();
        assert!(door.lock.is_taken());
        door.reopen();
        door.reopen();
        assert!(door.enter().is_some());
    }
}
