//! What can go wrong when the books are opened.

use core::fmt;

/// Why a measurement could not be taken.
///
/// Opaque, so that reasons can be added; ask it with the predicates. `Debug`
/// has the words of `Display`, as it is what a `main` that returns this error
/// shows; `{:#?}` has the fields.
///
/// ```
/// // This program installs no tracking allocator, so there is nothing to read.
/// let error = heapledger::try_stats().unwrap_err();
/// assert!(error.is_not_installed());
/// assert!(error.to_string().contains("#[global_allocator]"));
/// ```
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Error {
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    NotInstalled,
    NoMemory,
    ThreadEnding,
    #[cfg(feature = "profile")]
    Busy,
    #[cfg(feature = "profile")]
    AlreadyProfiling,
    #[cfg(feature = "profile")]
    NoInterval,
}

impl Error {
    /// The process's global allocator is not ours.
    #[cold]
    pub(crate) const fn not_installed() -> Self {
        Self {
            kind: Kind::NotInstalled,
        }
    }

    /// The system gave no memory for our own bookkeeping.
    #[cold]
    pub(crate) const fn no_memory() -> Self {
        Self {
            kind: Kind::NoMemory,
        }
    }

    /// The calling thread's local storage is already torn down.
    #[cold]
    pub(crate) const fn thread_ending() -> Self {
        Self {
            kind: Kind::ThreadEnding,
        }
    }

    /// The books of the recordings are open on this very thread, or for too long elsewhere.
    #[cfg(feature = "profile")]
    #[cold]
    pub(crate) const fn busy() -> Self {
        Self { kind: Kind::Busy }
    }

    /// The whole process is being recorded already.
    #[cfg(feature = "profile")]
    #[cold]
    pub(crate) const fn already_profiling() -> Self {
        Self {
            kind: Kind::AlreadyProfiling,
        }
    }

    /// Samples cannot be 0 bytes apart.
    #[cfg(feature = "profile")]
    #[cold]
    pub(crate) const fn no_interval() -> Self {
        Self {
            kind: Kind::NoInterval,
        }
    }

    /// Whether the tracking allocator is not this process's global allocator.
    ///
    /// ```
    /// // Measured where it can be, and run in any case.
    /// let scope = match heapledger::Scope::try_enter() {
    ///     Err(error) if error.is_not_installed() => None,
    ///     entered => Some(entered?),
    /// };
    /// assert!(scope.is_none()); // no `#[global_allocator]` in this example
    /// # Ok::<(), heapledger::Error>(())
    /// ```
    pub const fn is_not_installed(&self) -> bool {
        matches!(self.kind, Kind::NotInstalled)
    }

    /// Whether the system gave no memory for the measurement's own bookkeeping.
    ///
    /// ```
    /// use heapledger::{Error, Scope, ScopeHandle};
    ///
    /// /// A handle, or none where this thread's figures must do.
    /// fn handle() -> Result<Option<ScopeHandle>, Error> {
    ///     match Scope::try_enter()?.try_handle() {
    ///         Err(error) if error.is_no_memory() => Ok(None),
    ///         made => made.map(Some),
    ///     }
    /// }
    /// // What is wrong here is not the memory.
    /// assert!(handle().is_err_and(|error| !error.is_no_memory()));
    /// ```
    pub const fn is_no_memory(&self) -> bool {
        matches!(self.kind, Kind::NoMemory)
    }

    /// Whether the calling thread has no entries of its own any more, because it
    /// is ending; or not yet, in a signal handler that has interrupted its first
    /// touch of the heap.
    ///
    /// ```
    /// # #[global_allocator]
    /// # static HEAP: heapledger::TrackingAllocator = heapledger::TrackingAllocator::new();
    /// /// For a destructor, which may run after those of the thread's locals.
    /// fn last_words() -> &'static str {
    ///     match heapledger::try_thread_stats() {
    ///         Err(error) if error.is_thread_ending() => "too late",
    ///         Err(_) => "not counted",
    ///         Ok(_) => "counted",
    ///     }
    /// }
    /// assert_eq!(last_words(), "counted");
    /// # #[cfg(target_os = "linux")]
    /// # {
    /// #     use std::sync::atomic::{AtomicBool, Ordering};
    /// #     static TOO_LATE: AtomicBool = AtomicBool::new(false);
    /// #     extern "C" fn last(_: *mut std::ffi::c_void) {
    /// #         TOO_LATE.store(last_words() == "too late", Ordering::Relaxed);
    /// #     }
    /// #     let mut key = 0;
    /// #     assert_eq!(unsafe { libc::pthread_key_create(&raw mut key, Some(last)) }, 0);
    /// #     let some = (&raw const TOO_LATE).addr();
    /// #     let keep = move || unsafe { libc::pthread_setspecific(key, some as *const _) };
    /// #     assert_eq!(std::thread::spawn(keep).join().unwrap(), 0);
    /// #     assert!(TOO_LATE.load(Ordering::Relaxed));
    /// # }
    /// ```
    pub const fn is_thread_ending(&self) -> bool {
        matches!(self.kind, Kind::ThreadEnding)
    }

    /// Whether a recording was asked for in a signal handler that has
    /// interrupted the start or the end of another, or by an inner allocator that was
    /// called for the recorder's own work, or while another thread did not get done with
    /// a start or an end for ten seconds.
    ///
    /// ```
    /// use heapledger::{Error, leaks::{Check, LeakGuard}};
    ///
    /// /// A check, or none where a signal came at the wrong moment.
    /// fn check() -> Result<Option<LeakGuard>, Error> {
    ///     match Check::new().try_start() {
    ///         Err(error) if error.is_busy() => Ok(None),
    ///         started => started.map(Some),
    ///     }
    /// }
    /// // What is wrong here is not the moment.
    /// assert!(check().is_err_and(|error| !error.is_busy()));
    /// ```
    #[cfg(feature = "profile")]
    pub const fn is_busy(&self) -> bool {
        matches!(self.kind, Kind::Busy)
    }

    /// Whether the whole process is being recorded already, by a profiler or a
    /// leak check of the whole process.
    ///
    /// ```
    /// # #[global_allocator]
    /// # static HEAP: heapledger::TrackingAllocator = heapledger::TrackingAllocator::new();
    /// use heapledger::{Profiler, leaks::Process};
    ///
    /// let profiler = Profiler::builder().start()?;
    /// let refused = Process::new().start().unwrap_err();
    /// assert!(refused.is_already_profiling());
    /// drop(profiler);
    /// assert!(Process::new().start().is_ok());
    /// # Ok::<(), heapledger::Error>(())
    /// ```
    #[cfg(feature = "profile")]
    pub const fn is_already_profiling(&self) -> bool {
        matches!(self.kind, Kind::AlreadyProfiling)
    }

    /// Whether samples were asked for that are 0 bytes apart.
    ///
    /// ```
    /// let refused = heapledger::Profiler::builder().sample_every(0).start();
    /// assert!(refused.unwrap_err().is_no_interval());
    /// ```
    #[cfg(feature = "profile")]
    pub const fn is_no_interval(&self) -> bool {
        matches!(self.kind, Kind::NoInterval)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.kind {
            Kind::NotInstalled => {
                "heapledger is not this program's global allocator, so there is nothing to \
                 measure. Add these two lines to the binary, test file or bench that should \
                 be measured:\n\n    \
                 #[global_allocator]\n    \
                 static HEAP: heapledger::TrackingAllocator = \
                 heapledger::TrackingAllocator::new();\n\n\
                 If there is a global allocator already, it goes into ours:\n\n    \
                 static HEAP: heapledger::TrackingAllocator<MiMalloc> = \
                 heapledger::TrackingAllocator::over(MiMalloc);\n"
            }
            Kind::NoMemory => {
                "the system gave no memory for the measurement's own bookkeeping; nothing \
                 was measured, and the program's own allocations are not affected"
            }
            Kind::ThreadEnding => {
                "this thread is ending: its local storage is torn down and what it still \
                 allocates is counted for the process only, so it cannot be measured alone"
            }
            #[cfg(feature = "profile")]
            Kind::Busy => {
                "a recording can be neither started nor ended here: another was just starting or \
                 ending, and a signal handler, or the inner allocator, has interrupted that"
            }
            #[cfg(feature = "profile")]
            Kind::AlreadyProfiling => {
                "the whole process is being recorded already, and only one profiler or \
                 whole-process leak check can do that at a time: end the other one first"
            }
            #[cfg(feature = "profile")]
            Kind::NoInterval => {
                "samples cannot be 0 bytes apart: give a mean distance in bytes, such as \
                 512 * 1024, or record every allocation"
            }
        })
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !f.alternate() {
            return write!(f, "Error({self})");
        }
        f.debug_struct("Error").field("kind", &self.kind).finish()
    }
}

impl core::error::Error for Error {}

/// Why an assertion does not hold.
#[derive(Debug)]
pub struct Failure {
    text: String,
}

impl Failure {
    #[cold]
    pub(crate) const fn new(text: String) -> Self {
        Self { text }
    }

    /// Ends in an ordinary panic.
    ///
    /// # Panics
    /// Always.
    #[cold]
    #[track_caller]
    pub fn panic(self) -> ! {
        panic!("{}", self.text)
    }

    /// The same with a message of the user's in front.
    ///
    /// # Panics
    /// Always.
    #[cold]
    #[track_caller]
    pub fn panic_with(self, message: fmt::Arguments<'_>) -> ! {
        panic!("{message}\n{}", self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::Error;

    /// Bug prevented: a program over another allocator adds the two lines, and is told by the
    /// compiler only that there are two allocators now.
    #[test]
    fn the_message_shows_the_two_lines_to_add() {
        let text = Error::not_installed().to_string();
        assert!(text.contains("    static HEAP: heapledger::TrackingAllocator<MiMalloc> = heapledger::TrackingAllocator::over(MiMalloc);\n"));
        assert!(text.contains("    #[global_allocator]\n    static HEAP: heapledger::TrackingAllocator = heapledger::TrackingAllocator::new();\n"));
    }

    /// Bug prevented: `fn main() -> Result<(), heapledger::Error>` ends with the
    /// name of a kind and not with the two lines that are missing.
    #[test]
    fn a_main_that_returns_it_shows_the_message() {
        for error in [Error::not_installed(), Error::no_memory()] {
            assert_eq!(format!("{error:?}"), format!("Error({error})"));
        }
        let fields = format!("{:#?}", Error::not_installed());
        assert_eq!(fields, "Error {\n    kind: NotInstalled,\n}");
    }

    #[test]
    fn each_kind_answers_to_its_own_predicate_only() {
        type Predicate = fn(&Error) -> bool;
        let kinds: [(Error, Predicate); _] = [
            (Error::not_installed(), Error::is_not_installed),
            (Error::no_memory(), Error::is_no_memory),
            (Error::thread_ending(), Error::is_thread_ending),
            #[cfg(feature = "profile")]
            (Error::busy(), Error::is_busy),
            #[cfg(feature = "profile")]
            (Error::already_profiling(), Error::is_already_profiling),
            #[cfg(feature = "profile")]
            (Error::no_interval(), Error::is_no_interval),
        ];
        for (i, (error, _)) in kinds.iter().enumerate() {
            for (j, (_, is)) in kinds.iter().enumerate() {
                assert_eq!(is(error), i == j, "{error:?}");
            }
        }
    }
}
