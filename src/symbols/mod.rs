//! Names for addresses, at report time and in a normal context only.
//!
//! Frames are raw addresses until somebody asks for a report. Then each is
//! resolved once, by the `backtrace` crate, from the debug information of the
//! program and its libraries: the functions that were inlined at the address,
//! innermost first, and the one that they were inlined into. That crate knows what
//! was loaded when it was first asked, and reads it by its path; `files` has the rest, and
//! what has another file at its path by now.

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod files;
mod frame;
mod origin;
mod runtime;
mod trim;

use core::num::NonZero;
use std::collections::HashMap;
use std::io;

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
pub(crate) use files::{File, Reader};
pub use frame::Frame;
pub use origin::Origin;
pub use trim::Resolved;
pub(crate) use trim::shown;

/// Runs what it is given.
pub(crate) type Room = fn(&mut dyn FnMut());

/// Runs what it is given, perhaps on another stack; `false` if that could not be.
pub(crate) type DeepRoom = fn(&mut dyn FnMut()) -> bool;

/// What is done around look-ups, in a process that may fork, and counts its bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Around {
    /// Keeps forks out meanwhile. (Look-ups take locks that never become free again in the
    /// child.)
    pub(crate) door: Room,
    /// Has stack enough for them, behind the door.
    pub(crate) deep: DeepRoom,
    /// What is allocated meanwhile stays for the next time,
    pub(crate) cache: Room,
    /// but for what is allocated in here.
    pub(crate) result: Room,
}

impl Around {
    /// Nothing.
    const NOTHING: Self = Self {
        door: |work| work(),
        deep: |work| {
            work();
            true
        },
        cache: |work| work(),
        result: |work| work(),
    };

    /// The frames at an address as `backtrace` shows them to `visit`; behind the door.
    fn resolve(self, address: *mut core::ffi::c_void, mut visit: impl FnMut(&backtrace::Symbol)) {
        (self.cache)(&mut || {
            backtrace::resolve(address, |symbol| (self.result)(&mut || visit(symbol)));
        });
    }
}

/// So many addresses are looked up behind the door at a time: to go in takes time, and a fork
/// waits until the last of them is known.
const BATCH: usize = 32;

/// Resolves addresses and remembers them.
#[derive(Debug)]
pub struct Symbols {
    known: HashMap<u64, Vec<Frame>>,
    sources: Sources,
    around: Around,
    /// Whether there was no stack to look up an address on.
    lacks_stack: bool,
}

/// What frames are made from.
#[derive(Debug)]
struct Sources {
    paths: frame::Paths,
    #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
    files: Vec<files::Known>,
}

impl Symbols {
    /// Nothing looked up yet.
    pub fn new() -> Self {
        Self::behind(Around::NOTHING)
    }

    /// The same, with all of that done around each look-up.
    pub(crate) fn behind(around: Around) -> Self {
        let mut paths = None;
        (around.door)(&mut || paths = Some(frame::Paths::here()));
        Self {
            known: HashMap::new(),
            sources: Sources {
                paths: paths.unwrap_or_default(),
                #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
                files: Vec::new(),
            },
            around,
            lacks_stack: false,
        }
    }

    /// The same, where these files are loaded.
    #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
    pub(crate) fn with_files(mut self, files: impl Iterator<Item = File>) -> Self {
        self.sources.files = files.map(files::Known::new).collect();
        self
    }

    /// The files in which addresses were looked up and have no name, because another file is
    /// there by now, or none that can be read; each once, the
    /// program first and the others in the order of their paths. The program alone where there
    /// was no stack to look up some of them on.
    pub(crate) fn missed(&self) -> Vec<Missed> {
        if self.lacks_stack {
            return vec![Missed::for_want_of_stack()];
        }
        #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
        {
            let missed = self.sources.files.iter().filter_map(files::Known::missed);
            let mut missed: Vec<Missed> = missed.collect();
            missed.sort_by(|a, b| a.path.cmp(&b.path));
            missed.dedup_by(|a, b| a.path == b.path);
            missed.sort_by_key(|file| file.program.is_none());
            missed
        }
        #[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
        Vec::new()
    }

    /// Looks up what is not known yet, in the order of the addresses.
    ///
    /// Debug information is kept for a few files at a time only, and a walk from
    /// stack to stack would read the same again and again: give all the
    /// addresses of a report to this first.
    pub fn look_up(&mut self, addresses: impl IntoIterator<Item = u64>) {
        let mut missing: Vec<u64> = addresses.into_iter().collect();
        missing.sort_unstable();
        missing.dedup();
        missing.retain(|address| !self.known.contains_key(address));
        for batch in missing.chunks(BATCH) {
            let found = self.find(batch);
            self.known.extend(batch.iter().copied().zip(found));
        }
    }

    /// Whether the program's functions have names. They have none when it was
    /// stripped of them, or when its file cannot be read.
    pub(crate) fn has_names(&mut self) -> bool {
        // One that is a part of the program for certain.
        let own = Self::has_names as fn(&mut Self) -> bool as *const () as usize;
        // As if it was called from behind its first byte.
        let address = own.wrapping_add(1) as u64;
        let found = self.find(&[address]);
        let mut found = found.iter().flatten();
        found.any(|frame| frame.is_named() && *frame != Frame::unknown(address))
    }

    /// All that was looked up, by address.
    pub fn into_known(self) -> HashMap<u64, Vec<Frame>> {
        self.known
    }

    /// The frames of a stack of return addresses, innermost first.
    pub fn stack(&mut self, addresses: &[u64]) -> Resolved {
        self.look_up(addresses.iter().copied());
        let mut frames = Vec::new();
        for address in addresses {
            frames.extend_from_slice(self.known.get(address).map_or(&[], Vec::as_slice));
        }
        Resolved::new(frames)
    }

    /// The frames at each of these return addresses, in their order.
    fn find(&mut self, addresses: &[u64]) -> Vec<Vec<Frame>> {
        let Self {
            sources, around, ..
        } = self;
        let mut found = Vec::with_capacity(addresses.len());
        let mut is_done = false;
        (around.door)(&mut || {
            is_done = (around.deep)(&mut || {
                let each = addresses.iter();
                found.extend(each.map(|&address| sources.frames(address, *around)));
            });
        });
        self.lacks_stack |= !is_done;
        let rest = addresses.iter().skip(found.len());
        found.extend(rest.map(|&address| vec![Frame::unknown(address)]));
        found
    }
}

impl Sources {
    /// The frames at one return address.
    fn frames(&mut self, address: u64, around: Around) -> Vec<Frame> {
        let mut frames = self.look(address, around);
        let physical = frames.len().saturating_sub(1);
        for inlined in frames.iter_mut().take(physical) {
            inlined.set_inlined();
        }
        if frames.is_empty() {
            frames.push(Frame::unknown(address));
        }
        frames
    }

    #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
    fn look(&mut self, address: u64, around: Around) -> Vec<Frame> {
        let ask = || look(address, &self.paths, around);
        match self.files.iter().find(|file| file.has(address)) {
            Some(file) => file.frames(address, &self.paths, ask),
            None => ask(),
        }
    }

    #[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
    fn look(&mut self, address: u64, around: Around) -> Vec<Frame> {
        look(address, &self.paths, around)
    }
}

impl Default for Symbols {
    fn default() -> Self {
        Self::new()
    }
}

/// Why a file cannot be read, by the system's number for that, if it is known.
///
/// Two bytes, as reports of leaks are results and must not be large.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unread(NonZero<u16>);

impl Unread {
    /// Higher than the system's numbers are.
    pub(crate) const UNKNOWN: Self = Self(NonZero::<u16>::MAX);
    /// As high: there was no stack to read it on.
    const NO_STACK: Self = Self(NonZero::<u16>::MIN.saturating_add(u16::MAX - 2));

    /// By what the system has said.
    #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
    pub(crate) fn by(error: &io::Error) -> Self {
        let number = error
            .raw_os_error()
            .and_then(|number| number.try_into().ok());
        number.and_then(NonZero::new).map_or(Self::UNKNOWN, Self)
    }
}

/// A file whose functions have [no names](Symbols::missed).
#[derive(Clone, Debug)]
pub(crate) struct Missed {
    pub(crate) path: String,
    /// Only of the program itself.
    pub(crate) program: Option<Unread>,
}

impl Missed {
    /// The program, where a thread has too little stack to look up names.
    fn for_want_of_stack() -> Self {
        let path = std::env::current_exe().unwrap_or_default();
        Self {
            path: path.display().to_string(),
            program: Some(Unread::NO_STACK),
        }
    }

    /// What a report says of it.
    pub(crate) fn note(&self) -> String {
        let path = self.path.replace(char::is_control, " ");
        let known = self.program.filter(|&why| why != Unread::UNKNOWN);
        let what = match known {
            Some(Unread::NO_STACK) => String::from(
                "was not read, as the thread has little stack left, and there was no other",
            ),
            Some(Unread(number)) => {
                let why = io::Error::from_raw_os_error(number.get().into());
                format!("cannot be read ({why})")
            }
            None => String::from("was replaced or removed while it was in use, or cannot be read"),
        };
        format!("{path} {what}: its functions have no names")
    }
}

/// What `backtrace` knows of a return address, innermost first.
fn look(address: u64, paths: &frame::Paths, around: Around) -> Vec<Frame> {
    let mut frames = Vec::new();
    // `backtrace::resolve` takes a return address and looks up the call before it.
    let address = core::ptr::without_provenance_mut(usize::try_from(address).unwrap_or(0));
    around.resolve(address, |symbol| {
        frames.push(Frame::new(
            symbol.name().map(|name| format!("{name:#}")),
            symbol.filename(),
            symbol.lineno(),
            paths,
        ));
    });
    frames
}

#[cfg(test)]
mod tests {
    use super::{Around, Symbols};

    /// Bug prevented: a report on a thread with little stack has no names where there is no
    /// memory for another stack, and does not say why; or it takes that for names.
    #[test]
    fn where_no_stack_is_to_be_had_addresses_stand_for_names_and_it_is_said() {
        let mut symbols = Symbols::behind(Around {
            deep: |_| false,
            ..Around::NOTHING
        });
        let frames = symbols.stack(&[0x40_2000, 0x40_1000]).into_frames();
        let shown: Vec<String> = frames.iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["0x402000", "0x401000"]);
        assert!(!symbols.has_names());
        let missed = symbols.missed();
        let notes: Vec<String> = missed.iter().map(super::Missed::note).collect();
        let [note] = notes.as_slice() else {
            panic!("{notes:?}");
        };
        assert!(note.contains("little stack") && note.ends_with("have no names"));
        assert!(Symbols::new().missed().is_empty() && Symbols::new().has_names());
    }
}
