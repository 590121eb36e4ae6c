//! Large ranges of zero bytes that cost nothing until they are touched.
//!
//! Tree and table must grow while the program is inside its allocator, so they
//! ask the system for all that they may ever need at once, before anything is
//! recorded. The system gives addresses; a page of memory comes with the first
//! write to it. So growing is writing a little further: nothing moves, nothing
//! is freed under a reader, and no call that could fail is left on the path.
//!
//! Two facts about the system that this stands on:
//! - [`System`] zeroes a block of an alignment above 16 by writing to all of
//!   it, which would commit it; so we ask for alignment 16 and round up here;
//! - glibc takes blocks above 32 MiB straight from the kernel, where they are
//!   zero already. Smaller ones may be recycled and zeroed by writing.

#[cfg(not(loom))]
pub(crate) use real::{Part, Zone};

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
    use core::alloc::{GlobalAlloc, Layout};
    use core::fmt;
    use core::marker::PhantomData;
    use std::alloc::System;

    use super::Cell;
    use crate::record::lock::Lock;
    use crate::sync::{AtomicPtr, AtomicU64, Ordering};

    /// What every zone starts at a multiple of, at least: a cache line.
    const LINE: usize = 64;

    /// A range of `T`, empty until it is opened, and then the same for ever.
    pub(crate) struct Zone<T> {
        // Invariant: null, or `len` zeroed or written `T`, aligned, which nothing moves or frees
        // before this is dropped. `len` is stored before `base` and both once.
        base: AtomicPtr<T>,
        len: AtomicU64,
        /// What `System` gave, and the size asked of it.
        block: AtomicPtr<u8>,
        block_size: AtomicU64,
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
                base: AtomicPtr::new(core::ptr::null_mut()),
                len: AtomicU64::new(0),
                block: AtomicPtr::new(core::ptr::null_mut()),
                block_size: AtomicU64::new(0),
                opening: Lock::new(),
                cells: PhantomData,
            }
        }

        /// Makes it `len` cells; `false` when there is no memory. A zone that is
        /// open stays as it is.
        pub(crate) fn open(&self, len: usize) -> bool {
            if !self.base.load(Ordering::Acquire).is_null() {
                return true;
            }
            // Taken over from a thread that a fork has left behind, too: it can have got no
            // further than to a block that nobody knows of.
            let Some(_one) = self.opening.acquire() else {
                return false;
            };
            if !self.base.load(Ordering::Acquire).is_null() {
                return true;
            }
            let Some(layout) = size_of::<T>()
                .checked_mul(len)
                .and_then(|bytes| bytes.checked_add(Self::ALIGN))
                .and_then(|bytes| Layout::from_size_align(bytes, 16).ok())
            else {
                return false;
            };
            let block = from_system(layout);
            if block.is_null() {
                return false;
            }
            let base = block.map_addr(|address| address.next_multiple_of(Self::ALIGN));
            self.block.store(block, Ordering::Relaxed);
            self.block_size
                .store(layout.size() as u64, Ordering::Relaxed);
            self.len.store(len as u64, Ordering::Relaxed);
            // Release: the length, and that the cells are zero.
            self.base.store(base.cast(), Ordering::Release);
            true
        }

        /// How many cells there are.
        #[inline]
        pub(crate) fn len(&self) -> u64 {
            self.len.load(Ordering::Relaxed)
        }

        /// Where the first cell is; null before opening. For cells that are lent
        /// out whole, to be used not as cells.
        #[inline]
        pub(crate) fn first(&self) -> *mut T {
            // Acquire: the length, and that the cells are zero.
            self.base.load(Ordering::Acquire)
        }

        /// The cell at `index`; `None` beyond the end and before opening.
        #[inline]
        pub(crate) fn get(&self, index: u64) -> Option<&T> {
            self.all().get(usize::try_from(index).ok()?)
        }

        /// All cells; none before opening.
        #[inline]
        pub(crate) fn all(&self) -> &[T] {
            // Acquire: the length that belongs to the base.
            let base = self.base.load(Ordering::Acquire);
            if base.is_null() {
                return &[];
            }
            let len = usize::try_from(self.len.load(Ordering::Relaxed)).unwrap_or(0);
            // SAFETY: the invariant of `base`: `len` cells in one block, aligned, zeroed or
            // written, both of which are valid (`Cell`). They are only ever used through `&T`,
            // and live until `self` is dropped, which the borrow prevents.
            unsafe { core::slice::from_raw_parts(base, len) }
        }
    }

    /// A run of a zone's cells, kept where it is needed; empty until it is set.
    #[derive(Debug)]
    pub(crate) struct Part<T> {
        // Invariant: the first of `len` cells of a zone that outlives this value, and aligned if
        // there are none. Who sees a length that is not 0 sees the address that belongs to it.
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
            self.first
                .store(cells.as_ptr().cast_mut(), Ordering::Relaxed);
            // Release: the address, and that the cells are zero.
            self.len.store(cells.len() as u64, Ordering::Release);
        }

        /// The cells.
        #[inline]
        pub(crate) fn all(&self) -> &[T] {
            // Acquire: the address.
            let len = usize::try_from(self.len.load(Ordering::Acquire)).unwrap_or(0);
            let first = self.first.load(Ordering::Relaxed);
            // SAFETY: the invariant: no cells and an aligned address, or `len` cells, which `set`
            // had as a slice, in a zone that outlives `self`; they are only ever used through `&T`.
            unsafe { core::slice::from_raw_parts(first, len) }
        }
    }

    impl<T> Drop for Zone<T> {
        fn drop(&mut self) {
            let block = self.block.load(Ordering::Relaxed);
            let size = usize::try_from(self.block_size.load(Ordering::Relaxed)).unwrap_or(0);
            if let (false, Ok(layout)) = (block.is_null(), Layout::from_size_align(size, 16)) {
                // SAFETY: it came from `System` with this layout; no borrow of a cell is left,
                // since `self` is borrowed exclusively, and cells need no drop.
                unsafe { System.dealloc(block, layout) };
            }
        }
    }

    impl<T> fmt::Debug for Zone<T> {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.debug_struct("Zone")
                .field("len", &self.len.load(Ordering::Relaxed))
                .finish_non_exhaustive()
        }
    }

    fn from_system(layout: Layout) -> *mut u8 {
        #[cfg(test)]
        if super::scarcity::refuses() {
            return core::ptr::null_mut();
        }
        // SAFETY: the layout is never empty: it has room to round up.
        unsafe { System.alloc_zeroed(layout) }
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
