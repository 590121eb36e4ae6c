//! What of a stack a person wants to see.
//!
//! By position and name together: the allocator's frames are cut where the
//! stack begins, the runtime's where it ends, and nothing in between is touched
//! whatever it is called. (A pattern such as `alloc::.*` would take
//! `Box<dyn FnOnce>::call_once` out of the middle of every stack.)

use core::ops::Range;

use crate::symbols::frame::Frame;
use crate::symbols::origin::Origin;

/// The frame that std puts between the runtime and the program's own code.
const BEGIN: &str = "__rust_begin_short_backtrace";

/// The frames of one stack, all of them, innermost first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    frames: Vec<Frame>,
}

impl Resolved {
    /// The stack of these frames.
    pub fn new(frames: Vec<Frame>) -> Self {
        Self { frames }
    }

    /// All frames.
    pub fn frames(&self) -> &[Frame] {
        &self.frames
    }

    /// Without the allocator's frames at the beginning and the runtime's at the
    /// end; all of them when nothing else would be left.
    pub fn trimmed(&self) -> Vec<Frame> {
        let frames: Vec<&Frame> = self.frames.iter().collect();
        self.frames.get(kept(&frames)).unwrap_or(&[]).to_vec()
    }
}

/// What of a stack's frames, innermost first, [`Resolved::trimmed`] keeps.
pub(crate) fn kept(frames: &[&Frame]) -> Range<usize> {
    let begin = begin(frames);
    let end = frames
        .iter()
        .position(|frame| frame.function().contains(BEGIN))
        .unwrap_or(frames.len());
    if begin < end {
        begin..end
    } else {
        0..frames.len()
    }
}

/// Where the program's own calls begin: after the innermost entry to the
/// allocator, and what only led to it.
fn begin(frames: &[&Frame]) -> usize {
    let inner = frames
        .iter()
        .position(|frame| frame.is_user())
        .unwrap_or(frames.len());
    // The entry is the outermost of its frames; what our own code calls may be std's.
    let entry = frames
        .iter()
        .take(inner)
        .rposition(|frame| frame.origin() == Origin::Allocator && !is_check(frame))
        .map_or(0, |entry| entry + 1);
    let plumbing = frames
        .iter()
        .skip(entry)
        .take_while(|frame| is_plumbing(frame))
        .count();
    entry + plumbing
}

/// Whether the frame, standing at the beginning of a stack, only passes the
/// request on to the allocator.
fn is_plumbing(frame: &Frame) -> bool {
    let name = frame.function().trim_start_matches('<');
    let is_named = name.starts_with("alloc::alloc::") || name.starts_with("alloc::raw_vec::");
    // With line tables only, an inlined function has no path in its name, but its file.
    let lies = |part: &str| frame.file().is_some_and(|file| file.contains(part));
    match frame.origin() {
        Origin::User => false,
        Origin::Std => {
            is_named || lies("library/alloc/src/alloc.rs") || lies("library/alloc/src/raw_vec")
        }
        _ => is_named,
    }
}

/// Whether the frame is a measurement of ours around the program's own code.
fn is_check(frame: &Frame) -> bool {
    let name = frame.function().trim_start_matches('<');
    let file = frame.file().and_then(|file| file.rsplit_once("src/"));
    [name.strip_prefix("heapledger::"), file.map(|file| file.1)]
        .into_iter()
        .flatten()
        .any(|rest| {
            let room = rest.split(['/', ':', '.']).next();
            room.is_some_and(|room| ["leaks", "scope", "assertions"].contains(&room))
        })
}
