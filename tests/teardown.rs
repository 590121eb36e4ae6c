//! The heap before `main`, after it, and around the end of a thread: where an
//! allocator's own thread locals are not there yet, or not any more.
//!
//! Bug prevented in every case: counting one side only. A block whose
//! allocation is counted and whose free is not (or the other way round) is how
//! live figures go astray in production, in the end below zero.

#![allow(
    unsafe_code,
    reason = "constructors, C threads, pthread keys and exit handlers are C's to call"
)]

mod support;

use std::cell::Cell;
use std::ffi::c_void;
use std::hint::black_box;
use std::process::ExitCode;
use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicPtr, AtomicU32, Ordering};
use std::thread;

use heapledger::{Stats, StatsDelta, TrackingAllocator, stats, thread_stats, try_thread_stats};

#[global_allocator]
static HEAP: TrackingAllocator = TrackingAllocator::new();

fn main() -> ExitCode {
    support::main(cases![
        a_block_made_before_main_is_counted_and_so_is_its_free,
        thread_local_destructors_before_and_after_ours_are_counted_on_both_sides,
        destructors_of_pthread_keys_are_counted_in_each_of_their_rounds,
        a_thread_that_touches_the_heap_only_in_a_key_destructor_is_counted,
        threads_made_by_c_are_counted_whatever_they_do_first,
        every_kind_of_thread_at_once_leaves_the_books_in_balance,
        exit_handlers_are_counted_on_both_sides => "balanced at exit",
        a_process_may_end_while_its_threads_are_busy => "still right at exit",
        thread_locals_of_the_main_thread_are_counted_at_exit => "balanced at the end of main",
    ])
}

/// A block that can lie in a static or go through C.
type Block = *mut Vec<u8>;

/// Two blocks for the ledger: the vector's and its box.
fn make(bytes: usize) -> Block {
    Box::into_raw(Box::new(black_box(Vec::with_capacity(bytes))))
}

fn free(block: Block) {
    assert!(!block.is_null());
    // SAFETY: all blocks here come from `make`, and each has one owner who frees it once.
    drop(unsafe { Box::from_raw(block) });
}

/// Bytes of a block of `make`.
fn size(bytes: u64) -> u64 {
    bytes + size_of::<Vec<u8>>() as u64
}

/// Whether the calling thread's slot is gone.
fn is_ending() -> bool {
    try_thread_stats().is_err_and(|error| error.is_thread_ending())
}

/// Runs `body` and checks what it did to the figures of the process.
fn expect(what: &str, body: impl FnOnce(), allocations: u64, bytes: u64) {
    let before = stats();
    body();
    let change = stats().since(&before);
    let mut expected = StatsDelta::default();
    expected.allocations = allocations;
    expected.frees = allocations;
    expected.allocated_bytes = bytes;
    expected.freed_bytes = bytes;
    assert_eq!(change, expected, "{what}");
}

/// Starts a thread the way C does and waits for its very end.
fn run_bare(body: extern "C" fn(*mut c_void) -> *mut c_void, argument: *mut c_void) {
    join_bare(spawn_bare(body, argument));
}

fn spawn_bare(
    body: extern "C" fn(*mut c_void) -> *mut c_void,
    argument: *mut c_void,
) -> libc::pthread_t {
    let mut thread: libc::pthread_t = 0;
    // SAFETY: the pointers are valid for the call; each body says what its argument is.
    let made = unsafe { libc::pthread_create(&raw mut thread, ptr::null(), body, argument) };
    assert_eq!(made, 0);
    thread
}

fn join_bare(thread: libc::pthread_t) {
    // SAFETY: from `spawn_bare`, joined once; the result is not wanted.
    let joined = unsafe { libc::pthread_join(thread, ptr::null_mut()) };
    assert_eq!(joined, 0);
}

/// Prints where std may be shut down already.
fn print(text: &str) {
    // SAFETY: the pointer and the length are the text's.
    let written = unsafe { libc::write(1, text.as_ptr().cast(), text.len()) };
    assert!(written >= 0);
}

// ---------------------------------------------------------------- before main

/// What the constructor saw, and what it made.
static BEFORE_MAIN: OnceLock<(Stats, Stats)> = OnceLock::new();
static FROM_BEFORE_MAIN: AtomicPtr<Vec<u8>> = AtomicPtr::new(ptr::null_mut());

extern "C" fn before_main() {
    let before = stats();
    let block = make(1_000);
    free(make(2_000));
    let after = stats();
    FROM_BEFORE_MAIN.store(block, Ordering::Relaxed);
    let _ = BEFORE_MAIN.set((before, after));
}

// SAFETY: the section holds pointers to functions that take nothing that they use.
#[used]
#[unsafe(link_section = ".init_array")]
static CONSTRUCTOR: extern "C" fn() = before_main;

fn a_block_made_before_main_is_counted_and_so_is_its_free() {
    let (before, after) = BEFORE_MAIN.get().expect("the constructor has run");
    let change = after.since(before);
    assert_eq!((change.allocations, change.frees), (4, 2));
    assert_eq!(change.allocated_bytes, size(1_000) + size(2_000));
    assert_eq!(change.live_bytes.cast_unsigned(), size(1_000));
    let now = stats();
    assert!(now.allocations >= after.allocations && now.live_bytes >= size(1_000));
    // The main thread's own figures go back to before `main`.
    assert!(thread_stats().allocations >= 4);
    free(FROM_BEFORE_MAIN.load(Ordering::Relaxed));
    let change = stats().since(&now);
    assert_eq!((change.frees, change.freed_bytes), (2, size(1_000)));
    assert_eq!(change.allocations, 0);
}

// ---------------------------------------------------- thread-local destructors

/// Blocks that destructors leave for the main thread to free.
static LEFT: [AtomicPtr<Vec<u8>>; 2] = [const { AtomicPtr::new(ptr::null_mut()) }; 2];
/// How many destructors ran while the thread's slot was there, and when it was gone.
static WITH_SLOT: AtomicU32 = AtomicU32::new(0);
static WITHOUT_SLOT: AtomicU32 = AtomicU32::new(0);

/// Holds a block of its thread's, frees it in its destructor, makes another
/// and frees that, and makes one that outlives the thread.
struct Messy {
    held: Cell<Block>,
    place: usize,
}

impl Messy {
    const fn new(place: usize) -> Self {
        Self {
            held: Cell::new(ptr::null_mut()),
            place,
        }
    }
}

impl Drop for Messy {
    fn drop(&mut self) {
        let seen = if is_ending() {
            &WITHOUT_SLOT
        } else {
            &WITH_SLOT
        };
        seen.fetch_add(1, Ordering::Relaxed);
        free(self.held.get());
        let mut list: Vec<u8> = black_box(Vec::with_capacity(100));
        list.reserve_exact(300);
        list.push(1);
        list.shrink_to_fit();
        drop(black_box(list));
        free(make(300));
        LEFT[self.place].store(make(400), Ordering::Relaxed);
    }
}

thread_local! {
    static FIRST: Messy = const { Messy::new(0) };
    static LAST: Messy = const { Messy::new(1) };
}

extern "C" fn with_thread_locals(_: *mut c_void) -> *mut c_void {
    // Registered before the thread's first entry, so dropped after its slot is gone.
    let _ = FIRST.try_with(|first| {
        assert!(first.held.get().is_null());
        first.held.set(make(100));
    });
    // Registered after it, so dropped before.
    let _ = LAST.try_with(|last| last.held.set(make(200)));
    ptr::null_mut()
}

fn thread_local_destructors_before_and_after_ours_are_counted_on_both_sides() {
    for round in 1..=200 {
        let before = stats();
        run_bare(with_thread_locals, ptr::null_mut());
        for left in &LEFT {
            free(left.swap(ptr::null_mut(), Ordering::Relaxed));
        }
        let change = stats().since(&before);
        assert_eq!((change.live_bytes, change.live_blocks), (0, 0));
        // Each: the held one, the list, one made and freed, one left.
        assert_eq!(change.allocations, 4 + 2 * 5);
        // The list grew to 300 and shrank to 1.
        let lists = 2 * 300;
        let blocks = size(100) + size(200) + 2 * (size(300) + size(400));
        assert_eq!(change.allocated_bytes, blocks + lists);
        assert_eq!(change.reallocations, 4);
        assert_eq!(WITH_SLOT.load(Ordering::Relaxed), round);
        assert_eq!(WITHOUT_SLOT.load(Ordering::Relaxed), round);
    }
    assert_eq!(heapledger::__private::slots_ever_owned(), 2);
}

// ----------------------------------------------------------------- pthread keys

static KEY: OnceLock<libc::pthread_key_t> = OnceLock::new();
static ROUNDS: AtomicU32 = AtomicU32::new(0);

fn key() -> libc::pthread_key_t {
    *KEY.get_or_init(|| {
        let mut key = 0;
        // SAFETY: the pointer is valid for the call.
        let made = unsafe { libc::pthread_key_create(&raw mut key, Some(key_destructor)) };
        assert_eq!(made, 0);
        key
    })
}

fn set_key(block: Block) {
    // SAFETY: the key exists for as long as the process.
    let set = unsafe { libc::pthread_setspecific(key(), block.cast()) };
    assert_eq!(set, 0);
}

/// Frees what the key held and puts a new block there, as often as the
/// system lets it; the last one is left for nobody, so it frees that at once.
extern "C" fn key_destructor(held: *mut c_void) {
    free(held.cast());
    free(make(50));
    let round = ROUNDS.fetch_add(1, Ordering::Relaxed) + 1;
    if !round.is_multiple_of(4) {
        set_key(make(70));
    }
}

extern "C" fn with_a_key(_: *mut c_void) -> *mut c_void {
    set_key(make(60));
    ptr::null_mut()
}

/// Takes a block of another thread's, and touches the heap only in the
/// key's destructor.
extern "C" fn with_a_key_alone(block: *mut c_void) -> *mut c_void {
    set_key(block.cast());
    ptr::null_mut()
}

const ROUNDS_BYTES: [u64; 2] = [50, 70];

fn destructors_of_pthread_keys_are_counted_in_each_of_their_rounds() {
    key();
    let [each, again] = ROUNDS_BYTES.map(size);
    for round in 1..=200 {
        let body = || run_bare(with_a_key, ptr::null_mut());
        expect(
            "a thread with a key",
            body,
            16,
            size(60) + 4 * each + 3 * again,
        );
        assert_eq!(ROUNDS.load(Ordering::Relaxed), 4 * round);
    }
    assert_eq!(heapledger::__private::slots_ever_owned(), 2);
}

fn a_thread_that_touches_the_heap_only_in_a_key_destructor_is_counted() {
    key();
    let [each, again] = ROUNDS_BYTES.map(size);
    for _ in 0..200 {
        let body = || run_bare(with_a_key_alone, make(60).cast());
        expect("a key alone", body, 16, size(60) + 4 * each + 3 * again);
    }
    // A known limit: the system has run the thread's TLS destructors by then and will not run the
    // one that the claim registers, so each such thread keeps its slot for good. One, not more.
    assert_eq!(heapledger::__private::slots_ever_owned(), 201);
}

// -------------------------------------------------------------- threads of C's

extern "C" fn frees_first(block: *mut c_void) -> *mut c_void {
    free(block.cast());
    ptr::null_mut()
}

extern "C" fn allocates_first(_: *mut c_void) -> *mut c_void {
    free(make(10));
    ptr::null_mut()
}

extern "C" fn grows_first(block: *mut c_void) -> *mut c_void {
    // SAFETY: the body's argument is a block of `make` that is its own now.
    let mut list = unsafe { Box::from_raw(block.cast::<Vec<u8>>()) };
    list.reserve_exact(5_000);
    drop(black_box(list));
    ptr::null_mut()
}

extern "C" fn shrinks_first(block: *mut c_void) -> *mut c_void {
    // SAFETY: the body's argument is a block of `make` that is its own now.
    let mut list = unsafe { Box::from_raw(block.cast::<Vec<u8>>()) };
    list.push(7);
    list.shrink_to_fit();
    drop(black_box(list));
    ptr::null_mut()
}

extern "C" fn zeroes_first(_: *mut c_void) -> *mut c_void {
    drop(black_box(vec![0u8; 900]));
    ptr::null_mut()
}

extern "C" fn is_refused_first(_: *mut c_void) -> *mut c_void {
    let mut list: Vec<u8> = Vec::new();
    assert!(list.try_reserve_exact(isize::MAX.cast_unsigned()).is_err());
    ptr::null_mut()
}

extern "C" fn does_nothing(_: *mut c_void) -> *mut c_void {
    ptr::null_mut()
}

fn threads_made_by_c_are_counted_whatever_they_do_first() {
    for _ in 0..100 {
        let with = |body, bytes| move || run_bare(body, make(bytes).cast());
        let bare = |body| move || run_bare(body, ptr::null_mut());
        expect("nothing", bare(does_nothing), 0, 0);
        expect("a free", with(frees_first, 20), 2, size(20));
        expect("an allocation", bare(allocates_first), 2, size(10));
        expect("a zeroed one", bare(zeroes_first), 1, 900);

        let before = stats();
        run_bare(grows_first, make(30).cast());
        run_bare(shrinks_first, make(40).cast());
        run_bare(is_refused_first, ptr::null_mut());
        let change = stats().since(&before);
        assert_eq!((change.live_bytes, change.live_blocks), (0, 0));
        assert_eq!(change.allocations, 4);
        assert_eq!(change.allocated_bytes, size(5_000) + size(40));
        assert_eq!((change.reallocations, change.failures), (2, 1));
    }
    assert_eq!(heapledger::__private::slots_ever_owned(), 2);
}

fn every_kind_of_thread_at_once_leaves_the_books_in_balance() {
    key();
    let kinds: [extern "C" fn(*mut c_void) -> *mut c_void; 4] =
        [frees_first, with_a_key_alone, grows_first, shrinks_first];
    let before = stats();
    for _ in 0..300 {
        let mut threads = [0; 12];
        for (i, thread) in threads.iter_mut().enumerate() {
            *thread = match i {
                0..8 => spawn_bare(kinds[i % 4], make(100 * i + 1).cast()),
                8 | 9 => spawn_bare(allocates_first, ptr::null_mut()),
                _ => spawn_bare(zeroes_first, ptr::null_mut()),
            };
        }
        for thread in threads {
            join_bare(thread);
        }
    }
    // The rounds of a key's destructor are counted over all threads here, so the last block of
    // a thread may be left in its key; the count of those is in the same static.
    let change = stats().since(&before);
    assert_eq!(change.allocations - change.frees, 2 * left_in_keys(&change));
    assert_eq!(change.failures, 0);
}

/// Blocks that the last round of some key destructor has left for nobody.
fn left_in_keys(change: &StatsDelta) -> u64 {
    let bytes = change.live_bytes.cast_unsigned();
    assert_eq!(bytes % size(70), 0, "{change:?}");
    bytes / size(70)
}

// ------------------------------------------------------------------ after main

static AT_EXIT: OnceLock<Stats> = OnceLock::new();
static FOR_EXIT: AtomicPtr<Vec<u8>> = AtomicPtr::new(ptr::null_mut());

/// A failed assertion would have to unwind into C: it ends the process instead.
fn or_fail(holds: bool, what: &str) {
    if !holds {
        print(what);
        // SAFETY: ends the process, which is all that is wanted.
        unsafe { libc::_exit(101) };
    }
}

extern "C" fn at_exit() {
    or_fail(is_ending(), "the main thread still has its slot");
    let before = *AT_EXIT.get().unwrap_or(&Stats::default());
    free(FOR_EXIT.load(Ordering::Relaxed));
    for bytes in 1..=100 {
        free(make(bytes));
    }
    let change = stats().since(&before);
    or_fail(change.allocations == 200, "allocations are lost at exit");
    or_fail(change.frees == 202, "frees are lost at exit");
    let bytes: u64 = (1..=100).map(size).sum();
    or_fail(change.allocated_bytes == bytes, "bytes are lost at exit");
    or_fail(
        change.freed_bytes == bytes + size(800),
        "freed bytes are lost at exit",
    );
    print("balanced at exit\n");
}

/// The handler registered last runs first and takes the figures before the other.
fn exit_handlers_are_counted_on_both_sides() {
    extern "C" fn first_of_all() {
        let _ = AT_EXIT.set(stats());
    }
    FOR_EXIT.store(make(800), Ordering::Relaxed);
    for handler in [at_exit, first_of_all] {
        // SAFETY: the handlers take nothing and live as long as the process.
        let registered = unsafe { libc::atexit(handler) };
        assert_eq!(registered, 0);
    }
}

extern "C" fn at_exit_with_busy_threads() {
    for _ in 0..1_000 {
        free(make(33));
        let now = stats();
        or_fail(now.live_bytes < 100_000_000, "live bytes are out of range");
        or_fail(now.live_blocks < 100_000, "live blocks are out of range");
    }
    print("still right at exit\n");
}

/// Bug prevented: books that are torn down at exit under threads that still
/// write in them.
fn a_process_may_end_while_its_threads_are_busy() {
    static BEGUN: AtomicU32 = AtomicU32::new(0);
    // SAFETY: the handler takes nothing and lives as long as the process.
    let registered = unsafe { libc::atexit(at_exit_with_busy_threads) };
    assert_eq!(registered, 0);
    for _ in 0..6 {
        thread::spawn(|| {
            BEGUN.fetch_add(1, Ordering::SeqCst);
            loop {
                free(make(1_000));
                let short = thread::spawn(|| free(make(10)));
                drop(black_box(short.join()));
            }
        });
    }
    while BEGUN.load(Ordering::SeqCst) < 6 {
        thread::yield_now();
    }
}

/// Dropped by the main thread, before its slot goes, at `exit`.
struct Checked;

impl Drop for Checked {
    fn drop(&mut self) {
        or_fail(!is_ending(), "the slot is gone too early");
        let before = stats();
        free(FOR_EXIT.load(Ordering::Relaxed));
        free(make(44));
        let change = stats().since(&before);
        or_fail(
            (change.allocations, change.frees) == (2, 4),
            "the main thread's destructors are not counted",
        );
        print("balanced at the end of main\n");
    }
}

fn thread_locals_of_the_main_thread_are_counted_at_exit() {
    thread_local! {
        static CHECKED: Checked = const { Checked };
    }
    FOR_EXIT.store(make(55), Ordering::Relaxed);
    CHECKED
        .try_with(|_| ())
        .expect("the main thread has its locals");
}
