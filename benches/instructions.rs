//! What counting costs in instructions, under callgrind: the same on a busy
//! machine as on a quiet one.
//!
//! The pair is a boxed 64-byte value made and dropped. Each program runs with n
//! pairs and with 11 n; the difference over 10 n is free of what the start
//! costs. Of the whole programs all is counted, with the start.
//!
//! `cargo bench -p heapledger-benches --bench instructions`, some four minutes;
//! with `-- --quick` the pair only, and only in release. Needs valgrind.
//!
//! Two kinds of release: a box that is made in a library, where the allocator is a
//! function to be called, and one that is made in the program's own crate, where
//! the compiler inlines what it is free to inline (`alone_*`).

use std::process::Command;

use heapledger_benches::children::Programs;
use heapledger_benches::figures::{GOALS, goal, table};
use heapledger_benches::is_quick;

/// With the two that the others are compared with at the head.
const PAIRS: [(&str, &str); 13] = [
    ("default", "no `#[global_allocator]`"),
    ("system", "System, installed"),
    ("heapledger", "heapledger"),
    ("heapledger_histogram", "heapledger, histogram"),
    ("heapledger_profile", "heapledger, profile, off"),
    ("shared_atomics", "shared atomics"),
    ("stats_alloc", "stats_alloc"),
    ("cap", "cap"),
    ("alloc_tracker", "alloc_tracker"),
    ("tracking_allocator", "tracking-allocator"),
    ("least", "the least"),
    ("mimalloc", "mimalloc"),
    ("heapledger_over_mimalloc", "heapledger over mimalloc"),
];
const WHOLE: [(&str, &str); 6] = [
    ("default", "no `#[global_allocator]`"),
    ("system", "System, installed"),
    ("heapledger", "heapledger"),
    ("shared_atomics", "shared atomics"),
    ("alloc_tracker", "alloc_tracker"),
    ("least", "the least"),
];
const ALONE: [(&str, &str); 5] = [
    ("alone_default", "no `#[global_allocator]`"),
    ("alone_system", "System, installed"),
    ("alone_heapledger", "heapledger"),
    ("alone_least", "the least"),
    ("alone_heapledger_profile", "heapledger, profile, off"),
];
const AT_OURS: usize = 2;
/// What ours is held against: the row, and its name in a goal.
const OVER_DEFAULT: (usize, &str) = (0, "no `#[global_allocator]`");
const OVER_SYSTEM: (usize, &str) = (1, "System installed");

fn main() {
    if Command::new("valgrind").arg("--version").output().is_err() {
        println!("Skipped: valgrind is not installed.");
        return;
    }
    let pairs = if is_quick() { 2_000 } else { 20_000 };
    let programs = Programs::build()
        .with_variant("heapledger", "histogram")
        .with_variant("heapledger", "profile")
        .with_variant("alone_heapledger", "profile");
    let both = [OVER_DEFAULT, OVER_SYSTEM];
    let mut goals = compare_pairs("a pair, release", &programs, &PAIRS, pairs, &both);
    let alone = "a pair in a program of one crate";
    // No goal beside `System` installed: that is inlined as well, and needs no look at what it gives.
    let only = [OVER_DEFAULT];
    goals.extend(compare_pairs(alone, &programs, &ALONE, pairs, &only));
    if !is_quick() {
        let names = WHOLE.map(|(program, _)| program);
        let whole = Programs::build_whole(&names);
        goals.extend(compare_pairs(
            "a pair, fat LTO",
            &whole,
            &WHOLE,
            pairs,
            &both,
        ));
        // No goal: what costs time in them is not how many instructions they have.
        compare_work("json, release", &programs, &WHOLE, "json");
        compare_work("json in a program of one crate", &programs, &ALONE, "json");
        compare_work("syn, release", &programs, &WHOLE, "syn");
    }
    println!("{}", table(&GOALS, &goals));
}

/// Prints what a pair costs under each allocator; gives the goals for ours.
fn compare_pairs(
    what: &str,
    programs: &Programs,
    allocators: &[(&str, &str)],
    pairs: u32,
    bases: &[(usize, &str)],
) -> Vec<Vec<String>> {
    let each = |(program, _): &(&str, &str)| {
        let few = instructions(programs, program, &["boxes", &pairs.to_string()]);
        let many = instructions(programs, program, &["boxes", &(11 * pairs).to_string()]);
        (many - few) / f64::from(10 * pairs)
    };
    let each: Vec<f64> = allocators.iter().map(each).collect();
    let row = |((_, name), own): (&(&str, &str), &f64)| {
        vec![
            (*name).to_owned(),
            format!("{own:.2}"),
            format!("{:+.2}", own - each[0]),
            format!("{:+.2}", own - each[1]),
        ]
    };
    let rows: Vec<Vec<String>> = allocators.iter().zip(&each).map(row).collect();
    println!("{what}:\n");
    let head = [
        "",
        "instructions",
        "over the default",
        "over System installed",
    ];
    println!("{}", table(&head, &rows));
    let over = |(base, name): &(usize, &str)| {
        let asked = format!("{what}: more than with {name}");
        goal(&asked, each[AT_OURS] - each[*base], 12.0, 2)
    };
    bases.iter().map(over).collect()
}

/// Prints what a whole program costs under each allocator.
fn compare_work(what: &str, programs: &Programs, allocators: &[(&str, &str)], work: &str) {
    let each = |(program, _): &(&str, &str)| instructions(programs, program, &[work]);
    let all: Vec<f64> = allocators.iter().map(each).collect();
    let rows: Vec<Vec<String>> = allocators
        .iter()
        .zip(&all)
        .map(|((_, name), own)| {
            vec![
                (*name).to_owned(),
                format!("{:.1}", own / 1e6),
                format!("{:.3}", own / all[1]),
            ]
        })
        .collect();
    println!("{what}:\n");
    println!("{}", table(&["", "million instructions", "ratio"], &rows));
}

/// Instructions that callgrind counts.
fn instructions(programs: &Programs, program: &str, args: &[&str]) -> f64 {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(programs.path(program))
        .args(args)
        .output()
        .expect("valgrind starts");
    assert!(output.status.success(), "{program} failed under callgrind");
    let text = String::from_utf8_lossy(&output.stderr);
    let collected = text.lines().find_map(|line| line.split_once("Collected :"));
    let (_, count) = collected.expect("callgrind's own figure");
    count.trim().parse().expect("a number")
}
