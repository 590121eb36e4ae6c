//! What storeys above the ledger keep with a slot, and ask of it.

use super::{EVERYONE, Slot, is_every};
use crate::ledger::peak::{BATCH, Peak};
use crate::ledger::trace::Trace;
use crate::sync::Ordering;

impl Slot {
    /// Notes in the traces where the last request came from.
    pub(crate) fn note_site(&self, site: u32) {
        Trace::note_site(self.first_trace(), site);
    }

    /// What a higher storey keeps with the slot.
    pub(crate) fn attachment(&self) -> *mut () {
        self.attachment.load(Ordering::Acquire)
    }

    /// Keeps `attachment` with the slot, for this owner and the next ones.
    pub(crate) fn attach(&self, attachment: *mut ()) {
        self.attachment.store(attachment, Ordering::Release);
    }

    /// Makes the owner take the cold path when it has allocated `at` bytes in
    /// all, or earlier; and until then, for `rest` bytes at most, nobody above wants
    /// to be told of its events. The caller knows that since there were `calls`, and
    /// says it again at each event that it is told of.
    pub(crate) fn due_by(&self, at: u64, rest: u64, calls: u32) {
        // A publication that comes early does no harm, so its mark serves for this too.
        if at.wrapping_sub(self.publish_at()).cast_signed() < 0 {
            self.set_publish_at(at);
            self.arm_since(calls);
        }
        let now = self.allocated_bytes.own();
        // An event that nobody is told of sets the mark a batch ahead, and nobody lowers it.
        let left = at.wrapping_sub(now).cast_signed();
        let left = left.saturating_sub(BATCH.cast_signed());
        match u64::try_from(left) {
            Ok(left) if !(self.is_watched() || is_every()) => {
                self.rest.begin(now.wrapping_add(left.min(rest)), calls);
            }
            _ => self.rest.end(),
        }
    }

    /// Whether nobody above wants to be told of the owner's event, a request of so many
    /// `bytes`, which has been entered.
    #[inline]
    pub(crate) fn rests(&self, bytes: u64) -> bool {
        let allocated = self.allocated_bytes.own();
        // A large one may be far behind the end.
        bytes <= BATCH && self.rest.lasts(allocated, EVERYONE.calls())
    }

    /// Publishes what an event has left to who is told of it, now that he has told of it too:
    /// whoever sees it in the ledger from now on finds it there.
    #[inline]
    pub(crate) fn publish_due(&self, peak: &Peak) {
        if self.is_publication_due() {
            self.publish_told(peak);
        }
    }

    #[cold]
    #[inline(never)]
    fn publish_told(&self, peak: &Peak) {
        self.bring_up_to_date(peak);
        self.set_publish_at(self.allocated_bytes.own().wrapping_add(BATCH));
        // The mark stays, so that the next request is an event as well: somebody may have called
        // since this one was told of.
    }

    /// The owner's net, as it knows it.
    pub(crate) fn own_net(&self) -> i64 {
        self.allocated_bytes
            .own()
            .wrapping_sub(self.freed_bytes.own())
            .cast_signed()
    }

    /// What that has changed by since it was last published.
    pub(crate) fn unpublished(&self) -> i64 {
        self.own_net()
            .wrapping_sub(self.published.load(Ordering::Relaxed))
    }
}
