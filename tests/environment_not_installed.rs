//! `HEAPLEDGER=…` in a program that has no tracking allocator.
#![cfg(all(feature = "profile", target_os = "linux"))]

use std::path::Path;
use std::process::Command;

// It is linked, and that is all.
use heapledger as _;

const PART: &str = "HEAPLEDGER_TEST_PART";

/// The one that the test starts; an ordinary test with nothing to do otherwise.
#[test]
fn program() {
    if std::env::var_os(PART).is_some() {
        assert!(!heapledger::is_installed());
        std::process::exit(7);
    }
}

/// Bug prevented: whoever sets the variable gets no file and is never told why.
#[test]
fn the_two_lines_that_are_missing_are_shown_and_the_program_runs() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("environment-not-installed");
    std::fs::create_dir_all(&folder).expect("a folder");
    let output = Command::new(std::env::current_exe().expect("a path"))
        .args(["--exact", "program", "--test-threads=1"])
        .env(PART, "1")
        .env("HEAPLEDGER", "profile,file=never.txt")
        .current_dir(&folder)
        .output()
        .expect("it runs");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(7), "{said}");
    assert!(
        said.starts_with("heapledger: HEAPLEDGER=profile,file=never.txt does nothing: "),
        "{said}"
    );
    assert!(
        said.contains("    #[global_allocator]\n    static HEAP: heapledger::TrackingAllocator"),
        "{said}"
    );
    assert!(!folder.join("never.txt").exists());
}
