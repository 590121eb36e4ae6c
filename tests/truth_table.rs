//! The accounting truth table, row by row, over an inner allocator that fails
//! on demand.
//!
//! Bugs prevented: counting before the inner call or without looking for null
//! (failed requests are counted for ever); a failed `realloc` taken for a free
//! or forgotten although its block is still alive; `realloc` and `alloc_zeroed`
//! not forwarded.

#![allow(
    unsafe_code,
    reason = "calls the four functions of an allocator by hand"
)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
// Around every block: the compiler knows `malloc`, and takes it for granted where nothing is done
// with what it gives.
use std::hint::black_box;

use heapledger::{StatsDelta, TrackingAllocator};

thread_local! {
    /// The calls of this thread that the inner allocator has seen, and whether it refuses them.
    static SEEN: Cell<[u32; 4]> = const { Cell::new([0; 4]) };
    static REFUSE: Cell<bool> = const { Cell::new(false) };
}

/// Which of the four calls it was.
const ALLOC: usize = 0;
const ZEROED: usize = 1;
const DEALLOC: usize = 2;
const REALLOC: usize = 3;

/// An inner allocator that counts its calls and refuses them on demand.
struct Moody;

impl Moody {
    fn refuses(call: usize) -> bool {
        let _ = SEEN.try_with(|seen| {
            let mut counts = seen.get();
            counts[call] += 1;
            seen.set(counts);
        });
        call != DEALLOC && REFUSE.try_with(Cell::get).unwrap_or(false)
    }
}

// SAFETY: forwards to `System` or gives null, both of which the contract allows.
unsafe impl GlobalAlloc for Moody {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if Self::refuses(ALLOC) {
            return std::ptr::null_mut();
        }
        // SAFETY: the caller's contract is `System`'s.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if Self::refuses(ZEROED) {
            return std::ptr::null_mut();
        }
        // SAFETY: the caller's contract is `System`'s.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        Self::refuses(DEALLOC);
        // SAFETY: the caller's contract is `System`'s.
        unsafe { System.dealloc(block, layout) };
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        if Self::refuses(REALLOC) {
            return std::ptr::null_mut();
        }
        // SAFETY: the caller's contract is `System`'s.
        unsafe { System.realloc(block, layout, new_size) }
    }
}

#[global_allocator]
static HEAP: TrackingAllocator<Moody> = TrackingAllocator::over(Moody);

/// A block with its layout.
type Block = (*mut u8, Layout);

fn layout(size: usize) -> Layout {
    Layout::from_size_align(size, 8).expect("a small layout")
}

/// One row: an event on a block of `size` bytes, and what it must change.
struct Row {
    name: &'static str,
    /// The block to begin with, if any.
    size: usize,
    refuse: bool,
    event: fn(Option<Block>) -> Option<Block>,
    call: usize,
    expected: Expected,
}

#[derive(Debug, Default, PartialEq)]
struct Expected {
    allocations: u64,
    frees: u64,
    live_blocks: i64,
    allocated: u64,
    freed: u64,
    live: i64,
    reallocations: u64,
    failures: u64,
}

impl From<StatsDelta> for Expected {
    fn from(change: StatsDelta) -> Self {
        Self {
            allocations: change.allocations,
            frees: change.frees,
            live_blocks: change.live_blocks,
            allocated: change.allocated_bytes,
            freed: change.freed_bytes,
            live: change.live_bytes,
            reallocations: change.reallocations,
            failures: change.failures,
        }
    }
}

fn allocate(_: Option<Block>) -> Option<Block> {
    let layout = layout(100);
    // SAFETY: the layout is not empty.
    let block = black_box(unsafe { HEAP.alloc(layout) });
    (!block.is_null()).then_some((block, layout))
}

fn allocate_zeroed(_: Option<Block>) -> Option<Block> {
    let layout = layout(100);
    // SAFETY: the layout is not empty.
    let block = black_box(unsafe { HEAP.alloc_zeroed(layout) });
    (!block.is_null()).then_some((block, layout))
}

fn free(block: Option<Block>) -> Option<Block> {
    let (block, layout) = block.expect("a block to free");
    // SAFETY: the row's block, of this layout, not used again.
    unsafe { HEAP.dealloc(block, layout) };
    None
}

fn resize(block: Option<Block>, new: usize) -> Block {
    let (block, old) = block.expect("a block to resize");
    // SAFETY: the row's block, of this layout; `new` is not zero and small.
    let moved = black_box(unsafe { HEAP.realloc(block, old, new) });
    if moved.is_null() {
        (block, old)
    } else {
        (moved, layout(new))
    }
}

const NONE: Expected = Expected {
    allocations: 0,
    frees: 0,
    live_blocks: 0,
    allocated: 0,
    freed: 0,
    live: 0,
    reallocations: 0,
    failures: 0,
};

#[expect(clippy::too_many_lines, reason = "a table")]
fn rows() -> Vec<Row> {
    let gives = Expected {
        allocations: 1,
        live_blocks: 1,
        allocated: 100,
        live: 100,
        ..NONE
    };
    let refused = || Expected {
        failures: 1,
        ..NONE
    };
    vec![
        Row {
            name: "alloc gives a block",
            size: 0,
            refuse: false,
            event: allocate,
            call: ALLOC,
            expected: Expected { ..gives },
        },
        Row {
            name: "alloc_zeroed gives a block",
            size: 0,
            refuse: false,
            event: allocate_zeroed,
            call: ZEROED,
            expected: Expected { ..gives },
        },
        Row {
            name: "dealloc",
            size: 70,
            refuse: false,
            event: free,
            call: DEALLOC,
            expected: Expected {
                frees: 1,
                live_blocks: -1,
                freed: 70,
                live: -70,
                ..NONE
            },
        },
        Row {
            name: "realloc to a larger block",
            size: 70,
            refuse: false,
            event: |b| Some(resize(b, 5_000)),
            call: REALLOC,
            expected: Expected {
                allocated: 4_930,
                live: 4_930,
                reallocations: 1,
                ..NONE
            },
        },
        Row {
            name: "realloc to a smaller block",
            size: 5_000,
            refuse: false,
            event: |b| Some(resize(b, 70)),
            call: REALLOC,
            expected: Expected {
                freed: 4_930,
                live: -4_930,
                reallocations: 1,
                ..NONE
            },
        },
        Row {
            name: "realloc to the same size",
            size: 70,
            refuse: false,
            event: |b| Some(resize(b, 70)),
            call: REALLOC,
            expected: Expected {
                reallocations: 1,
                ..NONE
            },
        },
        Row {
            name: "alloc gives null",
            size: 0,
            refuse: true,
            event: allocate,
            call: ALLOC,
            expected: refused(),
        },
        Row {
            name: "alloc_zeroed gives null",
            size: 0,
            refuse: true,
            event: allocate_zeroed,
            call: ZEROED,
            expected: refused(),
        },
        Row {
            name: "realloc to a larger block gives null",
            size: 70,
            refuse: true,
            event: |b| Some(resize(b, 5_000)),
            call: REALLOC,
            expected: refused(),
        },
        Row {
            name: "realloc to a smaller block gives null",
            size: 5_000,
            refuse: true,
            event: |b| Some(resize(b, 70)),
            call: REALLOC,
            expected: refused(),
        },
    ]
}

#[test]
fn every_event_changes_the_books_as_the_table_says() {
    // The first question to the books makes a block of its own.
    assert!(heapledger::is_installed());
    for row in rows() {
        let mut block = (row.size > 0).then(|| {
            let layout = layout(row.size);
            // SAFETY: the layout is not empty.
            let block = black_box(unsafe { HEAP.alloc(layout) });
            assert!(!block.is_null());
            (block, layout)
        });
        SEEN.set([0; 4]);
        REFUSE.set(row.refuse);
        let before = heapledger::thread_stats();
        block = (row.event)(block);
        let after = heapledger::thread_stats();
        REFUSE.set(false);
        let mut calls = [0; 4];
        calls[row.call] = 1;
        assert_eq!(SEEN.get(), calls, "forwarded as it is: {}", row.name);
        assert_eq!(
            Expected::from(after.since(&before)),
            row.expected,
            "{}",
            row.name
        );
        if block.is_some() {
            free(block);
        }
    }
}

/// The same through the language: a refused `try_reserve` comes back to the
/// program, and its old block still holds what it held.
#[test]
fn a_refused_reserve_is_the_programs_to_handle() {
    let mut numbers: Vec<u64> = (0..100).collect();
    let before = heapledger::thread_stats();
    REFUSE.set(true);
    let refused = numbers.try_reserve(1_000);
    REFUSE.set(false);
    let change = heapledger::thread_stats().since(&before);
    assert!(refused.is_err());
    assert_eq!(numbers, (0..100).collect::<Vec<u64>>());
    let mut expected = StatsDelta::default();
    expected.failures = 1;
    assert_eq!(change, expected);
}

/// Bug prevented: layout arithmetic that overflows near `isize::MAX`.
#[test]
fn layouts_near_the_end_of_the_address_space_are_refused_and_counted() {
    let limit = isize::MAX.cast_unsigned();
    let mut failures = 0;
    let before = heapledger::thread_stats();
    for k in [0, 1, 7, 8, 15, 63, 64, 4_095, 65_536] {
        for align in [1usize, 8, 16, 64, 4_096] {
            let Ok(layout) = Layout::from_size_align(limit - k, align) else {
                continue;
            };
            for call in [GlobalAlloc::alloc, GlobalAlloc::alloc_zeroed] {
                // SAFETY: the layout is valid and not empty.
                let block = black_box(unsafe { call(&HEAP, layout) });
                assert!(block.is_null());
                failures += 1;
            }
            let small = Layout::from_size_align(16, align).expect("small");
            // SAFETY: the layout is not empty.
            let block = black_box(unsafe { HEAP.alloc(small) });
            assert!(!block.is_null());
            // SAFETY: the block just made; the new size rounded up to `align` fits an `isize`.
            let moved = black_box(unsafe { HEAP.realloc(block, small, layout.size()) });
            assert!(moved.is_null());
            failures += 1;
            // SAFETY: the refused realloc has left the block ours.
            unsafe { HEAP.dealloc(block, small) };
        }
    }
    let change = heapledger::thread_stats().since(&before);
    assert!(failures > 50);
    assert_eq!(change.failures, failures);
    assert_eq!(change.live_bytes, 0);
    assert_eq!(change.live_blocks, 0);
}
