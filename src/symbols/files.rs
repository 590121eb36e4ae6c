//! Names for addresses in files, and which files have none.
//!
//! `backtrace` looks only once which files are loaded, and reads them by their paths when it
//! is first asked for a name in them. So it is not asked
//!
//! - in a file that was loaded late: it has no names there, and where one file was closed and
//!   another opened in its place, it would give the names of the first;
//! - where another file has come to the path meanwhile, as when a program is deployed again:
//!   it would give the names of that one; also where that is over again, and `backtrace` has
//!   noted a path meanwhile. The program itself can be read all the same, as the
//!   system opens the file that runs. What is in the place of a library is left alone.

use core::cell::{Cell, OnceCell};
use core::fmt;

use addr2line::{Frame as Found, Loader, gimli};

use super::frame::{Frame, Paths};
use super::{Missed, Unread};

/// The code of a file that is loaded.
pub(crate) struct File {
    pub(crate) start: u64,
    pub(crate) end: u64,
    /// How much higher it lies than the file says.
    pub(crate) bias: u64,
    /// For people, and for us if it is to be read by its path.
    pub(crate) path: String,
    /// See [`Missed::program`].
    pub(crate) program: Option<Unread>,
    pub(crate) reader: Reader,
    /// Whether the file is at its path, and no other; `None` if there is none.
    pub(crate) is_there: Box<dyn Fn() -> Option<bool> + Send>,
}

/// Who reads the names of a file that is at its path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reader {
    /// `backtrace`, which has it in its list. It knows more than we do: names in separate files,
    /// and of a stripped one where each function ends.
    Backtrace,
    /// `backtrace` again, of the program itself: elsewhere it can be read at this path.
    Program(&'static str),
    /// We ourselves, since it was loaded late.
    Ourselves,
}

/// A file, and what was found out about it.
pub(super) struct Known {
    file: File,
    is_there: OnceCell<Option<bool>>,
    /// Read when the first name is wanted; `None` if it cannot be read.
    names: OnceCell<Option<Loader>>,
    /// Whether an address had no name because the file is gone.
    is_missed: Cell<bool>,
}

impl Known {
    pub(super) fn new(file: File) -> Self {
        Self {
            file,
            is_there: OnceCell::new(),
            names: OnceCell::new(),
            is_missed: Cell::new(false),
        }
    }

    /// Whether this address is in it.
    pub(super) fn has(&self, address: u64) -> bool {
        (self.file.start..self.file.end).contains(&address)
    }

    /// The file, if an address had no name because another file is there now, or none that can
    /// be read.
    pub(super) fn missed(&self) -> Option<Missed> {
        // What the system has made itself has a name and no path.
        let is_missed = self.is_missed.get() && self.file.path.contains('/');
        is_missed.then(|| Missed {
            path: self.file.path.clone(),
            program: self.file.program,
        })
    }

    /// The frames at a return address in it, innermost first; none without names. `ask` asks
    /// `backtrace`.
    pub(super) fn frames(
        &self,
        address: u64,
        paths: &Paths,
        ask: impl Fn() -> Vec<Frame>,
    ) -> Vec<Frame> {
        let is_there = *self.is_there.get_or_init(|| (self.file.is_there)());
        let read = |path: &str| {
            let names = self.names.get_or_init(|| Loader::new(path).ok());
            // The call, which is before the address.
            let call = address.wrapping_sub(self.file.bias).wrapping_sub(1);
            names.as_ref().map(|names| frames(names, call, paths))
        };
        // Where there is no file, `backtrace` has what it read when there was one, or nothing.
        let kept = || Some(ask()).filter(|found| !found.is_empty());
        let found = match (self.file.reader, is_there) {
            (Reader::Backtrace | Reader::Program(_), Some(true)) => Some(ask()),
            (Reader::Ourselves, Some(true)) => Some(read(&self.file.path).unwrap_or_default()),
            (Reader::Program(running), Some(false)) => read(running),
            (Reader::Program(running), None) => read(running).or_else(kept),
            (Reader::Backtrace, None) => kept(),
            (Reader::Backtrace | Reader::Ourselves, _) => None,
        };
        if found.is_none() {
            self.is_missed.set(true);
        }
        found.unwrap_or_default()
    }
}

fn frames(names: &Loader, call: u64, paths: &Paths) -> Vec<Frame> {
    let symbol = || names.find_symbol(call).map(demangled);
    let mut frames = Vec::new();
    if let Ok(mut found) = names.find_frames(call) {
        while let Ok(Some(next)) = found.next() {
            frames.push(frame(&next, symbol, paths));
        }
    }
    if frames.is_empty() {
        frames.extend(symbol().map(|name| Frame::new(Some(name), None, None, paths)));
    }
    frames
}

fn frame<R: gimli::Reader>(
    found: &Found<'_, R>,
    symbol: impl FnOnce() -> Option<String>,
    paths: &Paths,
) -> Frame {
    let name = found
        .function
        .as_ref()
        .and_then(|name| name.demangle().ok());
    let location = found.location.as_ref();
    Frame::new(
        name.map(Into::into).or_else(symbol),
        location.and_then(|at| at.file).map(AsRef::as_ref),
        location.and_then(|at| at.line),
        paths,
    )
}

fn demangled(name: &str) -> String {
    addr2line::demangle_auto(name.into(), None).into()
}

impl fmt::Debug for Known {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Known")
            .field("path", &self.file.path)
            .finish_non_exhaustive()
    }
}
