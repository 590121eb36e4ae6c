//! Both pools against a reference model, with a panic in every call that a user
//! writes: create, reset, the drop of an object, a waker.
//!
//! Bugs prevented: an object handed out twice, lost, or dropped twice; a permit
//! that a panic or a cancelled wait takes along; a pool that is unusable after a
//! panic; waiters served out of turn.

use std::cell::Cell;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

use heapledger::pool::{
    AcquireAsync, BoundedPool, Manager, OnPanic, Pool, PoolStats, Pooled, Reset,
};
use proptest::prelude::*;

/// What the next call of a user's function does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Act {
    Good,
    /// An error from create, `Discard` from reset.
    Bad,
    Panic,
}

thread_local! {
    static CREATE: Cell<Act> = const { Cell::new(Act::Good) };
    static RESET: Cell<Act> = const { Cell::new(Act::Good) };
    /// Whether the next drop of an object panics.
    static DROP: Cell<Act> = const { Cell::new(Act::Good) };
    static WAKE: Cell<Act> = const { Cell::new(Act::Good) };
    static CREATED: Cell<u64> = const { Cell::new(0) };
    static DROPPED: Cell<u64> = const { Cell::new(0) };
}

/// A panic that prints nothing.
fn scripted_panic() -> ! {
    resume_unwind(Box::new("scripted"))
}

/// Runs `f` and swallows a scripted panic, and that only.
fn scripted<R>(f: impl FnOnce() -> R) -> Option<R> {
    match catch_unwind(AssertUnwindSafe(f)) {
        Ok(result) => Some(result),
        Err(payload) if payload.downcast_ref() == Some(&"scripted") => None,
        Err(payload) => resume_unwind(payload),
    }
}

#[derive(Debug)]
struct Thing {
    out: bool,
}

impl Thing {
    fn new() -> Self {
        CREATED.set(CREATED.get() + 1);
        Self { out: false }
    }
}

impl Drop for Thing {
    fn drop(&mut self) {
        DROPPED.set(DROPPED.get() + 1);
        if DROP.replace(Act::Good) == Act::Panic {
            scripted_panic();
        }
    }
}

struct Scripted;

impl Manager<Thing> for Scripted {
    type Error = &'static str;

    fn create(&self) -> Result<Thing, Self::Error> {
        match CREATE.get() {
            Act::Good => Ok(Thing::new()),
            Act::Bad => Err("scripted"),
            Act::Panic => scripted_panic(),
        }
    }

    fn reset(&self, thing: &mut Thing) -> Reset {
        assert!(thing.out, "only what was out comes back");
        thing.out = false;
        match RESET.get() {
            Act::Good => Reset::Keep,
            Act::Bad => Reset::Discard,
            Act::Panic => scripted_panic(),
        }
    }
}

struct Alarm;

impl Wake for Alarm {
    fn wake(self: Arc<Self>) {
        if WAKE.get() == Act::Panic {
            scripted_panic();
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Op {
    Acquire,
    /// The future starts to wait, or is served at once.
    StartWaiting,
    Poll(usize),
    Cancel(usize),
    Release(usize),
    ReleaseInPanic(usize),
    Discard(usize),
    Detach(usize),
    Forget(usize),
    Attach,
    Prewarm(usize),
    ShrinkTo(usize),
    Close,
}

fn op() -> impl Strategy<Value = Op> {
    let any = 0..64usize;
    prop_oneof![
        12 => Just(Op::Acquire),
        6 => Just(Op::StartWaiting),
        3 => any.clone().prop_map(Op::Poll),
        3 => any.clone().prop_map(Op::Cancel),
        12 => any.clone().prop_map(Op::Release),
        2 => any.clone().prop_map(Op::ReleaseInPanic),
        2 => any.clone().prop_map(Op::Discard),
        2 => any.clone().prop_map(Op::Detach),
        1 => any.clone().prop_map(Op::Forget),
        2 => Just(Op::Attach),
        1 => any.clone().prop_map(Op::Prewarm),
        1 => any.prop_map(Op::ShrinkTo),
    ]
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![6 => Just(Act::Good), 1 => Just(Act::Bad), 1 => Just(Act::Panic)]
}

#[derive(Clone, Copy, Debug)]
struct Step {
    op: Op,
    create: Act,
    reset: Act,
    drop: Act,
    wake: Act,
}

fn step() -> impl Strategy<Value = Step> {
    (op(), act(), act(), act(), act()).prop_map(|(op, create, reset, mut drop, wake)| {
        // An object whose own drop panics while its thread panics ends any Rust program.
        if [create, reset, wake].contains(&Act::Panic) || matches!(op, Op::ReleaseInPanic(_)) {
            drop = Act::Good;
        }
        Step {
            op,
            create,
            reset,
            drop,
            wake,
        }
    })
}

fn script(step: &Step) {
    CREATE.set(step.create);
    RESET.set(step.reset);
    DROP.set(step.drop);
    WAKE.set(step.wake);
}

fn all_good() {
    for cell in [&CREATE, &RESET, &DROP, &WAKE] {
        cell.set(Act::Good);
    }
}

fn start() {
    all_good();
    CREATED.set(0);
    DROPPED.set(0);
}

/// Takes the guard that a number means.
fn pick<G>(guards: &mut Vec<G>, at: usize) -> Option<G> {
    (!guards.is_empty()).then(|| guards.swap_remove(at % guards.len()))
}

fn hand_out<G: std::ops::DerefMut<Target = Thing>>(mut guard: G) -> G {
    assert!(!guard.out, "an object is in one place");
    guard.out = true;
    guard
}

/// Drops a guard while the thread panics for another reason.
fn drop_in_panic<G>(guard: G) {
    let _ = scripted(move || {
        let _guard = guard;
        scripted_panic()
    });
}

/// What holds of every pool after every step.
fn check(stats: &PoolStats, out: usize, mine: usize) {
    assert_eq!(
        stats.created + stats.attached,
        stats.idle + stats.out + stats.detached + stats.discarded,
        "every object is somewhere: {stats:?}"
    );
    assert_eq!(stats.out, out as u64, "{stats:?}");
    assert!(stats.peak >= stats.out, "{stats:?}");
    let alive = CREATED.get() - DROPPED.get();
    assert_eq!(alive, stats.idle + stats.out + mine as u64, "{stats:?}");
}

fn run_pool(steps: &[Step], on_panic: OnPanic, max_idle: usize, local_cache: bool) {
    start();
    let builder = Pool::builder().on_panic(on_panic).max_idle(max_idle);
    let builder = if local_cache {
        builder
    } else {
        builder.without_local_cache()
    };
    let pool = builder.with_manager(Scripted);
    let mut held = Vec::new();
    let mut mine = Vec::new();
    let mut forgotten = 0;
    for step in steps {
        script(step);
        scripted(|| match step.op {
            Op::Acquire | Op::StartWaiting | Op::Poll(_) => {
                if let Ok(guard) = pool.try_acquire() {
                    held.push(hand_out(guard));
                }
            }
            Op::Release(at) | Op::Cancel(at) => drop(pick(&mut held, at)),
            Op::ReleaseInPanic(at) => drop_in_panic(pick(&mut held, at)),
            Op::Discard(at) => {
                if let Some(guard) = pick(&mut held, at) {
                    Pooled::discard(guard);
                }
            }
            Op::Detach(at) => mine.extend(pick(&mut held, at).map(Pooled::detach)),
            Op::Forget(at) => {
                if let Some(guard) = pick(&mut held, at) {
                    std::mem::forget(guard);
                    forgotten += 1;
                }
            }
            Op::Attach => {
                if let Some(mut thing) = mine.pop() {
                    thing.out = true;
                    pool.attach(thing);
                }
            }
            Op::Prewarm(n) => drop(pool.prewarm(n)),
            Op::ShrinkTo(n) => pool.shrink_to(n / 4),
            Op::Close => pool.clear(),
        });
        all_good();
        let stats = pool.stats();
        check(&stats, held.len() + forgotten, mine.len());
        let cached = if local_cache { 62.min(max_idle) } else { 0 };
        assert!(stats.idle <= max_idle.saturating_add(cached) as u64);
        if let Op::ShrinkTo(n) = step.op
            && step.drop == Act::Good
        {
            assert!(stats.idle <= n as u64 / 4, "{stats:?}");
        }
    }
    drop(held);
    drop(pool);
    drop(mine);
    assert_eq!(CREATED.get(), DROPPED.get() + forgotten as u64);
}

/// Futures that wait, in the order in which they started to.
type Waiting<'a> = Vec<Pin<Box<AcquireAsync<'a, Thing>>>>;

#[expect(clippy::too_many_lines, reason = "one arm for each operation")]
fn run_bounded(steps: &[Step], on_panic: OnPanic, capacity: usize) {
    start();
    let pool = BoundedPool::builder(capacity)
        .on_panic(on_panic)
        .build(Scripted)
        .expect("not 0");
    let waker = Waker::from(Arc::new(Alarm));
    let mut cx = Context::from_waker(&waker);
    let mut held = Vec::new();
    let mut mine = Vec::new();
    let mut waiting: Waiting<'_> = Vec::new();
    let mut forgotten = 0;
    let mut closed = false;
    for step in steps {
        script(step);
        scripted(|| match step.op {
            Op::Acquire => {
                if let Some(guard) = pool.try_acquire() {
                    held.push(hand_out(guard));
                }
            }
            Op::StartWaiting => {
                let mut future = Box::pin(pool.acquire_async());
                match future.as_mut().poll(&mut cx) {
                    Poll::Ready(Ok(guard)) => held.push(hand_out(guard)),
                    Poll::Ready(Err(error)) => assert!(error.is_create() || closed),
                    Poll::Pending => waiting.push(future),
                }
            }
            Op::Poll(at) => {
                if !waiting.is_empty() {
                    // Taken out first, so that it is dropped when the poll panics.
                    let at = at % waiting.len();
                    let mut future = waiting.remove(at);
                    match future.as_mut().poll(&mut cx) {
                        Poll::Ready(Ok(guard)) => held.push(hand_out(guard)),
                        Poll::Ready(Err(error)) => assert!(error.is_create() || closed),
                        Poll::Pending => waiting.insert(at, future),
                    }
                }
            }
            Op::Cancel(at) => {
                if !waiting.is_empty() {
                    let at = at % waiting.len();
                    drop(waiting.remove(at));
                }
            }
            Op::Release(at) => drop(pick(&mut held, at)),
            Op::ReleaseInPanic(at) => drop_in_panic(pick(&mut held, at)),
            Op::Discard(at) => {
                if let Some(guard) = pick(&mut held, at) {
                    Pooled::discard(guard);
                }
            }
            Op::Detach(at) => mine.extend(pick(&mut held, at).map(Pooled::detach)),
            Op::Forget(at) => {
                // Its permit is gone for good, so leave some.
                if forgotten + 1 < capacity
                    && let Some(guard) = pick(&mut held, at)
                {
                    std::mem::forget(guard);
                    forgotten += 1;
                }
            }
            Op::Attach => {
                if let Some(mut thing) = mine.pop() {
                    thing.out = false;
                    mine.extend(pool.attach(thing).err());
                }
            }
            Op::Prewarm(n) => drop(pool.prewarm(n)),
            Op::ShrinkTo(n) => pool.shrink_to(n / 4),
            Op::Close => {
                closed = true;
                pool.close();
            }
        });
        all_good();
        let stats = pool.stats();
        let alive = stats.idle + stats.out;
        assert!(alive <= capacity as u64, "{stats:?}");
        assert_eq!(
            stats.created + stats.attached + granted_permits(&stats, alive),
            alive + stats.detached + stats.discarded
        );
        assert!(stats.out >= (held.len() + forgotten) as u64, "{stats:?}");
        assert!(CREATED.get() - DROPPED.get() <= alive + mine.len() as u64);
    }

    // Whoever waited longest is served first, whatever has happened.
    if !closed {
        held.clear();
        let mut pending_seen = false;
        for mut future in std::mem::take(&mut waiting) {
            match future.as_mut().poll(&mut cx) {
                Poll::Ready(guard) => {
                    assert!(!pending_seen, "served out of turn");
                    held.push(hand_out(guard.expect("scripted to be good")));
                }
                Poll::Pending => pending_seen = true,
            }
        }
        held.clear();
        // No permit is lost: all can be out at once again.
        let all: Vec<_> = std::iter::from_fn(|| pool.try_acquire()).collect();
        assert_eq!(all.len() + forgotten, capacity);
        for guard in all {
            held.push(hand_out(guard));
        }
        let stats = pool.stats();
        check(&stats, capacity, mine.len());
        held.clear();
    }
    waiting.clear();
    held.clear();
    drop(mine);
    let forgotten = forgotten as u64;
    drop(waiting);
    drop(held);
    drop(pool);
    assert_eq!(CREATED.get(), DROPPED.get() + forgotten);
}

/// Permits handed to a future that has not been polled since: they count as out
/// although no object exists for them yet.
fn granted_permits(stats: &PoolStats, alive: u64) -> u64 {
    (alive + stats.detached + stats.discarded).saturating_sub(stats.created + stats.attached)
}

fn on_panic() -> impl Strategy<Value = OnPanic> {
    prop_oneof![Just(OnPanic::Discard), Just(OnPanic::Keep)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_pool_keeps_account_of_every_object_whatever_panics(
        steps in prop::collection::vec(step(), 1..200),
        on_panic in on_panic(),
        max_idle in prop_oneof![Just(usize::MAX), 0..40usize],
        local_cache in any::<bool>(),
    ) {
        run_pool(&steps, on_panic, max_idle, local_cache);
    }

    #[test]
    fn a_bounded_pool_keeps_account_of_every_permit_whatever_panics(
        steps in prop::collection::vec(step(), 1..200),
        on_panic in on_panic(),
        capacity in 1..6usize,
    ) {
        run_bounded(&steps, on_panic, capacity);
    }

    #[test]
    fn a_bounded_pool_that_is_closed_on_the_way_drops_every_object(
        before in prop::collection::vec(step(), 1..60),
        after in prop::collection::vec(step(), 1..60),
        capacity in 1..6usize,
    ) {
        let close = Step {
            op: Op::Close,
            create: Act::Good,
            reset: Act::Good,
            drop: Act::Panic,
            wake: Act::Good,
        };
        let steps: Vec<_> = before.into_iter().chain([close]).chain(after).collect();
        run_bounded(&steps, OnPanic::Discard, capacity);
    }
}
