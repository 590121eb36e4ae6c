//! What of a stack a person wants to see.
//!
//! By position and name together: the allocator's frames are cut where the
//! stack begins, the runtime's where it ends, and in between nothing but our own
//! measurements, whatever it is called. (A pattern such as `alloc::.*` would take
//! `Box<dyn FnOnce>::call_once` out of the middle of every stack.)

use core::ops::Range;

use crate::symbols::frame::Frame;
use crate::symbols::origin::Origin;

/// The frame that std puts between the runtime and the program's own code.
const BEGIN: &str = "__rust_begin_short_backtrace";

/// The frames of one stack, all of them, innermost first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    pub(super) frames: Vec<Frame>,
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

    /// The same, to keep.
    pub(crate) fn into_frames(self) -> Vec<Frame> {
        self.frames
    }

    /// Those that people want to see: see [`shown`].
    pub fn trimmed(&self) -> Vec<Frame> {
        let frames: Vec<&Frame> = self.frames.iter().collect();
        let places = shown(&frames).into_iter();
        let frames = places.filter_map(|place| frames.get(place).copied());
        frames.cloned().collect()
    }
}

/// The places of the frames, innermost first, that people want to see: without the
/// allocator's frames at the beginning, the runtime's at the end and those of our own
/// measurements in between; with these when nothing else would be left.
pub(crate) fn shown(frames: &[&Frame]) -> Vec<usize> {
    let kept = kept(frames);
    let shown = without_measurements(frames, kept.clone());
    if shown.is_empty() {
        kept.collect()
    } else {
        shown
    }
}

/// The places of the frames without those of our measurements around the program's
/// code, and what std puts between the two.
fn without_measurements(frames: &[&Frame], kept: Range<usize>) -> Vec<usize> {
    let mut rest: Vec<usize> = Vec::with_capacity(kept.len());
    let is_call_at = |place: &usize| frames.get(*place).is_some_and(|frame| is_call(frame));
    for place in kept {
        let frame = frames.get(place);
        if frame.is_some_and(|frame| frame.origin() == Origin::Allocator && is_check(frame)) {
            let program = rest.iter().rposition(|inner| !is_call_at(inner));
            rest.truncate(program.map_or(0, |at| at + 1));
        } else {
            rest.push(place);
        }
    }
    rest
}

/// What of a stack's frames, innermost first, lies between the allocator's and
/// the runtime's.
fn kept(frames: &[&Frame]) -> Range<usize> {
    let begin = begin(frames);
    let end = frames
        .iter()
        .position(|frame| frame.function().contains(BEGIN))
        .unwrap_or(frames.len());
    // Without debug information a call may stand for all that was inlined into it.
    let program = match frames.get(end) {
        Some(_) => frames.iter().take(end).rposition(|frame| !is_call(frame)),
        None => None,
    };
    match program {
        Some(outermost) if begin <= outermost => begin..outermost + 1,
        _ if begin < end => begin..end,
        _ => 0..frames.len(),
    }
}

/// Where the program's own calls begin: after the innermost entry to the
/// allocator, and what only led to it.
fn begin(frames: &[&Frame]) -> usize {
    // Without debug information nobody is known to be the user.
    let is_between = |frame: &&Frame| matches!(frame.origin(), Origin::Allocator | Origin::Std);
    let inner = frames.iter().take_while(|frame| is_between(frame)).count();
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

/// Whether the frame only calls a function that was handed over as a value.
fn is_call(frame: &Frame) -> bool {
    let name = frame.function();
    let is_named = name.starts_with("core::ops::function::Fn")
        || name.starts_with('<') && name.contains(" as core::ops::function::Fn");
    // With line tables only, an inlined function has its bare name.
    let is_bare = name.starts_with("call_once") || name.starts_with("call_mut");
    match frame.origin() {
        Origin::User => false,
        Origin::Std => is_named || is_bare,
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
                || rest.starts_with("ledger/trace")
                || rest.starts_with("ledger::trace::")
        })
}

#[cfg(test)]
mod tests {
    use super::{Frame, Origin, Resolved};

    /// What is left of a stack, innermost first: each frame is a letter for its
    /// origin, and its name.
    fn trimmed(frames: &[&str]) -> Vec<String> {
        let frame = |text: &&str| {
            let (origin, function) = text.split_once(' ').expect("an origin");
            let origin = match origin {
                "U" => Origin::User,
                "S" => Origin::Std,
                "A" => Origin::Allocator,
                "D" => Origin::Dependency,
                _ => Origin::Unknown,
            };
            Frame::synthetic(function, None, None, origin, false)
        };
        let stack = Resolved::new(frames.iter().map(frame).collect());
        let names = stack.trimmed().into_iter();
        names.map(|frame| String::from(frame.function())).collect()
    }

    const CALL: &str = "S core::ops::function::FnOnce::call_once";
    const CHECK: &str = "A heapledger::leaks::check::Check::run";
    const BEGIN: &str = "S std::sys::backtrace::__rust_begin_short_backtrace";

    /// Bug prevented: our own functions between the program's in a report.
    #[test]
    fn measurements_are_cut_out_of_the_middle_with_what_calls_from_them() {
        let stack = [
            "S alloc::alloc::alloc",
            "S alloc::vec::from_elem",
            "U app::inner",
            CALL,
            "U app::outer",
            CALL,
            "S <core::panic::unwind_safe::AssertUnwindSafe<F> as core::ops::function::FnOnce<()>>::call_once",
            CHECK,
            "A heapledger::leaks::check",
            "U app::test",
            CALL,
            "S <fn() as core::ops::function::FnOnce<()>>::call_once",
            BEGIN,
            "S std::rt::lang_start",
        ];
        assert_eq!(
            trimmed(&stack),
            [
                "alloc::vec::from_elem",
                "app::inner",
                "core::ops::function::FnOnce::call_once",
                "app::outer",
                "app::test"
            ]
        );
        // What was handed to the check is std's, and was asked for all the same.
        let stack = [
            "S alloc::vec::Vec<T>::with_capacity",
            CHECK,
            "U app::test",
            BEGIN,
        ];
        assert_eq!(
            trimmed(&stack),
            ["alloc::vec::Vec<T>::with_capacity", "app::test"]
        );
        // Others of ours may stand there because of what the program does.
        let stack = [
            "U app::make",
            "A heapledger::pool::Pool<T>::get",
            "U app::main",
        ];
        assert_eq!(trimmed(&stack).len(), 3);
    }

    /// Bug prevented: what a pool or an assertion calls is taken for what led to the allocator,
    /// where nobody is known to be the user: without debug information, and in a dependency.
    #[test]
    fn what_our_own_code_calls_is_kept_whoever_it_is() {
        for own in ["U", "D", "X"] {
            let stack = |frame: &str| {
                let make = format!("{own} app::make_buffer");
                let main = format!("{own} app::main");
                let between = [CALL, frame, CALL, CALL];
                let inner = ["S alloc::alloc::alloc", "S alloc::vec::from_elem", &make];
                let outer = [main.as_str(), BEGIN];
                trimmed(&[&inner[..], &between, &outer].concat())
            };
            let pool = stack("A heapledger::pool::Pool<T>::get");
            assert_eq!(
                pool.first().map(String::as_str),
                Some("alloc::vec::from_elem")
            );
            assert_eq!(pool.get(1).map(String::as_str), Some("app::make_buffer"));
            assert_eq!(pool.last().map(String::as_str), Some("app::main"));
            // That of an assertion is cut out.
            let assertion = stack("A heapledger::ledger::trace::Trace::run");
            let call = CALL.strip_prefix("S ").expect("std's");
            let expected = [
                "alloc::vec::from_elem",
                "app::make_buffer",
                call,
                call,
                "app::main",
            ];
            assert_eq!(assertion, expected);
        }
    }

    /// Bug prevented: a stack of which nothing is left.
    #[test]
    fn a_stack_is_never_trimmed_to_nothing() {
        for stack in [
            &[CHECK, BEGIN] as &[&str],
            &[CHECK],
            &[CALL, BEGIN],
            &["S alloc::alloc::alloc", BEGIN],
            &["A heapledger::record::hooks::capture"],
            &[CALL],
        ] {
            assert!(!trimmed(stack).is_empty(), "{stack:?}");
        }
        assert_eq!(trimmed(&[]), [""; 0]);
        assert_eq!(trimmed(&[CALL, CHECK, CALL, BEGIN]).len(), 2);
    }
}
