//! Random programs of one to three threads, step by step against a plain model
//! of the ledger.
//!
//! The threads run in lockstep: the driver says whose turn it is and what to
//! do, and waits. Neither it nor the hand-over allocates while a program runs,
//! so the figures of the process are as exact as those of a thread.

#![allow(
    unsafe_code,
    reason = "calls the four functions of an allocator by hand"
)]

mod support;

use std::alloc::{GlobalAlloc, Layout};
use std::hint::black_box;
use std::process::ExitCode;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use heapledger::{
    Scope, ScopeStats, Stats, StatsDelta, TrackingAllocator, reset_peak, stats, thread_stats,
};
use parking_lot::Mutex;
use proptest::prelude::*;
use proptest::test_runner::{TestCaseError, TestRunner};

#[global_allocator]
static HEAP: TrackingAllocator = TrackingAllocator::new();

fn main() -> ExitCode {
    support::main(cases![
        random_programs_leave_the_ledger_as_the_model_says,
        the_model_is_compared_and_not_only_run,
    ])
}

/// Places for blocks, shared by all threads of a program.
const PLACES: usize = 24;
/// The most scopes that are open on one thread.
const DEEP: usize = 12;

#[derive(Clone, Copy, Debug)]
enum Op {
    /// A new block, if the place is empty.
    Allocate {
        place: usize,
        size: usize,
        align: usize,
        zeroed: bool,
    },
    /// Another size for the block, whoever made it.
    Resize {
        place: usize,
        size: usize,
    },
    /// Back with it, whoever made it.
    Free {
        place: usize,
    },
    /// A block larger than there can be.
    Refuse,
    Enter,
    Leave,
}

/// Whose turn it is, of as many threads as there are, and for what.
type Step = (usize, Op);

fn sizes() -> impl Strategy<Value = usize> {
    prop_oneof![
        3 => 1..200usize,
        3 => 1..10_000usize,
        2 => 1..=1usize << 20,
    ]
}

fn ops() -> impl Strategy<Value = Op> {
    let place = 0..PLACES;
    prop_oneof![
        8 => (place.clone(), sizes(), 0..=12u32, any::<bool>()).prop_map(
            |(place, size, power, zeroed)| Op::Allocate { place, size, align: 1 << power, zeroed }
        ),
        4 => (place.clone(), sizes()).prop_map(|(place, size)| Op::Resize { place, size }),
        6 => place.prop_map(|place| Op::Free { place }),
        1 => Just(Op::Refuse),
        2 => Just(Op::Enter),
        2 => Just(Op::Leave),
    ]
}

fn programs() -> impl Strategy<Value = (usize, Vec<Step>)> {
    (
        1..=3usize,
        prop::collection::vec((0..3usize, ops()), 1..200),
    )
}

// --------------------------------------------------------------- what is real

/// What passes between the driver and the thread whose turn it is.
struct Desk {
    op: Option<Op>,
    blocks: [(*mut u8, Layout); PLACES],
    /// The thread's figures after its step, and those of a scope that it left.
    figures: Stats,
    left: Option<ScopeStats>,
}

// SAFETY: the pointers are blocks that any thread may free; the desk is behind a lock.
unsafe impl Send for Desk {}

struct Office {
    /// 0 for the driver, else one more than the thread's number.
    turn: AtomicUsize,
    desk: Mutex<Desk>,
}

impl Office {
    /// Waits for a turn. Spins, because waiting must not allocate.
    fn wait_for(&self, turn: usize) {
        while self.turn.load(Ordering::Acquire) != turn {
            thread::yield_now();
        }
    }

    /// Gives the turn to a thread and waits until it is back.
    fn hand(&self, worker: usize, op: Option<Op>) {
        self.desk.lock().op = op;
        self.turn.store(worker + 1, Ordering::Release);
        self.wait_for(0);
    }
}

/// One thread of a program: takes its turns until it is told to end.
fn worker(office: &Office, number: usize) {
    let mut scopes: Vec<Scope> = Vec::with_capacity(DEEP);
    loop {
        office.wait_for(number + 1);
        let mut desk = office.desk.lock();
        let end = desk.op.is_none();
        if let Some(op) = desk.op {
            step(&mut desk, op, &mut scopes);
        }
        desk.figures = thread_stats();
        drop(desk);
        office.turn.store(0, Ordering::Release);
        if end {
            return;
        }
    }
}

fn step(desk: &mut Desk, op: Op, scopes: &mut Vec<Scope>) {
    match op {
        Op::Allocate {
            place,
            size,
            align,
            zeroed,
        } => {
            let layout = Layout::from_size_align(size, align).expect("a small layout");
            let allocate = if zeroed {
                GlobalAlloc::alloc_zeroed
            } else {
                GlobalAlloc::alloc
            };
            // SAFETY: the layout is not empty.
            let block = black_box(unsafe { allocate(&HEAP, layout) });
            assert!(!block.is_null());
            desk.blocks[place] = (block, layout);
        }
        Op::Resize { place, size } => {
            let (block, layout) = desk.blocks[place];
            // SAFETY: the driver asks only for blocks that are there, of this layout.
            let block = black_box(unsafe { HEAP.realloc(block, layout, size) });
            assert!(!block.is_null());
            let layout = Layout::from_size_align(size, layout.align()).expect("a small layout");
            desk.blocks[place] = (block, layout);
        }
        Op::Free { place } => {
            let (block, layout) = desk.blocks[place];
            // SAFETY: as above, and the driver forgets it now.
            unsafe { HEAP.dealloc(block, layout) };
        }
        Op::Refuse => {
            let limit = isize::MAX.cast_unsigned();
            let layout = Layout::from_size_align(limit - 4_095, 1).expect("a layout");
            // SAFETY: the layout is not empty.
            let block = black_box(unsafe { HEAP.alloc(layout) });
            assert!(block.is_null());
        }
        Op::Enter => scopes.push(Scope::enter()),
        Op::Leave => desk.left = scopes.pop().map(Scope::finish),
    }
}

// -------------------------------------------------------------- what is thought

/// The six figures, and the net with its highest.
#[derive(Clone, Copy, Debug, Default)]
struct Account {
    allocations: u64,
    allocated: u64,
    frees: u64,
    freed: u64,
    resizes: u64,
    failures: u64,
    net: i64,
    high: i64,
}

impl Account {
    fn enter(&mut self, bytes: u64) {
        self.allocated += bytes;
        self.net += bytes.cast_signed();
        self.high = self.high.max(self.net);
    }

    fn strike(&mut self, bytes: u64) {
        self.freed += bytes;
        self.net -= bytes.cast_signed();
    }

    /// `op` on a block that had `old` bytes.
    fn note(&mut self, op: Op, old: u64) {
        match op {
            Op::Allocate { size, .. } => {
                self.allocations += 1;
                self.enter(size as u64);
            }
            Op::Resize { size, .. } => {
                self.resizes += 1;
                let size = size as u64;
                if size >= old {
                    self.enter(size - old);
                } else {
                    self.strike(old - size);
                }
            }
            Op::Free { .. } => {
                self.frees += 1;
                self.strike(old);
            }
            Op::Refuse => self.failures += 1,
            Op::Enter | Op::Leave => {}
        }
    }

    fn as_delta(&self) -> StatsDelta {
        let mut delta = StatsDelta::default();
        delta.live_bytes = self.net;
        delta.live_blocks = self.allocations.wrapping_sub(self.frees).cast_signed();
        delta.allocated_bytes = self.allocated;
        delta.freed_bytes = self.freed;
        delta.allocations = self.allocations;
        delta.frees = self.frees;
        delta.reallocations = self.resizes;
        delta.failures = self.failures;
        delta
    }

    fn as_scope(&self) -> ScopeStats {
        let mut scope = ScopeStats::default();
        scope.peak_bytes = self.high.cast_unsigned();
        scope.allocated_bytes = self.allocated;
        scope.freed_bytes = self.freed;
        scope.allocations = self.allocations;
        scope.frees = self.frees;
        scope.reallocations = self.resizes;
        scope.failures = self.failures;
        scope
    }
}

/// What the model thinks of one thread.
#[derive(Clone, Copy, Debug)]
struct Thread {
    /// Its real figures when the program began.
    base: Stats,
    own: Account,
    scopes: [Account; DEEP],
    open: usize,
}

/// What is different, if anything is. Both sides are plain data, so that
/// nothing is allocated unless something is wrong.
fn same<T: PartialEq + std::fmt::Debug>(
    what: &str,
    at: usize,
    real: &T,
    model: &T,
) -> Result<(), TestCaseError> {
    if real == model {
        return Ok(());
    }
    Err(TestCaseError::fail(format!(
        "step {at}, {what}:\n real {real:?}\nmodel {model:?}"
    )))
}

/// A thread's live bytes are not signed; what stands behind them is.
fn net(stats: &Stats) -> i64 {
    stats
        .allocated_bytes
        .wrapping_sub(stats.freed_bytes)
        .cast_signed()
}

/// Compares the thread's figures. `live_*` of a thread stop at zero, so they
/// are taken from the totals.
fn compare_thread(at: usize, real: &Stats, thread: &Thread) -> Result<(), TestCaseError> {
    let mut change = real.since(&thread.base);
    change.live_bytes = net(real) - net(&thread.base);
    change.live_blocks = change.allocations.wrapping_sub(change.frees).cast_signed();
    same("the thread", at, &change, &thread.own.as_delta())?;
    let high = net(&thread.base) + thread.own.high;
    let peak = thread.base.peak_bytes.max(u64::try_from(high).unwrap_or(0));
    same("the thread's peak", at, &real.peak_bytes, &peak)
}

/// Compares the figures of the process.
fn compare_process(at: usize, base: &Stats, all: &Account) -> Result<(), TestCaseError> {
    let real = stats();
    same("the process", at, &real.since(base), &all.as_delta())?;
    let peak = base.live_bytes + all.high.cast_unsigned();
    let off = real.peak_bytes.abs_diff(peak);
    if off > real.peak_error_bytes {
        return same("the peak of the process", at, &real.peak_bytes, &peak);
    }
    Ok(())
}

/// One program, from its first thread to its last; `wrong` makes the model
/// forget one byte of that step.
fn run(threads: usize, program: &[Step], wrong: Option<usize>) -> Result<(), TestCaseError> {
    let office = Arc::new(Office {
        turn: AtomicUsize::new(0),
        desk: Mutex::new(Desk {
            op: None,
            blocks: [(ptr::null_mut(), Layout::new::<u8>()); PLACES],
            figures: Stats::default(),
            left: None,
        }),
    });
    let workers: Vec<_> = (0..threads)
        .map(|number| {
            let office = Arc::clone(&office);
            thread::spawn(move || worker(&office, number))
        })
        .collect();
    let mut model = Vec::with_capacity(threads);
    for number in 0..threads {
        // A scope's first level, and the thread's first words, are behind it then.
        office.hand(number, Some(Op::Enter));
        office.hand(number, Some(Op::Leave));
        model.push(Thread {
            base: office.desk.lock().figures,
            own: Account::default(),
            scopes: [Account::default(); DEEP],
            open: 0,
        });
    }
    let outcome = lockstep(&office, &mut model, program, wrong);
    for number in 0..threads {
        office.hand(number, None);
    }
    for worker in workers {
        worker.join().expect("thread");
    }
    outcome
}

fn lockstep(
    office: &Office,
    model: &mut [Thread],
    program: &[Step],
    wrong: Option<usize>,
) -> Result<(), TestCaseError> {
    reset_peak();
    let base = stats();
    let mut all = Account::default();
    let mut sizes = [0u64; PLACES];
    // In the end everything goes back, by the threads in turn.
    let ending = (0..PLACES).map(|place| (place, Op::Free { place }));
    for (at, (worker, op)) in program.iter().copied().chain(ending).enumerate() {
        let number = worker % model.len();
        let thread = &mut model[number];
        let mut old = 0;
        match op {
            Op::Allocate { place, size, .. } => {
                if sizes[place] > 0 {
                    continue;
                }
                sizes[place] = size as u64;
            }
            Op::Resize { place, size } => {
                old = std::mem::replace(&mut sizes[place], size as u64);
                if old == 0 {
                    sizes[place] = 0;
                    continue;
                }
            }
            Op::Free { place } => {
                old = std::mem::take(&mut sizes[place]);
                if old == 0 {
                    continue;
                }
            }
            Op::Enter if thread.open == DEEP => continue,
            Op::Leave if thread.open == 0 => continue,
            Op::Refuse | Op::Enter | Op::Leave => {}
        }
        office.hand(number, Some(op));
        for account in thread.scopes[..thread.open]
            .iter_mut()
            .chain([&mut thread.own, &mut all])
        {
            account.note(op, old);
            if wrong == Some(at) {
                account.allocated ^= 1;
            }
        }
        let (figures, left) = {
            let desk = office.desk.lock();
            (desk.figures, desk.left)
        };
        match op {
            Op::Enter => {
                thread.scopes[thread.open] = Account::default();
                thread.open += 1;
            }
            Op::Leave => {
                thread.open -= 1;
                let expected = thread.scopes[thread.open].as_scope();
                same("the scope", at, &left, &Some(expected))?;
            }
            _ => {}
        }
        compare_thread(at, &figures, thread)?;
        compare_process(at, &base, &all)?;
    }
    same("what is left", program.len(), &all.net, &0)
}

fn random_programs_leave_the_ledger_as_the_model_says() {
    assert!(heapledger::is_installed());
    let config = ProptestConfig {
        cases: 400,
        // A failing program is shown in full; nothing is written into the source tree.
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    let outcome = TestRunner::new(config).run(&programs(), |(threads, program)| {
        run(threads, &program, None)
    });
    if let Err(error) = outcome {
        panic!("{error}");
    }
}

/// A model that forgets one byte of one step must not go unnoticed.
fn the_model_is_compared_and_not_only_run() {
    assert!(heapledger::is_installed());
    let place = 3;
    let program: Vec<Step> = vec![
        (0, Op::Enter),
        (
            1,
            Op::Allocate {
                place,
                size: 100,
                align: 64,
                zeroed: true,
            },
        ),
        (
            2,
            Op::Resize {
                place,
                size: 700_000,
            },
        ),
        (0, Op::Free { place }),
        (0, Op::Leave),
    ];
    for threads in 1..=3 {
        run(threads, &program, None).expect("it is right");
        for wrong in 1..4 {
            run(threads, &program, Some(wrong)).expect_err("it is wrong");
        }
    }
}
