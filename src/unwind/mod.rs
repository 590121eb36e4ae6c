//! The capture room: which calls led to an allocation.
//!
//! ```text
//!   prime ─▶ self-test ─▶ native     Linux on x86-64: `walk`, some 30 ns
//!                    └──▶ portable   elsewhere, or when the test fails
//!
//!   capture ─▶ exit ─▶ memo ──(not yet known)──▶ walk ─▶ step ─▶ rules ──(nor this)──▶ tables ─▶ modules
//! ```
//!
//! [`capture`] runs inside the allocator, on every recorded allocation. So
//! nothing below it allocates, locks, panics, or reads anything but the calling
//! thread's own stack and the unwind tables of loaded code. What needs more
//! than that happens before, in [`prime`], [`refresh`] and [`Stack::prepare`].
//!
//! A stack is a path in a call tree, which is the caller's: a capture calls its
//! `sink` with the parent's node and a return address and gets the child's
//! node, for those frames only that are not known from the thread's last
//! capture. Above the outermost frame there is one of four nodes, so that a
//! stack that is not whole says so for ever: [`ROOT`], [`DEEP`], [`UNKNOWN`],
//! [`FOREIGN`].
//!
//! An address is always that of the instruction *after* the one in question,
//! also where a signal has interrupted: symbol look-ups subtract one.

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod bounds;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod check;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod dwarf;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod entry;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod exit;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod lent;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod memo;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod modules;
mod own;
mod portable;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod proofs;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod registers;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod rule;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod rules;
mod stack;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod step;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod tables;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod walk;

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
pub(crate) use lent::with_stack_enough;
pub use own::calibrate;
pub(crate) use own::calibrate_with;
pub use stack::{DEPTH, Stack};

use crate::sync::{AtomicU32, Ordering};

/// The node above a whole stack: the thread began here.
pub const ROOT: u32 = 0;
/// The node above a stack that is too deep: its outer frames are cut off.
pub const DEEP: u32 = 1;
/// The node above frames whose caller has no unwind table, or one that is not
/// understood, or where too little stack was left to read it.
pub const UNKNOWN: u32 = 2;
/// The node of an allocation on a stack that is not the thread's own: a fiber
/// or an alternate signal stack. There are no frames below it.
pub const FOREIGN: u32 = 3;

/// What a capture has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capture {
    /// The node of the innermost frame that is not the allocator's.
    pub node: u32,
    /// The node above the outermost frame: one of the four.
    pub root: u32,
}

impl Capture {
    /// Whether the stack goes down to where the thread began.
    pub const fn is_whole(&self) -> bool {
        self.root == ROOT
    }
}

/// How stacks are captured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// By our own walk; never allocates, locks or reads outside the stack.
    Native,
    /// By the system's unwinder, as the `backtrace` crate calls it: some 100 ns
    /// for each frame, and with the locks that the system takes for it.
    Portable,
}

/// Until [`prime`] has run.
const UNPRIMED: u32 = 0;
const NATIVE: u32 = 1;
const PORTABLE: u32 = 2;

static METHOD: AtomicU32 = AtomicU32::new(UNPRIMED);

/// Runs `work`. Elsewhere nobody knows how much stack is left.
#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
pub(crate) fn with_stack_enough(work: &mut dyn FnMut()) -> bool {
    work();
    true
}

/// Makes ready for captures, and tells how they will be done.
///
/// From a normal context, as often as you like. Captures before the first time
/// are empty.
pub fn prime() -> Method {
    refresh();
    match METHOD.load(Ordering::Acquire) {
        NATIVE => return Method::Native,
        PORTABLE => return Method::Portable,
        _ => {}
    }
    #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
    {
        bounds::prime();
        match check::is_right() {
            Some(true) => {
                METHOD.store(NATIVE, Ordering::Release);
                return Method::Native;
            }
            Some(false) => {}
            None => return Method::Portable,
        }
    }
    portable::prime();
    METHOD.store(PORTABLE, Ordering::Release);
    Method::Portable
}

/// Takes the memory for what walks learn now (256 KiB), for captures that are too
/// rare to share the price of its pages among them.
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
pub(crate) fn settle_in() {
    rules::RULES.touch();
}

/// The same where nothing is learned.
#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
pub(crate) fn settle_in() {}

/// The code that is mapped into the process, the program's own first; nothing
/// where that cannot be asked. From a normal context.
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
pub(crate) use modules::{
    Mapped, PROGRAM, files, is_where_it_was, mapped, mapped_in_two, note_files,
    program_at_the_start, running,
};

/// The same where it cannot be asked.
#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
mod nowhere {
    /// A file's code in memory.
    #[derive(Clone, Debug)]
    pub(crate) struct Mapped {
        pub(crate) start: u64,
        pub(crate) end: u64,
        pub(crate) offset: u64,
        pub(crate) path: String,
        pub(crate) build_id: String,
    }

    /// Nothing.
    pub(crate) fn mapped() -> Vec<Mapped> {
        Vec::new()
    }
}
#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
pub(crate) use nowhere::{Mapped, mapped};

/// Notices that code was loaded or unloaded since the last time.
///
/// From a normal context: at the start of each recording and at each snapshot of a
/// profile. It costs one call to the loader, and its lock.
///
/// Loaded code is found without it (with glibc 2.35 and later). Only when code
/// was unloaded and other code came to the same addresses do the rules for
/// these have to be forgotten; until then, a stack through that code may be
/// wrong, though never read out of bounds.
pub fn refresh() {
    #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
    if modules::refresh() == modules::Change::Removed {
        rules::RULES.clear();
    }
}

/// How many rules had to be looked for in unwind tables so far: what the cache
/// of rules did not have.
pub fn worked_out() -> u64 {
    #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
    return walk::WORKED_OUT.load(Ordering::Relaxed);
    #[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
    return 0;
}

/// The stack of the calling thread, as a node of the caller's tree.
///
/// `sink` gets a parent's node and a return address and gives the child's node;
/// it is called for the frames that are new, the outermost first. It must not
/// unwind, and must not capture.
///
/// `stack` is the calling thread's own. A signal handler that allocates while
/// its thread is in here must not get the same one: that is for the caller to
/// prevent.
#[inline(never)]
pub fn capture(stack: &mut Stack, mut sink: impl FnMut(u32, u64) -> u32) -> Capture {
    #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
    if METHOD.load(Ordering::Relaxed) == NATIVE {
        return stack.capture_native(registers::Registers::here(), &mut sink);
    }
    capture_otherwise(stack, &mut sink)
}

#[cold]
fn capture_otherwise(stack: &mut Stack, sink: &mut impl FnMut(u32, u64) -> u32) -> Capture {
    if METHOD.load(Ordering::Relaxed) == PORTABLE {
        return stack.capture_portable(sink);
    }
    Capture {
        node: UNKNOWN,
        root: UNKNOWN,
    }
}

#[cfg(all(test, target_os = "linux", target_arch = "x86_64"))]
mod tests;
