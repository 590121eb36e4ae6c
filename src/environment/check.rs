//! The leak check that the variable has asked for, and its verdict.

use once_cell::sync::OnceCell;

use crate::environment::settings::LeaksWanted;
use crate::environment::work;
use crate::leaks::{Process, ProcessGuard, way_out};
use crate::record::{self, Owner};
use crate::sync::Mutex;

static CHECK: OnceCell<Check> = OnceCell::new();

/// A check under way, to the end of the process.
struct Check {
    /// None when it is over.
    guard: Mutex<Option<ProcessGuard>>,
    /// The process that began it; another is its child.
    owner: Owner,
    /// What the process is to end with when there are leaks, or nobody has looked.
    exit_code: Option<u8>,
}

pub(super) fn start(wanted: LeaksWanted) -> Result<(), String> {
    // With 0 the program keeps its own.
    let exit_code = wanted.exit_code.filter(|code| *code != 0);
    let check = record::quietly(|| as_wanted(wanted));
    // Not quietly, as `work::begin` says.
    let guard = check.start().map_err(|error| error.to_string())?;
    let guard = Mutex::new(Some(guard));
    // Only `start` fills it, and it runs once.
    let owner = Owner::here();
    drop(CHECK.set(Check {
        guard,
        owner,
        exit_code,
    }));
    Ok(())
}

fn as_wanted(wanted: LeaksWanted) -> Process {
    let mut check = Process::new();
    for pattern in &wanted.suppressions {
        check = check.suppress(pattern);
    }
    if let Some(code) = wanted.exit_code {
        check = check.exit_code(code);
    }
    if let Some(name) = wanted.file {
        let name = name.from(&work::here());
        work::warn(&name, false);
        let pid = std::process::id().to_string();
        check = check.to_file(name.path(&pid, 1, false));
    }
    check
}

/// Whether this process is to give a verdict.
pub(super) fn is_ours() -> bool {
    CHECK.get().is_some_and(|check| check.owner.is_here())
}

/// Gives the verdict, and the code that the process is to end with when that says it.
pub(super) fn end() -> Option<u8> {
    let guard = CHECK.get().and_then(|check| check.guard.lock().take());
    guard.and_then(ProcessGuard::report)
}

/// The code to end with when [`end`] has panicked: a check that could not look must not pass.
pub(super) fn after_a_panic() -> Option<u8> {
    way_out::say("heapledger: nobody has looked for leaks: the report has panicked");
    CHECK.get().and_then(|check| check.exit_code)
}
