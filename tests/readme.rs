//! What the README shows is what happens.

use std::path::Path;
use std::process::Command;

/// The first block of the README in this language.
fn block<'a>(readme: &'a str, language: &str) -> &'a str {
    let (_, rest) = readme
        .split_once(&format!("```{language}\n"))
        .expect("the README has such a block");
    rest.split_once("```").expect("the block ends").0
}

#[test]
fn the_first_program_is_the_example_and_its_output_is_real() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let readme = std::fs::read_to_string(root.join("README.md")).expect("README.md");
    let source = std::fs::read_to_string(root.join("examples/readme.rs")).expect("the example");
    let (_, source) = source.split_once("\n\n").expect("a line of docs first");
    assert_eq!(block(&readme, "rust"), source);

    // Cargo builds the examples before it runs the tests, beside them.
    let tests = std::env::current_exe().expect("this test");
    let target = tests.ancestors().nth(2).expect("the target folder");
    let output = Command::new(target.join("examples/readme"))
        .output()
        .expect("the example is built");
    assert!(output.status.success());
    assert_eq!(
        block(&readme, "text"),
        String::from_utf8(output.stdout).expect("text")
    );
}
