//! The programs of one crate, with few boxes.

use std::process::Command;

// A program that does not count would be the fastest of all.
#[test]
fn programs_of_one_crate_run_and_those_that_count_count() {
    let programs = [
        env!("CARGO_BIN_EXE_alone_default"),
        env!("CARGO_BIN_EXE_alone_system"),
        env!("CARGO_BIN_EXE_alone_heapledger"),
        env!("CARGO_BIN_EXE_alone_least"),
    ];
    for program in programs {
        let output = Command::new(program).args(["boxes", "1000"]).output();
        let output = output.expect("it starts");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{program}: {said}");
    }
}
