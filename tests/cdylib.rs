//! A plugin that has the crate, and so a ledger, of its own: opened in many
//! threads at once, used, and closed again.

#![allow(unsafe_code, reason = "opens a library and calls into it")]

mod support;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Barrier;
use std::thread;

use heapledger::{StatsDelta, TrackingAllocator, stats, thread_stats};
use libloading::Library;

#[global_allocator]
static HEAP: TrackingAllocator = TrackingAllocator::new();

fn main() -> ExitCode {
    support::main(cases![
        both_ledgers_balance_and_neither_counts_for_the_other
    ])
}

#[repr(C)]
#[derive(Debug, PartialEq)]
struct Told {
    allocations: u64,
    allocated_bytes: u64,
    frees: u64,
    freed_bytes: u64,
}

type Work = unsafe extern "C" fn(usize, usize, *mut *mut u64) -> Told;
type TakeBack = unsafe extern "C" fn(*mut u64);
type Totals = extern "C" fn() -> Told;

/// Cargo puts examples beside the folder of the test binaries. It builds them
/// for a plain `cargo test`, but not when it is asked for this file alone.
fn path() -> PathBuf {
    let binary = std::env::current_exe().expect("our own path");
    let folder = binary.parent().and_then(Path::parent).expect("a folder");
    folder.join("examples/libplugin.so")
}

/// Builds the plugin where it is missing.
fn build() {
    let plugin = path();
    if plugin.exists() {
        return;
    }
    let folder = plugin.parent().and_then(Path::parent).expect("a folder");
    let profile = match folder.file_name().and_then(|name| name.to_str()) {
        Some("debug") => "dev",
        name => name.expect("the profile's name"),
    };
    let mut cargo = Command::new(std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned()));
    let built = cargo
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .args([
            "build",
            "--quiet",
            "--example",
            "plugin",
            "--profile",
            profile,
        ])
        .arg("--target-dir")
        .arg(folder.parent().expect("a folder"))
        .status();
    assert!(built.is_ok_and(|status| status.success()) && plugin.exists());
}

fn open() -> Library {
    // SAFETY: the plugin is ours, and has no constructors.
    unsafe { Library::new(path()) }.expect("the plugin")
}

/// A function of the plugin, for as long as the caller keeps it open.
fn function<F: Copy>(plugin: &Library, name: &str) -> F {
    // SAFETY: each caller names the type that the plugin's source gives the function.
    *unsafe { plugin.get::<F>(name.as_bytes()) }.expect("the function")
}

fn is_open() -> bool {
    let maps = std::fs::read_to_string("/proc/self/maps").expect("maps");
    maps.contains("libplugin.so")
}

/// One thread's part: its work, again and again, with exact counts on both
/// sides of the border.
fn work(plugin: &Library, thread: usize) -> Vec<usize> {
    let work: Work = function(plugin, "plugin_work");
    let take_back: TakeBack = function(plugin, "plugin_take_back");
    let mut kept: *mut u64 = std::ptr::null_mut();
    let mut all = Vec::with_capacity(50);
    for round in 1..=50 {
        let (blocks, bytes) = (round, 100 * (thread + 1));
        let host = thread_stats();
        // SAFETY: a place for one pointer.
        let told = unsafe { work(blocks, bytes, &raw mut kept) };
        assert_eq!(
            thread_stats().since(&host),
            StatsDelta::default(),
            "the host counts what is the plugin's"
        );
        let sum = (blocks * bytes) as u64;
        let expected = Told {
            allocations: blocks as u64 + 1,
            allocated_bytes: sum + 8,
            frees: blocks as u64,
            freed_bytes: sum,
        };
        assert_eq!(told, expected);
        if round % 2 == 0 {
            // SAFETY: just given, and forgotten now.
            unsafe { take_back(kept) };
        } else {
            all.push(kept.expose_provenance());
        }
    }
    all
}

/// Bugs prevented: two copies of the crate in one process that share a thread
/// local or a table; a destructor of a library that is gone.
fn both_ledgers_balance_and_neither_counts_for_the_other() {
    const THREADS: usize = 12;
    assert!(heapledger::is_installed());
    build();
    for round in 0..20 {
        let live = (stats().live_bytes, stats().live_blocks);
        let opened = Barrier::new(THREADS);
        let threads: Vec<_> = thread::scope(|threads| {
            let running: Vec<_> = (0..THREADS)
                .map(|i| {
                    let opened = &opened;
                    threads.spawn(move || {
                        opened.wait();
                        let plugin = open();
                        (work(&plugin, i), plugin)
                    })
                })
                .collect();
            running
                .into_iter()
                .map(|thread| thread.join().expect("thread"))
                .collect()
        });
        // All have worked, and what they kept goes back on one other thread.
        let judge = thread::spawn(move || {
            let plugin = open();
            let take_back: TakeBack = function(&plugin, "plugin_take_back");
            let totals: Totals = function(&plugin, "plugin_totals");
            for (kept, _) in &threads {
                for kept in kept {
                    let kept = std::ptr::with_exposed_provenance_mut(*kept);
                    // SAFETY: each was given once, kept, and comes back here alone.
                    unsafe { take_back(kept) };
                }
            }
            let now = totals();
            drop(threads);
            now
        });
        let now = judge.join().expect("thread");
        assert_eq!(now.allocations, now.frees, "round {round}");
        assert_eq!(now.allocated_bytes, now.freed_bytes, "round {round}");
        // The threads' blocks, and what each asked first whether it is installed: the books of a
        // library that was closed and opened again begin anew.
        let blocks: usize = THREADS * (1..=50).map(|blocks| blocks + 1).sum::<usize>();
        let asked = now.allocations - blocks as u64;
        assert!((1..=THREADS as u64).contains(&asked), "{asked} over");
        // A thread that has not yet run its destructors holds the library, and so does one that
        // closed it before: the system looks again whenever a library is closed.
        while is_open() {
            thread::yield_now();
            drop(open());
        }
        if round > 0 {
            assert_eq!((stats().live_bytes, stats().live_blocks), live);
        }
    }
}
