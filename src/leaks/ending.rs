//! The moment that a check waits for threads which are just ending.

use core::time::Duration;
use std::collections::HashMap;
use std::time::Instant;

use crate::leaks::stacks::Stacks;
use crate::record::{self, Survivor};

/// How long a thread may take to end after what it did last. Only a check that
/// has threads alive waits so long.
const LONGEST: Duration = Duration::from_secs(1);

/// The first pause between two looks; each is twice the one before.
const FIRST_PAUSE: Duration = Duration::from_millis(1);
/// Longer pauses are not made: a thread may end at any moment.
const LAST_PAUSE: Duration = Duration::from_millis(50);

/// Waits while a block is alive that std keeps for a thread which may be ending.
///
/// `thread::scope` waits for its threads' closures and not for the threads, and
/// a message from a thread that was not joined comes before its end. For a
/// moment such a thread still holds its handle, which is no leak. One that goes
/// on for longer is reported.
pub(super) fn await_ending_threads(survivors: impl Fn() -> Vec<Survivor>, stacks: &mut Stacks) {
    let mut known = HashMap::new();
    let mut is_of_a_thread = |survivor: &Survivor| {
        let look = stacks.look(survivor.node);
        *known
            .entry(look)
            .or_insert_with(|| stacks.whole(look).is_of_a_thread())
    };
    if !survivors().iter().any(&mut is_of_a_thread) {
        return;
    }
    // The first look may have read debug information for longer than we wait.
    let begin = Instant::now();
    wait_while(
        || survivors().iter().any(&mut is_of_a_thread),
        || begin.elapsed(),
        // Not std's sleep, which panics when the system refuses.
        |pause| record::nap_for(u32::try_from(pause.as_micros() / 100).unwrap_or(1)),
    );
}

/// Waits while a look finds something, but no longer than `LONGEST`.
///
/// A look goes through all that is alive, which may be millions of blocks and
/// take longer than a pause. So the time is what is bounded, and pauses grow.
fn wait_while(
    mut is_there: impl FnMut() -> bool,
    elapsed: impl Fn() -> Duration,
    mut sleep: impl FnMut(Duration),
) {
    let mut pause = FIRST_PAUSE;
    loop {
        let left = LONGEST.saturating_sub(elapsed());
        if left.is_zero() {
            return;
        }
        sleep(pause.min(left));
        if !is_there() {
            return;
        }
        pause = LAST_PAUSE.min(pause * 2);
    }
}

#[cfg(test)]
mod tests {
    use core::cell::Cell;
    use core::time::Duration;

    use super::{LONGEST, wait_while};

    /// Looks, and the time that went by, when each look takes so long and what is
    /// looked for is gone after `gone`.
    fn waited(look: Duration, gone: Duration) -> (u32, Duration) {
        let (looks, now) = (Cell::new(0), Cell::new(Duration::ZERO));
        let is_there = || {
            let is_there = now.get() < gone;
            looks.set(looks.get() + 1);
            now.set(now.get() + look);
            is_there
        };
        let sleep = |pause| now.set(now.get() + pause);
        wait_while(is_there, || now.get(), sleep);
        (looks.get(), now.get())
    }

    const NEVER: Duration = Duration::MAX;

    /// Bug prevented: a bound on how often it is looked, when a look at three
    /// million blocks takes 78 ms: with a thread alive the program's end took 78 s.
    #[test]
    fn neither_slow_looks_nor_quick_ones_are_many_or_go_on_for_long() {
        for ms in [0, 1, 10, 78, 999, 1_000, 60_000] {
            let look = Duration::from_millis(ms);
            let (looks, time) = waited(look, NEVER);
            assert!(looks <= 30, "{looks} looks of {look:?}");
            // To the end, and the look that is under way then.
            assert!(time >= LONGEST && time < LONGEST + look + Duration::from_nanos(1));
        }
    }

    /// Bug prevented: a thread that has ended is waited for, or not to the end.
    #[test]
    fn it_ends_soon_after_what_is_waited_for() {
        let quick = Duration::from_micros(10);
        for ms in 0..990 {
            let gone = Duration::from_millis(ms);
            let (_, time) = waited(quick, gone);
            assert!(time >= gone && time <= gone + Duration::from_millis(51));
            // At first pauses are no longer than what was waited for already.
            assert!(time <= gone * 2 + Duration::from_millis(2), "{time:?}");
        }
        // The last look is at the end of the time and not a pause before.
        assert_eq!(waited(Duration::ZERO, LONGEST).1, LONGEST);
    }
}
