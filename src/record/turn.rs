//! Whose turn it is to record all threads: one profile's or one leak check's of the
//! whole process.

use crate::sync::{AtomicU32, Ordering};

/// Whether somebody has it.
static TAKEN: AtomicU32 = AtomicU32::new(0);

/// Until it is dropped, nobody else records all threads, nor makes ready for it, nor
/// clears up after it.
#[derive(Debug)]
pub(super) struct Turn(());

impl Turn {
    /// `None` when somebody else has it.
    pub(super) fn take() -> Option<Self> {
        // Acquire: what the last one has cleared up.
        (TAKEN.swap(1, Ordering::Acquire) == 0).then_some(Self(()))
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        // Release: as above.
        TAKEN.store(0, Ordering::Release);
    }
}
