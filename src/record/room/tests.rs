//! A room of its own for each test.

use core::ptr::{null_mut, without_provenance_mut};
use std::collections::BTreeSet;

use super::{FIRST, LARGEST, LONGEST, Number, Ordering, RANGES, Room, SMALLEST, UNIT, units_of};
use crate::record::look::Look;
use crate::record::zone::scarcity;

fn room() -> Room {
    Room::new(Box::leak(Box::new(Look::new())))
}

fn original(n: usize) -> *mut u8 {
    without_provenance_mut(n)
}

fn give_back(room: &Room, block: *mut u8) {
    // SAFETY: the tests use what is in it no more.
    unsafe { room.give_back(block) };
}

/// The first address of each unit of a run.
fn units(block: *mut u8, size: usize) -> impl Iterator<Item = usize> {
    (0..size.div_ceil(UNIT)).map(move |unit| block.addr() + unit * UNIT)
}

/// Bug prevented: two blocks in one place.
#[test]
fn no_unit_is_lent_twice_however_long_the_runs_and_in_whatever_order() {
    let room = room();
    let mut taken = BTreeSet::new();
    let mut out = Vec::new();
    for step in 0..20_000_usize {
        if step % 3 == 2 {
            let (block, size, n) = out.swap_remove(step * 7 % out.len());
            assert_eq!(room.original(block), Some(original(n)));
            give_back(&room, block);
            assert!(units(block, size).all(|unit| taken.remove(&unit)));
        } else {
            let size = step * 37 % (LONGEST * UNIT) + 1;
            let block = room.take(size, original(step));
            assert!(!block.is_null() && block.addr().is_multiple_of(UNIT));
            assert!(units(block, size).all(|unit| taken.insert(unit)));
            out.push((block, size, step));
        }
    }
    assert_eq!(room.lent() as usize, out.len());
}

/// Bug prevented: memory that grows with the samples there ever were.
#[test]
fn what_comes_back_goes_out_again_before_anything_fresh() {
    let room = room();
    for size in [1, UNIT, UNIT + 1, LONGEST * UNIT] {
        let first = room.take(size, original(1));
        let second = room.take(size, original(2));
        give_back(&room, first);
        give_back(&room, second);
        for _ in 0..1_000 {
            let block = room.take(size, original(3));
            assert_eq!(block, second);
            give_back(&room, block);
        }
    }
    assert_eq!(room.lent(), 0);
}

/// Bug prevented: the shift that doubles ranges runs out of bits, and half way
/// they begin again with the smallest.
#[test]
fn no_range_is_smaller_than_the_last() {
    let units: Vec<_> = (0..RANGES).map(units_of).collect();
    assert_eq!(units.first(), Some(&FIRST));
    assert!(units.is_sorted());
    assert_eq!(units.last(), Some(&LARGEST));
}

/// Bug prevented: nobody looks up what is freed in the second range.
#[test]
fn it_grows_when_a_range_is_full() {
    let room = room();
    room.look.look_for_samples();
    room.look.watch_frees(false);
    let size = LONGEST * UNIT;
    // 128 MiB, and 256 more, of which nothing is touched.
    let blocks: BTreeSet<_> = (0..9_000)
        .map(|n| room.take(size, original(n)))
        .inspect(|&block| assert!(room.look.looks_at(block)))
        .map(<*mut u8>::addr)
        .collect();
    assert_eq!(blocks.len(), 9_000);
    let mut blocks = blocks.into_iter();
    let mut last = blocks.next().expect("nine thousand");
    for block in blocks {
        assert!(block - last >= size);
        last = block;
    }
}

/// Bug prevented: the first places are where many bits are set, and nothing tells them
/// from what lies elsewhere.
#[test]
fn what_differs_from_the_first_places_by_more_than_their_size_is_not_looked_at() {
    let room = room();
    room.look.look_for_samples();
    room.look.watch_frees(false);
    let block = room.take(1, original(1));
    for bit in 18..26 {
        assert!(!room.look.looks_at(original(block.addr() ^ 1 << bit)));
    }
}

/// Bug prevented: a run is lent where nobody looks, as that could not be changed; or all
/// ranges are used up by trying.
#[test]
fn what_would_not_be_looked_at_is_not_lent() {
    let room = room();
    let take = || room.take(100, original(1));
    room.look
        .held(|| assert!((0..100).all(|_| take().is_null())));
    assert_eq!((room.lent(), room.ranges[1].len()), (0, 0));
    assert!(!take().is_null());
}

/// Bug prevented: after the last unit of a full range comes the next range's first, which
/// nobody looks at yet.
#[test]
fn what_follows_the_end_of_a_full_range_is_not_lent() {
    let room = room();
    room.look.look_for_samples();
    room.look.watch_frees(false);
    let fresh = || Number(room.fresh.load(Ordering::Relaxed));
    // The first range of as many units as can be numbered, to its last one.
    let at = (0..RANGES)
        .find(|&at| units_of(at) == LARGEST)
        .expect("one");
    let take = |units| room.take(units * UNIT, original(1));
    assert!(!take(1).is_null());
    while fresh().range() <= at {
        let left = room.left_from(fresh()) as usize;
        assert!(!take(left.clamp(1, LONGEST)).is_null());
    }
    assert_eq!(fresh(), Number::new(at + 1, 0));
    let next = &room.ranges[at + 1];
    assert!(next.plots(LARGEST).is_some_and(|plots| next.open(plots)));
    room.look.held(|| assert!(take(1).is_null()));
    let block = take(1);
    assert!(room.look.looks_at(block) && room.ranges[at + 1].place(0).addr() != block.addr());
}

#[test]
fn what_is_not_in_it_is_told_from_what_is() {
    let room = room();
    assert!(!room.holds(null_mut()) && !room.holds(original(UNIT)));
    let block = room.take(100, original(1));
    assert!(room.holds(block) && !room.holds(block.wrapping_add(16)));
    let place = Box::new(0_u64);
    let foreign = (&raw const *place).cast_mut().cast();
    assert!(!room.holds(foreign) && !room.reuse(foreign, 8, block));
    give_back(&room, foreign);
    assert_eq!((room.original(foreign), room.lent()), (None, 1));
    assert!(room.take(LONGEST * UNIT + 1, original(2)).is_null());
    assert!(room.take(0, original(2)).is_null());
}

/// Bug prevented: a program that frees a block twice gets one place for two.
#[test]
fn what_is_given_back_twice_is_taken_back_once() {
    let room = room();
    let block = room.take(100, original(1));
    give_back(&room, block);
    give_back(&room, block);
    assert_eq!(room.original(block), None);
    let (one, other) = (room.take(100, block), room.take(100, block));
    assert!(one == block && other != block);
}

#[test]
fn a_run_stays_for_sizes_that_take_as_many_units() {
    let room = room();
    let block = room.take(UNIT + 1, original(1));
    assert!(room.reuse(block, 2 * UNIT, original(2)));
    assert_eq!(room.original(block), Some(original(2)));
    assert!(!room.reuse(block, UNIT, original(3)));
    assert!(!room.reuse(block, 2 * UNIT + 1, original(3)));
    assert_eq!(room.original(block), Some(original(2)));
}

#[test]
fn a_system_without_memory_is_asked_again_later() {
    let room = room();
    // None; only for the links; and none for the program.
    for granted in [0, 1, 2] {
        scarcity::after(granted, || {
            assert!(!room.open() && room.take(100, original(1)).is_null());
        });
    }
    assert!(room.open() && !room.take(100, original(1)).is_null());
}

/// Bug prevented: a range whose links came when memory was scarce, and its
/// units later, has units that can never be lent.
#[test]
fn a_range_has_no_more_units_than_links() {
    let room = room();
    let first = room.ranges.first().expect("there are some");
    let plot = first.links.plot(SMALLEST as usize);
    assert!(plot.is_some_and(|plot| first.links.open(plot)));
    let longest = SMALLEST as usize / LONGEST;
    for n in 0..3 * longest {
        let block = room.take(LONGEST * UNIT, original(n));
        assert!(!block.is_null(), "{n}");
        assert_eq!(room.original(block), Some(original(n)));
    }
}

/// Bug prevented: a thread that a fork has left behind was changing a list,
/// and the child goes on with half of the change.
#[test]
fn after_a_fork_nothing_idle_is_trusted_and_what_is_out_comes_back() {
    let room = room();
    let (out, idle) = (room.take(100, original(1)), room.take(100, original(2)));
    give_back(&room, idle);
    room.lock.abandon();
    let next = room.take(100, original(3));
    assert!(next != out && next != idle);
    give_back(&room, out);
    assert_eq!(room.take(100, original(4)), out);
}

/// Bug prevented: a signal handler that forks in the middle of a `take` is lent,
/// in the child, the place that its thread is just about to be lent.
#[test]
fn after_a_fork_in_the_middle_of_a_take_nothing_is_lent_before_that_is_done() {
    let room = room();
    let out = room.take(100, original(1));
    room.lock.keep_across_a_fork();
    assert!(room.take(100, original(2)).is_null());
    // Lost.
    give_back(&room, out);
    room.lock.release();
    let next = room.take(100, original(3));
    assert!(!next.is_null() && next != out);
}

#[test]
fn threads_that_take_and_give_back_leave_it_balanced() {
    let room = room();
    std::thread::scope(|scope| {
        for thread in 0..3 {
            let room = &room;
            scope.spawn(move || {
                for step in 0..20_000_usize {
                    let size = (step + thread) * 97 % 9_000 + 1;
                    let block = room.take(size, original(step));
                    // SAFETY: the run has so many bytes, and is this thread's.
                    unsafe { block.write(u8::try_from(thread).expect("three")) };
                    core::hint::black_box(block);
                    // SAFETY: as above.
                    assert_eq!(usize::from(unsafe { block.read() }), thread);
                    assert_eq!(room.original(block), Some(original(step)));
                    give_back(room, block);
                }
            });
        }
    });
    assert_eq!(room.lent(), 0);
}
