//! Every interleaving of small worlds around one page, and of broken twins that
//! the model must reject: a model that accepts everything proves nothing.
//!
//! ```text
//! RUSTFLAGS="--cfg loom" cargo test --release --lib models
//! ```
//!
//! The checker keeps one last access to each cell, so a thread's own load before its
//! store hides that others have loaded the cell too, and the order in which the store
//! comes first would not be tried. So those who store are the first to be spawned: they
//! come first, and the checker lets each later load see the older values, too.

use core::mem::ManuallyDrop;
use core::num::NonZeroU32;

use loom::model::Builder;
use loom::thread;

use super::{CLOSING, NO_LEVEL, Page, Visit};
use crate::ledger::models::OneSlot;
use crate::ledger::{Figures, Slot};
use crate::sync::{Ordering, fence};

// Of one run. Never dropped: a run that is rejected leaves them behind when it is over, and then
// no atomic can be looked at. What is lost is the memory of the slot's levels.
loom::lazy_static! {
    static ref LEDGER: ManuallyDrop<OneSlot> = ManuallyDrop::new(OneSlot::new());
    static ref PAGE: ManuallyDrop<Page> = ManuallyDrop::new(Page::new(&LEDGER.slot));
}

/// The page, for as long as the run: all its threads have ended before.
fn page() -> &'static Page {
    &PAGE
}

/// All orders in which no more than so many times a thread is stopped that could go on.
fn model_with_stops(stops: usize, run: impl Fn() + Sync + Send + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound = Some(stops);
    builder.check(run);
}

fn allocate(bytes: u64) {
    assert!(LEDGER.slot.try_allocate(bytes));
}

fn enter() {
    enter_by(Page::open);
}

/// As [`Page::enter`] from outside.
fn enter_by(open: Open) {
    let (start, level) = LEDGER.open_level();
    open(page(), start, level);
}

/// What was allocated in the scope, in bytes and in blocks.
fn allocated(done: &Figures) -> (u64, u64) {
    (done.allocated_bytes, done.allocations)
}

// --- one that reads beside the owner
//
// Who reads stores nothing, so the owner does not depend on it: it reads when the owner is
// through, and the checker tries each value that it can then see. No other order has more.

type Open = fn(&Page, Figures, Option<NonZeroU32>);

/// How an owner and a reader do their part.
#[derive(Clone, Copy)]
struct Doing {
    open: Open,
    leave: fn(&Page),
    read: fn(&Page) -> Visit,
}

/// As it is.
const RIGHT: Doing = Doing {
    open: Page::open,
    leave: Page::leave,
    read: |page| page.read(None),
};

/// As [`Page::read`], but for the ordering of the first load, and what is before the second.
fn read_by_hand(page: &Page, first: Ordering, between: fn()) -> Visit {
    loop {
        let turn = page.turn.load(first);
        let visit = if turn.is_multiple_of(2) {
            page.read_closed()
        } else {
            page.read_open(false)
        };
        between();
        if page.turn.load(Ordering::Relaxed) == turn {
            return visit;
        }
    }
}

/// As [`Page::open`], but for what is before the stores, and the ordering of the last one.
fn open_by_hand(page: &Page, start: Figures, before: fn(), last: Ordering) {
    page.slot.begin_visit();
    let turn = page.turn.load(Ordering::Relaxed);
    before();
    page.start.set(&start);
    page.base.set(&start.since(&page.sum.get()));
    page.level.store(NO_LEVEL, Ordering::Relaxed);
    page.depth.store(1, Ordering::Relaxed);
    page.turn.store(turn + 1, last);
}

/// As [`Page::leave`], but for what is before the stores, and the ordering of the last one.
fn leave_by_hand(page: &Page, before: fn(), last: Ordering) {
    let turn = page.turn.load(Ordering::Relaxed);
    let visit = page.visit(&page.slot.figures(), None);
    before();
    page.sum.set(&visit.done);
    page.peak.store(visit.peak, Ordering::Relaxed);
    page.depth.store(0, Ordering::Relaxed);
    page.turn.store(turn + 1, last);
    page.slot.end_visit();
}

fn release() {
    fence(Ordering::Release);
}

fn acquire() {
    fence(Ordering::Acquire);
}

fn nothing() {}

/// The owner of an open page leaves, allocates outside, and enters again.
fn read_while_an_open_turn_ends(doing: Doing) {
    model_with_stops(0, move || {
        assert!(LEDGER.begin());
        allocate(100);
        enter();
        allocate(10);
        let reading = thread::spawn(move || (doing.read)(page()));
        (doing.leave)(page());
        allocate(1_000);
        enter_by(doing.open);
        let visit = reading.join().expect("who reads");
        assert_eq!(allocated(&visit.done), (10, 1), "no moment");
        assert_eq!(visit.peak, 10, "peak");
    });
}

#[test]
fn who_reads_an_open_turn_that_ends_sees_one_moment() {
    read_while_an_open_turn_ends(RIGHT);
}

#[test]
#[should_panic(expected = "no moment")]
fn reading_the_turn_without_acquire_is_rejected() {
    read_while_an_open_turn_ends(Doing {
        read: |page| read_by_hand(page, Ordering::Relaxed, acquire),
        ..RIGHT
    });
}

#[test]
#[should_panic(expected = "no moment")]
fn reading_the_turn_again_without_a_fence_is_rejected() {
    read_while_an_open_turn_ends(Doing {
        read: |page| read_by_hand(page, Ordering::Acquire, nothing),
        ..RIGHT
    });
}

#[test]
#[should_panic(expected = "no moment")]
fn opening_without_a_fence_is_rejected() {
    read_while_an_open_turn_ends(Doing {
        open: |page, start, _| open_by_hand(page, start, nothing, Ordering::Release),
        ..RIGHT
    });
}

#[test]
#[should_panic(expected = "no moment")]
fn opening_without_release_is_rejected() {
    read_while_an_open_turn_ends(Doing {
        open: |page, start, _| open_by_hand(page, start, release, Ordering::Relaxed),
        ..RIGHT
    });
}

#[test]
#[should_panic(expected = "no moment")]
fn closing_without_release_is_rejected() {
    read_while_an_open_turn_ends(Doing {
        leave: |page| leave_by_hand(page, release, Ordering::Relaxed),
        ..RIGHT
    });
}

/// The owner carries a scope that has begun before, and leaves it.
fn read_while_a_closed_turn_ends(doing: Doing) {
    model_with_stops(0, move || {
        assert!(LEDGER.begin());
        allocate(100);
        let (start, level) = LEDGER.open_level();
        allocate(10);
        let reading = thread::spawn(move || (doing.read)(page()));
        (doing.open)(page(), start, level);
        (doing.leave)(page());
        let visit = reading.join().expect("who reads");
        let seen = (allocated(&visit.done), visit.peak);
        let is_moment = seen == ((0, 0), 0) || seen == ((10, 1), 10);
        assert!(is_moment, "no moment: {seen:?}");
    });
}

#[test]
fn who_reads_a_closed_turn_that_ends_sees_one_moment() {
    read_while_a_closed_turn_ends(RIGHT);
}

/// So that the twins are rejected for what they do otherwise.
#[test]
fn opening_and_leaving_and_reading_by_hand_are_accepted() {
    read_while_a_closed_turn_ends(Doing {
        open: |page, start, _| open_by_hand(page, start, release, Ordering::Release),
        leave: |page| leave_by_hand(page, release, Ordering::Release),
        read: |page| read_by_hand(page, Ordering::Acquire, acquire),
    });
}

#[test]
#[should_panic(expected = "no moment")]
fn reading_a_closed_turn_again_without_a_fence_is_rejected() {
    read_while_a_closed_turn_ends(Doing {
        read: |page| read_by_hand(page, Ordering::Acquire, nothing),
        ..RIGHT
    });
}

#[test]
#[should_panic(expected = "no moment")]
fn closing_without_a_fence_is_rejected() {
    read_while_a_closed_turn_ends(Doing {
        leave: |page| leave_by_hand(page, nothing, Ordering::Release),
        ..RIGHT
    });
}

/// The owner enters, allocates a block and frees it, and leaves.
fn read_during_a_visit(doing: Doing) {
    model_with_stops(0, move || {
        assert!(LEDGER.begin());
        allocate(100);
        let reading = thread::spawn(move || (doing.read)(page()));
        enter_by(doing.open);
        allocate(10);
        assert!(LEDGER.slot.try_free(10));
        (doing.leave)(page());
        let visit = reading.join().expect("who reads");
        // An open visit is read figure by figure, but the freed side first.
        let done = &visit.done;
        let (bytes, blocks) = allocated(done);
        let is_moment = [bytes, done.freed_bytes]
            .iter()
            .all(|bytes| [0, 10].contains(bytes))
            && (done.freed_bytes <= bytes && done.frees <= blocks && blocks <= 1);
        assert!(is_moment, "no moment: {done:?}");
        assert!([0, 10].contains(&visit.peak), "peak: {}", visit.peak);
    });
}

#[test]
fn who_reads_during_a_visit_sees_what_it_has_come_to() {
    read_during_a_visit(RIGHT);
}

#[test]
#[should_panic(expected = "no moment")]
fn reading_a_visit_without_a_second_look_at_the_turn_is_rejected() {
    read_during_a_visit(Doing {
        read: |page| match page.turn.load(Ordering::Acquire) {
            turn if turn.is_multiple_of(2) => page.read_closed(),
            _ => page.read_open(false),
        },
        ..RIGHT
    });
}

// --- a thread that ends in a visit

/// How others close what it has left open.
#[derive(Clone, Copy)]
struct Closing {
    /// Of the first load of the turn.
    first: Ordering,
    is_held: fn(&Slot) -> bool,
    mark: fn(&Page, u64) -> bool,
    finish: fn(&Page, u64, Option<i64>),
}

impl Closing {
    /// As it is.
    const RIGHT: Self = Self {
        first: Ordering::Acquire,
        is_held: Slot::is_held,
        mark: |page, turn| {
            page.turn
                .compare_exchange(turn, turn | CLOSING, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
        },
        finish: |page, turn, high| {
            page.end(turn, high);
            page.slot.let_go();
        },
    };

    /// As [`Page::close_if_held`].
    fn by_hand(self, page: &Page) {
        let turn = page.turn.load(self.first);
        if turn.is_multiple_of(2) || turn & CLOSING != 0 || !(self.is_held)(page.slot) {
            return;
        }
        if (self.mark)(page, turn) {
            let level = page.level.load(Ordering::Relaxed);
            let high = (level != NO_LEVEL).then(|| page.slot.level_high(level));
            (self.finish)(page, turn, high);
        }
    }
}

/// As the next owner of the slot, if it can be had, outside the scope. It does not look where
/// it begins: that would be a load before its store, as the module's text has it.
fn take_and_allocate() {
    if LEDGER.take() {
        allocate(1_000);
    }
}

/// What all have come to.
fn assert_closed(turn: u64, sum: (u64, u64)) {
    assert_eq!(page().turn.load(Ordering::Relaxed), turn, "turns");
    assert_eq!(allocated(&page().sum.get()), sum, "sum");
    let state = LEDGER.slot.state.load(Ordering::Relaxed);
    assert_eq!(state / Slot::HOLD, 0, "holds");
}

/// Two close it by `close`, and another takes the slot as soon as that can be.
fn end_in_a_visit(close: impl Fn(&Page) + Copy + Send + Sync + 'static) {
    loom::model(move || {
        assert!(LEDGER.begin());
        enter();
        allocate(10);
        let closing = [(); 2].map(|()| thread::spawn(move || close(page())));
        let taking = thread::spawn(take_and_allocate);
        LEDGER.end();
        for thread in closing.into_iter().chain([taking]) {
            thread.join().expect("another thread");
        }
        // If both were there too early.
        page().close_if_held();
        assert_closed(2, (10, 1));
    });
}

#[test]
fn a_visit_that_its_thread_has_ended_in_is_closed_once() {
    end_in_a_visit(Page::close_if_held);
}

#[test]
#[should_panic(expected = "holds")]
fn a_mark_that_two_can_set_is_rejected() {
    let store = |page: &Page, turn| {
        page.turn.store(turn | CLOSING, Ordering::Relaxed);
        true
    };
    let closing = Closing {
        mark: store,
        ..Closing::RIGHT
    };
    end_in_a_visit(move |page| closing.by_hand(page));
}

#[test]
#[should_panic(expected = "sum")]
fn letting_go_before_the_turn_is_ended_is_rejected() {
    let closing = Closing {
        finish: |page, turn, high| {
            page.slot.let_go();
            page.end(turn, high);
        },
        ..Closing::RIGHT
    };
    end_in_a_visit(move |page| closing.by_hand(page));
}

#[test]
#[should_panic(expected = "Causality violation")]
fn closing_a_visit_that_was_seen_to_be_held_without_acquire_is_rejected() {
    let closing = Closing {
        is_held: |slot| {
            let state = slot.state.load(Ordering::Relaxed);
            state.is_multiple_of(2) && state >= Slot::HOLD
        },
        ..Closing::RIGHT
    };
    end_in_a_visit(move |page| closing.by_hand(page));
}

/// One closes it by `close`, the next owner takes the slot as soon as that can be, and a third
/// reads. All orders would be too many here.
fn read_while_the_slot_changes_hands(close: impl Fn(&Page) + Copy + Send + Sync + 'static) {
    model_with_stops(3, move || {
        assert!(LEDGER.begin());
        enter();
        allocate(10);
        let closing = thread::spawn(move || close(page()));
        let taking = thread::spawn(take_and_allocate);
        let reading = thread::spawn(|| page().read(None));
        LEDGER.end();
        closing.join().expect("who closes");
        taking.join().expect("the next owner");
        let visit = reading.join().expect("who reads");
        assert_eq!(allocated(&visit.done), (10, 1), "no moment");
    });
}

#[test]
fn what_the_next_owner_does_is_not_seen_in_the_last_ones_visit() {
    read_while_the_slot_changes_hands(Page::close_if_held);
}

#[test]
#[should_panic(expected = "no moment")]
fn letting_go_without_release_is_rejected() {
    let closing = Closing {
        finish: |page, turn, high| {
            page.end(turn, high);
            page.slot.state.fetch_sub(Slot::HOLD, Ordering::Relaxed);
        },
        ..Closing::RIGHT
    };
    read_while_the_slot_changes_hands(move |page| closing.by_hand(page));
}

/// The thread itself sees to it that the slot is free, and its next owner enters; another
/// comes meanwhile and closes by `close` what it finds.
fn come_late(close: impl Fn(&Page) + Copy + Send + Sync + 'static, next_ends: bool) {
    loom::model(move || {
        assert!(LEDGER.begin());
        enter();
        allocate(10);
        let late = thread::spawn(move || close(page()));
        LEDGER.end();
        page().close_if_held();
        let is_next = LEDGER.begin();
        if is_next {
            enter();
            allocate(5);
        }
        if is_next && next_ends {
            LEDGER.end();
        }
        late.join().expect("who comes late");
        if is_next && !next_ends {
            assert_eq!(page().turn.load(Ordering::Relaxed), 3, "turns");
            page().leave();
            LEDGER.end();
        }
        page().close_if_held();
        if is_next {
            assert_closed(4, (15, 2));
        } else {
            assert_closed(2, (10, 1));
        }
    });
}

#[test]
fn who_comes_late_does_not_close_what_the_next_owner_is_in() {
    come_late(Page::close_if_held, false);
}

#[test]
fn who_comes_late_closes_what_the_next_owner_has_ended_in() {
    come_late(Page::close_if_held, true);
}

/// So that the twins are rejected for what they do otherwise.
#[test]
fn closing_by_hand_is_accepted() {
    come_late(|page| Closing::RIGHT.by_hand(page), false);
}

#[test]
#[should_panic(expected = "Causality violation")]
fn closing_a_turn_that_was_read_without_acquire_is_rejected() {
    let closing = Closing {
        first: Ordering::Relaxed,
        ..Closing::RIGHT
    };
    come_late(move |page| closing.by_hand(page), false);
}

/// The last handle goes with a page by `forget`, while its thread ends.
fn forget_a_page(forget: fn(Page)) {
    loom::model(move || {
        let page = Page::new(&LEDGER.slot);
        assert!(LEDGER.begin());
        let (start, level) = LEDGER.open_level();
        page.open(start, level);
        let ending = thread::spawn(|| LEDGER.end());
        forget(page);
        ending.join().expect("the owner");
        assert!(LEDGER.begin(), "held for ever");
    });
}

#[test]
fn a_page_that_is_forgotten_lets_go_of_the_slot() {
    forget_a_page(drop);
}

#[test]
#[should_panic(expected = "held for ever")]
fn letting_go_only_of_what_is_held_already_is_rejected() {
    forget_a_page(|page| {
        let page = ManuallyDrop::new(page);
        if page.slot.is_held() {
            page.slot.let_go();
        }
    });
}
