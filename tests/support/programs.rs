//! Programs that a test file runs: itself, started again.

use std::path::Path;
use std::process::{Command, Output};

/// Says to the binary which program it is.
pub(crate) const PART: &str = "HEAPLEDGER_TEST_PART";

/// This part of the test file's binary, with this value of the variable, if any, in this folder.
pub(crate) fn command(part: &str, value: Option<&str>, folder: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("a path"));
    command.env(PART, part).env_remove("HEAPLEDGER");
    if let Some(value) = value {
        command.env("HEAPLEDGER", value);
    }
    command.current_dir(folder);
    command
}

/// None when a signal has ended it.
pub(crate) fn code_of(output: &Output) -> Option<u8> {
    u8::try_from(output.status.code()?).ok()
}

/// What standard error has got.
pub(crate) fn said_by(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}
