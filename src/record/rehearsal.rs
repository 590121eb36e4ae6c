//! What calibration is shown besides plain allocations. Of all that is here, this
//! alone asks the global allocator for blocks; it runs in a normal context.

use core::alloc::Layout;
use core::hint::black_box;
use std::alloc;

use crate::ledger;
use crate::record::blocks::{New, allocated_anyhow};
use crate::record::hooks::TABLE;
use crate::record::look::LOOK;
use crate::record::visits;

/// Goes the ways that no allocation goes before there is a profile: that of a new
/// block which a profile wants, and that of a resized one which nobody has looked
/// for. On a thread that is in the first recording; nothing is left behind.
pub(super) fn rehearse() {
    // A place that is no block: with no profile nobody asks for a stand-in, or frees it.
    static NONE: u8 = 0;
    let block = (&raw const NONE).cast_mut();
    allocated_anyhow(New {
        block,
        layout: Layout::new::<u8>(),
        zeroed: false,
        slot: ledger::own(),
    });
    TABLE.remove(block.addr());

    let (Some(thread), layout) = (visits::here(), black_box(Layout::new::<[u64; 8]>())) else {
        return;
    };
    // Two, as one may be where a stand-in could be.
    // SAFETY: the layout is not empty.
    let blocks = visits::quietly(|| [(); 2].map(|()| unsafe { alloc::alloc(layout) }));
    for block in blocks.into_iter().filter(|block| !block.is_null()) {
        let mut grown = core::ptr::null_mut();
        LOOK.as_while_sampling(|| {
            let size = black_box(4096);
            // SAFETY: the block has this layout, and the size is neither zero nor too large; when it
            // is granted the old block is not used again.
            thread.rehearse(|| grown = unsafe { alloc::realloc(block, layout, size) });
        });
        let (block, size) = if grown.is_null() {
            (block, layout.size())
        } else {
            (grown, 4096)
        };
        if let Ok(layout) = Layout::from_size_align(size, layout.align()) {
            // SAFETY: the block has this layout by now, and is not used again.
            unsafe { alloc::dealloc(black_box(block), layout) };
        }
    }
}
