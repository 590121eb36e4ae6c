//! Names for addresses in files that were loaded late.
//!
//! `backtrace` looks only once which files are loaded. What is opened after that has
//! no names there; and where one was closed and another opened in its place, it would
//! give the names of the first.

use core::cell::OnceCell;
use core::fmt;

use addr2line::{Frame as Found, Loader, gimli};

use super::frame::{Frame, Paths};

/// A part of a file that was loaded late.
pub(crate) struct Newcomer {
    start: u64,
    end: u64,
    bias: u64,
    path: String,
    /// Read when the first name is wanted; `None` if it cannot be read.
    names: OnceCell<Option<Loader>>,
}

impl Newcomer {
    /// Code that lies from `start` to before `end`, and `bias` higher than the file at
    /// `path` says.
    pub(crate) fn new(start: u64, end: u64, bias: u64, path: String) -> Self {
        Self {
            start,
            end,
            bias,
            path,
            names: OnceCell::new(),
        }
    }

    /// Whether this address is in it.
    pub(super) fn has(&self, address: u64) -> bool {
        (self.start..self.end).contains(&address)
    }

    /// The frames at a return address in it, innermost first; none without names.
    pub(super) fn frames(&self, address: u64, paths: &Paths) -> Vec<Frame> {
        let names = self.names.get_or_init(|| Loader::new(&self.path).ok());
        // The call, which is before the address.
        let call = address.wrapping_sub(self.bias).wrapping_sub(1);
        names
            .as_ref()
            .map_or_else(Vec::new, |names| frames(names, call, paths))
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

impl fmt::Debug for Newcomer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Newcomer")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}
