//! The calling thread's line of a pool.
//!
//! Where a thread's number ([`thread`]) and a pool's table meet. A line is handed out
//! only while the number is owned, and whoever gets one uses it on the spot.

use crate::pool::line::Own;
use crate::pool::table::{Place, Table};
use crate::pool::thread;

/// The calling thread's line, if it has one in this table.
#[inline]
pub(crate) fn line<T>(table: &Table<T>) -> Option<Own<'_, T>> {
    // SAFETY: the place is the calling thread's own, by a claim that happens after the last owner
    // gave the number back, until its thread locals are dropped; `Own` is not `Send`, and nothing
    // of the pool keeps one across the end of its thread's locals: it would have to be in one.
    unsafe { table.own(thread::current()) }
}

/// The same, with a number claimed and the line made if need be.
#[cold]
pub(crate) fn line_or_grow<T>(table: &Table<T>) -> Option<Own<'_, T>> {
    let place = thread::claim();
    table.grow(place);
    line(table)
}

/// Until it is gone nobody else empties lines of ended threads, of whatever pool.
pub(crate) use crate::pool::thread::sweep_alone;

/// Calls `f` with the line of each number that no thread owns. `f` must not call
/// a user's code.
pub(crate) fn for_each_free_line<T>(table: &Table<T>, mut f: impl FnMut(Own<'_, T>)) {
    thread::for_each_free(table.len(), |index| {
        // SAFETY: `for_each_free` has claimed the number, as a thread would have.
        if let Some(line) = unsafe { table.own(Place::of(index)) } {
            f(line);
        }
    });
}

/// Calls `f` with every line, for the one who has the table to itself.
pub(crate) fn for_each_line<T>(table: &mut Table<T>, mut f: impl FnMut(Own<'_, T>)) {
    for index in 0..table.len() {
        // SAFETY: `&mut`, so that no thread has a line of this table in its hands, and whatever they
        // did happens before this.
        if let Some(line) = unsafe { table.own(Place::of(index)) } {
            f(line);
        }
    }
}
