//! The compiler, for libraries that a test builds while it runs.

use std::path::PathBuf;

/// That of the toolchain that runs the test, where it can be told.
pub(crate) fn rustc() -> PathBuf {
    let cargo = PathBuf::from(std::env::var_os("CARGO").unwrap_or_default());
    let beside = cargo.with_file_name("rustc");
    if beside.exists() {
        beside
    } else {
        PathBuf::from("rustc")
    }
}
