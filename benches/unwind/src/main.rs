//! What a capture costs: every allocation of a JSON parse leads to one.
//!
//! `cargo run --release -p heapledger-unwind-bench -- [megabytes] [rounds]`
//!
//! The methods take turns, and the best round of each counts: the processor's
//! speed changes under load. `count` is a hook that does next to nothing; a
//! capture costs what is more than that. The call tree is a hash table of (parent, address), as
//! plain as it gets; `native-flat` has no tree, so the difference is its cost.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::UnsafeCell;
use std::hint::black_box;
use std::sync::atomic::{AtomicPtr, Ordering};

use heapledger::__private::unwind::{self, Stack};

mod names;
mod others;

/// Set while captures are wanted: what to do on an allocation.
static HOOK: AtomicPtr<()> = AtomicPtr::new(std::ptr::null_mut());

struct Hooked;

#[global_allocator]
static HEAP: Hooked = Hooked;

// SAFETY: forwards each call as it is; the hook neither allocates through us nor unwinds.
unsafe impl GlobalAlloc for Hooked {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise.
        let block = unsafe { System.alloc(layout) };
        recorded();
        block
    }

    #[inline]
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(block, layout) };
    }

    #[inline]
    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller's promise.
        let block = unsafe { System.realloc(block, layout, size) };
        recorded();
        block
    }
}

#[inline]
fn recorded() {
    let hook = HOOK.load(Ordering::Relaxed);
    if !hook.is_null() {
        // SAFETY: only `set` stores here, and only functions of this type.
        let hook: fn() = unsafe { std::mem::transmute(hook) };
        hook();
    }
}

fn set(hook: Option<fn()>) {
    let hook = hook.map_or(std::ptr::null_mut(), |hook| hook as *mut ());
    HOOK.store(hook, Ordering::Relaxed);
}

/// What the one measured thread has.
struct State {
    stack: Stack,
    captures: u64,
    fresh: u64,
    frames: u64,
    partial: u64,
    nodes: u32,
    tree: Box<[(u32, u64, u32)]>,
}

struct OneThread(UnsafeCell<Option<State>>);

// SAFETY: the hook is set on one thread only, while there is no other.
unsafe impl Sync for OneThread {}

static STATE: OneThread = OneThread(UnsafeCell::new(None));

fn with(run: impl FnOnce(&mut State)) {
    // SAFETY: one thread, and neither hook nor `main` calls this while it is running.
    if let Some(state) = unsafe { &mut *STATE.0.get() } {
        run(state);
    }
}

const TREE: usize = 1 << 18;

impl State {
    fn new() -> Self {
        Self {
            stack: Stack::new(),
            captures: 0,
            fresh: 0,
            frames: 0,
            partial: 0,
            nodes: 4,
            tree: vec![(0, 0, 0); TREE].into(),
        }
    }
}

/// The child's node; a new one if there is none.
#[inline]
fn child(tree: &mut [(u32, u64, u32)], nodes: &mut u32, parent: u32, ip: u64) -> u32 {
    let hash = (ip ^ u64::from(parent) << 40).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let mut at = (hash >> 40) as usize % TREE;
    loop {
        let entry = &mut tree[at];
        if entry.2 == 0 {
            *entry = (parent, ip, *nodes);
            *nodes += 1;
            return entry.2;
        }
        if entry.0 == parent && entry.1 == ip {
            return entry.2;
        }
        at = (at + 1) % TREE;
    }
}

fn native() {
    with(|state| {
        let fresh = &mut state.fresh;
        let (tree, nodes) = (&mut state.tree, &mut state.nodes);
        let capture = unwind::capture(&mut state.stack, |parent, ip| {
            *fresh += 1;
            child(tree, nodes, parent, ip)
        });
        state.captures += 1;
        state.frames += state.stack.depth() as u64;
        state.partial += u64::from(!capture.is_whole());
        black_box(capture);
    });
}

fn native_flat() {
    with(|state| {
        black_box(unwind::capture(&mut state.stack, |_, _| 1));
        state.captures += 1;
    });
}

fn forgetful() {
    with(|state| {
        state.stack.forget();
        let fresh = &mut state.fresh;
        black_box(unwind::capture(&mut state.stack, |_, _| {
            *fresh += 1;
            1
        }));
        state.captures += 1;
        state.frames += state.stack.depth() as u64;
    });
}

fn count() {
    with(|state| state.captures += 1);
}

fn system() {
    with(|state| {
        let mut frames = 0u64;
        // SAFETY: there is one thread.
        unsafe {
            backtrace::trace_unsynchronized(|frame| {
                black_box(frame.ip());
                frames += 1;
                true
            });
        }
        state.captures += 1;
        state.frames += frames;
        state.fresh += frames;
    });
}

fn framehop() {
    with(|state| {
        let frames = others::framehop(|ip| {
            black_box(ip);
        });
        state.captures += 1;
        state.frames += frames;
        state.fresh += frames;
    });
}

/// A name, and what to do on an allocation.
type Named = (&'static str, Option<fn()>);

const METHODS: [Named; 7] = [
    ("none", None),
    ("count", Some(count)),
    ("native", Some(native)),
    ("native-flat", Some(native_flat)),
    ("native-forgetful", Some(forgetful)),
    ("framehop", Some(framehop)),
    ("backtrace", Some(system)),
];

/// Objects in objects in arrays, with strings of many lengths.
fn document(megabytes: usize) -> String {
    let mut text = String::from("[");
    let mut n = 0u64;
    while text.len() < megabytes << 20 {
        if n > 0 {
            text.push(',');
        }
        n += 1;
        text.push_str(&format!(
            r#"{{"id":{n},"name":"name of {n}","tags":["a{n}","b","{n}{n}"],"inner":{{"x":{}.5,"list":[{{"deep":[[1,2,[3,"four"]]]}},null,true],"text":"line\n{n}"}}}}"#,
            n * 7
        ));
    }
    text.push(']');
    text
}

/// What this thread has had of the processor, in nanoseconds: others may be using it too.
fn cpu_time() -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: fills the record in.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// What was measured of one method.
struct Measured {
    best: u64,
    captures: u64,
    fresh: u64,
    frames: u64,
    partial: u64,
    worked_out: u64,
}

fn main() {
    let mut args = std::env::args().skip(1);
    let megabytes = args.next().map_or(2, |n| n.parse().unwrap());
    let rounds = args.next().map_or(15, |n| n.parse().unwrap());
    println!(
        "{:?}, {megabytes} MB, best of {rounds} rounds in turn",
        unwind::prime()
    );
    others::prime();
    let text = document(megabytes);
    // SAFETY: no hook is set, and there is one thread.
    unsafe { *STATE.0.get() = Some(State::new()) };
    for (name, hook) in METHODS {
        if name.starts_with("native") {
            set(hook);
            unwind::calibrate();
            set(None);
        }
    }
    let mut measured = METHODS.map(|_| Measured {
        best: u64::MAX,
        captures: 0,
        fresh: 0,
        frames: 0,
        partial: 0,
        worked_out: 0,
    });
    for round in 0..=rounds {
        for ((name, hook), measured) in METHODS.iter().zip(&mut measured) {
            if *name == "backtrace" && round > 3 {
                continue;
            }
            with(|state| {
                state.stack.forget();
                (state.captures, state.fresh, state.frames, state.partial) = (0, 0, 0, 0);
            });
            let before = unwind::worked_out();
            let took = timed(&text, *hook);
            // The first round warms up.
            if round > 0 {
                measured.best = measured.best.min(took);
                measured.worked_out += unwind::worked_out() - before;
            }
            with(|state| {
                measured.captures = state.captures;
                measured.fresh = state.fresh;
                measured.frames = state.frames;
                measured.partial = state.partial;
            });
        }
    }
    let nothing = measured[1].best;
    println!(
        "method                  ms   captures  frames   fresh  partial  rules worked out  ns/capture"
    );
    for ((name, _), m) in METHODS.iter().zip(&measured) {
        let per = |n: u64| n as f64 / m.captures.max(1) as f64;
        println!(
            "{name:17} {:8.2} {:10} {:7.1} {:7.2} {:8} {:17} {:11.1}",
            m.best as f64 / 1e6,
            m.captures,
            per(m.frames),
            per(m.fresh),
            m.partial,
            m.worked_out,
            per(m.best.saturating_sub(nothing)),
        );
    }
    with(|state| println!("{} nodes in the tree", state.nodes - 4));
    names::measure(10_000);
}

/// One parse with every allocation going to `hook`. Always the same call, so
/// that all methods see the same stacks.
#[inline(never)]
fn timed(text: &str, hook: Option<fn()>) -> u64 {
    set(hook);
    let start = cpu_time();
    let value: serde_json::Value = serde_json::from_str(black_box(text)).unwrap();
    drop(black_box(value));
    let took = cpu_time() - start;
    set(None);
    took
}
