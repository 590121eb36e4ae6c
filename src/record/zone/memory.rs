//! What zones are made of: addresses from the system, and memory as it is touched.
//!
//! On Linux straight from the kernel. The C library's `calloc` has the same addresses
//! to give, but settings that a user makes for the program's own blocks change what
//! they cost, and then a range of gibibytes becomes memory that is used: `MALLOC_PERTURB_`
//! has it write to all of a block, its huge pages are 2 MiB for one byte, and what a
//! program maps after `mlockall(MCL_FUTURE)` is locked, which means that it is there.
//!
//! ```text
//!   mmap      one page, which is not reckoned with before it is written to
//!   madvise   pages of the usual size
//!   munlock   not locked, if all that is new was to be
//!   mremap    as many of them as are wanted
//! ```
//!
//! The first three are about one page, so that none of them can come to cost anything, and
//! what they say goes for those that follow it. Two things we cannot help: a program that
//! locks what it has (`mlockall(MCL_CURRENT)`) when zones are open locks them, too, and all
//! of them is memory then; and where the kernel promises no more than there is
//! (`vm.overcommit_memory` is 2) it reckons with all of a zone.

use core::ptr::NonNull;

/// A range of zero bytes that nobody else has. Given back when it is dropped.
#[derive(Debug)]
pub(super) struct Memory {
    // Invariant: from `system::ask` with this size, not given back, and this value's alone.
    start: NonNull<u8>,
    size: usize,
}

impl Memory {
    /// So many bytes, at a multiple of 16; `None` when the system has none. Safe inside the
    /// allocator.
    pub(super) fn ask(size: usize) -> Option<Self> {
        #[cfg(test)]
        if super::scarcity::refuses() {
            return None;
        }
        let start = system::ask(size)?;
        Some(Self { start, size })
    }

    /// How many there are.
    pub(super) fn size(&self) -> usize {
        self.size
    }

    /// Gives them up to whoever holds their address and number.
    pub(super) fn into_raw(self) -> (NonNull<u8>, usize) {
        let raw = (self.start, self.size);
        core::mem::forget(self);
        raw
    }

    /// Takes back what [`into_raw`](Self::into_raw) gave.
    ///
    /// # Safety
    /// Both came from there, and no one else uses the memory from now on.
    pub(super) unsafe fn from_raw(start: NonNull<u8>, size: usize) -> Self {
        Self { start, size }
    }
}

impl Drop for Memory {
    // To be seen where it is used: what holds memory there drops it, too, if something unwinds,
    // and the compiler must know that this does not.
    #[inline]
    fn drop(&mut self) {
        // SAFETY: the invariant; nothing uses it after this.
        unsafe { system::give_back(self.start, self.size) };
    }
}

#[cfg(target_os = "linux")]
mod system {
    use core::ptr::{NonNull, null_mut};

    /// Less than a page, which is as good as one to the kernel, whatever its size.
    const SOME: usize = 4096;

    /// So many zero bytes, or more than none.
    pub(super) fn ask(size: usize) -> Option<NonNull<u8>> {
        keeping_errno(|| {
            let kind = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
            let access = libc::PROT_READ | libc::PROT_WRITE;
            // SAFETY: a new mapping where the kernel finds room, so nobody's memory is touched.
            let first = unsafe { libc::mmap(null_mut(), SOME, access, kind, -1, 0) };
            if first == libc::MAP_FAILED {
                return None;
            }
            // Each may fail: then there are no huge pages, or nothing was locked.
            // SAFETY: the page above, which only we know; what is in it stays.
            unsafe { libc::madvise(first, SOME, libc::MADV_NOHUGEPAGE) };
            // SAFETY: as above.
            unsafe { libc::munlock(first, SOME) };
            // SAFETY: as above; nobody has its address, so it may move to where there is room, and
            // what follows it there was nobody's.
            let all = unsafe { libc::mremap(first, SOME, size, libc::MREMAP_MAYMOVE) };
            if all == libc::MAP_FAILED {
                // SAFETY: as above: it is as it was, and known to nobody.
                unsafe { libc::munmap(first, SOME) };
                return None;
            }
            NonNull::new(all.cast())
        })
    }

    /// Gives back what [`ask`] gave.
    ///
    /// # Safety
    /// It came from there, with this size, and nobody uses it after this.
    #[inline]
    pub(super) unsafe fn give_back(start: NonNull<u8>, size: usize) {
        keeping_errno(|| {
            // SAFETY: the caller: a mapping of this size, which is whole, and nobody's from now on.
            unsafe { libc::munmap(start.as_ptr().cast(), size) };
        });
    }

    /// Does what may change `errno`, which a program may read after it has allocated or freed:
    /// zones are opened inside of that, too.
    #[inline]
    fn keeping_errno<R>(change: impl FnOnce() -> R) -> R {
        // SAFETY: takes nothing; the place is the calling thread's, for as long as that lives.
        let errno = unsafe { libc::__errno_location() };
        // SAFETY: the thread's own place, initialised when it was started.
        let before = unsafe { *errno };
        let result = change();
        // SAFETY: as above; the thread has not ended in between.
        unsafe { *errno = before };
        result
    }
}

/// Where we know of no better way: [`System`](std::alloc::System) zeroes a block of an
/// alignment above 16 by writing to all of it, so it is asked for 16.
#[cfg(not(target_os = "linux"))]
mod system {
    use core::alloc::{GlobalAlloc, Layout};
    use core::ptr::NonNull;
    use std::alloc::System;

    /// So many zero bytes, or more than none.
    pub(super) fn ask(size: usize) -> Option<NonNull<u8>> {
        let layout = layout(size)?;
        // SAFETY: the layout is not empty.
        NonNull::new(unsafe { System.alloc_zeroed(layout) })
    }

    /// Gives back what [`ask`] gave.
    ///
    /// # Safety
    /// It came from there, with this size, and nobody uses it after this.
    #[inline]
    pub(super) unsafe fn give_back(start: NonNull<u8>, size: usize) {
        if let Some(layout) = layout(size) {
            // SAFETY: the caller: it came from `System` with this layout.
            unsafe { System.dealloc(start.as_ptr(), layout) };
        }
    }

    fn layout(size: usize) -> Option<Layout> {
        Layout::from_size_align(size.max(1), 16).ok()
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::Memory;

    fn errno() -> i32 {
        let last = std::io::Error::last_os_error();
        last.raw_os_error().expect("the system's")
    }

    /// Bug prevented: an allocation that succeeds, or a free, changes the `errno` that the
    /// program reads after it, when the recorder asks the system for memory meanwhile.
    #[test]
    fn errno_stays_as_it_was_whether_there_is_memory_or_not() {
        // SAFETY: there is no such file to close.
        unsafe { libc::close(-1) };
        // More than there are addresses.
        assert!(Memory::ask(1 << 62).is_none());
        assert_eq!(errno(), libc::EBADF);
        let some = Memory::ask(1 << 30);
        assert_eq!(errno(), libc::EBADF);
        drop(some.expect("memory"));
        assert_eq!(errno(), libc::EBADF);
    }
}
