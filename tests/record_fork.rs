//! The recorder's rooms in a process that forks while its threads record.
#![cfg(all(unix, feature = "profile"))]
#![allow(
    unsafe_code,
    reason = "forks, which no safe function of the standard library does"
)]

use core::ffi::c_int;
use core::sync::atomic::{AtomicBool, Ordering};

use heapledger::__private::record::{OVERFLOW, ROOT, Record, Table, Tree};

#[global_allocator]
static HEAP: heapledger::TrackingAllocator = heapledger::TrackingAllocator::new();

static TABLE: Table = Table::new();
static TREE: Tree = Tree::new();

unsafe extern "C" {
    fn fork() -> c_int;
    fn waitpid(child: c_int, status: *mut c_int, options: c_int) -> c_int;
    fn alarm(seconds: u32) -> u32;
    fn _exit(code: c_int) -> !;
}

/// Forks at least, and at most, as a lock is seldom held just then.
const FORKS: u32 = 300;
const MOST_FORKS: u32 = 20 * FORKS;
const KNOWN: usize = 500;
/// All in one region, so in the shard that the other threads hold most of the time.
const REGION: usize = 0x7f00_0000_0000;

/// What the child does: an exit code that says what went wrong, 0 or 100 when nothing did.
fn child() -> c_int {
    for n in 0..KNOWN {
        let expected = Record {
            node: 7,
            size: n as u64,
            birth: 1,
            recording: 1,
            ..Record::default()
        };
        if TABLE.remove(REGION + n * 16) != Some(expected) {
            return 1;
        }
        if !TABLE.insert(REGION + n * 16, &Record::default()) {
            return 2;
        }
    }
    for address in 0..100 {
        let node = TREE.child(ROOT, 0xc000_0000 + address);
        if node == OVERFLOW || TREE.node(node) != Some((ROOT, 0xc000_0000 + address)) {
            return 3;
        }
    }
    let mut drained = 0;
    if !TABLE.drain(0, |_, _| drained += 1) || drained < KNOWN {
        return 4;
    }
    let losses = TABLE.losses();
    if losses.busy + losses.full != 0 {
        return 5;
    }
    if TREE.losses().busy != 0 {
        return 6;
    }
    if losses.inherited > 0 { 100 } else { 0 }
}

/// Bug prevented: a lock that another thread held at `fork` stays held in the
/// child for ever, or what it guards is used half changed.
#[test]
fn a_child_that_is_forked_while_threads_record_goes_on_with_all_its_records() {
    assert!(TABLE.open(1) > 0 && TREE.open(1 << 20) > 0);
    for n in 0..KNOWN {
        let record = Record {
            node: 7,
            size: n as u64,
            birth: 1,
            recording: 1,
            ..Record::default()
        };
        assert!(TABLE.insert(REGION + n * 16, &record));
    }
    let over = AtomicBool::new(false);
    let mut inherited = 0;
    std::thread::scope(|scope| {
        for thread in 1..=2_usize {
            let over = &over;
            scope.spawn(move || {
                let mut call = 0;
                while !over.load(Ordering::Relaxed) {
                    for n in 0..200 {
                        TABLE.insert(REGION + thread * 65_536 + n * 16, &Record::default());
                        // A new node every time, until there is no room.
                        call += 1;
                        TREE.child(ROOT, (thread as u64) << 32 | call);
                    }
                    for n in 0..200 {
                        TABLE.remove(REGION + thread * 65_536 + n * 16);
                    }
                }
            });
        }
        for forks in 0..MOST_FORKS {
            if forks >= FORKS && inherited > 0 {
                break;
            }
            // SAFETY: the child calls only functions that allocate nothing and wait for nobody,
            // and leaves by `_exit`.
            let pid = unsafe { fork() };
            if pid == 0 {
                // SAFETY: a watchdog for this child: nothing but a timer is changed.
                unsafe { alarm(60) };
                let code = child();
                // SAFETY: ends the child without running anything of the parent's.
                unsafe { _exit(code) };
            }
            assert!(pid > 0, "fork");
            let mut status = 0;
            // SAFETY: `status` is a place for the answer; the child is ours.
            let waited = unsafe { waitpid(pid, &raw mut status, 0) };
            let signal = status & 0x7f;
            let code = status >> 8 & 0xff;
            if waited != pid || signal != 0 || !matches!(code, 0 | 100) {
                over.store(true, Ordering::Relaxed);
            }
            assert_eq!(waited, pid);
            assert_eq!(signal, 0, "the child hung (14) or died");
            assert!(
                matches!(code, 0 | 100),
                "what the child found wrong: {code}"
            );
            inherited += u32::from(code == 100);
        }
        over.store(true, Ordering::Relaxed);
    });
    // Else nothing was tested.
    assert!(inherited > 0, "no child was left with a lock");
    assert_eq!(TABLE.losses().inherited, 0);
}
