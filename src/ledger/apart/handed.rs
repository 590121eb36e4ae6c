//! What one thread that stands apart has allocated for another.

use core::ptr;

use crate::ledger::apart::{CAME, HERE, Here, WENT};
use crate::ledger::{self, Slot, thread};
use crate::sync::{Ordering, compiler_fence};

/// What a thread has that stands apart, for another to have.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Handed {
    told: i64,
    cached: i64,
}

/// What the calling thread has allocated apart is another's from now on, who
/// [takes it over](take_over). In between it stays apart.
pub(crate) fn hand_over() -> Handed {
    unseen(|here, slot| {
        let told = if ptr::eq(slot, ledger::shared()) {
            // What others do there is not ours.
            here.told.load(Ordering::Relaxed)
        } else {
            slot.own_net().wrapping_sub(here.since.get())
        };
        here.tell(told, || {});
        here.since.set(slot.own_net());
        here.told.store(0, Ordering::Relaxed);
        let cached = here.cached.replace(0);
        Handed { told, cached }
    })
    .unwrap_or_default()
}

/// The calling thread has this, as if it had allocated it itself.
pub(crate) fn take_over(handed: Handed) {
    let Handed { told, cached } = handed;
    let taken = unseen(|here, _| {
        here.since.set(here.since.get().wrapping_sub(told));
        here.told.fetch_add(told, Ordering::Relaxed);
        here.cached.set(here.cached.get().wrapping_add(cached));
    });
    // Who does not stand apart has a result, which is the program's.
    if taken.is_none() {
        let change = cached.wrapping_sub(told);
        let side = if change > 0 { &CAME } else { &WENT };
        // Release: whoever sees this sees the live figure of before.
        side.fetch_add(change.unsigned_abs(), Ordering::Release);
    }
}

/// Changes the figures of the calling thread, if it stands apart, and of the slot that it counts
/// on; a signal handler in between does not tell of them.
fn unseen<R>(change: impl FnOnce(&Here, &Slot) -> R) -> Option<R> {
    HERE.try_with(|here| {
        let at = here.slot.get();
        let slot = [thread::own(), Some(ledger::shared())];
        let slot = slot.into_iter().flatten().find(|slot| ptr::eq(*slot, at))?;
        // No slot's place, as in `step_back`.
        here.slot.set(ptr::dangling());
        compiler_fence(Ordering::SeqCst);
        let result = change(here, slot);
        compiler_fence(Ordering::SeqCst);
        here.slot.set(at);
        Some(result)
    })
    .ok()
    .flatten()
}

#[cfg(test)]
mod tests {
    use super::{hand_over, take_over};
    use crate::ledger::apart::{stand_apart, step_back};
    use crate::ledger::thread::{allocated_cold, freed_cold, publish_due};
    use crate::ledger::{live_as_published, own};

    /// More than all that other tests enter here.
    const MUCH: usize = 1 << 40;

    fn allocate(size: usize) {
        publish_due(allocated_cold(size));
    }

    /// The program's live bytes, in this unit.
    fn live() -> i64 {
        let half = MUCH.cast_signed() as i64 / 2;
        (live_as_published() + half).div_euclid(2 * half)
    }

    /// Bug prevented: what a thread has allocated for another's report is the program's, and its
    /// peak, until that other one frees it; or what is kept of it never is the program's.
    #[test]
    fn what_is_handed_over_stays_apart_until_whoever_has_it_steps_back() {
        assert!(own().is_some());
        let before = live();
        assert!(stand_apart());
        let other = std::thread::spawn(|| {
            assert!(stand_apart());
            allocate(3 * MUCH);
            let handed = hand_over();
            step_back();
            handed
        });
        let handed = other.join().expect("no panic");
        assert_eq!(live(), before);
        take_over(handed);
        assert_eq!(live(), before);
        freed_cold(MUCH);
        assert_eq!(live(), before);
        step_back();
        assert_eq!(live(), before + 2);
        // Nobody has it who does not stand apart.
        let other = std::thread::spawn(|| {
            assert!(stand_apart());
            allocate(MUCH);
            let handed = hand_over();
            step_back();
            handed
        });
        let handed = other.join().expect("no panic");
        assert_eq!(live(), before + 2);
        take_over(handed);
        assert_eq!(live(), before + 3);
        freed_cold(3 * MUCH);
        assert_eq!(live(), before);
    }
}
