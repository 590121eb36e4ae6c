//! Large ranges of zero bytes that cost nothing until they are touched.
//!
//! Tree and table must grow while the program is inside its allocator, so they
//! ask the system for all that they may ever need at once, before anything is
//! recorded. The system gives addresses; a page of memory comes with the first
//! write to it. So growing is writing a little further: nothing moves, nothing
//! is freed under a reader, and no call that could fail is left on the path.
//! What the system must do, and not do, for that is in `memory`.
//!
//! Where addresses are few (`ulimit -v`), all that we may ever need is all that the
//! program has. So what belongs together is asked for together, as *plots*, and is
//! made zones of only when there is as much again, which stays the program's:
//!
//! ```text
//!   plots, and as much again ──── there ───▶ zones, for ever
//!      ▲                     └─── not ─────▶ given back ──▶ half as much of each
//!      └────────────────────────────────────────────────────┘
//! ```

#[cfg(not(loom))]
mod memory;

#[cfg(not(loom))]
pub(crate) use real::{Asked, Part, Plot, Zone, leaving_as_much};

/// Zeroed cells that any thread may write: every field is an atomic.
///
/// # Safety
/// A value of zero bytes is a valid value of the type, and it needs no drop.
pub(crate) unsafe trait Cell: crate::arena::Zeroed + Sync + 'static {
    /// What zero bytes are, where atomics are not bytes.
    #[cfg(loom)]
    fn fresh() -> Self;
}

#[cfg(not(loom))]
mod real {
    use core::fmt;
    use core::marker::PhantomData;
    use core::ptr::NonNull;

    use super::Cell;
    use super::memory::Memory;
    use crate::record::lock::Lock;
    use crate::sync::{AtomicPtr, AtomicU64, Ordering};

    /// What every zone starts at a multiple of, at least: a cache line.
    const LINE: usize = 64;

    /// How often everything is halved at most.
    const HALVINGS: u32 = 12;

    /// What has been asked of the system together.
    pub(crate) trait Asked {
        /// How many bytes it has given.
        fn bytes(&self) -> usize;
    }

    impl<A: Asked, B: Asked> Asked for (A, B) {
        fn bytes(&self) -> usize {
            self.0.bytes().saturating_add(self.1.bytes())
        }
    }

    impl<A: Asked> Asked for Option<A> {
        fn bytes(&self) -> usize {
            self.as_ref().map_or(0, Asked::bytes)
        }
    }

    /// What `ask` gives for the fewest halvings, but not if it is more than what is left:
    /// a program whose addresses are few needs them itself. `None` when there is nothing so
    /// small.
    pub(crate) fn leaving_as_much<A: Asked>(ask: impl Fn(u32) -> Option<A>) -> Option<A> {
        let leaves_as_much = |asked: &A| match asked.bytes() {
            0 => true,
            // Given back at once.
            bytes => Memory::ask(bytes).is_some(),
        };
        (0..=HALVINGS).find_map(|halvings| ask(halvings).filter(leaves_as_much))
    }

    /// Memory for a zone, which is the zone's once that is [opened](Zone::open) with it.
    #[derive(Debug)]
    pub(crate) struct Plot<T> {
        /// Invariant: zero, and with room for `len` cells, aligned as a zone's are.
        memory: Option<Memory>,
        len: usize,
        cells: PhantomData<T>,
    }

    impl<T> Plot<T> {
        /// How many cells there is room for: those of the zone, if that is open.
        pub(crate) fn len(&self) -> usize {
            self.len
        }
    }

    impl<T> Asked for Plot<T> {
        fn bytes(&self) -> usize {
            self.memory.as_ref().map_or(0, Memory::size)
        }
    }

    /// A range of `T`, empty until it is opened, and then the same for ever.
    pub(crate) struct Zone<T> {
        /// All of them; their number, once it is not 0, stays.
        all: Part<T>,
        /// The memory that they are in, and its size.
        memory: AtomicPtr<u8>,
        memory_size: AtomicU64,
        opening: Lock,
        cells: PhantomData<T>,
    }

    impl<T: Cell> Zone<T> {
        const ALIGN: usize = if align_of::<T>() > LINE {
            align_of::<T>()
        } else {
            LINE
        };

        /// A zone without cells.
        pub(crate) const fn new() -> Self {
            const { assert!(size_of::<T>() > 0) };
            Self {
                all: Part::new(),
                memory: AtomicPtr::new(core::ptr::null_mut()),
                memory_size: AtomicU64::new(0),
                opening: Lock::new(),
                cells: PhantomData,
            }
        }

        /// Asks for the memory of `len` cells; `None` when there is none. For a zone that
        /// is open, and for no cells, none is needed.
        pub(crate) fn plot(&self, len: usize) -> Option<Plot<T>> {
            let open = self.all.len();
            let memory = if open > 0 || len == 0 {
                None
            } else {
                let bytes = size_of::<T>().checked_mul(len)?;
                Some(Memory::ask(bytes.checked_add(Self::ALIGN)?)?)
            };
            let len = if open > 0 { open } else { len };
            Some(Plot {
                memory,
                len,
                cells: PhantomData,
            })
        }

        /// Makes it the cells of this memory; `false` when somebody else does not come to an
        /// end with that. A zone that is open stays as it is; and one of no cells is never
        /// open.
        pub(crate) fn open(&self, plot: Plot<T>) -> bool {
            let Plot { memory, len, .. } = plot;
            let Some(memory) = memory else {
                return true;
            };
            // Taken over from a thread that a fork has left behind, too: it can have got no
            // further than to memory that nobody knows of.
            let Some(_one) = self.opening.acquire() else {
                return false;
            };
            if self.is_open() {
                return true;
            }
            let (start, size) = memory.into_raw();
            self.memory.store(start.as_ptr(), Ordering::Relaxed);
            self.memory_size.store(size as u64, Ordering::Relaxed);
            let first = start.as_ptr();
            let first = first.map_addr(|address| address.next_multiple_of(Self::ALIGN));
            // SAFETY: a plot's memory has room for so many cells behind its beginning rounded up to
            // their alignment; they are zero, which is valid (`Cell`), and nothing moves or frees
            // them before this is dropped, or uses them but as cells.
            unsafe { self.all.place(first.cast(), len) };
            true
        }

        fn is_open(&self) -> bool {
            self.all.len() > 0
        }

        /// How many cells there are.
        #[inline]
        pub(crate) fn len(&self) -> u64 {
            self.all.len() as u64
        }

        /// Where the first cell is, if there is one. For cells that are lent out
        /// whole, to be used not as cells.
        #[inline]
        pub(crate) fn first(&self) -> *mut T {
            self.all.first()
        }

        /// The cell at `index`; `None` beyond the end and before opening.
        #[inline]
        pub(crate) fn get(&self, index: u64) -> Option<&T> {
            self.all().get(usize::try_from(index).ok()?)
        }

        /// All cells; none before opening.
        #[inline]
        pub(crate) fn all(&self) -> &[T] {
            self.all.all()
        }
    }

    /// Cells of a zone, some or all, kept where they are needed; none until they are set.
    #[derive(Debug)]
    pub(crate) struct Part<T> {
        // Invariant: aligned and not null; and the first of `len` cells that live as long as this
        // is used. Who sees a length that is not 0 sees the address that belongs to it.
        first: AtomicPtr<T>,
        len: AtomicU64,
    }

    impl<T: Cell> Part<T> {
        /// No cells.
        pub(crate) const fn new() -> Self {
            Self {
                first: AtomicPtr::new(core::ptr::dangling_mut()),
                len: AtomicU64::new(0),
            }
        }

        /// Makes it these cells. For one thread at a time, with the same cells.
        ///
        /// # Safety
        /// The zone of the cells lives as long as this value does.
        pub(crate) unsafe fn set(&self, cells: &[T]) {
            // SAFETY: a slice's cells, and how long they live says the caller.
            unsafe { self.place(cells.as_ptr().cast_mut(), cells.len()) };
        }

        /// The same by the address of the first, and their number.
        ///
        /// # Safety
        /// There are so many cells, aligned, and zeroed or written; they live as long
        /// as this value does, and as cells are used through `&T` only.
        unsafe fn place(&self, first: *mut T, len: usize) {
            self.first.store(first, Ordering::Relaxed);
            // Release: the address, and that the cells are zero.
            self.len.store(len as u64, Ordering::Release);
        }

        /// How many there are.
        #[inline]
        fn len(&self) -> usize {
            // Acquire: the address, and that the cells are zero.
            usize::try_from(self.len.load(Ordering::Acquire)).unwrap_or(0)
        }

        /// Where the first cell is, if there is one.
        #[inline]
        fn first(&self) -> *mut T {
            self.first.load(Ordering::Relaxed)
        }

        /// The cells.
        #[inline]
        pub(crate) fn all(&self) -> &[T] {
            let len = self.len();
            let first = self.first();
            // SAFETY: the invariant. It saves each look at a cell a comparison.
            unsafe { core::hint::assert_unchecked(!first.is_null()) };
            // SAFETY: the invariant: an aligned address, and `len` cells, zeroed or written, both of
            // which are valid (`Cell`). As cells they are only ever used through `&T`, and they live
            // as long as `self`, which the borrow does not outlive.
            unsafe { core::slice::from_raw_parts(first, len) }
        }
    }

    impl<T> Drop for Zone<T> {
        fn drop(&mut self) {
            let size = usize::try_from(self.memory_size.load(Ordering::Relaxed)).unwrap_or(0);
            if let Some(start) = NonNull::new(self.memory.load(Ordering::Relaxed)) {
                // SAFETY: both from `into_raw`; no borrow of a cell is left, since `self` is borrowed
                // exclusively, and cells need no drop.
                drop(unsafe { Memory::from_raw(start, size) });
            }
        }
    }

    impl<T> fmt::Debug for Zone<T> {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.debug_struct("Zone")
                .field("len", &self.all.len.load(Ordering::Relaxed))
                .finish_non_exhaustive()
        }
    }
}

/// The same in a model, where atomics are not bytes.
#[cfg(loom)]
#[derive(Debug)]
pub(crate) struct Zone<T> {
    cells: Vec<T>,
}

#[cfg(loom)]
impl<T: Cell> Zone<T> {
    /// A zone of `len` cells.
    pub(crate) fn model(len: usize) -> Self {
        Self {
            cells: (0..len).map(|_| T::fresh()).collect(),
        }
    }

    pub(crate) fn len(&self) -> u64 {
        self.cells.len() as u64
    }

    pub(crate) fn get(&self, index: u64) -> Option<&T> {
        self.cells.get(usize::try_from(index).ok()?)
    }
}

/// A system without memory, for tests: this thread's next requests.
#[cfg(test)]
pub(crate) mod scarcity {
    use core::cell::Cell;

    thread_local! {
        static GRANTED: Cell<u32> = const { Cell::new(u32::MAX) };
    }

    /// Lets `count` more requests succeed, and refuses all others until `f` ends.
    pub(crate) fn after<R>(count: u32, f: impl FnOnce() -> R) -> R {
        let _ = GRANTED.try_with(|granted| granted.set(count));
        let result = f();
        let _ = GRANTED.try_with(|granted| granted.set(u32::MAX));
        result
    }

    pub(super) fn refuses() -> bool {
        GRANTED
            .try_with(|granted| match granted.get() {
                u32::MAX => false,
                0 => true,
                left => {
                    granted.set(left - 1);
                    false
                }
            })
            .unwrap_or(false)
    }
}
