//! What the benchmarks share: the allocators that are compared, the work that
//! they are given, and how figures become tables.
//!
//! ```text
//!   counting.rs  ratios.rs       calls on `GlobalAlloc` values     contenders, micro
//!   books.rs                     what reading and scopes cost      children
//!   programs.rs                  whole programs                    children
//!   instructions.rs              the pair under callgrind          children
//!
//!   src/bin/*.rs                 one program for each allocator    peers, programs
//! ```

pub mod children;
#[cfg(test)]
#[allow(
    unreachable_pub,
    dead_code,
    reason = "here for its tests; the benches compile it themselves"
)]
mod contenders;
pub mod figures;
#[expect(unsafe_code, reason = "calls allocators by hand")]
pub mod micro;
#[expect(unsafe_code, reason = "implements `GlobalAlloc`")]
pub mod peers;
#[expect(unsafe_code, reason = "asks the C library for its figures")]
pub mod programs;
pub mod samples;

/// Whether only a look is wanted: `--quick`, or `--test` as `cargo test` has it.
pub fn is_quick() -> bool {
    std::env::args().any(|arg| arg == "--quick" || arg == "--test")
}

/// One program: installs an allocator, runs `$start` if there is one, and does
/// the work that its arguments name. Without an allocator it keeps std's default.
#[macro_export]
macro_rules! program {
    () => {
        fn main() {
            $crate::programs::main();
        }
    };
    ($type:ty, $value:expr $(, $start:expr)?) => {
        #[global_allocator]
        static HEAP: $type = $value;

        fn main() {
            $($start;)?
            $crate::programs::main();
        }
    };
}
