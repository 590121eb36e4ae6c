//! Names for addresses, at report time and in a normal context only.
//!
//! Frames are raw addresses until somebody asks for a report. Then each is
//! resolved once, by the `backtrace` crate, from the debug information of the
//! program and its libraries: the functions that were inlined at the address,
//! innermost first, and the one that they were inlined into. That crate knows what
//! was loaded when it was first asked; the rest, where we know of them, are `newcomers`.

mod frame;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod newcomers;
mod origin;
mod runtime;
mod trim;

use std::collections::HashMap;

pub use frame::Frame;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
pub(crate) use newcomers::Newcomer;
pub use origin::Origin;
pub use trim::Resolved;
pub(crate) use trim::kept;

/// Runs what it is given, and sees to it that nothing goes wrong meanwhile.
pub(crate) type Door = fn(&mut dyn FnMut());

/// Resolves addresses and remembers them.
#[derive(Debug)]
pub struct Symbols {
    known: HashMap<u64, Vec<Frame>>,
    paths: frame::Paths,
    door: Door,
    #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
    newcomers: Vec<Newcomer>,
}

impl Symbols {
    /// Nothing looked up yet.
    pub fn new() -> Self {
        Self::behind(|look_up| look_up())
    }

    /// The same, for a process that may fork: each look-up goes through `door`,
    /// which must keep forks out while it is under way. (It takes locks that
    /// never become free again in the child.)
    pub(crate) fn behind(door: Door) -> Self {
        let mut paths = None;
        door(&mut || paths = Some(frame::Paths::here()));
        Self {
            known: HashMap::new(),
            paths: paths.unwrap_or_default(),
            door,
            #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
            newcomers: Vec::new(),
        }
    }

    /// The same, where these files have been loaded since the first look-up.
    #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
    pub(crate) fn with_newcomers(self, newcomers: Vec<Newcomer>) -> Self {
        Self { newcomers, ..self }
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
        let own = Self::has_names as fn(&Self) -> bool as *mut core::ffi::c_void;
        let mut has_one = false;
        (self.door)(&mut || {
            // As if it was called from behind its first byte.
            backtrace::resolve(own.wrapping_byte_add(1), |symbol| {
                has_one |= symbol.name().is_some();
            });
        });
        has_one
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
        match self.newcomers.iter().find(|file| file.has(address)) {
            Some(file) => file.frames(address, &self.paths),
            None => look(address, &self.paths, self.door),
        }
    }

    #[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
    fn look(&self, address: u64) -> Vec<Frame> {
        look(address, &self.paths, self.door)
    }
}

impl Default for Symbols {
    fn default() -> Self {
        Self::new()
    }
}

/// What `backtrace` knows of a return address, innermost first.
fn look(address: u64, paths: &frame::Paths, door: Door) -> Vec<Frame> {
    let mut frames = Vec::new();
    // `backtrace::resolve` takes a return address and looks up the call before it.
    let address = core::ptr::without_provenance_mut(usize::try_from(address).unwrap_or(0));
    door(&mut || {
        backtrace::resolve(address, |symbol| {
            frames.push(Frame::new(
                symbol.name().map(|name| format!("{name:#}")),
                symbol.filename(),
                symbol.lineno(),
                paths,
            ));
        });
    });
    frames
}
