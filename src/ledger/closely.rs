//! Adding up what several threads go on writing.

use crate::ledger::figures::Figures;
use crate::ledger::peak::BATCH;

/// Tries beside threads that free much, before the best is taken.
const TRIES: u32 = 16;

/// Reads the freed sides first, then what goes with them, until little was freed meanwhile, or
/// gives the best of some tries; and how many bytes were freed while it was read.
///
/// The figures of one reading are as far apart as the reader takes from the first slot to the
/// last, and a reader that is preempted in between takes milliseconds: everything that was
/// allocated and freed meanwhile then looks alive. Reading the freed sides once more tells how
/// much that may be.
pub(crate) fn read_closely<R>(
    strikes: impl Fn() -> Figures,
    entries: impl Fn(Figures) -> R,
) -> (R, u64) {
    let mut before = strikes();
    let mut best: Option<(R, u64)> = None;
    let mut tries = 0;
    loop {
        let reading = entries(before);
        let after = strikes();
        let slack = after.freed_bytes.wrapping_sub(before.freed_bytes);
        let closest = match best.take() {
            Some(best) if best.1 <= slack => best,
            _ => (reading, slack),
        };
        tries += 1;
        if closest.1 <= BATCH || tries == TRIES {
            return closest;
        }
        best = Some(closest);
        before = after;
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use core::cell::Cell;

    use super::{BATCH, TRIES, read_closely};
    use crate::ledger::figures::Figures;

    /// What is read, its slack, and how often it was tried, when so much is freed between
    /// each two looks at the freed sides.
    fn read(freed: impl Fn(u32) -> u64) -> (u32, u64, u32) {
        let (looks, sum, tries) = (Cell::new(0), Cell::new(0_u64), Cell::new(0));
        let strikes = || {
            if looks.get() > 0 {
                sum.set(sum.get().wrapping_add(freed(looks.get())));
            }
            looks.set(looks.get() + 1);
            Figures {
                freed_bytes: sum.get(),
                ..Figures::default()
            }
        };
        let entries = |_| {
            tries.set(tries.get() + 1);
            tries.get()
        };
        let (reading, slack) = read_closely(strikes, entries);
        (reading, slack, tries.get())
    }

    /// Bug prevented: a reading in which much was freed is taken though a closer one was
    /// had, or there is no end beside threads that go on freeing.
    #[test]
    fn the_first_that_is_close_is_taken_or_else_the_closest() {
        assert_eq!(read(|_| 0), (1, 0, 1));
        assert_eq!(read(|_| BATCH), (1, BATCH, 1));
        let calmer = |try_: u32| if try_ < 4 { 10 * BATCH } else { 5 };
        assert_eq!(read(calmer), (4, 5, 4));
        let restless = |try_: u32| if try_ == 3 { 2 * BATCH } else { 9 * BATCH };
        assert_eq!(read(restless), (3, 2 * BATCH, TRIES));
    }
}
