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
    pub const fn is_not_installed(&self) -> bool {
        matches!(self.kind, Kind::NotInstalled)
    }

    /// Whether the system gave no memory for the measurement's own bookkeeping.
    pub const fn is_no_memory(&self) -> bool {
        matches!(self.kind, Kind::NoMemory)
    }

    /// Whether the calling thread has no entries of its own: it is ending, and
    /// has them no more, or the system had no memory for them.
    pub const fn is_thread_ending(&self) -> bool {
        matches!(self.kind, Kind::ThreadEnding)
    }

    /// Whether a recording was asked for in a signal handler that has
    /// interrupted the start or the end of another, or while another thread did
    /// not get done with that for ten seconds.
    #[cfg(feature = "profile")]
    pub const fn is_busy(&self) -> bool {
        matches!(self.kind, Kind::Busy)
    }

    /// Whether the whole process is being recorded already, by a profiler or a
    /// leak check of the whole process.
    #[cfg(feature = "profile")]
    pub const fn is_already_profiling(&self) -> bool {
        matches!(self.kind, Kind::AlreadyProfiling)
    }

    /// Whether samples were asked for that are 0 bytes apart.
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
                 heapledger::TrackingAllocator::new();\n"
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
                 ending, and a signal handler has interrupted that"
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

#[cfg(test)]
mod tests {
    use super::Error;

    #[test]
    fn the_message_shows_the_two_lines_to_add() {
        let text = Error::not_installed().to_string();
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
