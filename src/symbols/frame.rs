//! What a stack looks like to a reader.

use core::fmt;
use core::ops::Range;

/// Whose code a frame is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FrameKind {
    /// The user's own: the program, its workspace, its tests.
    User,
    /// A crate from a registry or a git repository, or this one.
    Dependency,
    /// The standard library.
    Std,
    /// What is under it all: C's start-up code and libraries, compiler shims.
    Runtime,
}

/// One function in a stack.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Frame {
    /// The return address; inlined functions have that of the function around.
    pub address: u64,
    /// The function's path, without a hash; its address if it has no name.
    pub function: String,
    /// The file of the call, if the program was built with line tables.
    pub file: Option<String>,
    /// The line of the call.
    pub line: Option<u32>,
    /// Whether this function was inlined into the next one.
    pub is_inlined: bool,
    /// Whose code it is, as far as names and paths tell.
    pub kind: FrameKind,
}

impl Frame {
    pub(super) fn new(
        address: u64,
        function: Option<String>,
        file: Option<String>,
        line: Option<u32>,
    ) -> Self {
        let kind = kind(function.as_deref(), file.as_deref());
        Self {
            address,
            function: function.unwrap_or_else(|| format!("{address:#x}")),
            file,
            line,
            is_inlined: false,
            kind,
        }
    }

    /// `file:line`, or as much as is known; the function if there is no file.
    pub fn place(&self) -> String {
        match (&self.file, self.line) {
            (Some(file), Some(line)) => format!("{file}:{line}"),
            (Some(file), None) => file.clone(),
            (None, _) => self.function.clone(),
        }
    }
}

impl fmt::Display for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.function)?;
        if self.file.is_some() {
            write!(f, " ({})", self.place())?;
        }
        Ok(())
    }
}

/// A stack, the innermost function first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stack {
    frames: Vec<Frame>,
    shown: Range<usize>,
}

impl Stack {
    pub(super) fn new(frames: Vec<Frame>, shown: Range<usize>) -> Self {
        Self { frames, shown }
    }

    /// Without the allocator's own frames at one end and what starts a program,
    /// a thread or a test at the other.
    pub fn frames(&self) -> &[Frame] {
        self.frames.get(self.shown.clone()).unwrap_or(&self.frames)
    }

    /// All of it.
    pub fn untrimmed(&self) -> &[Frame] {
        &self.frames
    }

    /// The innermost frame in the user's own code.
    pub fn user(&self) -> Option<&Frame> {
        self.frames()
            .iter()
            .find(|frame| frame.kind == FrameKind::User)
    }
}

/// The crate that a function belongs to, by its path.
fn krate(function: &str) -> &str {
    let path = function.trim_start_matches(['<', '&', '(', '[', '*']);
    let path = path.strip_prefix("mut ").unwrap_or(path);
    let path = path.strip_prefix("dyn ").unwrap_or(path);
    path.split_once("::").map_or("", |(krate, _)| krate)
}

/// Whether the path has a directory of these names in a row.
fn has(file: &str, directories: &str) -> bool {
    file.split_once(directories)
        .is_some_and(|(before, _)| before.is_empty() || before.ends_with(['/', '\\']))
}

fn kind(function: Option<&str>, file: Option<&str>) -> FrameKind {
    let krate = function.map_or("", krate);
    // Our own tests are users too.
    let is_test = cfg!(test) && function.is_some_and(|name| name.contains("::tests::"));
    if krate == "heapledger" && !is_test {
        return FrameKind::Dependency;
    }
    let is_std = matches!(krate, "core" | "alloc" | "std" | "test" | "proc_macro");
    let Some(file) = file.map(|file| file.replace('\\', "/")) else {
        return match krate {
            _ if is_std => FrameKind::Std,
            "" | "__rustc" => FrameKind::Runtime,
            _ => FrameKind::User,
        };
    };
    let from_rustc = file
        .strip_prefix("/rustc/")
        .and_then(|rest| rest.split_once('/'));
    if let Some((_, path)) = from_rustc {
        // std is built with crates of its own, which come from the registry.
        return if path.starts_with("library/") || is_std {
            FrameKind::Std
        } else {
            FrameKind::Runtime
        };
    }
    if has(&file, "rustlib/src/rust/library/") || has(&file, "rust/deps/") {
        FrameKind::Std
    } else if has(&file, "registry/src/") || has(&file, "git/checkouts/") {
        FrameKind::Dependency
    } else if krate.is_empty() && file.starts_with("./") {
        // How C libraries of a distribution name their sources.
        FrameKind::Runtime
    } else {
        FrameKind::User
    }
}

#[cfg(test)]
mod tests {
    use super::{Frame, FrameKind, Stack, kind};
    use FrameKind::{Dependency, Runtime, Std, User};

    #[test]
    fn whose_code_it_is_shows_in_path_and_name() {
        let lib = "/rustc/59807616e1fa/library/alloc/src/vec/mod.rs";
        for (function, file, expected) in [
            ("app::main", Some("/home/x/app/src/main.rs"), User),
            ("app::main", Some("src/main.rs"), User),
            ("app::main", None, User),
            (
                "<alloc::vec::Vec<T> as app::Trait>::go",
                Some("src/lib.rs"),
                User,
            ),
            ("alloc::vec::Vec<T,A>::push", Some(lib), Std),
            ("<T as app::Trait>::to_string", Some(lib), Std),
            ("<alloc::vec::Vec<T>>::push", None, Std),
            ("core::ops::function::FnOnce::call_once", None, Std),
            (
                "std::rt::lang_start",
                Some("/home/x/.rustup/toolchains/t/lib/rustlib/src/rust/library/std/src/rt.rs"),
                Std,
            ),
            (
                "hashbrown::raw::f",
                Some("/rust/deps/hashbrown-0.15.0/src/raw.rs"),
                Std,
            ),
            (
                "serde_json::de::f",
                Some(
                    "/home/x/.cargo/registry/src/index.crates.io-1949cf8c6b5b557f/serde_json-1.0.1/src/de.rs",
                ),
                Dependency,
            ),
            (
                "thing::f",
                Some("/home/x/.cargo/git/checkouts/thing-1234/abc/src/lib.rs"),
                Dependency,
            ),
            (
                "thing::f",
                Some("C:\\Users\\x\\.cargo\\registry\\src\\i-1\\thing-1.0\\src\\lib.rs"),
                Dependency,
            ),
            ("app::f", Some("/home/x/my_registry/src/main.rs"), User),
            (
                "heapledger::scope::measure",
                Some("/home/x/heapledger/src/scope/mod.rs"),
                Dependency,
            ),
            ("heapledger_user::f", Some("/home/x/u/src/lib.rs"), User),
            ("__libc_start_main", None, Runtime),
            ("__rustc::__rust_alloc", None, Runtime),
            ("qsort_r", Some("./stdlib/msort.c"), Runtime),
            ("parse", Some("/home/x/app/native/parse.c"), User),
        ] {
            assert_eq!(kind(Some(function), file), expected, "{function} {file:?}");
        }
        assert_eq!(kind(None, None), Runtime);
    }

    fn frame(function: &str, file: Option<&str>) -> Frame {
        Frame::new(1, Some(function.into()), file.map(Into::into), Some(7))
    }

    #[test]
    fn the_user_s_place_is_the_innermost_of_the_user_s_frames() {
        let frames = vec![
            frame("alloc::vec::Vec<T>::push", None),
            frame("app::inner", Some("src/inner.rs")),
            frame("app::outer", Some("src/outer.rs")),
        ];
        let stack = Stack::new(frames, 0..3);
        assert_eq!(
            stack.user().map(Frame::place).as_deref(),
            Some("src/inner.rs:7")
        );
        assert_eq!(stack.frames()[1].to_string(), "app::inner (src/inner.rs:7)");
        assert_eq!(frame("app::f", None).to_string(), "app::f");
    }
}
