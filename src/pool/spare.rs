//! One object beside the lock of a bounded pool.
//!
//! ```text
//!   63 ................... 6 | 5 ......... 1 | 0
//!   address of the object    | taken         | shut        one atomic word
//!   (0: there is none)       | (0 to 31)     |
//! ```
//!
//! A lock costs two read-modify-writes, so a pair costs four. A pair that finds
//! its object here costs two. Who wants to wait *shuts* it first, under the lock,
//! and takes what is in it: while it is shut nothing goes in, so whatever comes
//! back meets the lock, and the queue behind it. It is opened again, under the lock,
//! when nobody waits any longer.
//!
//! The word also counts how often the object was taken, up to 31 times; then the
//! next call goes through the lock, which adds them up. Nothing is ever read
//! through the pointer by someone who has not taken it, so it does not matter that
//! the same object may have come and gone between a load and a compare-exchange.

use core::marker::PhantomData;
use core::ptr;

use crate::pool::object::{Object, Padded};
use crate::sync::{AtomicPtr, Ordering};

const SHUT: usize = 1;
const TAKEN: usize = 2;
/// The count, as far as it goes.
const COUNT: usize = 31 * TAKEN;
const ADDRESS: usize = !(COUNT | SHUT);

/// A place for one object.
#[derive(Debug)]
pub(crate) struct Spare<T> {
    // Invariant: the address in it is 0, or that of an object which the place owns.
    word: AtomicPtr<Padded<T>>,
    owns: PhantomData<Object<T>>,
}

// SAFETY: through a shared place threads take the object and put one in, which sends it; nobody
// sees it there.
unsafe impl<T: Send> Sync for Spare<T> {}
// SAFETY: it owns an object, so to send the place is to send the object.
unsafe impl<T: Send> Send for Spare<T> {}

impl<T> Spare<T> {
    pub(crate) fn new() -> Self {
        Self {
            word: AtomicPtr::new(ptr::null_mut()),
            owns: PhantomData,
        }
    }

    /// Takes the object. `None` also when the count is full, or somebody else was
    /// here at the same moment: the lock decides then.
    #[inline]
    pub(crate) fn take(&self) -> Option<Object<T>> {
        let word = self.word.load(Ordering::Relaxed);
        let count = word.addr() & COUNT;
        if word.addr() & ADDRESS == 0 || count == COUNT {
            return None;
        }
        // An object is never in a place that is shut.
        let empty = ptr::without_provenance_mut(count + TAKEN);
        // Acquire: what the one who put it there did to it.
        self.exchange(word, empty, Ordering::Acquire)
    }

    /// Puts an object there, or gives it back.
    #[inline]
    pub(crate) fn put(&self, object: Object<T>) -> Result<(), Object<T>> {
        let word = self.word.load(Ordering::Relaxed);
        if word.addr() & (ADDRESS | SHUT) != 0 {
            return Err(object);
        }
        let raw = object.into_raw();
        let full = raw.map_addr(|address| address | word.addr());
        // Release: what we did to it.
        let put = self
            .word
            .compare_exchange(word, full, Ordering::Release, Ordering::Relaxed);
        if put.is_ok() {
            return Ok(());
        }
        // SAFETY: from `into_raw` just now, and the word does not have it.
        Err(unsafe { Object::from_raw(raw) })
    }

    /// Shuts it and takes what is in it. Under the lock.
    pub(crate) fn shut(&self) -> Option<Object<T>> {
        loop {
            let word = self.word.load(Ordering::Relaxed);
            if word.addr() & SHUT != 0 {
                return None;
            }
            let shut = ptr::without_provenance_mut(word.addr() & COUNT | SHUT);
            let done = self
                .word
                .compare_exchange(word, shut, Ordering::Acquire, Ordering::Relaxed);
            if done.is_ok() {
                return Self::object(word);
            }
        }
    }

    /// Opens it again. Under the lock.
    pub(crate) fn open(&self) {
        let word = self.word.load(Ordering::Relaxed);
        if word.addr() & SHUT != 0 {
            // Nobody else changes it while it is shut.
            let open = ptr::without_provenance_mut(word.addr() & COUNT);
            self.word.store(open, Ordering::Release);
        }
    }

    /// How often an object was taken since the last call. Under the lock.
    #[inline]
    pub(crate) fn count(&self) -> u64 {
        loop {
            let word = self.word.load(Ordering::Relaxed);
            let count = word.addr() & COUNT;
            if count == 0 {
                return 0;
            }
            let zero = word.map_addr(|address| address & !COUNT);
            // AcqRel: an object that is there keeps the chain from its last user to its next.
            let done = self
                .word
                .compare_exchange(word, zero, Ordering::AcqRel, Ordering::Relaxed);
            if done.is_ok() {
                return (count / TAKEN) as u64;
            }
        }
    }

    /// Whether an object is there.
    #[inline]
    pub(crate) fn is_full(&self) -> bool {
        self.word.load(Ordering::Relaxed).addr() & ADDRESS != 0
    }

    #[inline]
    fn exchange(
        &self,
        word: *mut Padded<T>,
        empty: *mut Padded<T>,
        success: Ordering,
    ) -> Option<Object<T>> {
        let done = self
            .word
            .compare_exchange(word, empty, success, Ordering::Relaxed);
        done.ok().and_then(Self::object)
    }

    /// The object of a word that has just been taken out.
    #[inline]
    fn object(word: *mut Padded<T>) -> Option<Object<T>> {
        let raw = word.map_addr(|address| address & ADDRESS);
        if raw.is_null() {
            return None;
        }
        // SAFETY: the invariant of `word`; the compare-exchange took it out, so it is ours alone.
        Some(unsafe { Object::from_raw(raw) })
    }
}

impl<T> Drop for Spare<T> {
    fn drop(&mut self) {
        drop(self.shut());
    }
}
