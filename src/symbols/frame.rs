//! One function in a stack.

use core::fmt;
use std::path::{Path, PathBuf};

/// A function in a stack, inlined or called, with the line it was at.
///
/// [`Display`](fmt::Display) prints `function at file:line`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Frame {
    function: String,
    file: Option<String>,
    line: Option<u32>,
    origin: Origin,
    inlined: bool,
}

/// Whose code a [`Frame`] is, by the path of its source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub enum Origin {
    /// The program's own, or that of its workspace.
    User,
    /// A dependency from a registry or a repository.
    Dependency,
    /// Rust's standard library.
    Std,
    /// This crate and the compiler's allocator shims.
    Allocator,
    /// Unknown: there is no debug information, as for most C code.
    Unknown,
}

impl Frame {
    pub(super) fn new(
        function: Option<String>,
        file: Option<&Path>,
        line: Option<u32>,
        paths: &Paths,
    ) -> Self {
        let function = function.unwrap_or_else(|| String::from("an unknown function"));
        let origin = paths.origin(&function, file);
        Self {
            function,
            file: file.map(|file| paths.shorten(file)),
            line,
            origin,
            inlined: false,
        }
    }

    pub(crate) fn unknown(address: u64) -> Self {
        Self {
            function: format!("{address:#x}"),
            file: None,
            line: None,
            origin: Origin::Unknown,
            inlined: false,
        }
    }

    /// What stands for a stack of which nothing is known.
    pub(crate) fn nowhere() -> Self {
        Self {
            function: String::from("an unknown stack"),
            file: None,
            line: None,
            origin: Origin::Unknown,
            inlined: false,
        }
    }

    /// A frame of these parts, for profiles that no process has written.
    #[doc(hidden)]
    pub fn synthetic(
        function: &str,
        file: Option<&str>,
        line: Option<u32>,
        origin: Origin,
        inlined: bool,
    ) -> Self {
        Self {
            function: String::from(function),
            file: file.map(String::from),
            line,
            origin,
            inlined,
        }
    }

    pub(super) fn set_inlined(&mut self) {
        self.inlined = true;
    }

    /// The function's full name, or its address when it has none.
    pub fn function(&self) -> &str {
        &self.function
    }

    /// The same, or words for a name that is blank.
    pub(crate) fn name(&self) -> &str {
        if self.function.trim().is_empty() {
            "an unknown function"
        } else {
            &self.function
        }
    }

    /// The source file: relative when it lies under the working directory or
    /// the package's, and from `library/` or the crate's name on when it is
    /// std's or a registry's.
    pub fn file(&self) -> Option<&str> {
        self.file.as_deref()
    }

    /// The line, from 1.
    pub const fn line(&self) -> Option<u32> {
        self.line
    }

    /// Whose code it is.
    pub const fn origin(&self) -> Origin {
        self.origin
    }

    /// Whether it is the user's own code.
    pub const fn is_user(&self) -> bool {
        matches!(self.origin, Origin::User)
    }

    /// Whether the function was inlined into the next frame's.
    pub const fn is_inlined(&self) -> bool {
        self.inlined
    }

    /// `file:line`, or what is known instead.
    pub fn location(&self) -> String {
        match (&self.file, self.line) {
            (Some(file), Some(line)) => format!("{file}:{line}"),
            (Some(file), None) => file.clone(),
            _ => self.function.clone(),
        }
    }
}

impl fmt::Display for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.function)?;
        if self.file.is_some() {
            write!(f, " at {}", self.location())?;
        }
        Ok(())
    }
}

/// What source paths are compared with.
#[derive(Debug, Default)]
pub(super) struct Paths {
    roots: Vec<PathBuf>,
}

impl Paths {
    /// The working directory, and the package's when cargo says which.
    pub(super) fn here() -> Self {
        let package = std::env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
        Self {
            roots: package.into_iter().chain(std::env::current_dir()).collect(),
        }
    }

    fn shorten(&self, file: &Path) -> String {
        if let Some(text) = file.to_str() {
            // `/rustc/<commit>/library/..` and `../registry/src/<index>/<crate>/..`
            for mark in ["/rustc/", "/registry/src/"] {
                let rest = text
                    .split_once(mark)
                    .and_then(|(_, rest)| rest.split_once('/'));
                if let Some((_, rest)) = rest {
                    return String::from(rest);
                }
            }
        }
        self.roots
            .iter()
            .find_map(|root| file.strip_prefix(root).ok())
            .unwrap_or(file)
            .display()
            .to_string()
    }

    #[expect(clippy::unused_self, reason = "the roots may come to matter for it")]
    fn origin(&self, function: &str, file: Option<&Path>) -> Origin {
        if is_allocator(function) || file.is_some_and(is_own_source) {
            return Origin::Allocator;
        }
        let Some(file) = file.and_then(Path::to_str) else {
            return Origin::Unknown;
        };
        let has = |part: &str| file.contains(part);
        if has("/rustc/") || has("/library/std/") || has("/library/core/") || has("/library/alloc/")
        {
            Origin::Std
        } else if has("/registry/src/") || has("/git/checkouts/") || has("/rust/deps/") {
            Origin::Dependency
        } else if has("/sysdeps/") || file.starts_with("./") {
            // The C library's own sources, as its debug information names them.
            Origin::Unknown
        } else {
            Origin::User
        }
    }
}

/// Whether the function is ours or the compiler's shim before it.
fn is_allocator(function: &str) -> bool {
    let name = function.trim_start_matches(['<', '&']);
    // The shims by their whole names: `__rust_try` and `__rustc::rust_begin_unwind` are std's.
    name.starts_with("heapledger::")
        || ["alloc", "dealloc", "realloc"]
            .iter()
            .any(|call| function.contains(&format!("__rust_{call}")))
}

/// Whether the file is one of this crate's own.
///
/// Names do not tell when a program has line tables only (`debug = 1`, and what
/// many build their releases with): a function that was inlined then has its
/// bare name, without crate or module.
fn is_own_source(file: &Path) -> bool {
    // Where the sources lay, and what the compiler calls that place if it was told to remap it.
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let called = Path::new(file!()).ancestors().nth(2);
    file.starts_with(built)
        || called.is_some_and(|called| called.is_absolute() && file.starts_with(called))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{Origin, Paths};

    #[test]
    fn paths_tell_whose_code_it_is() {
        let paths = Paths { roots: Vec::new() };
        let table = [
            ("app::main", Some("/home/me/app/src/main.rs"), Origin::User),
            ("app::main", Some("src/main.rs"), Origin::User),
            (
                "alloc::vec::Vec<T>::push",
                Some("/rustc/abc/library/alloc/src/vec/mod.rs"),
                Origin::Std,
            ),
            (
                "serde::de",
                Some("/home/me/.cargo/registry/src/index/serde-1.0/src/de.rs"),
                Origin::Dependency,
            ),
            (
                "<heapledger::allocator::TrackingAllocator<A>>::alloc",
                Some("/x/src/allocator.rs"),
                Origin::Allocator,
            ),
            ("__rustc::__rust_alloc", None, Origin::Allocator),
            // Bug prevented: with line tables only, an inlined function of ours taken for the
            // user's, as it has no path in its name.
            (
                "capture",
                Some(concat!(env!("CARGO_MANIFEST_DIR"), "/src/record/hooks.rs")),
                Origin::Allocator,
            ),
            (
                "main",
                Some(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/main.rs")),
                Origin::User,
            ),
            // Bug prevented: all that lies inside of a caught panic cut off as the allocator's.
            ("__rust_try", None, Origin::Unknown),
            (
                "__rustc::rust_begin_unwind",
                Some("/rustc/abc/library/std/src/panicking.rs"),
                Origin::Std,
            ),
            ("qsort", None, Origin::Unknown),
        ];
        for (function, file, expected) in table {
            assert_eq!(
                paths.origin(function, file.map(Path::new)),
                expected,
                "{function}"
            );
        }
    }
}
