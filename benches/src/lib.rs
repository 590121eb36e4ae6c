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
//!   src/bin/alone_*.rs           the pair in a crate of its own
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
#[expect(unsafe_code, reason = "implements `GlobalAlloc`")]
pub mod least;
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

/// One program whose work is compiled with its own crate, where the compiler sees
/// what is asked of the allocator and inlines what it likes: `boxes <n>` or `json`,
/// for callgrind. One that counts gives its count of allocations, because one that
/// did not would win.
#[macro_export]
macro_rules! alone {
    ($($type:ty, $value:expr $(, $counted:expr)?)?) => {
        $(
            #[global_allocator]
            static HEAP: $type = $value;
        )?

        // As in `programs`, which is another crate's.

        #[inline(never)]
        fn boxes(count: u64) {
            for _ in 0..count {
                drop(std::hint::black_box(Box::new(std::hint::black_box([0_u64; 8]))));
            }
        }

        #[inline(never)]
        fn json() {
            let text = $crate::samples::json(3_000_000);
            for _ in 0..4 {
                let value: serde_json::Value = serde_json::from_str(&text).expect("valid JSON");
                drop(std::hint::black_box(value));
            }
        }

        fn main() {
            let mut args = std::env::args().skip(1);
            let work = args.next().unwrap_or_default();
            let count = args.next().and_then(|count| count.parse().ok());
            match (work.as_str(), count) {
                ("boxes", Some(count)) => boxes(count),
                ("json", _) => json(),
                _ => panic!("usage: boxes <n> | json"),
            }
            $($(assert!($counted >= count.unwrap_or(1), "not all were counted");)?)?
        }
    };
}
