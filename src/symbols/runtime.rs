//! Blocks that are std's and nobody's leak, by the stacks that they were born with.

use crate::symbols::frame::Frame;
use crate::symbols::origin::Origin;
use crate::symbols::trim::Resolved;

/// What std passes through when it prints into the buffer of a test harness.
const PRINT: &str = "std::io::stdio::print_to_buffer_if_capture_used";

/// What std passes through when it prints the message of a panic.
const HOOK: &str = "std::panicking::default_hook";

/// Where std reads the names of backtraces, and where it hands them out: each a file, and a path
/// where there is none. What prints them beside the reader writes into the program's own text.
const READER: (&str, &str) = (
    "../../backtrace/src/symbolize/gimli",
    "std::backtrace_rs::symbolize::gimli::",
);
const PRINTER: (&str, &str) = ("../../backtrace/src/", "std::backtrace_rs::");
const BACKTRACE: (&str, &str) = ("backtrace.rs", "std::backtrace::");

/// Where std has the standard streams, as above.
const STREAMS: (&str, &str) = ("io/stdio.rs", "std::io::stdio::");

impl Resolved {
    /// Whether the block belongs to the output that a test harness captures, or to what std
    /// keeps for backtraces.
    pub fn is_output_capture(&self) -> bool {
        // The message is a finished text, so all that lies inside is std's own doing, with what
        // it keeps for backtraces.
        if self.frames().iter().any(|frame| is_std_named(frame, HOOK)) {
            return true;
        }
        if self.is_for_names_of_backtraces() {
            return true;
        }
        // What is printed, however, is written by the program's own code, which may leak.
        self.of_std().any(|frame| is_std_named(frame, PRINT)) || self.writes_captured_text()
    }

    /// Whether std's own reader of debug information has made it, which keeps what it has read for
    /// the next backtrace. What a `Backtrace` itself holds is made by what the reader calls.
    fn is_for_names_of_backtraces(&self) -> bool {
        let std = self.frames().iter().take_while(|frame| !frame.is_user());
        let mut std = std.filter(|frame| frame.origin() == Origin::Std);
        let innermost = std.find_map(|frame| {
            [READER, PRINTER, BACKTRACE]
                .into_iter()
                .find(|(file, path)| lies_in(frame, file, path))
        });
        innermost == Some(READER)
    }

    /// Whether the program's own code, asked to write what is printed, makes
    /// the harness's buffer grow by that.
    fn writes_captured_text(&self) -> bool {
        // A text that goes into a stream passes through an adapter, which was made where the
        // writing began: by std for the harness, or by the program for a stream of its own.
        let adapter = self.of_std().position(is_adapter);
        adapter.is_some_and(|adapter| {
            self.frames()
                .iter()
                .skip(adapter)
                .skip_while(|frame| !is_stream(frame) && !is_std_named(frame, PRINT))
                .take_while(|frame| is_of_std(frame))
                .any(|frame| is_std_named(frame, PRINT))
        })
    }

    /// Whether the block is one that std keeps to the end of the process or of
    /// the thread, whatever the program does: the buffer of a standard stream, the
    /// list of the thread's destructors, or what it makes before `main`.
    pub fn is_kept_by_std(&self) -> bool {
        // Without files, the program's own initialisers of thread locals cannot be told from the
        // part of std that they are inlined into.
        let destructors = "std::sys::thread_local::destructors::";
        let is_kept = |frame| {
            is_maker_of_streams(frame)
                || lies_in(frame, "sys/thread_local/", destructors)
                || is_before_main(frame)
        };
        self.of_std().any(is_kept) || self.is_made_once_for_streams()
    }

    /// Whether the standard streams' code has it made by an initialiser that runs once.
    ///
    /// What is read from standard input grows within the same code, but is the program's:
    /// no initialiser runs there, or it is the program's own, around the reading.
    fn is_made_once_for_streams(&self) -> bool {
        let mut around = self.of_std().skip_while(|frame| !is_once(frame));
        around.any(|frame| lies_in(frame, STREAMS.0, STREAMS.1))
    }

    /// Whether the block is one that std keeps for a thread, from its start to
    /// a moment after its end.
    pub fn is_of_a_thread(&self) -> bool {
        let parts = [
            ("thread/scoped.rs", "std::thread::scoped::"),
            ("thread/lifecycle.rs", "std::thread::lifecycle::"),
            ("thread/builder.rs", "std::thread::builder::"),
            ("thread/mod.rs", "std::thread::spawn"),
        ];
        self.of_std().any(|frame| {
            let mut parts = parts.iter();
            parts.any(|(file, path)| lies_in(frame, file, path))
        })
    }

    /// The innermost frames, as far as they are std's and the allocator's.
    fn of_std(&self) -> impl Iterator<Item = &Frame> {
        self.frames().iter().take_while(|frame| is_of_std(frame))
    }
}

/// Whether the function makes a standard stream's buffer and nothing else, for stacks
/// without the initialiser's frames, which may be inlined into it.
fn is_maker_of_streams(frame: &Frame) -> bool {
    let makers = ["stdin", "STDIN", "stdout", "STDOUT", "cleanup"];
    let path = frame.function().trim_start_matches('<');
    let name = path.strip_prefix(STREAMS.1);
    let is_maker = |name: &str| makers.iter().any(|maker| name.starts_with(maker));
    name.is_some_and(is_maker) && lies_in(frame, STREAMS.0, STREAMS.1)
}

/// Whether the frame is of what runs an initialiser once.
fn is_once(frame: &Frame) -> bool {
    let parts = [
        ("sync/once_lock.rs", "std::sync::once_lock::"),
        ("sync/once.rs", "std::sync::once::"),
        ("sync/poison/once.rs", "std::sync::poison::once::"),
        ("sys/sync/once/", "std::sys::sync::once::"),
    ];
    let mut parts = parts.iter();
    parts.any(|(file, path)| lies_in(frame, file, path))
}

fn is_of_std(frame: &Frame) -> bool {
    matches!(frame.origin(), Origin::Allocator | Origin::Std)
}

/// Whether the frame is this function of std's, or a closure in it.
///
/// Not wherever the name occurs: generic functions have it in their arguments.
fn is_std_named(frame: &Frame, path: &str) -> bool {
    let bare = path.rsplit("::").next();
    frame.origin() == Origin::Std
        && (frame.function().starts_with(path) || Some(frame.function()) == bare)
}

/// Whether std prepares the process here, before `main`. Two places, as the first may be inlined
/// into what also calls `main`.
fn is_before_main(frame: &Frame) -> bool {
    let (init, guard) = ("std::rt::init", "std::sys::pal::unix::stack_overflow::");
    is_std_named(frame, init) && lies_in(frame, "rt.rs", init)
        || lies_in(frame, "sys/pal/unix/stack_overflow", guard)
}

/// Whether the frame is in this part of std: by its file, or by its path where
/// there is no debug information.
fn lies_in(frame: &Frame, part: &str, path: &str) -> bool {
    match frame.file() {
        Some(_) => lies_in_file(frame, part),
        None => frame.function().trim_start_matches('<').starts_with(path),
    }
}

/// The same by its file alone, for names without a path: what the program makes
/// of std's generic functions has such names where there are line tables only.
fn lies_in_file(frame: &Frame, part: &str) -> bool {
    let file = frame
        .file()
        .and_then(|file| file.split_once("library/std/src/"));
    file.is_some_and(|(_, file)| file.starts_with(part))
}

/// Whether the frame hands a text on from formatting to a stream.
fn is_adapter(frame: &Frame) -> bool {
    let name = frame.function();
    name.contains("std::io::default_write_fmt::Adapter<")
        || name.starts_with("write_str") && lies_in_file(frame, "io/mod.rs")
}

/// Whether text begins to be written into a stream here.
fn is_stream(frame: &Frame) -> bool {
    let name = frame.function();
    let is_named = name.starts_with("std::io::default_write_fmt")
        || name.starts_with("std::io::Write::write_fmt")
        || name.contains(" as std::io::Write>::write_fmt");
    let is_bare = name.starts_with("write_fmt") || name.starts_with("default_write_fmt");
    is_named || is_bare && lies_in_file(frame, "io/mod.rs")
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{Frame, Origin, Resolved};

    const VEC: &str = "<alloc::raw_vec::RawVecInner>::finish_grow";
    const ADAPTER: &str =
        "<std::io::default_write_fmt::Adapter<alloc::vec::Vec<u8>> as core::fmt::Write>::write_str";
    const WRITE: &str = "core::fmt::write";
    const OWN: &str = "<app::Session as core::fmt::Display>::fmt";
    const PRINT: &str = "std::io::stdio::print_to_buffer_if_capture_used";
    const HOOK: &str = "std::panicking::default_hook::{closure#0}";

    /// A stack without debug information.
    fn bare(functions: &[&str]) -> Resolved {
        let frame = |function: &&str| {
            let origin = Origin::of(function, None);
            Frame::synthetic(function, None, None, origin, false)
        };
        Resolved::new(functions.iter().map(frame).collect())
    }

    /// The same with files and lines.
    fn with_files(frames: &[(&str, &str)]) -> Resolved {
        let frame = |&(function, file): &(&str, &str)| {
            let path = format!("/rustc/abc/library/{file}");
            let origin = Origin::of(function, Some(Path::new(&path)));
            let shown = format!("library/{file}");
            Frame::synthetic(function, Some(&shown), Some(7), origin, false)
        };
        Resolved::new(frames.iter().map(frame).collect())
    }

    /// Bugs prevented: a leak in the program's own code, called by std to write
    /// what is printed, taken for the harness's buffer; and the other way round.
    #[test]
    fn output_capture_is_what_std_writes_and_not_what_the_program_does_meanwhile() {
        let table: &[(&[&str], bool)] = &[
            (&[VEC, ADAPTER, WRITE, PRINT, "app::test"], true),
            (&[VEC, ADAPTER, OWN, WRITE, PRINT, "app::test"], true),
            (&[VEC, PRINT, "app::test"], true),
            (&[VEC, "_Unwind_Backtrace", HOOK, "app::test"], true),
            (&[VEC, OWN, WRITE, PRINT, "app::test"], false),
            (&[VEC, "app::other", OWN, WRITE, PRINT], false),
            // A stream of its own, which the program writes to while it is printed.
            (
                &[
                    VEC,
                    ADAPTER,
                    WRITE,
                    "std::io::Write::write_fmt",
                    OWN,
                    WRITE,
                    PRINT,
                ],
                false,
            ),
            (
                &[
                    VEC,
                    ADAPTER,
                    "<alloc::vec::Vec<u8> as std::io::Write>::write_fmt",
                    OWN,
                    PRINT,
                ],
                false,
            ),
            (&[VEC, ADAPTER, WRITE, "app::test"], false),
            (&[VEC, "app::default_hook", "app::test"], false),
            // Only in the arguments of a generic function.
            (
                &[
                    VEC,
                    "core::ops::function::FnOnce::call_once::<std::panicking::default_hook>",
                ],
                false,
            ),
            (&[VEC, "app::print_to_buffer_if_capture_used"], false),
        ];
        for (functions, expected) in table {
            assert_eq!(
                bare(functions).is_output_capture(),
                *expected,
                "{functions:?}"
            );
        }
        // With line tables only, what was inlined or is generic has its bare name.
        let buffer = [
            ("finish_grow", "alloc/src/raw_vec/mod.rs"),
            ("write_str<alloc::vec::Vec<u8>>", "std/src/io/mod.rs"),
            ("write", "core/src/fmt/mod.rs"),
            ("write_fmt<alloc::vec::Vec<u8>>", "std/src/io/mod.rs"),
        ];
        let print = [(PRINT, "std/src/io/stdio.rs")];
        let mut stack = with_files(&[&buffer[..], &print].concat());
        assert!(stack.is_output_capture());
        let own = Frame::synthetic("fmt", Some("src/main.rs"), Some(7), Origin::User, false);
        stack.frames.insert(4, own.clone());
        assert!(!stack.is_output_capture(), "a stream of the program's own");
        stack.frames.remove(4);
        stack.frames.insert(2, own);
        assert!(stack.is_output_capture());
    }

    /// Bug prevented: a program that prints an error with a backtrace in it leaks all that std has
    /// read for its names; or a backtrace that is leaked is none.
    #[test]
    fn what_std_keeps_for_names_of_backtraces_is_told_from_the_backtrace() {
        let gimli = "gimli::read::abbrev::Abbreviations::parse";
        let reader = "std::backtrace_rs::symbolize::gimli::resolve";
        let locked = "<std::backtrace::Backtrace as core::fmt::Display>::fmt";
        let symbol = "<std::backtrace::Backtrace>::resolve::{closure#0}";
        let printer = "<std::backtrace_rs::print::BacktraceFrameFmt>::print_raw_with_column";
        let name = "<std::backtrace_rs::symbolize::SymbolName as core::fmt::Display>::fmt";
        for (functions, kept) in [
            ([VEC, gimli, reader, locked, OWN], true),
            ([VEC, reader, locked, "app::main", "main"], true),
            ([VEC, symbol, reader, locked, OWN], false),
            // The text that it is printed into.
            ([VEC, printer, locked, OWN, "main"], false),
            ([VEC, name, printer, locked, OWN], false),
            (
                [
                    VEC,
                    "std::backtrace::Backtrace::create",
                    locked,
                    OWN,
                    "main",
                ],
                false,
            ),
            ([VEC, gimli, "app::names", "app::main", "main"], false),
            (
                [
                    VEC,
                    "backtrace::symbolize::gimli::resolve",
                    "app::main",
                    "main",
                    "_start",
                ],
                false,
            ),
        ] {
            assert_eq!(bare(&functions).is_output_capture(), kept, "{functions:?}");
        }
        let reader = [("parse", "std/src/../../backtrace/src/symbolize/gimli.rs")];
        let symbol = [("{closure#0}", "std/src/backtrace.rs")];
        assert!(with_files(&[reader, symbol].concat()).is_output_capture());
        assert!(!with_files(&[symbol, reader].concat()).is_output_capture());
        let mut own = with_files(&[reader, symbol].concat());
        let frame = Frame::synthetic("fmt", Some("src/main.rs"), Some(7), Origin::User, false);
        own.frames.insert(0, frame);
        assert!(!own.is_output_capture());
    }

    /// Bug prevented: what is read from standard input is taken for std's buffer, also within
    /// an initialiser of the program's own.
    #[test]
    fn a_stream_s_buffer_is_what_its_initialiser_makes() {
        let once = "<std::sys::sync::once::futex::Once>::call";
        let closure = "<std::sync::once::Once>::call_once_force::<app::main::{closure#0}>";
        let read = "<std::io::stdio::Stdin as std::io::Read>::read_to_string";
        let print = "std::io::stdio::_print";
        for (functions, kept) in [
            ([closure, once, print, "app::main"], true),
            (
                [VEC, once, "std::io::stdio::cleanup", "std::rt::cleanup"],
                true,
            ),
            ([VEC, "std::io::read_until", read, "app::main"], false),
            ([VEC, read, closure, once], false),
            ([closure, once, "app::main", print], false),
        ] {
            assert_eq!(bare(&functions).is_kept_by_std(), kept, "{functions:?}");
        }
        let read = [("read_line", "std/src/io/stdio.rs")];
        let lines = [("next<StdinLock>", "std/src/io/mod.rs")];
        assert!(!with_files(&[read, lines].concat()).is_kept_by_std());
        let once = [("call_once", "std/src/sync/poison/once.rs")];
        assert!(!with_files(&[read, once].concat()).is_kept_by_std());
        assert!(with_files(&[once, read].concat()).is_kept_by_std());
    }

    /// Bugs prevented: standard input's buffer and a thread's handle are leaks where there is
    /// no debug information; and what the program's own initialiser of a thread local leaks is
    /// none there, as it is inlined into std.
    #[test]
    fn what_std_keeps_is_known_with_files_and_without() {
        let stdin = "<std::io::stdio::STDIN as core::ops::function::FnOnce<()>>::call_once";
        let local = "std::sys::thread_local::destructors::list::register";
        let initialiser = "<std::sys::thread_local::native::lazy::Storage<&[u8; 5000], ()>>\
                           ::get_or_init_slow";
        let thread = "std::thread::lifecycle::spawn_unchecked::<app::main::{closure#0}, ()>";
        for (functions, kept, of_a_thread) in [
            ([VEC, "std::io::stdio::stdin", "app::main"], true, false),
            ([VEC, stdin, "app::main"], true, false),
            (
                [VEC, "<std::io::stdio::Stdin>::read_line", "app::main"],
                false,
                false,
            ),
            ([VEC, local, "app::main"], true, false),
            ([VEC, initialiser, "app::main"], false, false),
            ([VEC, thread, "app::main"], false, true),
            ([VEC, "std::rt::init", "std::rt::lang_start"], true, false),
            (
                [
                    VEC,
                    "std::sys::pal::unix::stack_overflow::imp::init",
                    "_start",
                ],
                true,
                false,
            ),
            ([VEC, "std::rt::lang_start", "_start"], false, false),
            ([VEC, "app::main", "std::rt::init"], false, false),
            (
                [VEC, "<std::thread::scoped::ScopeData>::new", OWN],
                false,
                true,
            ),
            (
                [VEC, "std::thread::local::LocalKey<T>::with", OWN],
                false,
                false,
            ),
            ([VEC, "app::main", "std::io::stdio::stdin"], false, false),
            ([VEC, OWN, thread], false, false),
        ] {
            let stack = bare(&functions);
            let found = (stack.is_kept_by_std(), stack.is_of_a_thread());
            assert_eq!(found, (kept, of_a_thread), "{functions:?}");
        }
        let stdin = with_files(&[
            ("{closure#0}", "std/src/io/stdio.rs"),
            ("get_or_init", "std/src/sync/once_lock.rs"),
            ("stdin", "std/src/io/stdio.rs"),
        ]);
        assert!(stdin.is_kept_by_std() && !stdin.is_of_a_thread());
        let rt = with_files(&[("init", "std/src/rt.rs")]);
        let cell = with_files(&[("init", "std/src/sync/once_lock.rs")]);
        assert!(rt.is_kept_by_std() && !cell.is_kept_by_std());
        let spawn = with_files(&[("spawn", "std/src/thread/lifecycle.rs")]);
        assert!(spawn.is_of_a_thread() && !spawn.is_kept_by_std());
        // Where there is a file, it tells.
        let other = with_files(&[("std::io::stdio::stdin", "std/src/io/mod.rs")]);
        assert!(!other.is_kept_by_std());
    }
}
