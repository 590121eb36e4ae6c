//! Small work for an allocator that is called directly, as a value.

use std::alloc::{GlobalAlloc, Layout};
use std::hint::{black_box, spin_loop};
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::samples::Random;

/// What the allocator is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Workload {
    /// The same 64-byte block, allocated and freed again and again.
    Pair,
    /// 1,000 blocks of 16 to 1,024 bytes, freed in random order.
    Batch,
    /// One block from 16 bytes to 1 MiB, doubled by `realloc`, then freed.
    Doubling,
    /// [`Pair`](Self::Pair) on two threads at once.
    PairOnTwo,
    /// [`Batch`](Self::Batch) on two threads at once.
    BatchOnTwo,
    /// 64-byte blocks that one thread allocates and another frees.
    Handover,
}

const BLOCKS: usize = 1_000;
const DOUBLED: (usize, usize) = (16, 1 << 20);

impl Workload {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Pair,
        Self::Batch,
        Self::Doubling,
        Self::PairOnTwo,
        Self::BatchOnTwo,
        Self::Handover,
    ];

    /// The name for tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pair => "64 bytes, one thread",
            Self::Batch => "random batch, one thread",
            Self::Doubling => "realloc doubling",
            Self::PairOnTwo => "64 bytes, two threads",
            Self::BatchOnTwo => "random batch, two threads",
            Self::Handover => "freed on another thread",
        }
    }

    /// How many allocations with their frees one turn of the work has. The
    /// doubling counts as one, with its sixteen `realloc`s.
    pub fn operations(self) -> u32 {
        match self {
            Self::Batch | Self::BatchOnTwo => 1_000,
            _ => 1,
        }
    }

    /// Turns that take at most about a millisecond under `System`.
    pub fn turns_per_millisecond(self) -> u64 {
        match self {
            Self::Pair | Self::PairOnTwo => 100_000,
            Self::Batch | Self::BatchOnTwo => 20,
            // As few as the peers without a `realloc` of their own can bear: they copy a megabyte.
            Self::Doubling => 10,
            Self::Handover => 20_000,
        }
    }

    /// Does `turns` turns of the work on `heap`; gives how long they took. On
    /// two threads each does them all, and it is the mean of the two times.
    pub fn run<A: GlobalAlloc + Sync>(self, heap: &A, turns: u64) -> Duration {
        match self {
            Self::Pair => pairs(heap, turns),
            Self::Batch => Batch::new().run(heap, turns),
            Self::Doubling => doublings(heap, turns),
            Self::PairOnTwo => on_two(|| pairs(heap, 1_000), || pairs(heap, turns)),
            Self::BatchOnTwo => on_two(
                || Batch::new().run(heap, 3),
                || Batch::new().run(heap, turns),
            ),
            Self::Handover => handover(heap, turns),
        }
    }
}

/// The layout for 64 bytes, in a way that the compiler does not see through:
/// allocators are not compiled for one size.
#[inline]
fn small() -> Layout {
    black_box(Layout::new::<[u64; 8]>())
}

/// A block of `layout`, which is never empty here.
#[inline]
fn take<A: GlobalAlloc>(heap: &A, layout: Layout) -> *mut u8 {
    // SAFETY: the layouts of this module have a size above 0.
    black_box(unsafe { heap.alloc(layout) })
}

/// Frees a block.
///
/// # Safety
/// `block` is from [`take`] on the same heap with the same layout, not freed since.
#[inline]
unsafe fn give<A: GlobalAlloc>(heap: &A, block: *mut u8, layout: Layout) {
    // SAFETY: the caller's promise is the one that `dealloc` asks for.
    unsafe { heap.dealloc(black_box(block), layout) };
}

fn pairs<A: GlobalAlloc>(heap: &A, turns: u64) -> Duration {
    let start = Instant::now();
    for _ in 0..turns {
        let layout = small();
        let block = take(heap, layout);
        // SAFETY: taken just now with this layout.
        unsafe { give(heap, block, layout) };
    }
    start.elapsed()
}

/// What a batch needs, made before the clock runs.
struct Batch {
    layouts: Vec<Layout>,
    /// The order in which the blocks are freed.
    order: Vec<usize>,
    blocks: Vec<*mut u8>,
}

impl Batch {
    fn new() -> Self {
        let mut random = Random::new(1);
        let layouts = (0..BLOCKS)
            .map(|_| Layout::from_size_align(random.between(16, 1_024), 8).expect("a layout"))
            .collect();
        let order = random.order(BLOCKS);
        Self {
            layouts,
            order,
            blocks: vec![ptr::null_mut(); BLOCKS],
        }
    }

    fn run<A: GlobalAlloc>(&mut self, heap: &A, turns: u64) -> Duration {
        let start = Instant::now();
        for _ in 0..turns {
            for (place, layout) in self.blocks.iter_mut().zip(&self.layouts) {
                *place = take(heap, *layout);
            }
            for &at in &self.order {
                // SAFETY: taken above with the layout of the same index; each index occurs once.
                unsafe { give(heap, self.blocks[at], self.layouts[at]) };
            }
        }
        start.elapsed()
    }
}

fn doublings<A: GlobalAlloc>(heap: &A, turns: u64) -> Duration {
    let start = Instant::now();
    for _ in 0..turns {
        let mut layout = black_box(Layout::from_size_align(DOUBLED.0, 8).expect("a layout"));
        let mut block = take(heap, layout);
        while layout.size() < DOUBLED.1 {
            let size = layout.size() * 2;
            // SAFETY: the block is from `heap` with `layout`; the size is far from the limit.
            block = black_box(unsafe { heap.realloc(block, layout, size) });
            assert!(!block.is_null(), "no memory");
            layout = Layout::from_size_align(size, 8).expect("a layout");
        }
        // SAFETY: the last `realloc` gave it with this layout.
        unsafe { give(heap, block, layout) };
    }
    start.elapsed()
}

/// Runs `work` on two threads that begin together, after each has warmed up.
fn on_two(warm_up: impl Fn() -> Duration + Sync, work: impl Fn() -> Duration + Sync) -> Duration {
    let ready = AtomicU32::new(0);
    let one = || {
        warm_up();
        ready.fetch_add(1, Ordering::AcqRel);
        let mut wait = Wait::default();
        while ready.load(Ordering::Acquire) < 2 {
            wait.a_little();
        }
        work()
    };
    thread::scope(|threads| {
        let other = threads.spawn(one);
        let mine = one();
        (mine + other.join().expect("the other thread")) / 2
    })
}

fn handover<A: GlobalAlloc + Sync>(heap: &A, turns: u64) -> Duration {
    let ring = Ring::new();
    let ready = AtomicU32::new(0);
    thread::scope(|threads| {
        let consumer = threads.spawn(|| {
            ready.store(1, Ordering::Release);
            for turn in 0..turns {
                let block = ring.receive(turn);
                // SAFETY: the producer took it with this layout and gave it up.
                unsafe { give(heap, block, small()) };
            }
        });
        let mut wait = Wait::default();
        while ready.load(Ordering::Acquire) == 0 {
            wait.a_little();
        }
        let start = Instant::now();
        for turn in 0..turns {
            ring.send(turn, take(heap, small()));
        }
        consumer.join().expect("the consumer");
        start.elapsed()
    })
}

/// A ring of pointers between two threads that does not allocate. Null is empty.
struct Ring {
    places: [AtomicPtr<u8>; Self::LEN],
}

impl Ring {
    const LEN: usize = 256;

    fn new() -> Self {
        Self {
            places: [const { AtomicPtr::new(ptr::null_mut()) }; Self::LEN],
        }
    }

    fn place(&self, turn: u64) -> &AtomicPtr<u8> {
        let at = usize::try_from(turn).expect("fits on 64 bits");
        &self.places[at % Self::LEN]
    }

    fn send(&self, turn: u64, block: *mut u8) {
        let place = self.place(turn);
        let mut wait = Wait::default();
        while !place.load(Ordering::Acquire).is_null() {
            wait.a_little();
        }
        place.store(block, Ordering::Release);
    }

    fn receive(&self, turn: u64) -> *mut u8 {
        let place = self.place(turn);
        let mut wait = Wait::default();
        loop {
            let block = place.load(Ordering::Acquire);
            if !block.is_null() {
                place.store(ptr::null_mut(), Ordering::Release);
                return block;
            }
            wait.a_little();
        }
    }
}

/// Spins, and gives the core away when that takes long: there may be but one.
#[derive(Default)]
struct Wait(u32);

impl Wait {
    fn a_little(&mut self) {
        self.0 += 1;
        if self.0.is_multiple_of(200) {
            thread::yield_now();
        } else {
            spin_loop();
        }
    }
}
