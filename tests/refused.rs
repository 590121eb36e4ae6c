//! What the macros say where they cannot do what was written.

use std::path::Path;
use std::process::Command;

/// The program, and the errors of the compiler, one a line, each with its place
/// before it.
fn program_and_errors() -> (String, String) {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/refused");
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("refused");
    let mut cargo = Command::new(std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned()));
    cargo
        .args(["check", "--quiet", "--message-format", "short"])
        .arg("--manifest-path")
        .arg(fixture.join("Cargo.toml"))
        .arg("--target-dir")
        .arg(&target)
        .env("CARGO_TERM_COLOR", "never");
    for variable in ["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "CARGO_BUILD_TARGET"] {
        cargo.env_remove(variable);
    }
    let output = cargo.output().expect("cargo");
    assert!(!output.status.success(), "it compiles");
    let program = std::fs::read_to_string(fixture.join("src/main.rs")).expect("the program");
    (
        program,
        String::from_utf8_lossy(&output.stderr).into_owned(),
    )
}

/// Bug prevented: a message that asks for what was written, or names a macro
/// that is not there where only its feature is missing.
#[test]
fn the_compiler_says_what_the_macros_take() {
    let (program, said) = program_and_errors();
    for (i, line) in program.lines().enumerate() {
        let error = format!("src/main.rs:{}:", i + 1);
        let mut errors = said.lines().filter(|said| said.starts_with(&error));
        match line.split_once(" // says: ") {
            Some((_, words)) => {
                let first = errors.next().unwrap_or_else(|| panic!("{line}\n{said}"));
                assert!(first.contains(words), "{line}\n{said}");
            }
            None => assert_eq!(errors.next(), None, "{line}"),
        }
        // One fault is told once.
        assert_eq!(errors.next(), None, "{line}");
    }
    let dependency = "    heapledger = { version = \"0.1\", features = [\"profile\"] }";
    assert!(said.contains(dependency), "{said}");
}
