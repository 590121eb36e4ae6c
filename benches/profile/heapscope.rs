//! Whole programs beside heapscope: with everything recorded, and sampled.
//!
//! `cargo bench -p heapledger-profile-bench --bench heapscope`; with `-- --quick`
//! three rounds.
//!
//! heapscope 0.3 needs a newer compiler than this library, and walks frame pointers.
//! So its program is in a package apart, `../scope`, and is built together with ours
//! and with `System`'s, all with frame pointers and by one compiler: the present one
//! or else a nightly. Where neither is new enough, the bench says so and does nothing.

use std::path::PathBuf;
use std::process::Command;

use heapledger_benches::children::Programs;
use heapledger_benches::figures::{Spread, ratio, table};
use heapledger_benches::is_quick;
use heapledger_benches::samples::Random;
use heapledger_profile_bench::REAL;

/// The program, how it records, what the tables call it.
const SUBJECTS: [(&str, &str, &str); 8] = [
    ("with_system", "", "System"),
    ("with_heapledger", "count", "heapledger, counting"),
    ("with_heapledger", "leaks", "heapledger, leak check"),
    ("with_heapledger", "every", "heapledger, profile"),
    ("with_heapledger", "524288", "heapledger, 512 KiB apart"),
    ("with_heapscope", "count", "heapscope, not profiling"),
    ("with_heapscope", "every", "heapscope, profile"),
    ("with_heapscope", "524288", "heapscope, 512 KiB apart"),
];
/// Sampling, and the same allocator without it.
const OURS: (usize, usize) = (4, 1);
const THEIRS: (usize, usize) = (7, 5);

const NEEDED: (u32, u32) = (1, 96);
const FLAGS: &str = "-C force-frame-pointers=yes";
/// Other flags in the directory that everything else is built in would have all of
/// that built again, each time.
const TARGET: &str = concat!(env!("CARGO_TARGET_TMPDIR"), "/heapscope");
/// Where heapscope writes its profile.
const WRITTEN: &str = "dhat-heap.json";

fn main() {
    let (mut cargo, version) = match cargo() {
        Ok(found) => found,
        Err(why) => {
            println!("skipped: heapscope 0.3 needs Rust 1.96 or later, and {why}");
            return;
        }
    };
    cargo.env("RUSTFLAGS", FLAGS);
    cargo.env("CARGO_TARGET_DIR", TARGET);
    // This one would win over those flags.
    cargo.env_remove("CARGO_ENCODED_RUSTFLAGS");
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/../scope");
    let programs = Programs::build_by(cargo, directory);
    println!("Built by {version}, with `{FLAGS}`.\n");

    let rounds = if is_quick() { 3 } else { 21 };
    let scratch = Scratch::enter();
    let sampled: Vec<Vec<String>> = REAL
        .iter()
        .map(|work| compare(&programs, work, rounds))
        .collect();
    assert!(
        scratch.0.join(WRITTEN).exists(),
        "heapscope recorded nothing"
    );
    println!("Sampling at 512 KiB, against the same without ({rounds} rounds):\n");
    let head = [
        "",
        "heapledger",
        "a quarter below",
        "above",
        "heapscope",
        "a quarter below",
        "above",
    ];
    println!("{}", table(&head, &sampled));
}

/// Prints the table of `work`; gives its row in the table of sampling.
fn compare(programs: &Programs, work: &str, rounds: usize) -> Vec<String> {
    let mut times = vec![Vec::new(); SUBJECTS.len()];
    let mut random = Random::new(1);
    for _ in 0..rounds {
        for at in random.order(SUBJECTS.len()) {
            let (binary, how, _) = SUBJECTS[at];
            times[at].push(programs.run(binary, &[work, how])[0] / 1e6);
        }
    }
    let rows: Vec<Vec<String>> = SUBJECTS
        .iter()
        .zip(&times)
        .map(|((_, _, name), own)| {
            let median = Spread::of(own.iter().copied()).median;
            let mut row = vec![(*name).to_owned(), format!("{median:.1}")];
            row.extend(cells(ratio(own, &times[0]), 2));
            row
        })
        .collect();
    println!("{work} ({rounds} rounds):\n");
    println!(
        "{}",
        table(&["", "ms", "× System", "a quarter below", "above"], &rows)
    );
    let mut row = vec![work.to_owned()];
    for (sampled, alone) in [OURS, THEIRS] {
        row.extend(cells(ratio(&times[sampled], &times[alone]), 3));
    }
    row
}

fn cells(ratio: Spread, digits: usize) -> [String; 3] {
    [ratio.median, ratio.low, ratio.high].map(|figure| format!("{figure:.digits$}"))
}

/// A cargo that is new enough, and what it says of itself; or why there is none.
fn cargo() -> Result<(Command, String), String> {
    let here = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let present = said_by(Command::new(&here)).unwrap_or_else(|| "cargo of no version".to_owned());
    if is_new_enough(&present) {
        return Ok((Command::new(here), present));
    }
    match said_by(nightly()) {
        None => Err(format!("this is {present} with no nightly beside it")),
        Some(later) if is_new_enough(&later) => Ok((nightly(), later)),
        Some(later) => Err(format!("this is {present}, the nightly beside it {later}")),
    }
}

/// The cargo of rustup's nightly, whatever started this bench.
fn nightly() -> Command {
    let mut cargo = Command::new("cargo");
    cargo.arg("+nightly");
    for variable in ["RUSTUP_TOOLCHAIN", "CARGO", "RUSTC", "RUSTDOC"] {
        cargo.env_remove(variable);
    }
    // A bench installs no compiler.
    cargo.env("RUSTUP_AUTO_INSTALL", "0");
    cargo
}

/// The version that `cargo` gives, if it can be started at all.
fn said_by(mut cargo: Command) -> Option<String> {
    let output = cargo.arg("--version").output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}

/// Whether `version`, as in `cargo 1.96.0 (...)`, is one that builds heapscope.
fn is_new_enough(version: &str) -> bool {
    let mut numbers = version.split([' ', '.']).skip(1).map(str::parse);
    let (major, minor) = (numbers.next(), numbers.next());
    matches!((major, minor), (Some(Ok(major)), Some(Ok(minor))) if (major, minor) >= NEEDED)
}

/// An empty directory, the current one of this process and its children until it is
/// dropped and removed.
struct Scratch(PathBuf);

impl Scratch {
    fn enter() -> Self {
        let path = std::env::temp_dir().join(format!("heapscope-{}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a directory for heapscope's profiles");
        std::env::set_current_dir(&path).expect("the directory just made");
        Self(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        drop(std::env::set_current_dir(std::env::temp_dir()));
        drop(std::fs::remove_dir_all(&self.0));
    }
}
