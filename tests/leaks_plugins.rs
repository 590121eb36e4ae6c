//! Leaks and profiles through libraries that are opened and closed while the program runs.

#![allow(unsafe_code, reason = "opens libraries and calls into them")]

#[path = "support/compiler.rs"]
mod compiler;
mod support;

use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use heapledger::profile::{HeapProfile, Incomplete, StackProfile};
use heapledger::{Profiler, TrackingAllocator, leaks};
use libloading::Library;

#[global_allocator]
static HEAP: TrackingAllocator = TrackingAllocator::new();

fn main() -> ExitCode {
    if !cfg!(all(target_os = "linux", target_arch = "x86_64")) {
        println!("left out: elsewhere names are only known of what is loaded at first");
        return ExitCode::SUCCESS;
    }
    support::main(cases![
        a_library_that_is_opened_after_a_report_has_names_in_the_next,
        a_library_in_the_place_of_another_does_not_get_its_names,
        a_library_that_is_opened_after_the_programs_own_backtrace_has_names,
        a_library_in_the_place_of_one_in_a_backtrace_has_its_own_names,
        a_library_in_the_place_of_another_has_whole_stacks_after_a_snapshot,
    ])
}

extern "C" fn leak() {
    std::mem::forget(black_box(vec![0_u8; 100]));
}

/// A library with a function of this name, which calls what it is given in line 3.
fn library(name: &str) -> PathBuf {
    library_with("", name)
}

/// The same with this text before the call, in the same line.
fn library_with(before: &str, name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("plugins");
    std::fs::create_dir_all(&folder).expect("a folder");
    // The child of each case makes its own.
    let file = |ending: &str| folder.join(format!("{name}-{}.{ending}", std::process::id()));
    let (source, library) = (file("rs"), file("so"));
    let text = format!(
        "#[unsafe(no_mangle)]\npub extern \"C\" fn {name}(call: extern \"C\" fn()) {{\n    \
         {before}call();\n    std::hint::black_box(call);\n}}\n"
    );
    std::fs::write(&source, text).expect("a source file");
    let built = Command::new(compiler::rustc())
        .args([
            "--edition=2024",
            "--crate-type=cdylib",
            "-Cdebuginfo=2",
            "-o",
        ])
        .args([&library, &source])
        .status();
    assert!(built.is_ok_and(|status| status.success()), "no {name}");
    std::fs::remove_file(source).expect("nobody needs it any more");
    library
}

/// What is told of a leak through this library, which is opened and closed again.
fn leak_through(name: &str, path: &Path) -> String {
    // SAFETY: its initialisers are those of std.
    let library = unsafe { Library::new(path) }.expect("a library");
    // SAFETY: its type is that of the text in `library`.
    let call = unsafe { library.get::<extern "C" fn(extern "C" fn())>(name.as_bytes()) };
    let call = call.expect("the function");
    let report = leaks::check(|| call(leak)).expect_err("it leaks");
    let report = format!("{report:#}");
    std::fs::remove_file(path).expect("nobody needs it any more");
    report
}

/// Bug prevented: names are known of what was loaded when they were first asked for; of what
/// is opened later there are bare addresses.
fn a_library_that_is_opened_after_a_report_has_names_in_the_next() {
    let path = library("comes_late");
    let own = leaks::check(|| leak()).expect_err("it leaks").to_string();
    assert!(own.contains("leaks_plugins.rs"), "{own}");
    let report = leak_through("comes_late", &path);
    let line = format!("comes_late-{}.rs:3", std::process::id());
    assert!(report.contains("comes_late at "), "{report}");
    assert!(report.contains(&line), "{report}");
}

/// Bug prevented: a leak in one plugin is shown in another that was there before.
fn a_library_in_the_place_of_another_does_not_get_its_names() {
    let names = ["comes_first", "comes_second", "comes_third"];
    let paths = names.map(library);
    for (name, path) in names.iter().zip(&paths) {
        let report = leak_through(name, path);
        for each in names {
            let is_there = report.contains(&format!("{each} at "));
            assert_eq!(is_there, each == *name, "{name}: {report}");
        }
    }
}

/// Bug prevented: names are known of what was loaded when the program first asked for one, with
/// the same crate as we do; of what is opened later there are bare addresses.
fn a_library_that_is_opened_after_the_programs_own_backtrace_has_names() {
    let path = library("comes_later");
    drop(black_box(backtrace::Backtrace::new()));
    let report = leak_through("comes_later", &path);
    let line = format!("comes_later-{}.rs:3", std::process::id());
    assert!(report.contains("comes_later at "), "{report}");
    assert!(report.contains(&line), "{report}");
}

/// Bug prevented: a leak in one plugin is shown in another, which was there when the program
/// first asked for a name.
fn a_library_in_the_place_of_one_in_a_backtrace_has_its_own_names() {
    let [gone, here] = ["was_there", "is_there"].map(library);
    // SAFETY: its initialisers are those of std.
    let library = unsafe { Library::new(&gone) }.expect("a library");
    drop(black_box(backtrace::Backtrace::new()));
    drop(library);
    std::fs::remove_file(gone).expect("nobody needs it any more");
    let report = leak_through("is_there", &here);
    assert!(report.contains("is_there at "), "{report}");
    assert!(!report.contains("was_there at "), "{report}");
}

const SIZE: u64 = 77_777;

extern "C" fn keep() {
    std::mem::forget(black_box(vec![0_u8; 77_777]));
}

/// Calls [`keep`] through this library, which is opened and closed again.
#[inline(never)]
fn keep_through(name: &str, path: &Path) {
    // SAFETY: its initialisers are those of std.
    let library = unsafe { Library::new(path) }.expect("a library");
    // SAFETY: its type is that of the text in `library`.
    let call = unsafe { library.get::<extern "C" fn(extern "C" fn())>(name.as_bytes()) };
    call.expect("the function")(keep);
    black_box(&library);
}

/// The stacks through the function above, of all that have kept something, and what is missing.
fn whole(profile: &HeapProfile) -> (usize, usize, Incomplete) {
    let has_kept = |stack: &&StackProfile| stack.live.bytes >= SIZE;
    let stacks: Vec<&StackProfile> = profile.stacks.iter().filter(has_kept).collect();
    let is_whole = |stack: &&&StackProfile| {
        let frames = profile.trimmed(stack);
        let mut names = frames.iter().map(leaks::Frame::function);
        names.any(|name| name.ends_with("keep_through"))
    };
    let whole = stacks.iter().filter(is_whole).count();
    (whole, stacks.len(), profile.incomplete)
}

/// Bug prevented: what a plugin allocates that has come to the place of another one, which has
/// larger or smaller frames there, has no callers for as long as the profile is under way.
fn a_library_in_the_place_of_another_has_whole_stacks_after_a_snapshot() {
    // The same code in the same places, but for the size of the frame.
    let path = |name, room: u32| {
        let room = format!(
            "let room = std::mem::MaybeUninit::<[u8; {room}]>::uninit(); \
             std::hint::black_box(&room); "
        );
        library_with(&room, name)
    };
    let (small, large) = (path("is_small", 1_024), path("is_large", 3_072));
    let profiler = Profiler::builder().every_allocation().start();
    let profiler = profiler.expect("the only one");
    keep_through("is_small", &small);
    drop(profiler.snapshot());
    keep_through("is_large", &large);
    let mut profile = profiler.finish();
    for path in [small, large] {
        std::fs::remove_file(path).expect("nobody needs it any more");
    }
    profile.symbolize();
    assert_eq!(whole(&profile), (2, 2, Incomplete::default()));
}
