//! Which recording a thread is in, and what it needs to record.
//!
//! ```text
//!   slot ── attachment ──▶ Thread     from the system at the first visit, then with the slot
//!                          places     the recordings the thread is in, the innermost last
//!                          quiet      > 0 while the thread works for the recorder itself
//!                          stack      the stack of its last capture
//! ```
//!
//! The innermost visit whose recording is still under way gets the block.

use core::cell::{Cell, UnsafeCell};
use core::marker::PhantomData;

use crate::arena::{self, Zeroed};
use crate::error::Error;
use crate::ledger::{self, Figures, Slot};
use crate::record::everywhere;
use crate::record::fork;
use crate::record::places::Places;
use crate::record::sampler::{Line, Sizes};
use crate::record::tag::{self, Tag, Wanting};
use crate::sync::{AtomicU32, AtomicU64, Ordering, compiler_fence, fence};
use crate::unwind::Stack;

/// In `quiet`: within [`Thread::unless_quiet`], and not merely [`quietly`].
const AT_WORK: u32 = 1 << 31;

/// A thread's own state. Zero bytes are its fresh state.
#[derive(Debug)]
pub(super) struct Thread {
    tenancy: Cell<u64>,
    /// The same, and the system's number for the thread, for others to read.
    seen_tenancy: AtomicU64,
    os_id: AtomicU64,
    /// Whether the thread is the recorder's own, and no thread of the program.
    is_ours: AtomicU32,
    quiet: Cell<u32>,
    /// Whether captures are made for nothing; see [`Thread::rehearse`].
    rehearses: Cell<bool>,
    ticks: Cell<u32>,
    places: Places,
    /// Where the next sample is.
    pub(super) line: Line,
    /// The sizes of new blocks, while there is a profile.
    pub(super) sizes: Sizes,
    stack: UnsafeCell<Stack>,
}

// SAFETY: numbers, flags, atomics, options of a reference (null is none), and a `Stack`, which says
// itself that zero bytes are its fresh state.
unsafe impl Zeroed for Thread {}
// SAFETY: needed to leave it with a slot. Every use goes through `here`, `of` or `make`, which give
// it to the slot's owner alone, on its own thread, but for `each_thread`, whose caller gets at the
// atomics only: all else is private to this room.
unsafe impl Sync for Thread {}

/// A slot, and which tenancy of it.
type Tenancy = (&'static Slot, u64);

thread_local! {
    /// The calling thread's, as it was last seen here; it stays when the slot is given back.
    static LAST: Cell<Option<Tenancy>> = const { Cell::new(None) };
}

/// The calling thread's state, if its slot has one.
#[inline]
pub(super) fn here() -> Option<&'static Thread> {
    here_with_slot().map(|(_, thread)| thread)
}

/// The same with the slot.
#[inline]
pub(super) fn here_with_slot() -> Option<(&'static Slot, &'static Thread)> {
    let slot = ledger::own()?;
    // SAFETY: it is the calling thread's.
    unsafe { of(slot) }.map(|thread| (slot, thread))
}

/// The state that the slot has for its owner, if it has one.
///
/// # Safety
/// The slot is the calling thread's own.
#[inline]
pub(super) unsafe fn of(slot: &'static Slot) -> Option<&'static Thread> {
    // SAFETY: an attachment is a `Thread` from `arena::forever`, and we are on the owner's thread.
    let thread = unsafe { slot.attachment().cast::<Thread>().as_ref() }?;
    thread.is_of(slot).then_some(thread)
}

/// The calling thread's slot and state, made if need be. Safe inside the
/// allocator; the first capture then asks for the stack's bounds.
pub(super) fn make() -> Option<(&'static Slot, &'static Thread)> {
    let slot = ledger::own()?;
    if slot.attachment().is_null() {
        slot.attach(arena::forever::<Thread>()?.as_ptr().cast());
    }
    // SAFETY: as in `of`.
    let thread = unsafe { slot.attachment().cast::<Thread>().as_ref() }?;
    if !thread.is_of(slot) {
        // The slot's last owner was another thread, with another stack.
        thread.quiet.set(0);
        thread.places.clear();
        thread.rehearses.set(false);
        // SAFETY: only the owner is here, and no capture is running on this thread: it would have
        // needed the tenancy that is only set below.
        unsafe { (*thread.stack.get()).pass_on() };
        thread.os_id.store(os_id(), Ordering::Relaxed);
        thread.is_ours.store(0, Ordering::Relaxed);
        // `try_with` because `with` has a panic in it; this kind of thread local cannot be gone.
        let _ = LAST.try_with(|last| last.set(Some((slot, slot.tenancy()))));
        // Last: a signal handler that allocates in between must not read by the bounds of the
        // last owner's stack, which may be gone.
        compiler_fence(Ordering::SeqCst);
        thread.tenancy.set(slot.tenancy());
        thread.seen_tenancy.store(slot.tenancy(), Ordering::Release);
    }
    Some((slot, thread))
}

impl Thread {
    #[inline]
    fn is_of(&self, slot: &Slot) -> bool {
        self.tenancy.get() == slot.tenancy()
    }

    /// The recording that gets what this thread allocates now.
    #[inline]
    pub(super) fn current(&self) -> Option<Tag> {
        match self.places.last() {
            Some(tag) if tag.is_under_way() => Some(tag),
            None if self.places.is_empty() => everywhere::tag(),
            _ => self.search_current().or_else(everywhere::tag),
        }
    }

    /// The same when the last visit's recording is over: that of whoever wants its blocks.
    #[cold]
    #[inline(never)]
    fn search_current(&self) -> Option<Tag> {
        self.places
            .tags()
            .find_map(|tag| match tag::wanting(tag.id) {
                Wanting::Somebody(tag) => Some(tag),
                Wanting::Nobody | Wanting::Unknown => None,
            })
    }

    /// One more record; how many there were.
    pub(super) fn tick(&self) -> u32 {
        let ticks = self.ticks.get().wrapping_add(1);
        self.ticks.set(ticks);
        ticks
    }

    /// Runs `work` unless the thread is already at work for the recorder.
    #[inline]
    pub(super) fn unless_quiet<R>(&self, work: impl FnOnce() -> R) -> Option<R> {
        if self.is_quiet() {
            return None;
        }
        self.quiet.set(AT_WORK);
        let result = work();
        self.quiet.set(0);
        Some(result)
    }

    /// Where a visit to this recording has its place; `None` when there is none left.
    fn place(&self, tag: Tag) -> Option<u32> {
        if self.places.is_full_for(tag) {
            // Quiet: a handler that comes in between gets no place, and is told so.
            let wanted = |other: Tag| matches!(tag::wanting(other.id), Wanting::Somebody(_));
            self.unless_quiet(|| self.places.close_up(wanted))?;
        }
        self.places.enter(tag)
    }

    /// Runs `work`, of which stacks are captured also where a capture is for nothing.
    pub(super) fn rehearse(&self, work: impl FnOnce()) {
        self.rehearses.set(true);
        work();
        self.rehearses.set(false);
    }

    pub(super) fn is_rehearsing(&self) -> bool {
        self.rehearses.get()
    }

    pub(super) fn is_quiet(&self) -> bool {
        self.quiet.get() > 0
    }

    /// Whether the thread is at work on a block: what it allocates meanwhile is
    /// a signal handler's, as that work allocates nothing.
    pub(super) fn is_interrupted(&self) -> bool {
        self.quiet.get() >= AT_WORK
    }

    /// Lends the stack. Only within [`unless_quiet`](Self::unless_quiet).
    pub(super) fn with_stack<R>(&self, work: impl FnOnce(&mut Stack) -> R) -> R {
        debug_assert!(self.is_quiet());
        // SAFETY: only this thread uses it, and only while `quiet` is raised, which keeps a nested
        // call (a signal handler that allocates) from getting here.
        work(unsafe { &mut *self.stack.get() })
    }
}

/// The system's number for the calling thread; 0 where it has none.
fn os_id() -> u64 {
    #[cfg(target_os = "linux")]
    {
        // SAFETY: takes nothing and touches nothing.
        let id = unsafe { libc::gettid() };
        u64::try_from(id).unwrap_or(0)
    }
    #[cfg(not(target_os = "linux"))]
    0
}

/// Whether anything that the calling thread does can be recorded now: not when the inner
/// allocator, or a signal, has called it back in the recorder's own work.
pub(super) fn at_leisure() -> Result<(), Error> {
    let is_quiet = here().is_some_and(Thread::is_quiet);
    if is_quiet { Err(Error::busy()) } else { Ok(()) }
}

/// Whether the calling thread can be in recordings at all.
pub(super) fn possible() -> Result<(), Error> {
    ledger::own_or_error()?;
    make().map(|_| ()).ok_or(Error::no_memory())
}

/// What each thread that was ever seen here has done since it began, by the
/// system's number, and what all others have done, the ended ones included; without
/// [ours](is_ours). Of the calling thread, which may be ending, what it has done while it had
/// a slot. Where there is no memory for a list, all are others.
pub(crate) fn threads() -> (Vec<(u64, Figures)>, Figures) {
    let (mut seen, mut rest) = (Vec::new(), Figures::default());
    let _ = seen.try_reserve_exact(ledger::slots_ever_owned());
    let last = last_tenancy();
    for slot in ledger::slots() {
        // SAFETY: an attachment is a `Thread` from `arena::forever`; only atomics of it are read.
        let thread = unsafe { slot.attachment().cast::<Thread>().as_ref() };
        let ended = last.filter(|(last, _)| core::ptr::eq(*last, slot));
        let tenant = match ended {
            // Nobody else's since, or the figures would be others', too.
            Some((_, given_back)) => {
                (slot.tenancy() == given_back).then(|| (given_back, os_id(), slot.base()))
            }
            None => thread.and_then(|thread| tenant(slot, thread)),
        };
        // After the base, which they are never behind.
        let figures = slot.figures();
        rest = rest.plus(&figures);
        if let Some((tenancy, os_id, base)) = tenant {
            // Otherwise the slot has changed hands while we looked.
            fence(Ordering::Acquire);
            if slot.tenancy() == tenancy {
                let own = figures.since(&base);
                let is_ours = thread.is_some_and(|t| t.is_ours.load(Ordering::Relaxed) != 0);
                if is_ours {
                    rest = rest.since(&own);
                } else if seen.len() < seen.capacity() {
                    rest = rest.since(&own);
                    seen.push((os_id, own));
                }
            }
        }
    }
    (seen, rest)
}

/// The calling thread is the recorder's own.
#[cfg(target_os = "linux")]
pub(crate) fn is_ours() {
    if let Some((_, thread)) = make() {
        thread.is_ours.store(1, Ordering::Relaxed);
    }
}

/// The slot that the calling thread has given back, as at the end of the process, and which
/// tenancy it has been since then, that of nobody.
fn last_tenancy() -> Option<Tenancy> {
    if ledger::own().is_some() {
        return None;
    }
    let (slot, tenancy) = LAST.try_with(Cell::get).ok().flatten()?;
    Some((slot, tenancy.wrapping_add(1)))
}

/// After a fork, in the child: no other thread is there, and this one has another number. Claims
/// no slot.
#[cfg(unix)]
pub(super) fn renumber() {
    for slot in ledger::slots() {
        // SAFETY: an attachment is a `Thread` from `arena::forever`; only atomics of it are used.
        if let Some(thread) = unsafe { slot.attachment().cast::<Thread>().as_ref() } {
            let id = if ledger::is_own(slot) { os_id() } else { 0 };
            thread.os_id.store(id, Ordering::Relaxed);
        }
    }
}

/// Who owns the slot, if it was seen here: which tenancy it is, the system's
/// number for the thread, and where it began.
fn tenant(slot: &Slot, thread: &Thread) -> Option<(u64, u64, Figures)> {
    // Acquire: where that tenant began, and its number.
    let tenancy = thread.seen_tenancy.load(Ordering::Acquire);
    let os_id = thread.os_id.load(Ordering::Relaxed);
    (slot.tenancy() == tenancy).then(|| (tenancy, os_id, slot.base()))
}

/// Makes the calling thread's samples repeatable: for tests.
pub(crate) fn seed_samples(seed: u64) {
    if let Some((_, thread)) = make() {
        thread.line.seed(seed);
    }
}

/// Shows the state of each thread that has one, or has had it.
pub(super) fn each_thread(mut visit: impl FnMut(&Thread)) {
    for slot in ledger::slots() {
        // SAFETY: an attachment is a `Thread` from `arena::forever`.
        if let Some(thread) = unsafe { slot.attachment().cast::<Thread>().as_ref() } {
            visit(thread);
        }
    }
}

/// The thread that works for the recorder itself although it has no slot any
/// more, as at the end of the process; 0 if none does.
static OUTSIDE: AtomicU64 = AtomicU64::new(0);

/// Whether that is the calling thread: what it allocates is missed by nobody.
#[cold]
pub(super) fn is_quiet_outside() -> bool {
    OUTSIDE.load(Ordering::Relaxed) == fork::me()
}

/// Runs `work`, which the recorder does for itself in a normal context: what it
/// allocates and frees is not recorded, and [apart](ledger::apart).
pub(crate) fn quietly<R>(work: impl FnOnce() -> R) -> R {
    struct Quiet {
        thread: Option<&'static Thread>,
        is_outside: bool,
        is_apart: bool,
    }
    impl Drop for Quiet {
        fn drop(&mut self) {
            if self.is_apart {
                ledger::apart::step_back();
            }
            if let Some(thread) = self.thread {
                thread.quiet.set(thread.quiet.get().saturating_sub(1));
            } else if self.is_outside {
                OUTSIDE.store(0, Ordering::Relaxed);
            }
        }
    }
    let thread = make().map(|(_, thread)| thread);
    let mut is_outside = false;
    if let Some(thread) = thread {
        thread.quiet.set(thread.quiet.get() + 1);
    } else {
        // Only the outermost of such calls, and one thread; of another, what it allocates counts
        // as missed.
        let free = OUTSIDE.compare_exchange(0, fork::me(), Ordering::Relaxed, Ordering::Relaxed);
        is_outside = free.is_ok();
    }
    let _quiet = Quiet {
        thread,
        is_outside,
        is_apart: ledger::apart::stand_apart(),
    };
    work()
}

/// Makes the calling thread's state, and asks for its stack's bounds: here, not
/// inside the allocator. Only within [`quietly`].
pub(super) fn prepare() {
    if let Some((_, thread)) = make() {
        // SAFETY: only this thread uses it; the caller's `quietly` keeps a nested capture away.
        unsafe { (*thread.stack.get()).prepare() };
    }
}

/// An open visit of the calling thread to a recording; dropping it ends it.
#[derive(Debug)]
pub(crate) struct Visit {
    place: Option<(&'static Slot, &'static Thread, u64, u32)>,
    not_send: PhantomData<*const ()>,
}

impl Visit {
    /// Opens a visit; one without a place when there is no memory, when the
    /// thread is ending, or when too many are open already. That is counted as a
    /// loss of the recording, whatever the thread allocates.
    pub(super) fn open(tag: Tag) -> Self {
        let place = make().and_then(|(slot, thread)| {
            let number = thread.place(tag)?;
            // The bounds of the thread's stack are asked for here, not inside the allocator.
            quietly(prepare);
            slot.watch();
            Some((slot, thread, slot.tenancy(), number))
        });
        if place.is_none() {
            tag.lose_block();
        }
        Self {
            place,
            not_send: PhantomData,
        }
    }

    /// Whether what the thread allocates is recorded.
    pub(crate) fn is_recorded(&self) -> bool {
        self.place.is_some()
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        let Some((slot, thread, tenancy, number)) = self.place else {
            return;
        };
        // A guard kept in a thread local may be dropped after the slot has gone to another thread.
        let is_here = ledger::own().is_some_and(|own| core::ptr::eq(own, slot));
        if !is_here || slot.tenancy() != tenancy {
            return;
        }
        slot.unwatch();
        thread.places.leave(number);
    }
}
