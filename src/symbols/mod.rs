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

/// What is done around look-ups, in a process that may fork, and counts its bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Around {
    /// Keeps forks out meanwhile. (Look-ups take locks that never become free again in the
    /// child.)
    pub(crate) door: Room,
    /// What is allocated meanwhile stays for the next time,
    pub(crate) cache: Room,
    /// but for what is allocated in here.
    pub(crate) result: Room,
}

impl Around {
    /// Nothing.
    const NOTHING: Self = Self {
        door: |work| work(),
        cache: |work| work(),
        result: |work| work(),
    };

    /// The frames at an address as `backtrace` shows them to `visit`.
    fn resolve(self, address: *mut core::ffi::c_void, mut visit: impl FnMut(&backtrace::Symbol)) {
        (self.door)(&mut || {
            (self.cache)(&mut || {
                backtrace::resolve(address, |symbol| (self.result)(&mut || visit(symbol)));
            });
        });
    }
}

/// Resolves addresses and remembers them.
#[derive(Debug)]
pub struct Symbols {
    known: HashMap<u64, Vec<Frame>>,
    paths: frame::Paths,
    around: Around,
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
            paths: paths.unwrap_or_default(),
            around,
            #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
            files: Vec::new(),
        }
    }

    /// The same, where these files are loaded.
    #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
    pub(crate) fn with_files(self, files: impl Iterator<Item = File>) -> Self {
        let files = files.map(files::Known::new).collect();
        Self { files, ..self }
    }

    /// The files in which addresses were looked up and have no name, because another file is
    /// there by now, or none that can be read; each once, the
    /// program first and the others in the order of their paths.
    pub(crate) fn missed(&self) -> Vec<Missed> {
        #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
        {
            let missed = self.files.iter().filter_map(files::Known::missed);
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
        for address in missing {
            let frames = self.resolve(address);
            self.known.insert(address, frames);
        }
    }

    /// Whether the program's functions have names. They have none when it was
    /// stripped of them, or when its file cannot be read.
    pub(crate) fn has_names(&self) -> bool {
        // One that is a part of the program for certain.
        let own = Self::has_names as fn(&Self) -> bool as *const () as usize;
        // As if it was called from behind its first byte.
        let frames = self.look(own.wrapping_add(1) as u64);
        frames.iter().any(Frame::is_named)
    }

    /// All that was looked up, by address.
    pub fn into_known(self) -> HashMap<u64, Vec<Frame>> {
        self.known
    }

    /// The frames of a stack of return addresses, innermost first.
    pub fn stack(&mut self, addresses: &[u64]) -> Resolved {
        let mut frames = Vec::new();
        for &address in addresses {
            if !self.known.contains_key(&address) {
                let here = self.resolve(address);
                self.known.insert(address, here);
            }
            frames.extend_from_slice(self.known.get(&address).map_or(&[], Vec::as_slice));
        }
        Resolved::new(frames)
    }

    /// The frames at one return address.
    fn resolve(&self, address: u64) -> Vec<Frame> {
        let mut frames = self.look(address);
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
    fn look(&self, address: u64) -> Vec<Frame> {
        let ask = || look(address, &self.paths, self.around);
        match self.files.iter().find(|file| file.has(address)) {
            Some(file) => file.frames(address, &self.paths, ask),
            None => ask(),
        }
    }

    #[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
    fn look(&self, address: u64) -> Vec<Frame> {
        look(address, &self.paths, self.around)
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
    /// What a report says of it.
    pub(crate) fn note(&self) -> String {
        let path = self.path.replace(char::is_control, " ");
        let known = self.program.filter(|&why| why != Unread::UNKNOWN);
        let what = match known {
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
