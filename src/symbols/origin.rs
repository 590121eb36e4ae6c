//! Whose code a function is.

use std::path::Path;

/// Whose code a [`Frame`](super::Frame) is: by the path of its source, and
/// where there is no debug information by its own path, as far as that tells.
///
/// ```
/// use heapledger::profile::Origin;
///
/// # use heapledger::profile::Frame;
/// # let frame = Frame::synthetic("alloc::vec::Vec<T>::push", None, None, Origin::Std, false);
/// let whose = match frame.origin() {
///     Origin::User => "ours",
///     Origin::Dependency => "a crate's",
///     _ => "nobody's here",
/// };
/// assert_eq!((frame.function(), whose), ("alloc::vec::Vec<T>::push", "nobody's here"));
/// ```
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
    /// Unknown: there is no debug information, as for most C code, and the
    /// function is not std's by its name.
    Unknown,
}

impl Origin {
    pub(super) fn of(function: &str, file: Option<&Path>) -> Self {
        if is_allocator(function) || file.is_some_and(is_own_source) {
            return Self::Allocator;
        }
        let file = own_file(function, file);
        let is_rust = file.is_some_and(|file| file.extension().is_some_and(|kind| kind == "rs"));
        let Some(file) = file.and_then(Path::to_str) else {
            return if is_std(function) {
                Self::Std
            } else {
                Self::Unknown
            };
        };
        let has = |part: &str| file.contains(part);
        if is_std_source(function, file) {
            Self::Std
        } else if has("/registry/src/") || has("/git/checkouts/") || has("/rust/deps/") {
            Self::Dependency
        } else if !is_rust && (has("/sysdeps/") || file.starts_with("./")) {
            // The C library's own sources, as its debug information names them. A program whose
            // paths are remapped may call its own folder so.
            Self::Unknown
        } else {
            Self::User
        }
    }
}

/// The file, unless it cannot be that of the function: one of std's, and the function is not.
///
/// Some function of std's was inlined into it then, and of its own file nothing is known: the
/// line tables are in the program, and which functions were inlined may be told in a file apart
/// (`-C split-debuginfo=unpacked`), which is not found everywhere.
pub(super) fn own_file<'a>(function: &str, file: Option<&'a Path>) -> Option<&'a Path> {
    let is_callee_s = |file: &str| is_std_source(function, file) && !may_be_in(function, file);
    file.filter(|file| !file.to_str().is_some_and(is_callee_s))
}

/// Whether the function may be in this file of std's, by its path: in doubt it may.
fn may_be_in(function: &str, file: &str) -> bool {
    let is_other_s = |path: &str| {
        crate_of(path).is_some_and(|name| {
            let lies = |name: &str| file.contains(&format!("/{name}/src/"));
            // std has crates for itself, and what lies beside it has.
            !is_in_std(path) && name != "__rustc" && !lies(name) && !lies(&name.replace('_', "-"))
        })
    };
    // What this macro makes of a variable are functions of the program's, and all std's.
    if file.contains("/std/src/thread/local") || file.contains("/std/src/sys/thread_local/") {
        return true;
    }
    match implementation(function) {
        None => !is_other_s(function),
        // Only std implements functions for pointers, whatever they point to.
        Some((of, None)) => function.starts_with("<*") || !is_other_s(of),
        // A trait of std's has methods of its own, and implementations for all types, which both
        // lie beside it.
        Some((of, Some(of_trait))) => {
            !is_other_s(of_trait) && (!is_other_s(of) || lies_beside(of_trait, file))
        }
    }
}

/// Whether the file is of the same module right below its crate as this trait of std's.
fn lies_beside(of_trait: &str, file: &str) -> bool {
    let path = of_trait.trim_start_matches('<').split_once("::");
    let (Some(name), Some((_, rest))) = (crate_of(of_trait), path) else {
        // Inside of what std implements for `[T]` and its like.
        return true;
    };
    let module = rest.split("::").next().unwrap_or_default();
    let module = format!("/{name}/src/{module}");
    let rest = file.split_once(&module).map(|(_, rest)| rest);
    rest.is_some_and(|rest| rest.starts_with(['/', '.']))
}

/// Whether the function is ours or the compiler's shim before it.
fn is_allocator(function: &str) -> bool {
    let is_ours = |path: &str| path.trim_start_matches('<').starts_with("heapledger::");
    // Somebody else's trait for a type of ours is implemented by them; ours have our files too.
    let is_ours = match implementation(function) {
        Some((of, Some(of_trait))) => is_ours(of) && (is_ours(of_trait) || is_in_std(of_trait)),
        Some((of, None)) => is_ours(of),
        None => is_ours(function),
    };
    // The shims by their whole names: `__rust_try` and `__rustc::rust_begin_unwind` are std's.
    is_ours
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

/// Whether the file is one of std's.
fn is_std_source(function: &str, file: &str) -> bool {
    // As the compiler calls its sources, and where it finds them when they are installed.
    if file.starts_with("/rustc/") || file.contains("/rustlib/src/rust/library/") {
        return true;
    }
    // Whoever built the compiler may have called them otherwise, and a program may have such a
    // folder too: the name decides.
    let folders = ["core", "alloc", "std"].map(|name| format!("library/{name}/src/"));
    let lies = |folder: &String| file.starts_with(folder) || file.contains(&format!("/{folder}"));
    folders.iter().any(lies) && is_std(function)
}

/// Whether the function is std's by its path.
///
/// `test::` does not tell: the tests in `tests/test.rs` are a crate of that name.
fn is_std(function: &str) -> bool {
    let Some((of, implemented)) = implementation(function) else {
        return is_in_std(function);
    };
    // Of two crates that an implementation may stand in, std must be both, or the only one.
    implemented.is_none_or(is_in_std) && (is_in_std(of) || crate_of(of).is_none())
}

/// Whether the path begins with one of std's crates.
fn is_in_std(path: &str) -> bool {
    let path = path.trim_start_matches('<');
    let crates = ["std::", "core::", "alloc::"];
    crates.iter().any(|name| path.starts_with(name))
}

/// The crate of a path; `[u8]`, `fn()` and `T` are nobody's.
fn crate_of(path: &str) -> Option<&str> {
    let path = path.trim_start_matches('<');
    let end = path.find(|c: char| !c.is_alphanumeric() && c != '_')?;
    let (name, rest) = path.split_at(end);
    (!name.is_empty() && rest.starts_with("::")).then_some(name)
}

/// The type that `<type>::function` and `<type as trait>::function` belong to,
/// without what it is a reference or a pointer by, and the trait.
fn implementation(function: &str) -> Option<(&str, Option<&str>)> {
    let inside = function.strip_prefix('<')?;
    let mut depth = 0_usize;
    let mut parted = None;
    let mut end = inside.len();
    for (at, byte) in inside.bytes().enumerate() {
        let is_arrow = at > 0 && inside.as_bytes().get(at - 1) == Some(&b'-');
        match byte {
            b'<' => depth += 1,
            b'>' if is_arrow => {}
            b'>' if depth == 0 => {
                end = at;
                break;
            }
            b'>' => depth -= 1,
            b' ' if depth == 0 && parted.is_none() => {
                parted = inside
                    .get(at..)
                    .filter(|rest| rest.starts_with(" as "))
                    .map(|_| at);
            }
            _ => {}
        }
    }
    let of = inside.get(..parted.unwrap_or(end))?;
    let implemented = parted.and_then(|at| inside.get(at + " as ".len()..end));
    let mut bare = of;
    while let Some(rest) = ["&", "*", "mut ", "const ", "dyn "]
        .iter()
        .find_map(|mark| bare.strip_prefix(mark))
    {
        bare = rest;
    }
    Some((bare, implemented))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::Origin;

    #[track_caller]
    fn assert_origins(table: &[(&str, Option<&str>, Origin)]) {
        for &(function, file, expected) in table {
            let origin = Origin::of(function, file.map(Path::new));
            assert_eq!(origin, expected, "{function}");
        }
    }

    #[test]
    fn paths_tell_whose_code_it_is() {
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
        assert_origins(&table);
    }

    #[test]
    fn folders_of_the_program_are_neither_std_s_nor_the_c_library_s() {
        assert_origins(&[
            // Bug prevented: with `--remap-path-prefix=$PWD=.` all of a program taken for the C
            // library.
            ("app::main", Some("./src/main.rs"), Origin::User),
            ("app::main", Some("./sysdeps/src/main.rs"), Origin::User),
            ("inlined", Some("./src/main.rs"), Origin::User),
            (
                "start_thread",
                Some("./nptl/pthread_create.c"),
                Origin::Unknown,
            ),
            (
                "clone3",
                Some("./misc/../sysdeps/unix/sysv/linux/x86_64/clone3.S"),
                Origin::Unknown,
            ),
            // Bug prevented: a crate in a folder such as `library/core` taken for std.
            (
                "mycore::grab",
                Some("/home/me/app/library/core/src/lib.rs"),
                Origin::User,
            ),
            (
                "mycore::grab",
                Some("library/core/src/lib.rs"),
                Origin::User,
            ),
            (
                "<alloc::vec::Vec<u8> as mycore::Grab>::grab",
                Some("/home/me/app/library/alloc/src/lib.rs"),
                Origin::User,
            ),
            (
                "app::main",
                Some("/home/me/rustc/src/main.rs"),
                Origin::User,
            ),
            (
                "alloc::vec::Vec<T>::push",
                Some("/usr/src/rustc-1.95.0/library/alloc/src/vec/mod.rs"),
                Origin::Std,
            ),
            (
                "push",
                Some(
                    "/home/me/.rustup/toolchains/x/lib/rustlib/src/rust/library/alloc/src/vec/mod.rs",
                ),
                Origin::Std,
            ),
            (
                "push",
                Some("/rustc/abc/library/alloc/src/vec/mod.rs"),
                Origin::Std,
            ),
        ]);
    }

    /// Bug prevented: where the files with the debug information are not found, the program's
    /// function into which one of std's was inlined is std's, and cut off its stacks.
    #[test]
    fn a_function_of_the_program_s_in_a_file_of_std_s_is_known_by_its_name() {
        let raw_vec = Some("/rustc/abc/library/alloc/src/raw_vec/mod.rs");
        let installed = Some("/x/lib/rustlib/src/rust/library/alloc/src/alloc.rs");
        let iterator = Some("/rustc/abc/library/core/src/iter/traits/iterator.rs");
        for file in [raw_vec, installed, iterator] {
            assert_origins(
                &[
                    "app::f",
                    "app::f::<alloc::vec::Vec<u8>>",
                    "app::f::{closure#0}",
                    "app::f::{{closure}}",
                    "<app::T>::m",
                    "<app::T as app::Tr>::m",
                    "<app::T as core::clone::Clone>::clone",
                    "<&app::T as core::cmp::PartialEq>::eq",
                    "<alloc::vec::Vec<u8> as app::Tr>::m",
                    "<T as app::Tr>::m",
                    "app::_::<impl core::clone::Clone for app::T>::clone",
                    "hashbrown::raw::RawTable<T,A>::reserve_rehash",
                    "test::is_a_test_in_tests_test_rs",
                ]
                .map(|function| (function, file, Origin::Unknown)),
            );
        }
        let fmt = Some("/rustc/abc/library/core/src/fmt/mod.rs");
        let convert = Some("/rustc/abc/library/core/src/convert/mod.rs");
        let function = Some("/rustc/abc/library/core/src/ops/function.rs");
        let io = Some("/rustc/abc/library/std/src/io/mod.rs");
        let local = Some("/rustc/abc/library/std/src/sys/thread_local/native/mod.rs");
        assert_origins(
            &[
                ("<alloc::vec::Vec<app::T>>::push", raw_vec),
                ("alloc::vec::Vec<T,A>::push", raw_vec),
                ("core::ptr::drop_in_place::<app::T>", raw_vec),
                ("<[app::T]>::to_vec", raw_vec),
                ("<*const app::T>::add", raw_vec),
                ("<(app::T, u8) as core::clone::Clone>::clone", raw_vec),
                ("<alloc::vec::Vec<app::T> as core::clone::Clone>::clone", fmt),
                ("<&app::T as core::fmt::Debug>::fmt", fmt),
                ("<&T as core::fmt::Debug>::fmt", fmt),
                (
                    "<core::iter::adapters::map::Map<I, app::f::{closure#0}> as core::iter::traits::iterator::Iterator>::next",
                    raw_vec,
                ),
                (
                    "core::ops::function::FnOnce::call_once::<app::f::{closure#0}, ()>",
                    raw_vec,
                ),
                (
                    "<app::f::{closure#0} as core::ops::function::FnOnce<()>>::call_once::{shim:vtable#0}",
                    function,
                ),
                // What std's traits have for all types.
                ("<app::T as core::convert::Into<app::U>>::into", convert),
                (
                    "<app::T as core::iter::traits::iterator::Iterator>::collect::<alloc::vec::Vec<u8>>",
                    iterator,
                ),
                ("<app::T as std::io::Write>::write_all", io),
                ("app::KEY::{constant#0}::{closure#0}", local),
                (
                    "<app::T as <[_]>::to_vec_in::ConvertVec>::to_vec::<alloc::alloc::Global>",
                    Some("/rustc/abc/library/alloc/src/slice.rs"),
                ),
                (
                    "<app::T as alloc::slice::hack::ConvertVec>::to_vec",
                    Some("/rustc/abc/library/alloc/src/slice.rs"),
                ),
                // Bare names, of what was inlined where there are line tables only.
                ("push<app::T, alloc::alloc::Global>", raw_vec),
                ("{closure#0}", raw_vec),
                ("rust_eh_personality", io),
                // std's other crates.
                ("__rustc::rust_begin_unwind", io),
                (
                    "test::run_test",
                    Some("/rustc/abc/library/test/src/lib.rs"),
                ),
                (
                    "compiler_builtins::mem::memcpy",
                    Some("/rustc/abc/library/compiler-builtins/compiler-builtins/src/mem/mod.rs"),
                ),
                (
                    "rustc_middle::ty::walk",
                    Some("/rustc/abc/compiler/rustc_middle/src/ty/walk.rs"),
                ),
            ]
            .map(|(function, file)| (function, file, Origin::Std)),
        );
        // Derived, in the program's own file.
        let clone = "<app::T as core::clone::Clone>::clone";
        assert_origins(&[(clone, Some("src/main.rs"), Origin::User)]);
    }

    #[test]
    fn what_is_implemented_for_our_types_is_ours_only_if_the_trait_is() {
        assert_origins(&[
            (
                "<heapledger::allocator::TrackingAllocator as core::alloc::global::GlobalAlloc>::alloc",
                None,
                Origin::Allocator,
            ),
            (
                "<&heapledger::scope::Guard as heapledger::scope::Inside>::leave",
                None,
                Origin::Allocator,
            ),
            (
                "<heapledger::stats::Stats as serde::Serialize>::serialize",
                Some(concat!(env!("CARGO_MANIFEST_DIR"), "/src/stats.rs")),
                Origin::Allocator,
            ),
            (
                "heapledger::leaks::check::<app::main::{closure#0}, ()>",
                None,
                Origin::Allocator,
            ),
            // Bug prevented: what a program implements for a type of ours is cut off its stacks.
            (
                "<heapledger::stats::Stats as app::Measured>::grab",
                Some("/home/me/app/src/main.rs"),
                Origin::User,
            ),
            (
                "<&heapledger::stats::Stats as app::Measured>::grab",
                Some("/home/me/app/src/main.rs"),
                Origin::User,
            ),
            (
                "<heapledger::stats::Stats as app::Measured>::grab",
                None,
                Origin::Unknown,
            ),
        ]);
    }

    /// Bug prevented: without debug information all that std keeps for itself is
    /// taken for the program's, and found as its leak.
    #[test]
    fn without_a_file_std_is_known_by_its_path() {
        let std = [
            "std::io::stdio::print_to_buffer_if_capture_used",
            "alloc::raw_vec::RawVecInner<A>::finish_grow",
            "core::fmt::write",
            "core::ptr::drop_in_place::<app::Session>",
            "<alloc::raw_vec::RawVecInner>::finish_grow",
            "<alloc::raw_vec::RawVecInner<_>>::reserve::do_reserve_and_handle::<alloc::alloc::Global>",
            "<std::io::default_write_fmt::Adapter<alloc::vec::Vec<u8>> as core::fmt::Write>::write_str",
            "<<std::sys::backtrace::BacktraceLock>::print::DisplayBacktrace as core::fmt::Display>::fmt",
            "std::io::impls::<impl std::io::Write for alloc::vec::Vec<u8,A>>::write_all",
            "<alloc::boxed::Box<dyn core::ops::function::FnOnce<(), Output = ()> + core::marker::Send> as core::ops::function::FnOnce<()>>::call_once",
            "<fn() -> core::result::Result<(), app::Error> as core::ops::function::FnOnce<()>>::call_once",
            "<&T as core::fmt::Display>::fmt",
            "<u8 as alloc::vec::spec_from_elem::SpecFromElem>::from_elem",
            "<[app::Session]>::to_vec",
            "<&mut dyn core::fmt::Write as core::fmt::Write>::write_str",
        ];
        for function in std {
            assert_eq!(Origin::of(function, None), Origin::Std, "{function}");
        }
        // Implementations of the program's own, for what is std's and of what is std's.
        let others = [
            "app::main",
            "standard::io",
            "<app::Session as core::fmt::Display>::fmt",
            "<&app::Session as core::iter::traits::collect::IntoIterator>::into_iter",
            "<alloc::vec::Vec<u8> as app::Store>::save",
            "<<app::Session as app::Store>::Key as core::fmt::Display>::fmt",
            "<u8 as app::Store>::save",
            "test::is_a_test_in_tests_test_rs",
            "<",
            "",
            "<alloc::vec::Vec",
        ];
        for function in others.into_iter().take(8) {
            assert_eq!(Origin::of(function, None), Origin::Unknown, "{function}");
        }
        for cut in others {
            let _: Origin = Origin::of(cut, None);
        }
    }
}
