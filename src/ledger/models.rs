//! Every interleaving of two small worlds, and of a broken twin of each that
//! the model must reject: a model that accepts everything proves nothing.
//!
//! ```text
//! RUSTFLAGS="--cfg loom" cargo test --release --lib models
//! ```

use core::cell::Cell;
use core::num::NonZeroU32;

use loom::sync::Arc;
use loom::thread;

use super::Books;
use super::figures::Figures;
use super::peak::{Era, HELD_BACK, Peak};
use super::registry::Registry;
use super::slot::Slot;
use super::trace::Request;
use crate::sync::{AtomicI64, AtomicU32, Ordering};

/// Books whose first two slots are owned and past their first, cold entry.
fn books() -> Arc<Books> {
    let books = Arc::new(Books::new());
    for slot in books.registry.slots() {
        assert!(Registry::take(slot));
        pass_first_entry(slot, &books.peak);
    }
    books
}

/// The first request, which is an event, whatever the owner did before.
fn pass_first_entry(slot: &Slot, peak: &Peak) {
    slot.grow(0, Request::Resize(0, 0), peak);
}

fn slot(books: &Books, index: usize) -> &Slot {
    books
        .registry
        .slots()
        .nth(index)
        .expect("a slot of the first chunk")
}

/// A slot that goes from thread to thread, for the models of what stands on the ledger.
#[derive(Debug)]
pub(crate) struct OneSlot {
    pub(crate) slot: Slot,
    peak: Peak,
}

impl OneSlot {
    /// One that is free, and past its first, cold entry.
    pub(crate) fn new() -> Self {
        let (slot, peak) = (Slot::new(), Peak::new());
        pass_first_entry(&slot, &peak);
        Self { slot, peak }
    }

    /// As a thread at its first entry, if the slot is free.
    pub(crate) fn begin(&self) -> bool {
        let is_taken = self.take();
        if is_taken {
            self.slot.begin();
        }
        is_taken
    }

    /// The same, without a look at where it begins.
    pub(crate) fn take(&self) -> bool {
        Registry::take(&self.slot)
    }

    /// As a thread that ends.
    pub(crate) fn end(&self) {
        self.slot.end(&self.peak);
        Registry::release(&self.slot);
    }

    /// As a thread that enters a scope.
    pub(crate) fn open_level(&self) -> (Figures, Option<NonZeroU32>) {
        self.slot.open_level(&self.peak)
    }
}

/// Hands a slot with one entry from a thread to the next by `release`, and gives
/// the entries that are on it when both have ended.
fn hand_over(release: fn(&Slot)) {
    loom::model(move || {
        let books = books();
        let first = {
            let books = Arc::clone(&books);
            thread::spawn(move || {
                assert!(slot(&books, 0).try_allocate(10));
                release(slot(&books, 0));
            })
        };
        let taken = Registry::take(slot(&books, 0));
        if taken {
            assert!(slot(&books, 0).try_allocate(10));
        }
        first.join().expect("the first owner");
        let entries = slot(&books, 0).allocations.read();
        assert_eq!(entries, if taken { 2 } else { 1 });
    });
}

#[test]
fn a_slot_changes_hands_without_losing_an_entry() {
    hand_over(Registry::release);
}

#[test]
#[should_panic(expected = "Causality violation")]
fn a_slot_given_back_without_release_is_rejected() {
    hand_over(|slot| {
        slot.state.fetch_add(1, Ordering::Relaxed);
    });
}

/// A thread ends in the middle of a visit; one looks by `close` how far it came, and
/// another takes the slot as soon as that can be.
fn end_in_a_visit(close: fn(&Slot) -> u64) {
    loom::model(move || {
        let books = books();
        let ending = {
            let books = Arc::clone(&books);
            thread::spawn(move || {
                slot(&books, 0).begin_visit();
                assert!(slot(&books, 0).try_allocate(10));
                Registry::release(slot(&books, 0));
            })
        };
        let looking = {
            let books = Arc::clone(&books);
            thread::spawn(move || {
                if slot(&books, 0).is_held() {
                    assert_eq!(close(slot(&books, 0)), 1, "allocations");
                }
            })
        };
        if Registry::take(slot(&books, 0)) {
            assert!(slot(&books, 0).try_allocate(10));
        }
        ending.join().expect("the owner");
        looking.join().expect("the one that looks");
    });
}

#[test]
fn nobody_takes_a_slot_before_those_who_hold_it_have_looked() {
    end_in_a_visit(|slot| {
        let allocations = slot.allocations.read();
        slot.let_go();
        allocations
    });
}

#[test]
#[should_panic(expected = "allocations")]
fn looking_at_a_slot_that_was_let_go_of_is_rejected() {
    end_in_a_visit(|slot| {
        slot.let_go();
        slot.allocations.read()
    });
}

/// One thread allocates a block, another frees it, a third reads the books.
fn read_while_a_block_changes_hands(live_bytes: fn(&Books) -> i64) {
    loom::model(move || {
        let books = books();
        let block = Arc::new(AtomicU32::new(0));
        let allocating = {
            let (books, block) = (Arc::clone(&books), Arc::clone(&block));
            thread::spawn(move || {
                assert!(slot(&books, 0).try_allocate(10));
                block.store(1, Ordering::Release);
            })
        };
        let freeing = {
            let (books, block) = (Arc::clone(&books), Arc::clone(&block));
            thread::spawn(move || {
                if block.load(Ordering::Acquire) == 1 {
                    assert!(slot(&books, 1).try_free(10));
                }
            })
        };
        let live = live_bytes(&books);
        assert!(live == 0 || live == 10, "live bytes: {live}");
        allocating.join().expect("the allocating thread");
        freeing.join().expect("the freeing thread");
    });
}

#[test]
fn live_never_underflows_when_the_freed_sides_are_read_first() {
    read_while_a_block_changes_hands(|books| books.read_entries(books.read_strikes()).total.net());
}

#[test]
#[should_panic(expected = "live bytes: -10")]
fn reading_the_allocated_sides_first_is_rejected() {
    read_while_a_block_changes_hands(|books| {
        let allocated: u64 = books.slots().map(|slot| slot.allocated_bytes.read()).sum();
        let freed: u64 = books.slots().map(|slot| slot.freed_bytes.read()).sum();
        allocated.wrapping_sub(freed).cast_signed()
    });
}

/// A reader adds up what is alive and offers it as a peak; another thread frees it and resets
/// the peak.
fn reset_beside_a_reader(offer: fn(&Peak, Era, i64)) {
    loom::model(move || {
        let (peak, live) = (Arc::new(Peak::new()), Arc::new(AtomicI64::new(10)));
        peak.publish(peak.era(), 10, 10);
        let reading = {
            let (peak, live) = (Arc::clone(&peak), Arc::clone(&live));
            thread::spawn(move || {
                let era = peak.era();
                let read = live.load(Ordering::Relaxed);
                offer(&peak, era, read);
            })
        };
        live.store(0, Ordering::Relaxed);
        peak.reset(|_| live.load(Ordering::Relaxed));
        reading.join().expect("the reader");
        assert_eq!(peak.high(), 0, "the peak");
    });
}

#[test]
fn what_was_read_before_a_reset_is_no_peak_after_it() {
    reset_beside_a_reader(|peak, era, read| {
        peak.raise(era, read);
    });
}

#[test]
#[should_panic(expected = "the peak")]
fn offering_it_in_whatever_era_it_is_is_rejected() {
    reset_beside_a_reader(|peak, _, read| {
        peak.raise(peak.era(), read);
    });
}

/// What a slot had at one moment of the reading: less what was freed meanwhile.
fn surely_alive(slot: &Slot) -> i64 {
    let freed = || slot.freed_bytes.read();
    let before = freed();
    let net = slot.figures().net();
    net - freed().wrapping_sub(before).cast_signed()
}

/// A thread frees a large block and another one resets the peak; then, if `more`, the first
/// makes another. What the reset has not seen must not come back, and what comes after it
/// must be there.
fn reset_beside_a_free(publish: fn(&Slot, &Peak), more: bool) {
    const BLOCK: u64 = 1 << 20;
    loom::model(move || {
        let books = books();
        slot(&books, 0).allocate(BLOCK, Request::Allocate(0), &books.peak);
        let freeing = {
            let books = Arc::clone(&books);
            thread::spawn(move || {
                let slot = slot(&books, 0);
                slot.freed_bytes.add(BLOCK);
                publish(slot, &books.peak);
                if more {
                    slot.allocate(2 * BLOCK, Request::Allocate(0), &books.peak);
                }
            })
        };
        let read = Cell::new(0);
        books.peak.reset(|_| {
            let sure = surely_alive(slot(&books, 0));
            read.set(read.get().max(sure));
            sure
        });
        freeing.join().expect("the freeing thread");
        let most = read
            .get()
            .max(if more { 2 * BLOCK.cast_signed() } else { 0 });
        let (high, held_back) = (books.peak.high(), HELD_BACK.cast_signed());
        assert!(high <= most + held_back, "the peak: {high} of {most}");
        assert!(
            !more || high >= most - held_back,
            "the peak: {high} of {most}"
        );
    });
}

#[test]
fn what_was_freed_before_a_reset_is_published_as_no_peak() {
    reset_beside_a_free(Slot::publish, false);
}

#[test]
fn what_comes_after_a_reset_is_published_as_a_peak() {
    reset_beside_a_free(Slot::publish, true);
}

/// Bug prevented: a block comes while the reset reads; it is no peak of the era that ends, so
/// nobody notes it, and the one that begins has not got it.
#[test]
fn what_comes_while_a_reset_reads_is_a_peak_after_it() {
    const BLOCK: u64 = 1 << 20;
    loom::model(|| {
        let books = books();
        slot(&books, 0).allocate(4 * BLOCK, Request::Allocate(0), &books.peak);
        slot(&books, 0).free(4 * BLOCK, &books.peak);
        let allocating = {
            let books = Arc::clone(&books);
            thread::spawn(move || {
                slot(&books, 0).allocate(BLOCK, Request::Allocate(0), &books.peak);
            })
        };
        books.peak.reset(|_| surely_alive(slot(&books, 0)));
        allocating.join().expect("the allocating thread");
        let (high, held_back) = (books.peak.high(), HELD_BACK.cast_signed());
        assert!(high >= BLOCK.cast_signed() - held_back, "the peak: {high}");
    });
}

#[test]
#[should_panic(expected = "the peak")]
fn publishing_what_was_marked_before_a_reset_is_rejected() {
    reset_beside_a_free(
        |slot, peak| {
            slot.has_published_in(peak.era());
            slot.publish(peak);
        },
        false,
    );
}

/// Calls everyone while the owner of a slot sets its mark; whatever the order,
/// the owner sees the setting that the call is about, or takes the cold path.
#[cfg(feature = "profile")]
fn call_while_arming(call: fn(&Books)) {
    loom::model(move || {
        let books = books();
        let setting = Arc::new(AtomicU32::new(0));
        let owner = {
            let (books, setting) = (Arc::clone(&books), Arc::clone(&setting));
            thread::spawn(move || {
                // Its event: it sets its mark, and then looks.
                slot(&books, 0).allocate(1, Request::Allocate(1), &books.peak);
                setting.load(Ordering::Relaxed) == 1
            })
        };
        setting.store(1, Ordering::Relaxed);
        call(&books);
        let has_seen = owner.join().expect("the owner");
        assert!(has_seen || !slot(&books, 0).try_allocate(1));
    });
}

/// Calls everyone while the owner of a slot has been told of an event and goes to rest;
/// whatever the order, it has seen what the call is about, or is told of its next event.
#[cfg(feature = "profile")]
fn call_while_going_to_rest(go_to_rest: fn(&Books, &AtomicU32) -> bool) {
    loom::model(move || {
        let books = books();
        let setting = Arc::new(AtomicU32::new(0));
        let owner = {
            let (books, setting) = (Arc::clone(&books), Arc::clone(&setting));
            thread::spawn(move || go_to_rest(&books, &setting))
        };
        setting.store(1, Ordering::Relaxed);
        super::everyone::EVERYONE.call(books.registry.slots().take(1));
        let has_seen = owner.join().expect("the owner");
        let slot = slot(&books, 0);
        assert!(has_seen || !(slot.try_allocate(1) || slot.rests(1)));
    });
}

/// Where a profile's next sample may lie: far away, so that the thread rests, or before
/// the next publication, so that it is due earlier.
#[cfg(feature = "profile")]
const FAR: u64 = 1 << 20;
#[cfg(feature = "profile")]
const NEAR: u64 = 1 << 10;

/// As a profile does it.
#[cfg(feature = "profile")]
fn ask_and_look<const AT: u64>(books: &Books, setting: &AtomicU32) -> bool {
    let calls = super::everyone::EVERYONE.calls();
    let has_seen = setting.load(Ordering::Relaxed) == 1;
    slot(books, 0).due_by(AT, 1 << 18, calls);
    has_seen
}

#[cfg(feature = "profile")]
fn look_and_ask<const AT: u64>(books: &Books, setting: &AtomicU32) -> bool {
    let has_seen = setting.load(Ordering::Relaxed) == 1;
    let calls = super::everyone::EVERYONE.calls();
    slot(books, 0).due_by(AT, 1 << 18, calls);
    has_seen
}

#[cfg(feature = "profile")]
#[test]
fn a_call_to_everyone_reaches_an_owner_that_goes_to_rest_meanwhile() {
    call_while_going_to_rest(ask_and_look::<FAR>);
    call_while_going_to_rest(ask_and_look::<NEAR>);
}

/// As [`ask_and_look`], and then it has an event. `rests` enters that, and says whether
/// the slot rests.
#[cfg(feature = "profile")]
fn rest_and_have_an_event(
    books: &Books,
    setting: &AtomicU32,
    rests: fn(&Books, &Slot) -> bool,
) -> bool {
    let has_seen = ask_and_look::<FAR>(books, setting);
    let slot = slot(books, 0);
    if slot.try_allocate(1) {
        return has_seen;
    }
    let rests = rests(books, slot);
    has_seen || !rests && setting.load(Ordering::Relaxed) == 1
}

#[cfg(feature = "profile")]
#[test]
fn a_call_to_everyone_reaches_an_owner_that_rests_and_has_an_event_meanwhile() {
    call_while_going_to_rest(|books, setting| {
        rest_and_have_an_event(books, setting, |books, slot| {
            slot.allocate(1, Request::Allocate(1), &books.peak);
            slot.rests(1)
        })
    });
}

#[cfg(feature = "profile")]
#[test]
#[should_panic(expected = "has_seen")]
fn who_looks_whether_it_rests_before_it_sets_its_mark_is_not_told_of_a_call() {
    call_while_going_to_rest(|books, setting| {
        rest_and_have_an_event(books, setting, |books, slot| {
            let rests = slot.rests(1);
            slot.allocate(1, Request::Allocate(1), &books.peak);
            rests
        })
    });
}

#[cfg(feature = "profile")]
#[test]
#[should_panic(expected = "has_seen")]
fn who_asks_about_calls_after_it_has_looked_is_not_told_of_one() {
    call_while_going_to_rest(look_and_ask::<FAR>);
}

#[cfg(feature = "profile")]
#[test]
#[should_panic(expected = "has_seen")]
fn who_asks_about_calls_after_it_has_looked_overwrites_one() {
    call_while_going_to_rest(look_and_ask::<NEAR>);
}

#[cfg(feature = "profile")]
#[test]
fn a_call_to_everyone_reaches_an_owner_that_sets_its_mark_meanwhile() {
    call_while_arming(|books| super::everyone::EVERYONE.call(books.registry.slots().take(2)));
}

#[cfg(feature = "profile")]
#[test]
#[should_panic(expected = "has_seen")]
fn a_call_that_only_lowers_the_marks_is_missed() {
    call_while_arming(|books| {
        for slot in books.registry.slots().take(2) {
            slot.interrupt();
        }
    });
}
