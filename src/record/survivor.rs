//! What is alive of what was recorded, and which of it was there before.

use crate::record::hooks::TABLE;
use crate::record::table::{Amend, Record};

/// A recorded block that is still alive.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Survivor {
    pub(crate) node: u32,
    pub(crate) size: u64,
    pub(crate) age_ms: u32,
    /// Where it is.
    pub(crate) block: usize,
    /// Whether it was alive at the recording's last [look](super::Recording::look),
    /// wherever and however large it was then.
    pub(crate) seen: bool,
}

impl Survivor {
    pub(super) fn of(block: usize, record: &Record, now_ms: u32) -> Self {
        Self {
            node: record.node,
            size: record.size,
            age_ms: now_ms.saturating_sub(record.birth),
            block,
            seen: record.seen,
        }
    }
}

/// Says of all that has one of these numbers, in order, whether it was looked at. What
/// could not be reached counts as lost, as the table's.
pub(super) fn see(numbers: &[u32], seen: bool) {
    TABLE.amend(|record| {
        let is_theirs = numbers.binary_search(&record.recording).is_ok();
        if is_theirs && record.seen != seen {
            Amend::Replace(Record { seen, ..*record })
        } else {
            Amend::Keep
        }
    });
}
