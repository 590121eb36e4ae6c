//! A harness for cases that need a process of their own.
//!
//! libtest allocates on its main thread late and at random, so figures of the
//! whole process are never exact under it; and a case that crashes, hangs or
//! forks would take the others with it. Here each case runs as a child of the
//! test binary, on the child's main thread, with nothing beside it, and under a
//! watchdog against hangs.

use std::io::Read;
use std::mem;
use std::process::{Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Says to the child which case it is.
const CASE: &str = "HEAPLEDGER_TEST_CASE";

/// Far longer than any case takes, however busy the machine is.
const PATIENCE: Duration = Duration::from_mins(5);

/// A test: its name, what it does, and a text that its child must print.
pub(crate) struct Case {
    /// The name, a sentence.
    pub(crate) name: &'static str,
    /// Runs in the child and panics when it fails.
    pub(crate) body: fn(),
    /// What the child must have printed, for cases that end after `main`.
    pub(crate) prints: &'static str,
}

/// The cases of these functions, under their own names; `=> "text"` after a
/// name is what the child must print.
#[macro_export]
macro_rules! cases {
    ($($name:ident $(=> $prints:literal)?),+ $(,)?) => {
        &[$($crate::support::Case {
            name: stringify!($name),
            body: $name,
            prints: concat!($($prints)?),
        }),+]
    };
}

/// Runs all cases that the command line names, or the one that a parent of
/// ours asks for.
pub(crate) fn main(cases: &[Case]) -> ExitCode {
    if let Ok(wanted) = std::env::var(CASE) {
        let case = cases.iter().find(|case| case.name == wanted);
        (case.expect("a case of this name").body)();
        return ExitCode::SUCCESS;
    }
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    let at_once = at_once(&mut arguments);
    let skipped = values(&mut arguments, "--skip");
    // Nothing here is ignored, so whoever asks for ignored tests alone gets none.
    let none = arguments.iter().any(|a| a == "--ignored");
    if arguments.iter().any(|a| a == "--list") {
        for case in cases.iter().filter(|_| !none) {
            println!("{}: test", case.name);
        }
        return ExitCode::SUCCESS;
    }
    let exact = arguments.iter().any(|a| a == "--exact");
    let names: Vec<&String> = arguments.iter().filter(|a| !a.starts_with('-')).collect();
    let chosen = |case: &Case| {
        let is_named = |name: &String| {
            if exact {
                case.name == *name
            } else {
                case.name.contains(name.as_str())
            }
        };
        !none
            && !skipped.iter().any(is_named)
            && (names.is_empty() || names.iter().any(|name| is_named(name)))
    };
    let chosen: Vec<&Case> = cases.iter().filter(|case| chosen(case)).collect();
    let ran = chosen.len();
    println!("\nrunning {ran} tests");
    let (next, failed) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let run_all = || {
        while let Some(case) = chosen.get(next.fetch_add(1, Ordering::Relaxed)) {
            match run(case) {
                Ok(()) => println!("test {} ... ok", case.name),
                Err(story) => {
                    println!("test {} ... FAILED\n{story}", case.name);
                    failed.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
    };
    // Here, and nowhere else if it is to be one after the other: what std prints with from several
    // threads looks like a race to who does not see std's locks.
    thread::scope(|scope| {
        for _ in 1..at_once.min(ran) {
            scope.spawn(run_all);
        }
        run_all();
    });
    let failed = failed.into_inner();
    // The line that readers of libtest's output look for.
    println!(
        "\ntest result: {}. {} passed; {failed} failed; 0 ignored; 0 measured; {} filtered out\n",
        if failed == 0 { "ok" } else { "FAILED" },
        ran - failed,
        cases.len() - ran,
    );
    ExitCode::from(u8::from(failed > 0))
}

/// How many cases run beside each other: as with libtest, so many as there are processors, or
/// as `--test-threads` says, which is taken from the arguments.
fn at_once(arguments: &mut Vec<String>) -> usize {
    let asked = values(arguments, "--test-threads").pop();
    let all = || thread::available_parallelism().map_or(1, usize::from);
    asked.map_or_else(all, |asked| {
        asked.parse().expect("--test-threads: a number")
    })
}

/// What the arguments say for an option, each time that it is there, as `--option VALUE` or
/// `--option=VALUE`; taken from them.
fn values(arguments: &mut Vec<String>, option: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut others = Vec::new();
    let mut all = mem::take(arguments).into_iter();
    while let Some(argument) = all.next() {
        match argument.strip_prefix(option) {
            Some("") => found.extend(all.next()),
            Some(value) if value.starts_with('=') => found.push(value[1..].to_owned()),
            _ => others.push(argument),
        }
    }
    *arguments = others;
    found
}

/// Runs one case in a child; the story of its failure if it has one.
fn run(case: &Case) -> Result<(), String> {
    let program = std::env::current_exe().map_err(|e| e.to_string())?;
    let mut child = Command::new(program)
        .env(CASE, case.name)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| e.to_string())?;
    // Read on threads, so that a child that says much does not wait for us.
    let out = reader(child.stdout.take());
    let err = reader(child.stderr.take());
    let begin = Instant::now();
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break Ok(status),
            Ok(None) if begin.elapsed() < PATIENCE => {
                thread::sleep(Duration::from_millis(5));
            }
            Ok(None) => {
                drop(child.kill());
                drop(child.wait());
                break Err("it hangs, and was killed".to_owned());
            }
            Err(e) => break Err(e.to_string()),
        }
    };
    let (out, err) = (
        out.join().unwrap_or_default(),
        err.join().unwrap_or_default(),
    );
    let story = |what: &str| format!("--- {}: {what}\n{out}{err}", case.name);
    match status {
        Err(what) => Err(story(&what)),
        Ok(status) if !status.success() => Err(story(&status.to_string())),
        Ok(_) if !out.contains(case.prints) => {
            Err(story(&format!("it did not print {:?}", case.prints)))
        }
        Ok(_) => Ok(()),
    }
}

fn reader(pipe: Option<impl Read + Send + 'static>) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut text = Vec::new();
        if let Some(mut pipe) = pipe {
            drop(pipe.read_to_end(&mut text));
        }
        String::from_utf8_lossy(&text).into_owned()
    })
}
