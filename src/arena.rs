//! Memory for our own bookkeeping, straight from the system.
//!
//! What the ledger needs for itself must not go through the global allocator:
//! that is us, and the books would then count themselves (or recurse). So these
//! few types stand on [`System`], whatever the program's inner allocator is.
//! Nothing here panics or reports: no memory is `None`, and the caller says
//! what is incomplete because of it.

use core::alloc::{GlobalAlloc, Layout};
use core::fmt;
use core::ops::{Deref, DerefMut};
use core::ptr::NonNull;
use std::alloc::System;

use crate::sync::{AtomicU32, Ordering};

/// A `Box` that lives outside the ledger.
pub(crate) struct SysBox<T> {
    // Invariant: allocated by `System` with the layout of `T`, initialised, and
    // owned by this value alone.
    value: NonNull<T>,
}

impl<T> SysBox<T> {
    /// Moves `value` to memory of the system's; `None` when there is none.
    pub(crate) fn try_new(value: T) -> Option<Self> {
        let place = zeroed::<T>()?;
        // SAFETY: `zeroed` gave a block with the size and alignment of `T` that nothing else
        // points to; writing does not read what was there.
        unsafe { place.write(value) };
        Some(Self { value: place })
    }

    /// Gives the memory up to whoever holds the pointer.
    pub(crate) fn into_raw(self) -> *mut T {
        let raw = self.value.as_ptr();
        core::mem::forget(self);
        raw
    }

    /// Takes back what [`into_raw`](Self::into_raw) gave.
    ///
    /// # Safety
    /// `raw` came from `into_raw`, and no one else uses it from now on.
    pub(crate) unsafe fn from_raw(raw: *mut T) -> Self {
        // SAFETY: `into_raw` gives pointers that are not null; the caller upholds the rest.
        let value = unsafe { NonNull::new_unchecked(raw) };
        Self { value }
    }
}

impl<T> Deref for SysBox<T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: the invariant of `value`; the borrow of `self` keeps it alive.
        unsafe { self.value.as_ref() }
    }
}

impl<T> DerefMut for SysBox<T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: the invariant of `value`; `self` is borrowed exclusively.
        unsafe { self.value.as_mut() }
    }
}

impl<T> Drop for SysBox<T> {
    fn drop(&mut self) {
        // SAFETY: the invariant of `value`; nothing uses it after this.
        unsafe { self.value.drop_in_place() };
        // SAFETY: the block came from `System` with this very layout.
        unsafe { System.dealloc(self.value.as_ptr().cast(), Layout::new::<T>()) };
    }
}

/// An `Arc` that lives outside the ledger.
pub(crate) struct SysArc<T> {
    // Invariant: from `SysBox::into_raw`, and alive while `holders` is not zero.
    shared: NonNull<Shared<T>>,
}

struct Shared<T> {
    holders: AtomicU32,
    value: T,
}

// SAFETY: a `SysArc` gives out `&T` on each thread that holds it, and the last holder drops the
// `T`, wherever that is: both bounds are those of `std::sync::Arc`.
unsafe impl<T: Send + Sync> Send for SysArc<T> {}
// SAFETY: as above; a shared `SysArc` can be cloned and so sent.
unsafe impl<T: Send + Sync> Sync for SysArc<T> {}

impl<T> SysArc<T> {
    /// Moves `value` to shared memory of the system's; `None` when there is none.
    pub(crate) fn try_new(value: T) -> Option<Self> {
        let shared = SysBox::try_new(Shared {
            holders: AtomicU32::new(1),
            value,
        })?;
        NonNull::new(shared.into_raw()).map(|shared| Self { shared })
    }

    fn shared(&self) -> &Shared<T> {
        // SAFETY: the invariant of `shared`: this value is itself one of the holders.
        unsafe { self.shared.as_ref() }
    }
}

impl<T> Clone for SysArc<T> {
    fn clone(&self) -> Self {
        let before = self.shared().holders.fetch_add(1, Ordering::Relaxed);
        // Two thousand million forgotten clones must not wrap to a free too early.
        if before > u32::MAX / 2 {
            std::process::abort();
        }
        Self {
            shared: self.shared,
        }
    }
}

impl<T> Deref for SysArc<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.shared().value
    }
}

impl<T> Drop for SysArc<T> {
    fn drop(&mut self) {
        // Release: what this holder did comes before the drop of the value. Acquire: the one who
        // drops it sees what all others did.
        if self.shared().holders.fetch_sub(1, Ordering::AcqRel) == 1 {
            // SAFETY: it came from `into_raw`, and we were the last holder.
            drop(unsafe { SysBox::from_raw(self.shared.as_ptr()) });
        }
    }
}

impl<T: fmt::Debug> fmt::Debug for SysArc<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

/// A type whose fresh state is all zero bytes.
///
/// # Safety
/// A value of zero bytes is a valid value of the type.
pub(crate) unsafe trait Zeroed {}

/// A fresh value that lives as long as the process; `None` when there is no memory.
///
/// It is built in place, not moved from the stack: a claim may happen on a
/// thread whose whole stack is 16 KiB.
pub(crate) fn forever<T: Zeroed + Sync + 'static>() -> Option<NonNull<T>> {
    zeroed::<T>()
}

/// Gives back what [`forever`] gave, when it turns out not to be needed.
///
/// # Safety
/// `value` came from `forever` and was never shared; `T` needs no drop.
pub(crate) unsafe fn give_back<T: Zeroed + Sync + 'static>(value: NonNull<T>) {
    // SAFETY: the caller: the block came from `System` with this very layout.
    unsafe { System.dealloc(value.as_ptr().cast(), Layout::new::<T>()) };
}

/// Whether the system has some memory left, for what ends the process without it.
///
/// A large block, which the C library does not keep for the thread alone when it is given
/// back: then a small one of any kind can be cut from it.
pub(crate) fn is_any_left() -> bool {
    let Some(spare) = zeroed::<[u64; 256]>() else {
        return false;
    };
    // Or the compiler sees that nobody uses it, and does not ask.
    let spare = core::hint::black_box(spare).as_ptr().cast();
    // SAFETY: just requested with this layout, and nobody else knows it.
    unsafe { System.dealloc(spare, Layout::new::<[u64; 256]>()) };
    true
}

/// Memory for one `T`, filled with zero bytes.
fn zeroed<T>() -> Option<NonNull<T>> {
    const { assert!(size_of::<T>() > 0, "System takes no empty layouts") };
    // SAFETY: the layout is not empty, as asserted above.
    let raw = unsafe { System.alloc_zeroed(Layout::new::<T>()) };
    NonNull::new(raw.cast())
}

#[cfg(test)]
mod tests {
    use super::{SysArc, SysBox};
    use std::sync::Arc;

    #[test]
    fn a_box_drops_its_value_once() {
        let witness = Arc::new(());
        let boxed = SysBox::try_new(Arc::clone(&witness)).expect("memory");
        assert_eq!(Arc::strong_count(&boxed), 2);
        let raw = boxed.into_raw();
        assert_eq!(Arc::strong_count(&witness), 2);
        // SAFETY: from `into_raw` just above, used by no one else.
        drop(unsafe { SysBox::from_raw(raw) });
        assert_eq!(Arc::strong_count(&witness), 1);
    }

    #[test]
    fn the_last_holder_of_an_arc_drops_the_value() {
        let witness = Arc::new(());
        let first = SysArc::try_new(Arc::clone(&witness)).expect("memory");
        let second = first.clone();
        std::thread::spawn(move || drop(second))
            .join()
            .expect("thread");
        assert_eq!(Arc::strong_count(&witness), 2);
        drop(first);
        assert_eq!(Arc::strong_count(&witness), 1);
    }
}
