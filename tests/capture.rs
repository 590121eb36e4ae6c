//! The stacks that the allocator captures, against those of the system's unwinder.
#![cfg(all(feature = "profile", target_os = "linux", target_arch = "x86_64"))]
#![allow(
    unsafe_code,
    reason = "an allocator with a hook, signals and callbacks from C"
)]
#![allow(
    clippy::cast_possible_truncation,
    reason = "for one platform, where an address has 64 bits"
)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::ffi::{c_int, c_void};
use std::hint::black_box;
use std::sync::Once;
use std::sync::atomic::{AtomicU64, Ordering};

use heapledger::__private::unwind::{
    self, DEEP, FOREIGN, Method, ROOT, Stack, UNKNOWN, calibrate, capture,
};

#[path = "support/signal.rs"]
mod signal;

/// Forwards, and captures on each allocation of a thread that wants it.
struct Hooked;

#[global_allocator]
static HEAP: Hooked = Hooked;

// SAFETY: forwards each call as it is; the hook neither allocates nor unwinds.
unsafe impl GlobalAlloc for Hooked {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        hook();
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        hook();
        // SAFETY: the caller's promise.
        unsafe { System.alloc_zeroed(layout) }
    }
    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        hook();
        // SAFETY: the caller's promise.
        unsafe { System.realloc(block, layout, size) }
    }
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(block, layout) };
    }
}

thread_local! {
    static RECORDER: Cell<*mut Recorder> = const { Cell::new(std::ptr::null_mut()) };
}

const NODES: usize = 1 << 18;
const FRAMES: usize = 4_096;

/// What one thread records, in memory that was there before.
struct Recorder {
    busy: bool,
    stack: Stack,
    /// Parent and address; the node is the index. Found by a small table.
    nodes: Vec<(u32, u64)>,
    table: Vec<u32>,
    seen: Seen,
    /// Whether each capture is compared with the system's.
    compare: bool,
    walked: Box<[u64]>,
    expected: Box<[u64]>,
    failure: Option<Failure>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    captures: u64,
    compared: u64,
    fresh: u64,
    whole: u64,
    deep: u64,
    unknown: u64,
    foreign: u64,
    deepest: usize,
    last: u32,
}

#[derive(Clone, Debug)]
struct Failure {
    walked: Vec<u64>,
    expected: Vec<u64>,
    root: u32,
}

impl Recorder {
    fn new(compare: bool) -> Self {
        let mut nodes = Vec::with_capacity(NODES);
        nodes.resize(4, (u32::MAX, 0));
        Self {
            busy: false,
            stack: Stack::new(),
            nodes,
            table: vec![0; 2 * NODES],
            seen: Seen::default(),
            compare,
            walked: vec![0; FRAMES].into(),
            expected: vec![0; FRAMES].into(),
            failure: None,
        }
    }

    fn path(&mut self, mut node: u32) -> usize {
        let mut count = 0;
        while node > FOREIGN {
            let (parent, ip) = self.nodes[node as usize];
            self.walked[count] = ip;
            count += 1;
            node = parent;
        }
        count
    }
}

fn child(nodes: &mut Vec<(u32, u64)>, table: &mut [u32], parent: u32, ip: u64) -> u32 {
    let hash = (ip ^ u64::from(parent) << 40).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let mut at = (hash >> 32) as usize % table.len();
    loop {
        let node = table[at];
        if node == 0 {
            if nodes.len() == NODES {
                return parent;
            }
            nodes.push((parent, ip));
            table[at] = u32::try_from(nodes.len() - 1).unwrap();
            return table[at];
        }
        if nodes[node as usize] == (parent, ip) {
            return node;
        }
        at = (at + 1) % table.len();
    }
}

#[inline(never)]
fn hook() {
    let recorder = RECORDER.try_with(Cell::get).unwrap_or(std::ptr::null_mut());
    // SAFETY: null or the calling thread's own, alive while it is set.
    let Some(recorder) = (unsafe { recorder.as_mut() }) else {
        return;
    };
    if recorder.busy {
        return;
    }
    recorder.busy = true;
    let (nodes, table) = (&mut recorder.nodes, &mut recorder.table);
    let mut fresh = 0;
    let captured = capture(&mut recorder.stack, |parent, ip| {
        fresh += 1;
        child(nodes, table, parent, ip)
    });
    recorder.seen.captures += 1;
    recorder.seen.fresh += fresh;
    recorder.seen.last = captured.node;
    let of_this_sort = match captured.root {
        ROOT => &mut recorder.seen.whole,
        DEEP => &mut recorder.seen.deep,
        UNKNOWN => &mut recorder.seen.unknown,
        _ => &mut recorder.seen.foreign,
    };
    *of_this_sort += 1;
    recorder.seen.deepest = recorder.seen.deepest.max(recorder.stack.depth());
    if recorder.compare && recorder.failure.is_none() {
        compare(recorder, captured.node, captured.root);
    }
    recorder.busy = false;
}

/// Every frame that is found must be one of the system's, in order, from the
/// innermost that is not the allocator's to the outermost.
#[inline(never)]
fn compare(recorder: &mut Recorder, node: u32, root: u32) {
    let walked = recorder.path(node);
    let mut expected = 0;
    let list = &mut recorder.expected;
    let mut is_interrupted = false;
    // SAFETY: nothing to synchronise on this system.
    unsafe {
        backtrace::trace_unsynchronized(|frame| {
            let ip = frame.ip().addr() as u64;
            // Where a signal has interrupted, there is no call to step back over.
            list[expected] = ip + u64::from(is_interrupted);
            is_interrupted = IS_TRAMPOLINE.load(Ordering::Relaxed) == ip;
            expected += 1;
            expected < FRAMES
        });
    }
    recorder.seen.compared += 1;
    // Above `clone` the system's unwinder shows one more frame, at no address.
    if list[expected - 1] == 0 {
        expected -= 1;
    }
    let walked = &recorder.walked[..walked];
    let expected = &recorder.expected[..expected];
    // The system's list begins inside of `compare`; ours at the caller of the allocator.
    let begin = expected.len().checked_sub(walked.len());
    let same = root == ROOT
        && !walked.is_empty()
        && begin.is_some_and(|begin| (2..=10).contains(&begin) && expected[begin..] == *walked);
    if !same {
        recorder.failure = Some(Failure {
            walked: walked.to_vec(),
            expected: expected.to_vec(),
            root,
        });
    }
}

/// The address that a signal handler returns to, once it is known.
static IS_TRAMPOLINE: AtomicU64 = AtomicU64::new(0);

/// Records what `body` allocates on this thread.
fn record(compare: bool, body: impl FnOnce()) -> (Seen, Box<Recorder>) {
    static READY: Once = Once::new();
    READY.call_once(|| {
        assert_eq!(unwind::prime(), Method::Native);
        let mut recorder = Box::new(Recorder::new(false));
        RECORDER.set(&raw mut *recorder);
        calibrate();
        RECORDER.set(std::ptr::null_mut());
        assert!(recorder.seen.captures >= 3);
    });
    let mut recorder = Box::new(Recorder::new(compare));
    let raw = &raw mut *recorder;
    RECORDER.set(raw);
    body();
    RECORDER.set(std::ptr::null_mut());
    (recorder.seen, recorder)
}

fn name(ip: u64) -> String {
    let mut name = String::from("?");
    backtrace::resolve((ip as usize) as *mut c_void, |symbol| {
        if let Some(found) = symbol.name() {
            name = found.to_string();
        }
    });
    name
}

/// Every capture of `body` is the system's, and there are at least so many.
#[track_caller]
fn agrees(at_least: u64, body: impl FnOnce()) -> Seen {
    let (seen, recorder) = record(true, body);
    if let Some(failure) = &recorder.failure {
        let list = |ips: &[u64]| {
            let lines = ips.iter().map(|&ip| format!("  {ip:x} {}\n", name(ip)));
            lines.collect::<String>()
        };
        panic!(
            "above {}, after {} captures\nwalked:\n{}system:\n{}",
            failure.root,
            seen.compared,
            list(&failure.walked),
            list(&failure.expected)
        );
    }
    assert!(seen.compared >= at_least, "{seen:?}");
    assert_eq!(seen.compared, seen.captures);
    seen
}

/// Numbers that look random, the same each time.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}

/// Bug prevented: frames that are taken for unchanged because their slots are,
/// though one further up has changed.
#[test]
fn a_parse_is_captured_as_the_system_does_it() {
    let one = r#"{"a":[1,2,{"b":[[["c"],"d"],null]}],"e":{"f":"g\n","h":{"i":[]}}}"#;
    let text = format!("[{}{one}]", format!("{one},").repeat(200));
    let seen = agrees(1_000, || {
        for _ in 0..2 {
            let value: serde_json::Value = serde_json::from_str(&text).unwrap();
            black_box(value.clone());
            black_box(value.to_string());
        }
    });
    assert!(seen.fresh < seen.captures * 12, "{seen:?}");
}

trait Shape {
    fn grow(&self, dice: &mut Dice, left: u64) -> Vec<String>;
}

type Growing<'a> = dyn FnOnce(&mut Dice) -> Vec<String> + 'a;

struct Plain;
struct Boxed(Box<dyn Shape>);
struct Aligned;

#[repr(align(64))]
struct Cache([u8; 192]);

fn any_shape(dice: &mut Dice) -> Box<dyn Shape> {
    match dice.roll(3) {
        0 => Box::new(Plain),
        1 => Box::new(Boxed(any_shape(dice))),
        _ => Box::new(Aligned),
    }
}

fn branch(dice: &mut Dice, left: u64) -> Vec<String> {
    if left == 0 {
        return vec![format!("{}", dice.roll(1_000))];
    }
    let mut all = Vec::new();
    for _ in 0..=dice.roll(2) {
        let shape = any_shape(dice);
        let less = 1 + dice.roll(left);
        all.extend(shape.grow(dice, left - less));
    }
    all
}

impl Shape for Plain {
    fn grow(&self, dice: &mut Dice, left: u64) -> Vec<String> {
        let grow: Box<Growing<'_>> = Box::new(|dice| branch(dice, left));
        grow(dice)
    }
}

impl Shape for Boxed {
    fn grow(&self, dice: &mut Dice, left: u64) -> Vec<String> {
        let mut inner = self.0.grow(dice, left);
        inner.sort_by_key(|text| text.to_lowercase());
        inner
    }
}

impl Shape for Aligned {
    #[inline(never)]
    fn grow(&self, dice: &mut Dice, left: u64) -> Vec<String> {
        // The frame is aligned to more than the stack is, at run time.
        let mut room = Cache([0; 192]);
        black_box(&mut room).0[3] = 1;
        let mut inner = branch(dice, left);
        inner.push(room.0.iter().map(ToString::to_string).take(3).collect());
        black_box(&room);
        inner
    }
}

/// Bug prevented: a frame whose place depends on `rbp` is found by a stale one.
#[test]
fn random_calls_with_aligned_frames_are_captured_as_the_system_does_it() {
    for seed in 1..=20 {
        let mut dice = Dice(seed * 0x1234_5678_9ABC);
        agrees(10, || {
            for _ in 0..20 {
                black_box(branch(&mut dice, 12));
            }
        });
    }
}

struct Noisy(u32);

impl Drop for Noisy {
    fn drop(&mut self) {
        black_box(format!("dropped {}", self.0));
    }
}

#[inline(never)]
fn fall(depth: u32) {
    let noisy = Noisy(depth);
    if depth == 0 {
        std::panic::resume_unwind(Box::new("far enough"));
    }
    fall(depth - 1);
    black_box(&noisy);
}

#[test]
fn drops_during_a_panic_are_captured_as_the_system_does_it() {
    agrees(100, || {
        for depth in 0..20 {
            let caught = std::panic::catch_unwind(|| fall(depth));
            black_box(caught.unwrap_err());
        }
    });
}

unsafe extern "C" fn by_text(a: *const c_void, b: *const c_void) -> c_int {
    // SAFETY: `qsort` passes two elements of the array of numbers.
    let a = unsafe { *a.cast::<u64>() };
    // SAFETY: as above.
    let b = unsafe { *b.cast::<u64>() };
    black_box(format!("{a}")).cmp(&black_box(format!("{b}"))) as c_int
}

#[test]
fn callbacks_from_c_are_captured_as_the_system_does_it() {
    let mut dice = Dice(77);
    let mut numbers: Vec<u64> = (0..200).map(|_| dice.roll(10_000)).collect();
    agrees(1_000, || {
        // SAFETY: the array is that long, and the callback reads what it has.
        unsafe { libc::qsort(numbers.as_mut_ptr().cast(), numbers.len(), 8, Some(by_text)) };
    });
}

/// The trampoline is the return address of the handler: one frame further out.
#[inline(never)]
unsafe extern "C" fn on_signal(_: c_int) {
    if IS_TRAMPOLINE.load(Ordering::Relaxed) == 0 {
        let mut frames = Vec::new();
        backtrace::trace(|frame| {
            frames.push(frame.ip().addr() as u64);
            true
        });
        let restore = frames.iter().find(|&&ip| is_trampoline(ip)).unwrap();
        IS_TRAMPOLINE.store(*restore, Ordering::Relaxed);
        return;
    }
    for n in 0..3 {
        black_box(format!("in a handler {n}"));
    }
}

/// `mov $15, %rax; syscall`
fn is_trampoline(ip: u64) -> bool {
    // SAFETY: a return address of this thread; code is readable that far.
    let code = unsafe { std::slice::from_raw_parts(ip as usize as *const u8, 9) };
    code == [0x48, 0xC7, 0xC0, 0x0F, 0, 0, 0, 0x0F, 0x05]
}

#[inline(never)]
fn interrupted(depth: u32) -> u32 {
    let more = black_box(depth);
    if depth == 0 {
        // SAFETY: the handler for it is installed.
        unsafe { libc::raise(libc::SIGUSR1) };
        return 0;
    }
    black_box(format!("{depth}"));
    interrupted(depth - 1) + more
}

#[test]
fn a_handler_and_what_it_interrupts_are_captured_as_the_system_does_it() {
    signal::handle(libc::SIGUSR1, on_signal, 0);
    interrupted(2);
    agrees(20, || {
        for depth in 0..10 {
            black_box(interrupted(depth));
        }
    });
}

static ON_ALTERNATE: AtomicU64 = AtomicU64::new(0);

unsafe extern "C" fn on_alternate(_: c_int) {
    black_box(String::from("elsewhere"));
    ON_ALTERNATE.fetch_add(1, Ordering::Relaxed);
}

/// Bug prevented: reading past the end of an alternate stack, or up to the end
/// of the thread's own through whatever lies between them.
#[test]
fn an_allocation_on_an_alternate_stack_has_a_node_that_says_so() {
    std::thread::spawn(|| {
        let room = vec![0u8; 256 * 1024].leak();
        let stack = libc::stack_t {
            ss_sp: room.as_mut_ptr().cast(),
            ss_flags: 0,
            ss_size: room.len(),
        };
        // SAFETY: the memory is never freed.
        let failed = unsafe { libc::sigaltstack(&raw const stack, std::ptr::null_mut()) };
        assert_eq!(failed, 0);
        signal::handle(libc::SIGUSR2, on_alternate, libc::SA_ONSTACK);
        let (seen, _) = record(false, || {
            black_box(String::from("before"));
            // SAFETY: the handler for it is installed.
            unsafe { libc::raise(libc::SIGUSR2) };
            black_box(String::from("after"));
        });
        assert_eq!(ON_ALTERNATE.load(Ordering::Relaxed), 1);
        assert!(seen.foreign >= 1 && seen.whole >= 2, "{seen:?}");
        assert_eq!(seen.foreign + seen.whole, seen.captures);
    })
    .join()
    .unwrap();
}

#[inline(never)]
fn deep(left: u32, every: u32) -> usize {
    let text = left.is_multiple_of(every).then(|| format!("{left}"));
    if left == 0 {
        return 0;
    }
    let below = deep(left - 1, every);
    black_box(&text);
    below + text.map_or(0, |text| text.len())
}

/// Bug prevented: work, nodes and memory that grow with the depth of a recursion.
#[test]
fn a_recursion_of_100_000_calls_is_cut_and_makes_few_nodes() {
    let thread = std::thread::Builder::new().stack_size(256 << 20);
    let run = || {
        let (seen, recorder) = record(false, || {
            for _ in 0..3 {
                black_box(deep(100_000, 10));
            }
        });
        assert!(seen.captures >= 30_000, "{seen:?}");
        assert!(seen.deep > seen.captures * 9 / 10, "{seen:?}");
        assert_eq!(seen.deep + seen.whole, seen.captures, "{seen:?}");
        assert!(recorder.nodes.len() < 40_000, "{}", recorder.nodes.len());
        let per = seen.fresh / seen.captures;
        assert!(per < 40, "{per} fresh frames for each of {seen:?}");
    };
    thread.spawn(run).unwrap().join().unwrap();
}

/// Bug prevented: a cut stack that stays cut when the recursion is over.
#[test]
fn after_a_recursion_stacks_are_whole_and_right_again() {
    let thread = std::thread::Builder::new().stack_size(64 << 20);
    let run = || {
        agrees(100, || {
            for round in 0..30 {
                RECORDER.get().compare_from_now(false);
                black_box(deep(10 + round * 300, 3));
                RECORDER.get().compare_from_now(true);
                black_box(format!("{round}"));
                black_box(deep(20, 3));
            }
        });
    };
    thread.spawn(run).unwrap().join().unwrap();
}

trait CompareFromNow {
    fn compare_from_now(self, compare: bool);
}

impl CompareFromNow for *mut Recorder {
    fn compare_from_now(self, compare: bool) {
        // SAFETY: this thread's recorder, which no one else uses now.
        let recorder = unsafe { &mut *self };
        recorder.compare = compare;
        recorder.seen.compared = recorder.seen.captures;
    }
}

/// Bug prevented: working out a rule overruns a stack that is nearly full.
#[test]
fn a_tiny_stack_survives_its_allocations() {
    for _ in 0..20 {
        // Made here: it alone would fill the thread's stack.
        let (_, recorder) = record(false, || ());
        let thread = std::thread::Builder::new().stack_size(16 * 1024);
        let run = move || {
            let mut recorder = recorder;
            RECORDER.set(&raw mut *recorder);
            black_box(deep(20, 2));
            RECORDER.set(std::ptr::null_mut());
            recorder
        };
        let recorder = thread.spawn(run).unwrap().join().unwrap();
        let seen = recorder.seen;
        assert!(seen.captures >= 10, "{seen:?}");
        assert_eq!(seen.whole + seen.unknown, seen.captures, "{seen:?}");
    }
}

/// Bug prevented: a constant number of frames to skip, wrong in another build.
#[test]
fn the_innermost_frame_is_the_caller_of_the_allocator() {
    #[inline(never)]
    fn allocates_here() -> *mut u8 {
        let layout = Layout::from_size_align(black_box(48), 8).unwrap();
        // SAFETY: the layout is not empty.
        let block = unsafe { black_box(&HEAP).alloc(layout) };
        black_box(block)
    }
    let mut block = std::ptr::null_mut();
    let (seen, recorder) = record(false, || block = allocates_here());
    assert_eq!(seen.captures, 1);
    let (_, ip) = recorder.nodes[seen.last as usize];
    let name = name(ip);
    assert!(name.contains("allocates_here"), "{name}");
    // SAFETY: from `alloc` with this layout.
    unsafe { HEAP.dealloc(block, Layout::from_size_align(48, 8).unwrap()) };
}

/// Bug prevented: a stack of one thread met by another's, or rules torn by two
/// writers.
#[test]
fn threads_that_capture_at_once_do_not_disturb_each_other() {
    std::thread::scope(|scope| {
        for seed in 1..=4 {
            scope.spawn(move || {
                let mut dice = Dice(seed * 0xABCD_EF01);
                agrees(100, || {
                    for _ in 0..100 {
                        black_box(branch(&mut dice, 10));
                    }
                });
            });
        }
    });
}
