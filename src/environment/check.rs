//! The leak check that the variable has asked for, and its verdict.

use once_cell::sync::OnceCell;

use crate::environment::settings::LeaksWanted;
use crate::environment::work;
use crate::leaks::{Process, ProcessGuard};
use crate::record::{self, Owner};
use crate::sync::Mutex;

static CHECK: OnceCell<Check> = OnceCell::new();

/// A check under way, to the end of the process.
struct Check {
    /// None when it is over.
    guard: Mutex<Option<ProcessGuard>>,
    /// The process that began it; another is its child.
    owner: Owner,
}

pub(super) fn start(wanted: LeaksWanted) -> Result<(), String> {
    let check = record::quietly(|| as_wanted(wanted));
    // Not quietly, as `work::begin` says.
    let guard = check.start().map_err(|error| error.to_string())?;
    let guard = Mutex::new(Some(guard));
    // Only `start` fills it, and it runs once.
    let owner = Owner::here();
    drop(CHECK.set(Check { guard, owner }));
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
