//! What counting costs in instructions: a boxed 64-byte value made and dropped,
//! under callgrind. The same on a busy machine as on a quiet one.
//!
//! Each program runs with n pairs and with 11 n; the difference over 10 n is
//! free of what the start costs.
//!
//! `cargo bench -p heapledger-benches --bench instructions`; needs valgrind.

use std::process::Command;

use heapledger_benches::children::Programs;
use heapledger_benches::figures::{GOALS, goal, table};
use heapledger_benches::is_quick;

const PROGRAMS: [(&str, &str); 9] = [
    ("default", "no `#[global_allocator]`"),
    ("system", "System, installed"),
    ("shared_atomics", "shared atomics"),
    ("alloc_tracker", "alloc_tracker"),
    ("heapledger", "heapledger"),
    ("heapledger_histogram", "heapledger, histogram"),
    ("mimalloc", "mimalloc"),
    ("heapledger_over_mimalloc", "heapledger over mimalloc"),
    ("cap", "cap"),
];
const AT_OURS: usize = 4;

fn main() {
    if Command::new("valgrind").arg("--version").output().is_err() {
        println!("Skipped: valgrind is not installed.");
        return;
    }
    let programs = Programs::build().with_histogram("heapledger");
    let pairs = if is_quick() { 2_000 } else { 20_000 };
    let each = PROGRAMS.map(|(program, _)| {
        let few = instructions(&programs, program, pairs);
        let many = instructions(&programs, program, 11 * pairs);
        f64::from(many - few) / f64::from(10 * pairs)
    });
    let rows: Vec<Vec<String>> = PROGRAMS
        .iter()
        .zip(each)
        .map(|((_, name), own)| {
            vec![
                (*name).to_owned(),
                format!("{own:.2}"),
                format!("{:+.2}", own - each[0]),
                format!("{:+.2}", own - each[1]),
            ]
        })
        .collect();
    let head = [
        "",
        "instructions",
        "over the default",
        "over System installed",
    ];
    println!("{}", table(&head, &rows));
    let goals = [
        goal(
            "over the same program with no `#[global_allocator]`",
            each[AT_OURS] - each[0],
            12.0,
            2,
        ),
        goal(
            "over the same program with System installed",
            each[AT_OURS] - each[1],
            12.0,
            2,
        ),
    ];
    println!("{}", table(&GOALS, &goals));
}

/// Instructions that callgrind counts for `pairs` pairs.
fn instructions(programs: &Programs, program: &str, pairs: u32) -> u32 {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(programs.path(program))
        .args(["boxes", &pairs.to_string()])
        .output()
        .expect("valgrind starts");
    assert!(output.status.success(), "{program} failed under callgrind");
    let text = String::from_utf8_lossy(&output.stderr);
    let collected = text.lines().find_map(|line| line.split_once("Collected :"));
    let (_, count) = collected.expect("callgrind's own figure");
    count.trim().parse().expect("a number")
}
