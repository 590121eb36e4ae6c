//! Profiles where the ground shakes: no memory, threads that end, forks,
//! signals, stacks too deep and too small, and profiles that come and go in
//! the middle of it all.
#![cfg(all(target_os = "linux", feature = "profile"))]
#![allow(
    unsafe_code,
    reason = "asks the allocator directly, forks, raises signals, as C does"
)]

#[path = "support/hostile.rs"]
mod hostile;
#[path = "support/signal.rs"]
mod signal;
mod support;

use std::alloc::{GlobalAlloc, Layout, alloc, alloc_zeroed, dealloc, realloc};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::hint::black_box;
use std::mem::forget;
use std::process::ExitCode;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::thread;

use heapledger::__private::profile::{refuse_stand_ins, set_dense_below, stand_ins};
use heapledger::__private::unwind::{self, Method};
use heapledger::{Profiler, TrackingAllocator, leaks};
use hostile::{run_on_a_stack_of, unwind, with_another_stack};

#[path = "fixtures/strict.rs"]
mod strict;

#[global_allocator]
static HEAP: TrackingAllocator<Hostile> = TrackingAllocator::over(Hostile);

/// `Strict`, which aborts when a layout is not the block's own; it refuses what
/// the case tells it to, and may be told to be safe inside of signal handlers.
struct Hostile;

/// One in so many requests is refused; 0 for none.
static REFUSED: AtomicU32 = AtomicU32::new(0);
static ASKED: AtomicU32 = AtomicU32::new(0);
/// Bytes that `Hostile` has given out and not got back, as it was told each time.
static GIVEN: AtomicU64 = AtomicU64::new(0);

/// Where blocks come from while a handler may ask at any moment: they are only
/// ever given out.
static ONE_WAY: AtomicUsize = AtomicUsize::new(0);
static ONE_WAY_END: AtomicUsize = AtomicUsize::new(0);
static ONE_WAY_START: AtomicUsize = AtomicUsize::new(0);
const ONE_WAY_BYTES: usize = 8 << 30;

impl Hostile {
    fn refuses() -> bool {
        let Some(share) = 0x1_0000_u32.checked_div(REFUSED.load(Ordering::Relaxed)) else {
            return false;
        };
        let asked = ASKED.fetch_add(1, Ordering::Relaxed);
        asked.wrapping_mul(0x9e37_79b9) >> 16 & 0xffff < share
    }

    fn given(block: *mut u8, size: usize) -> *mut u8 {
        if !block.is_null() {
            GIVEN.fetch_add(size as u64, Ordering::Relaxed);
        }
        block
    }

    fn came_back(size: usize) {
        GIVEN.fetch_sub(size as u64, Ordering::Relaxed);
    }

    fn one_way(layout: Layout) -> Option<*mut u8> {
        if ONE_WAY_END.load(Ordering::Relaxed) == 0 {
            return None;
        }
        let size = layout.size().next_multiple_of(16) + layout.align();
        let at = ONE_WAY.fetch_add(size, Ordering::Relaxed);
        assert!(at + size < ONE_WAY_END.load(Ordering::Relaxed));
        let at = at.next_multiple_of(layout.align());
        Some(std::ptr::with_exposed_provenance_mut(at))
    }

    fn is_one_way(block: *mut u8) -> bool {
        let start = ONE_WAY_START.load(Ordering::Relaxed);
        start != 0 && (start..ONE_WAY_END.load(Ordering::Relaxed)).contains(&block.addr())
    }

    /// From now on, for ever.
    fn go_one_way() {
        // SAFETY: asks for a range of addresses of its own.
        let range = unsafe {
            libc::mmap(
                null_mut(),
                ONE_WAY_BYTES,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        assert_ne!(range, libc::MAP_FAILED);
        let start = range.expose_provenance();
        ONE_WAY.store(start, Ordering::Relaxed);
        ONE_WAY_START.store(start, Ordering::Relaxed);
        ONE_WAY_END.store(start + ONE_WAY_BYTES, Ordering::Relaxed);
    }
}

// SAFETY: blocks come from `Strict`, or are disjoint parts of a fresh range that is never reused.
unsafe impl GlobalAlloc for Hostile {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if Self::refuses() {
            return null_mut();
        }
        let block = match Self::one_way(layout) {
            Some(block) => block,
            // SAFETY: passed on.
            None => unsafe { strict::Strict.alloc(layout) },
        };
        Self::given(block, layout.size())
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if Self::refuses() {
            return null_mut();
        }
        let block = match Self::one_way(layout) {
            Some(block) => block,
            // SAFETY: passed on.
            None => unsafe { strict::Strict.alloc_zeroed(layout) },
        };
        Self::given(block, layout.size())
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        Self::came_back(layout.size());
        if !Self::is_one_way(block) {
            // SAFETY: not from the range, so from `Strict`.
            unsafe { strict::Strict.dealloc(block, layout) };
        }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        if Self::refuses() {
            return null_mut();
        }
        if !Self::is_one_way(block) && ONE_WAY_END.load(Ordering::Relaxed) == 0 {
            // SAFETY: passed on.
            let new = unsafe { strict::Strict.realloc(block, layout, new_size) };
            if !new.is_null() {
                Self::came_back(layout.size());
            }
            return Self::given(new, new_size);
        }
        let wanted = Layout::from_size_align(new_size, layout.align()).expect("a layout");
        // SAFETY: not empty, says the caller.
        let new = unsafe { self.alloc(wanted) };
        if !new.is_null() {
            // SAFETY: both have so many bytes.
            unsafe { std::ptr::copy_nonoverlapping(block, new, layout.size().min(new_size)) };
            // SAFETY: the caller's block.
            unsafe { self.dealloc(block, layout) };
        }
        new
    }
}

fn main() -> ExitCode {
    support::main(cases![
        what_is_refused_leaves_every_block_with_its_own_layout,
        samples_without_memory_are_counted_as_missing,
        an_interval_that_nobody_reaches_has_no_samples,
        the_inner_allocator_gets_back_what_it_gave_and_stand_ins_come_back,
        stand_ins_that_are_refused_and_granted_by_turns_change_nothing_for_the_program,
        each_of_two_inner_allocators_gets_back_what_it_gave,
        no_record_survives_its_profile,
        the_child_of_a_fork_goes_on_with_the_profile,
        signal_handlers_may_allocate_in_the_middle_of_everything,
        what_threads_do_in_their_last_moments_is_counted_or_missing,
        threads_that_change_hands_are_seen_with_their_own_figures,
        samples_are_taken_while_threads_unwind_and_libraries_come_and_go,
        samples_on_the_smallest_stacks_are_taken,
        samples_a_hundred_thousand_calls_deep_are_taken,
        samples_on_another_stack_are_taken,
    ])
}

fn sampled(interval: u64) -> Profiler {
    // Samples closer than others would take them: with all that is special about samples.
    set_dense_below(0);
    Profiler::builder()
        .sample_every(interval)
        .start()
        .expect("no other profile")
}

fn exact() -> Profiler {
    sampled(1)
}

fn block(size: usize) -> Vec<u8> {
    black_box(vec![1; size])
}

/// Numbers that are as good as random and the same each time.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % below
    }
}

/// A program that asks for blocks of all sorts, resizes and frees them, and
/// bears it when it is refused.
struct Asking {
    dice: Dice,
    blocks: Vec<(*mut u8, Layout)>,
}

// SAFETY: its blocks belong to it alone, and any thread may free them.
unsafe impl Send for Asking {}

const SIZES: [usize; 9] = [1, 9, 64, 100, 4_000, 5_000, 32_760, 32_800, 100_000];

impl Asking {
    fn new(seed: u64) -> Self {
        Self {
            dice: Dice(seed),
            blocks: Vec::with_capacity(200),
        }
    }

    fn step(&mut self) {
        let size = SIZES[self.dice.roll(SIZES.len())];
        let at = self.dice.roll(self.blocks.len() + 1);
        let choice = self.dice.roll(10);
        if self.blocks.len() < 100 && choice < 4 || self.blocks.is_empty() {
            let align = [1, 8, 16, 64, 4_096, 8_192][self.dice.roll(40).min(5)];
            let layout = Layout::from_size_align(size, align).expect("a layout");
            let block = if choice.is_multiple_of(2) {
                // SAFETY: not empty.
                unsafe { alloc(layout) }
            } else {
                // SAFETY: not empty.
                unsafe { alloc_zeroed(layout) }
            };
            if !block.is_null() {
                Self::mark(block, size);
                self.blocks.push((block, layout));
            }
        } else if let Some(&(block, layout)) = self.blocks.get(at) {
            Self::check(block, layout.size());
            if choice < 7 {
                // SAFETY: the block has this layout; the size is not zero.
                let moved = unsafe { realloc(block, layout, size) };
                if moved.is_null() {
                    Self::check(block, layout.size());
                } else {
                    Self::check(moved, size.min(layout.size()).min(1));
                    Self::mark(moved, size);
                    let layout = Layout::from_size_align(size, layout.align()).expect("a layout");
                    self.blocks[at] = (moved, layout);
                }
            } else {
                self.blocks.swap_remove(at);
                // SAFETY: the block has this layout and is forgotten.
                unsafe { dealloc(block, layout) };
            }
        }
    }

    fn mark(block: *mut u8, size: usize) {
        // SAFETY: so many bytes are there.
        unsafe { block.write(0x5a) };
        // SAFETY: as above.
        unsafe { block.wrapping_add(size - 1).write(0x5a) };
    }

    fn check(block: *mut u8, size: usize) {
        // SAFETY: so many bytes are there.
        assert_eq!(unsafe { block.read() }, 0x5a);
        // SAFETY: as above.
        assert_eq!(unsafe { block.wrapping_add(size - 1).read() }, 0x5a);
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        for (block, layout) in self.blocks.drain(..) {
            // SAFETY: the block has this layout and is forgotten.
            unsafe { dealloc(block, layout) };
        }
    }
}

/// Bug prevented: a chosen block whose `realloc` is refused, or for which there
/// is no second place, and which is then freed with the program's alignment.
fn what_is_refused_leaves_every_block_with_its_own_layout() {
    for interval in [2, 300, 20_000] {
        for refused in [2, 3, 20] {
            let profiler = sampled(interval);
            let mut asking = Asking::new(interval + u64::from(refused));
            REFUSED.store(refused, Ordering::Relaxed);
            for _ in 0..20_000 {
                asking.step();
            }
            REFUSED.store(0, Ordering::Relaxed);
            drop(asking);
            let profile = profiler.finish();
            assert_eq!(profile.live().blocks, 0);
            assert!(profile.total().blocks > 0);
        }
    }
}

/// Bug prevented: a sample that there is no place for is dropped in silence,
/// and the estimate is too low.
fn samples_without_memory_are_counted_as_missing() {
    let profiler = sampled(10);
    refuse_stand_ins(true);
    let kept: Vec<_> = (0..100).map(|_| block(1_000)).collect();
    let mut grown = block(10);
    grown.reserve_exact(2_000);
    refuse_stand_ins(false);
    let profile = profiler.finish();
    assert_eq!(profile.live().blocks, 0);
    // The vector of vectors may be one more.
    assert!(profile.incomplete.blocks >= 101, "{:?}", profile.incomplete);
    drop((kept, grown));
}

/// Bug prevented: a point so far ahead that it looks as if it were behind.
fn an_interval_that_nobody_reaches_has_no_samples() {
    for interval in [1 << 58, 1 << 62, u64::MAX] {
        let profiler = sampled(interval);
        drop((0..20_000).map(|_| block(1_000)).collect::<Vec<_>>());
        assert_eq!(profiler.finish().total().blocks, 0, "{interval}");
    }
}

/// Bug prevented: a stand-in that is lost when its block is freed by another
/// thread, or in or after another profile than it was chosen in; or the block
/// that it stands for is, or comes back with a size that is not its own.
fn the_inner_allocator_gets_back_what_it_gave_and_stand_ins_come_back() {
    let over = AtomicBool::new(false);
    let shared = parking_lot::Mutex::new(VecDeque::<Asking>::new());
    let mut most = 0;
    thread::scope(|scope| {
        let _ending = Ending(&over);
        let workers: Vec<_> = (0..3)
            .map(|seed| {
                let (over, shared) = (&over, &shared);
                scope.spawn(move || {
                    let mut asking = Asking::new(seed);
                    while !over.load(Ordering::Relaxed) {
                        (0..100).for_each(|_| asking.step());
                        // Another thread goes on with these blocks, or frees them.
                        let mut waiting = shared.lock();
                        waiting.push_back(asking);
                        let next = (waiting.len() > 20).then(|| waiting.pop_front());
                        drop(waiting);
                        asking = next.flatten().unwrap_or_else(|| Asking::new(seed));
                    }
                })
            })
            .collect();
        // How far the workers come in a profile depends on the machine: longer ones if need be.
        let mut round = 0;
        let are_well = || !workers.iter().any(thread::ScopedJoinHandle::is_finished);
        while (round < 300 || most <= 100) && are_well() {
            let profiler = sampled([20, 400, 5_000][round % 3]);
            thread::sleep(std::time::Duration::from_millis(1 + round as u64 / 300));
            most = most.max(stand_ins());
            drop(profiler);
            round += 1;
        }
        over.store(true, Ordering::Relaxed);
        // Joined one by one: the scope itself does not wait until a thread has ended.
        for worker in workers {
            worker.join().expect("no panic");
        }
    });
    drop(shared);
    // What std keeps for threads that have ended a moment ago.
    assert!(stand_ins() < 10, "{} of {most} are left", stand_ins());
    assert_eq!(GIVEN.load(Ordering::Relaxed), HEAP.stats().live_bytes);
}

fn stand_ins_that_are_refused_and_granted_by_turns_change_nothing_for_the_program() {
    let profiler = sampled(50);
    let mut asking = Asking::new(3);
    for turn in 0..40_000 {
        refuse_stand_ins(turn % 7 < 3);
        asking.step();
    }
    drop(asking);
    refuse_stand_ins(false);
    let profile = profiler.finish();
    assert_eq!(profile.live().blocks, 0);
    assert!(profile.total().blocks > 0 && profile.incomplete.blocks > 0);
    assert_eq!(GIVEN.load(Ordering::Relaxed), HEAP.stats().live_bytes);
}

/// Gives out blocks of a range of its own, from the front to the back.
struct Apart;

const APART_BYTES: usize = 256 << 20;
/// Its next address, and the end.
static APART: [AtomicUsize; 2] = [const { AtomicUsize::new(0) }; 2];
/// Blocks and bytes that are out.
static APART_OUT: [AtomicUsize; 2] = [const { AtomicUsize::new(0) }; 2];

impl Apart {
    fn open(bytes: usize) {
        let range = Box::leak(vec![0_u8; bytes].into_boxed_slice());
        let start = range.as_mut_ptr().expose_provenance();
        APART[0].store(start, Ordering::Relaxed);
        APART[1].store(start + bytes, Ordering::Relaxed);
    }
}

// SAFETY: disjoint parts of a range that is leaked, and never reused.
unsafe impl GlobalAlloc for Apart {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let [next, end] = &APART;
        let at = next.load(Ordering::Relaxed);
        let at = at.next_multiple_of(layout.align());
        assert!(at + layout.size() <= end.load(Ordering::Relaxed));
        next.store(at + layout.size(), Ordering::Relaxed);
        APART_OUT[0].fetch_add(1, Ordering::Relaxed);
        APART_OUT[1].fetch_add(layout.size(), Ordering::Relaxed);
        std::ptr::with_exposed_provenance_mut(at)
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        let [next, end] = APART.each_ref().map(|a| a.load(Ordering::Relaxed));
        // The range grows from its front: what is out lies below what is next.
        assert!(block.addr() < next && block.addr() + APART_BYTES >= end);
        APART_OUT[0].fetch_sub(1, Ordering::Relaxed);
        APART_OUT[1].fetch_sub(layout.size(), Ordering::Relaxed);
    }
}

/// Bug prevented: two allocators share the recorder, and a block goes back to the
/// one that did not give it.
fn each_of_two_inner_allocators_gets_back_what_it_gave() {
    static OTHER: TrackingAllocator<Apart> = TrackingAllocator::over(Apart);
    Apart::open(APART_BYTES);
    let heaps: [&dyn GlobalAlloc; 2] = [&HEAP, &OTHER];
    let profiler = sampled(50);
    let mut most = 0;
    let mut out = Vec::with_capacity(100);
    let mut dice = Dice(5);
    for step in 0..20_000 {
        let size = SIZES[dice.roll(SIZES.len() - 1)];
        let layout = Layout::from_size_align(size, 8).expect("a layout");
        if out.len() < 40 {
            let heap = heaps[step % 2];
            // SAFETY: not empty.
            let block = unsafe { heap.alloc(layout) };
            Asking::mark(block, size);
            out.push((heap, block, layout));
            most = most.max(stand_ins());
        } else {
            let (heap, block, old) = out.swap_remove(dice.roll(out.len()));
            Asking::check(block, old.size());
            // SAFETY: this allocator's block, of this layout, which is forgotten.
            let block = unsafe { heap.realloc(block, old, size) };
            Asking::check(block, 1);
            // SAFETY: as above, and of this layout by now.
            unsafe { heap.dealloc(block, layout) };
        }
    }
    for (heap, block, layout) in out.drain(..) {
        // SAFETY: this allocator's block, of this layout, which is forgotten.
        unsafe { heap.dealloc(block, layout) };
    }
    drop(out);
    assert!(most > 20, "nothing was tested: {most}");
    let profile = profiler.finish();
    assert_eq!(profile.live().blocks, 0);
    drop(profile);
    let apart = APART_OUT.each_ref().map(|n| n.load(Ordering::Relaxed));
    assert_eq!((apart, stand_ins()), ([0, 0], 0));
    assert_eq!(GIVEN.load(Ordering::Relaxed), HEAP.stats().live_bytes);
}

/// Says so when the case is over, also when it has failed: the threads of a
/// scope are waited for.
struct Ending<'a>(&'a AtomicBool);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Bug prevented: a block that is recorded while its profile ends keeps its
/// record, and a later profile takes it for its own.
fn no_record_survives_its_profile() {
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let _ending = Ending(&over);
        for seed in 0..3 {
            let over = &over;
            scope.spawn(move || {
                let mut asking = Asking::new(seed);
                let mut kept = Vec::with_capacity(50_000);
                while !over.load(Ordering::Relaxed) {
                    asking.step();
                    // Alive for long, so that what is left with a record is found.
                    kept.push(block(40));
                    let mut grown = block(10);
                    grown.reserve_exact(50);
                    kept.push(grown);
                    if kept.len() >= 50_000 {
                        kept.clear();
                    }
                }
            });
        }
        for turn in 0..200usize {
            let profiler = sampled([2, 100, 1, 10_000][turn % 4]);
            if turn % 3 == 0 {
                let checked = leaks::check(|| drop(block(10)));
                assert!(checked.is_ok(), "{checked:?}");
            }
            thread::yield_now();
            drop(profiler);
            // A thread that was held up between entering a record and seeing that its profile is
            // over puts that right as soon as it runs again.
            let next = sampled(1 << 60);
            let mut live = next.snapshot().live();
            for _ in 0..1_000 {
                if live.blocks == 0 {
                    break;
                }
                thread::sleep(core::time::Duration::from_millis(1));
                live = next.snapshot().live();
            }
            assert_eq!(live.blocks, 0, "turn {turn}: {live:?}");
        }
    });
}

/// Runs `child` in a fork; how it ended.
fn forked(child: impl FnOnce()) -> i32 {
    // SAFETY: the child does what a program may do that has one thread, as glibc allows it.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0);
    if pid == 0 {
        // SAFETY: ends a child that hangs.
        unsafe { libc::alarm(60) };
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(child));
        // SAFETY: ends the child without what its parent has to do at its end.
        unsafe { libc::_exit(i32::from(ended.is_err())) };
    }
    let mut status = 0;
    // SAFETY: our child, and a place for how it ended.
    assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
    status
}

fn the_child_of_a_fork_goes_on_with_the_profile() {
    let over = AtomicBool::new(false);
    for interval in [1, 50] {
        over.store(false, Ordering::Relaxed);
        thread::scope(|scope| {
            let _ending = Ending(&over);
            for seed in 0..2 {
                let over = &over;
                scope.spawn(move || {
                    let mut asking = Asking::new(seed);
                    while !over.load(Ordering::Relaxed) {
                        asking.step();
                    }
                });
            }
            let mut profiler = Some(sampled(interval));
            let mut asking = Asking::new(9);
            for turn in 0..150 {
                for _ in 0..200 {
                    asking.step();
                }
                let status = forked(|| {
                    for _ in 0..200 {
                        asking.step();
                    }
                    asking.blocks.drain(..).for_each(|(block, layout)| {
                        // SAFETY: the block has this layout and is forgotten.
                        unsafe { dealloc(block, layout) };
                    });
                    let profile = profiler.take().expect("one").finish();
                    assert!(profile.total().blocks > 0);
                    // And another one, from the start.
                    let profiler = exact();
                    let kept = block(77);
                    let profile = profiler.finish();
                    assert!(profile.live().bytes >= 77);
                    assert_eq!(profile.incomplete.blocks, 0);
                    drop(kept);
                });
                assert_eq!(status, 0, "fork {turn} of a profile at {interval}");
            }
        });
    }
}

static CAUGHT: AtomicU64 = AtomicU64::new(0);
static LEAKED: AtomicU64 = AtomicU64::new(0);

/// Bad manners, but found in programs.
extern "C" fn allocate_in_the_handler(_: libc::c_int) {
    let mut grown = block(40);
    grown.reserve_exact(4_000);
    drop(grown);
    if CAUGHT.load(Ordering::Relaxed).is_multiple_of(50) {
        drop(block(50_000));
    }
    if LEAKED.load(Ordering::Relaxed) < 1_000 {
        LEAKED.fetch_add(1, Ordering::Relaxed);
        forget(block(48));
    }
    CAUGHT.fetch_add(1, Ordering::Relaxed);
}

/// Bug prevented: a handler that interrupts the recorder waits for a lock that
/// its own thread holds, uses what is half changed, or its blocks are left out
/// and nobody says so.
fn signal_handlers_may_allocate_in_the_middle_of_everything() {
    Hostile::go_one_way();
    signal::handle(libc::SIGUSR1, allocate_in_the_handler, libc::SA_RESTART);
    // SAFETY: always allowed.
    let main = unsafe { libc::pthread_self() };
    for interval in [1, 60] {
        let over = AtomicBool::new(false);
        LEAKED.store(0, Ordering::Relaxed);
        CAUGHT.store(0, Ordering::Relaxed);
        thread::scope(|scope| {
            let _ending = Ending(&over);
            let profiler = sampled(interval);
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    // SAFETY: the thread waits for this one, in its scope.
                    unsafe { libc::pthread_kill(main, libc::SIGUSR1) };
                    for _ in 0..300 {
                        std::hint::spin_loop();
                    }
                }
            });
            // Nothing is given back meanwhile, so there must be an end.
            for step in 0..400_000 {
                let mut grown = block(30);
                grown.reserve_exact(200);
                drop(grown);
                if step % 20 == 0 {
                    drop(block(4_000));
                }
                if CAUGHT.load(Ordering::Relaxed) > 5_000 {
                    break;
                }
            }
            over.store(true, Ordering::Relaxed);
            let profile = profiler.snapshot();
            let (live, missing) = (profile.live(), profile.incomplete.blocks);
            println!("{live:?}, {missing} missing");
            let leaked = LEAKED.load(Ordering::Relaxed);
            assert!(leaked > 20);
            if interval == 1 {
                assert!(live.blocks + missing >= leaked, "{live:?} {missing}");
                // What the other thread began with, and the signals' last moments.
                assert!(live.blocks <= leaked + 50, "{live:?}");
            }
        });
    }
}

/// Leaks in the last moments of its thread, and in the moments after those.
struct Last(u8);

impl Drop for Last {
    fn drop(&mut self) {
        forget(block(200));
        drop(block(33));
        if self.0 > 0 {
            let more = LAST.try_with(|last| last.borrow_mut().push(Last(self.0 - 1)));
            more.expect("not yet gone");
        }
    }
}

thread_local! {
    static FIRST: RefCell<Vec<Last>> = const { RefCell::new(Vec::new()) };
    static LAST: RefCell<Vec<Last>> = const { RefCell::new(Vec::new()) };
}

static KEY: AtomicU32 = AtomicU32::new(0);
static AFTER: AtomicU64 = AtomicU64::new(0);

/// Runs after all of Rust's thread locals, four times.
extern "C" fn after(value: *mut libc::c_void) {
    forget(block(300));
    drop(block(40));
    AFTER.fetch_add(1, Ordering::Relaxed);
    if value.addr() > 1 {
        let less = std::ptr::without_provenance::<libc::c_void>(value.addr() - 1);
        // SAFETY: the key was made below.
        unsafe { libc::pthread_setspecific(KEY.load(Ordering::Relaxed), less) };
    }
}

/// Bug prevented: what a thread does after its page of the ledger is given back
/// is neither in the profile nor said to be missing.
fn what_threads_do_in_their_last_moments_is_counted_or_missing() {
    let mut key = 0;
    // SAFETY: a place for the key, and a function of the right type.
    let failed = unsafe { libc::pthread_key_create(&raw mut key, Some(after)) };
    assert_eq!(failed, 0);
    KEY.store(key, Ordering::Relaxed);
    for interval in [1, 30] {
        AFTER.store(0, Ordering::Relaxed);
        let profiler = sampled(interval);
        for _ in 0..40 {
            let thread = thread::spawn(|| {
                let three = std::ptr::without_provenance::<libc::c_void>(3);
                // SAFETY: the key was made above.
                unsafe { libc::pthread_setspecific(KEY.load(Ordering::Relaxed), three) };
                FIRST
                    .try_with(|first| first.borrow_mut().push(Last(0)))
                    .expect("alive");
                LAST.try_with(|last| last.borrow_mut().push(Last(0)))
                    .expect("alive");
                drop(block(20));
            });
            thread.join().expect("no panic");
        }
        let profile = profiler.finish();
        let (live, missing) = (profile.live(), profile.incomplete.blocks);
        let after = AFTER.load(Ordering::Relaxed);
        assert_eq!(after, 120);
        println!("{live:?}, {missing} missing");
        if interval == 1 {
            // Two in destructors of thread locals, three in those of the key.
            assert!(live.blocks + missing >= 40 * 2 + after);
            assert!(live.blocks <= 40 * 2 + after + 10, "{live:?}");
        } else {
            assert!(missing > 0);
        }
    }
}

/// Bug prevented: a thread's figures are those of the page's last owner less
/// what the page's new owner began with: below zero, a number with twenty digits.
fn threads_that_change_hands_are_seen_with_their_own_figures() {
    let profiler = sampled(100);
    let over = AtomicBool::new(false);
    let mut seen = 0;
    thread::scope(|scope| {
        let _ending = Ending(&over);
        for _ in 0..6 {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    let some = thread::spawn(|| {
                        drop(block(500));
                        thread::sleep(std::time::Duration::from_millis(20));
                    });
                    some.join().expect("no panic");
                }
            });
        }
        for _ in 0..2_000 {
            let profile = profiler.snapshot();
            for thread in &profile.threads {
                seen += 1;
                assert!(thread.allocated_bytes < 1 << 40, "{thread:?}");
                assert!(thread.freed_bytes < 1 << 40, "{thread:?}");
            }
        }
    });
    assert!(seen > 300);
}

/// Bug prevented: a deadlock between the loader's lock and one that is held
/// while a stack is walked or the mapped code is listed.
fn samples_are_taken_while_threads_unwind_and_libraries_come_and_go() {
    std::panic::set_hook(Box::new(|_| {}));
    let over = AtomicU32::new(0);
    thread::scope(|scope| {
        scope.spawn(|| {
            for i in 0..3_000 {
                assert!(std::panic::catch_unwind(|| unwind(i % 7)).is_err());
            }
            over.fetch_add(1, Ordering::Relaxed);
        });
        scope.spawn(|| {
            for _ in 0..3_000 {
                // SAFETY: the C library's resolver has no initialiser that could be misused.
                let library =
                    unsafe { libloading::Library::new("libresolv.so.2") }.expect("a library");
                library.close().expect("closed");
            }
            over.fetch_add(1, Ordering::Relaxed);
        });
        let mut turn = 0;
        while over.load(Ordering::Relaxed) < 2 || turn < 10 {
            turn += 1;
            let profiler = sampled([1, 2, 50][turn % 3]);
            drop((0..100).map(block).collect::<Vec<_>>());
            let profile = profiler.snapshot();
            assert_eq!(profile.incomplete.blocks, 0);
            assert!(profile.total().blocks > 0);
            drop(profiler);
        }
    });
}

extern "C" fn leak_a_little(_: *mut libc::c_void) -> *mut libc::c_void {
    forget(block(160));
    let mut grown = block(16);
    grown.reserve_exact(5_000);
    drop(grown);
    null_mut()
}

fn samples_on_the_smallest_stacks_are_taken() {
    for interval in [1, 2] {
        let profiler = sampled(interval);
        for _ in 0..50 {
            run_on_a_stack_of(libc::PTHREAD_STACK_MIN, leak_a_little, null_mut());
        }
        let profile = profiler.finish();
        assert_eq!(profile.live().blocks, 50);
        assert_eq!(profile.live().bytes, 50 * 160);
        assert_eq!(profile.incomplete.blocks, 0);
    }
}

fn samples_a_hundred_thousand_calls_deep_are_taken() {
    #[inline(never)]
    fn descend(depth: usize) -> usize {
        let kept = depth.is_multiple_of(100).then(|| block(80));
        if depth == 0 {
            forget(block(4_321));
            return 0;
        }
        let below = black_box(descend(depth - 1));
        drop(kept);
        below + 1
    }
    for interval in [1, 2, 400] {
        let profiler = sampled(interval);
        let deep = thread::Builder::new().stack_size(1 << 30);
        let deep = deep.spawn(|| descend(black_box(100_000)));
        assert_eq!(deep.expect("a thread").join().expect("no panic"), 100_000);
        let profile = profiler.finish();
        // Some 1,010; with 400 bytes between samples, 60 of them are one standard error.
        assert!(profile.total().blocks > 500, "{:?}", profile.total());
        assert_eq!(profile.incomplete.blocks, 0);
        assert!(profile.incomplete.cut_stacks > 0);
    }
}

fn samples_on_another_stack_are_taken() {
    signal::handle(libc::SIGUSR1, allocate_in_the_handler, libc::SA_ONSTACK);
    with_another_stack(|| {
        for interval in [1, 2] {
            LEAKED.store(0, Ordering::Relaxed);
            let profiler = sampled(interval);
            for _ in 0..100 {
                // SAFETY: comes back when the handler has run, on this thread, outside of malloc.
                assert_eq!(unsafe { libc::raise(libc::SIGUSR1) }, 0);
                drop(block(6));
            }
            let profile = profiler.finish();
            assert_eq!(profile.live().bytes, 4_800);
            // The system's unwinder finds the way back from there.
            let ends_there = unwind::prime() == Method::Native;
            assert_eq!(profile.incomplete.cut_stacks >= 100, ends_there);
            assert_eq!(profile.incomplete.blocks, 0);
        }
    });
}
