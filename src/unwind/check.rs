//! Whether the walk is right in this very program.
//!
//! A known chain of calls, with the sorts of frame that matter, is captured by
//! the walk and by the system's unwinder. Where compiler, linker or system do
//! something that we do not understand, the two differ, and the walk stays
//! unused.

use core::hint::black_box;
use core::ptr::NonNull;

use crate::arena;
use crate::sync::{AtomicPtr, Ordering};
use crate::unwind::registers::Registers;
use crate::unwind::stack::Stack;
use crate::unwind::{bounds, lent};

/// How many calls the chain has below the function that tests.
const CHAIN: usize = 4;

/// Return addresses, the innermost first; of many, so many. Not in memory of the program's: the
/// test may be made in the middle of what a program measures.
#[derive(Debug, Default)]
struct Frames {
    ips: [u64; 24],
    len: usize,
}

impl Frames {
    /// Adds one; `false` when there is no room for more.
    fn push(&mut self, ip: u64) -> bool {
        let Some(place) = self.ips.get_mut(self.len) else {
            return false;
        };
        *place = ip;
        self.len += 1;
        true
    }

    fn as_slice(&self) -> &[u64] {
        self.ips.get(..self.len).unwrap_or(&[])
    }
}

/// The same frames, found in both ways.
#[derive(Debug, Default)]
struct Both {
    walked: Frames,
    expected: Frames,
}

impl Both {
    /// Captures the caller's stack in both ways.
    ///
    /// The first frame differs: it is where this function does the one and the other.
    #[inline(never)]
    fn capture(stack: &mut Stack) -> Self {
        let mut both = Self::default();
        stack.forget();
        native(stack, &mut both.walked);
        system(&mut both.expected);
        both
    }

    /// Whether the `count` innermost callers of [`capture`](Self::capture) are the same.
    fn agree(&self, count: usize) -> bool {
        let Some(walked) = self.walked.as_slice().get(1..=count) else {
            return false;
        };
        // The system's unwinder begins a few frames further in.
        let mut expected = self.expected.as_slice().windows(count);
        expected.any(|some| some == walked)
    }
}

#[inline(never)]
fn native(stack: &mut Stack, frames: &mut Frames) {
    let mut count = 0;
    let mut room = [0u64; super::DEPTH];
    stack.capture_native(Registers::here(), &mut |_, ip| {
        if let Some(place) = room.get_mut(count) {
            *place = ip;
        }
        count += 1;
        0
    });
    for ip in room.iter().take(count).rev() {
        if !frames.push(*ip) {
            break;
        }
    }
}

#[inline(never)]
fn system(frames: &mut Frames) {
    backtrace::trace(|frame| frames.push(frame.ip().addr() as u64));
}

/// The stack that the test is made with, while no test is running.
///
/// It is never freed: a hole of 100 KiB in the program's heap makes glibc tidy up
/// all small free chunks when one beside it is freed, which took a tenth of the
/// time of a program of 25 ms.
static STACK: AtomicPtr<Stack> = AtomicPtr::new(core::ptr::null_mut());

/// Whether the walk is right here: what the test says, on a stack that the walk reads. `None`
/// where there is no such stack.
///
/// The first recording may begin in a coroutine. What the test finds there says nothing of all
/// other stacks, and holds for good.
pub(super) fn is_right() -> Option<bool> {
    if bounds::left().is_some() {
        return Some(self_test());
    }
    let mut is_right = None;
    let is_done = lent::on_a_lent_stack(&mut || is_right = Some(self_test()));
    is_right.filter(|_| is_done)
}

/// Whether the walk finds what the system's unwinder finds; not without memory.
fn self_test() -> bool {
    let kept = NonNull::new(STACK.swap(core::ptr::null_mut(), Ordering::Acquire));
    let Some(mut stack) = kept.or_else(arena::forever::<Stack>) else {
        return false;
    };
    // SAFETY: from `forever`; nobody else has it, as it is not in `STACK` now, and it is put there
    // by whoever has done with it.
    let own = unsafe { stack.as_mut() };
    // It may have been another thread's.
    own.pass_on();
    let is_right = black_box(first as fn(&mut Stack) -> bool)(own);
    STACK.store(stack.as_ptr(), Ordering::Release);
    is_right
}

#[inline(never)]
fn first(stack: &mut Stack) -> bool {
    let through = black_box(second as fn(&mut Stack, usize) -> bool);
    black_box(through(stack, black_box(3)))
}

/// A frame whose size is known at run time only would be right here; a large one must do.
#[inline(never)]
fn second(stack: &mut Stack, by: usize) -> bool {
    let mut large = [0u64; 600];
    if let Some(place) = large.get_mut(by) {
        *place = 1;
    }
    let through = black_box(third as fn(&mut Stack, &[u64]) -> bool);
    black_box(through(stack, black_box(&large)))
}

/// Many values alive over a call: registers are saved, `rbp` among them.
#[inline(never)]
fn third(stack: &mut Stack, values: &[u64]) -> bool {
    let [one, two, three, four, five] = black_box([1, 2, 3, 4, values.len()]);
    let dynamic: &dyn Fn(&mut Stack) -> Both = black_box(&|stack| Both::capture(stack));
    let both = dynamic(stack);
    black_box([one, two, three, four, five]);
    both.agree(CHAIN)
}

#[cfg(test)]
mod tests {
    use super::{Both, Frames, self_test};

    /// Bug prevented: the first check of a process, on a thread with a small stack,
    /// builds a recorder's stack on it and kills the process.
    #[test]
    fn a_small_stack_is_enough() {
        crate::unwind::prime();
        let small = std::thread::Builder::new().stack_size(80 * 1024);
        let thread = small.spawn(self_test).expect("a thread");
        assert!(thread.join().expect("alive"));
    }

    #[test]
    fn the_walk_is_right_here() {
        crate::unwind::prime();
        assert!(self_test());
    }

    /// Bug prevented: a self-test that cannot fail.
    #[test]
    fn a_wrong_frame_is_seen() {
        let frames = |ips: &[u64]| {
            let mut frames = Frames::default();
            assert!(ips.iter().all(|ip| frames.push(*ip)));
            frames
        };
        let both = |walked: &[u64], expected: &[u64]| Both {
            walked: frames(walked),
            expected: frames(expected),
        };
        assert!(both(&[1, 2, 3, 4, 5, 6], &[8, 9, 2, 3, 4, 5, 6]).agree(4));
        assert!(!both(&[1, 2, 7, 4, 5, 6], &[8, 9, 2, 3, 4, 5, 6]).agree(4));
        assert!(!both(&[1, 2, 3], &[8, 9, 2, 3, 4, 5, 6]).agree(4));
        assert!(!both(&[], &[]).agree(4));
    }
}
