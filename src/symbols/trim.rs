//! Which part of a stack is worth showing.
//!
//! By name *and* position: the allocator's machinery goes where it is
//! innermost, the runtime's where it is outermost, and nothing in between ever
//! does. A pattern over all frames (`alloc::.*`, say) would also match
//! `Box<dyn FnOnce>::call_once` and with it the middle of most stacks.

use core::ops::Range;

use super::frame::{Frame, FrameKind};

/// Where std marks that the user's code begins: each thread and each test.
const BEGIN: &str = "__rust_begin_short_backtrace";

/// The frames to show; all of them rather than none.
pub(super) fn shown(frames: &[Frame]) -> Range<usize> {
    let inner = frames
        .iter()
        .take_while(|frame| is_allocator(&frame.function))
        .count();
    let marked = frames
        .iter()
        .position(|frame| path_of(&frame.function).ends_with(BEGIN));
    let mut outer = marked.unwrap_or(frames.len());
    while outer > inner {
        let starts =
            |frame: &Frame| is_call_once(frame) || (marked.is_none() && starts_program(frame));
        if !frames.get(outer - 1).is_some_and(starts) {
            break;
        }
        outer -= 1;
    }
    if inner < outer {
        inner..outer
    } else {
        0..frames.len()
    }
}

/// The path without the brackets around a type's: `<alloc::vec::Vec<T>>::push` begins with
/// `alloc::vec`, as `alloc::vec::Vec<T>::push` does. And without its generic arguments.
fn path_of(function: &str) -> &str {
    let path = function.trim_start_matches('<');
    path.strip_suffix('>')
        .and_then(|path| path.rsplit_once("::<"))
        .map_or(path, |(path, _)| path)
}

/// Between the user's collection or box and the allocator.
fn is_allocator(function: &str) -> bool {
    const MACHINERY: [&str; 6] = [
        "alloc::alloc::",
        "alloc::raw_vec::",
        "alloc::boxed::box_new",
        "heapledger::allocator::",
        "heapledger::record::",
        "heapledger::unwind::",
    ];
    const SHIMS: [&str; 4] = ["__rust_alloc", "__rust_realloc", "__rg_", "__rdl_"];
    let path = path_of(function);
    let symbol = path.strip_prefix("__rustc::").unwrap_or(path);
    MACHINERY.iter().any(|start| path.starts_with(start))
        || SHIMS.iter().any(|start| symbol.starts_with(start))
}

/// A function pointer or closure being called, next to what calls it.
fn is_call_once(frame: &Frame) -> bool {
    frame.kind == FrameKind::Std
        && frame.function.contains("core::ops::function::FnOnce")
        && frame.function.contains("::call_once")
}

/// What leads to `main` or to a thread's first function, where std left no mark.
fn starts_program(frame: &Frame) -> bool {
    const C: [&str; 8] = [
        "_start",
        "main",
        "__libc_start_main",
        "__libc_start_call_main",
        "start_thread",
        "clone",
        "clone3",
        "__clone3",
    ];
    const RUST: [&str; 7] = [
        "std::rt::",
        "std::panic::",
        "std::panicking::",
        "std::thread::",
        "std::sys::",
        "core::panic::",
        "core::ops::function::",
    ];
    // A name may carry the version that it was linked by.
    let name = frame.function.split('@').next().unwrap_or_default();
    let name = name.trim_end_matches("_impl");
    match frame.kind {
        FrameKind::Runtime => C.contains(&name) || name == "__rust_try" || name.starts_with("0x"),
        FrameKind::Std => RUST.iter().any(|start| path_of(name).starts_with(start)),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::shown;
    use crate::symbols::frame::Frame;

    fn kept(functions: &[&str]) -> Vec<String> {
        let frames: Vec<Frame> = functions
            .iter()
            .map(|function| Frame::new(1, Some((*function).into()), None, None))
            .collect();
        let shown = shown(&frames);
        frames[shown]
            .iter()
            .map(|frame| frame.function.clone())
            .collect()
    }

    #[test]
    fn allocator_and_start_up_go_and_the_rest_stays() {
        let middle = [
            "alloc::vec::Vec<T,A>::push",
            "<alloc::boxed::Box<F,A> as core::ops::function::FnOnce<Args>>::call_once",
            "app::run",
            "app::main",
        ];
        let mut all = vec![
            "__rustc::__rust_alloc",
            "alloc::alloc::alloc",
            "<alloc::alloc::Global as core::alloc::Allocator>::allocate",
            "<alloc::raw_vec::RawVecInner>::try_allocate_in",
            "alloc::raw_vec::RawVec<T,A>::grow_one",
        ];
        all.extend(middle);
        all.extend([
            "core::ops::function::FnOnce::call_once",
            "std::sys::backtrace::__rust_begin_short_backtrace",
            "std::rt::lang_start::{{closure}}",
            "main",
            "__libc_start_main_impl",
            "_start",
        ]);
        assert_eq!(kept(&all), middle);
        // The same by the new mangling.
        for name in &mut all {
            if name.ends_with("backtrace") {
                *name = "std::sys::backtrace::__rust_begin_short_backtrace::<fn(), ()>";
            }
        }
        assert_eq!(kept(&all), middle);
    }

    /// Bug prevented: a pattern that matches `Box<dyn FnOnce>` in the middle of
    /// a stack takes the whole stack away.
    #[test]
    fn names_are_trimmed_at_the_ends_only() {
        let all = [
            "<alloc::boxed::Box<F> as core::ops::function::FnOnce<A>>::call_once",
            "alloc::alloc::alloc",
            "app::f",
            "std::thread::spawn",
            "app::main",
        ];
        assert_eq!(kept(&all), all);
    }

    #[test]
    fn without_a_mark_start_up_goes_by_its_names() {
        let all = [
            "app::f",
            "app::main",
            "main",
            "__libc_start_call_main",
            "_start",
        ];
        assert_eq!(kept(&all), &all[..2]);
        let all = ["f", "start_thread", "__clone3"];
        assert_eq!(kept(&all), &all[..1]);
    }

    /// Bug prevented: an allocation by the runtime itself has an empty stack.
    #[test]
    fn a_stack_of_nothing_else_is_shown_whole() {
        let all = ["alloc::alloc::alloc", "std::rt::init", "main", "_start"];
        let shown = kept(&all);
        assert!(!shown.is_empty());
        assert_eq!(kept(&["alloc::alloc::alloc"]), ["alloc::alloc::alloc"]);
        assert_eq!(kept(&[]), Vec::<String>::new());
    }

    /// Two marks: the thread's, and inside of it the test's.
    #[test]
    fn the_innermost_mark_counts() {
        let all = [
            "app::tests::it_works",
            "app::tests::it_works::{{closure}}",
            "core::ops::function::FnOnce::call_once",
            "test::__rust_begin_short_backtrace",
            "test::run_test",
            "std::sys::backtrace::__rust_begin_short_backtrace",
            "start_thread",
        ];
        assert_eq!(kept(&all), &all[..2]);
    }
}
