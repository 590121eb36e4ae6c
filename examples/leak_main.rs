//! A whole program that is looked at for leaks, on all its threads, from the
//! beginning of `main` to its end.
//!
//! ```text
//! cargo run --features profile --example leak_main
//! cargo run --features profile --example leak_main -- leak; echo $?
//! ```
//!
//! The second ends with code 23, and names the line that leaks.

use std::sync::mpsc;
use std::thread;

use heapledger::TrackingAllocator;
use heapledger::leaks::Process;

#[global_allocator]
static HEAP: TrackingAllocator = TrackingAllocator::new();

/// Answers each request on a thread that knows nothing of any check.
fn serve(requests: &[&str], forgetful: bool) {
    let (send, answers) = mpsc::channel();
    thread::scope(|threads| {
        for &request in requests {
            let send = send.clone();
            threads.spawn(move || {
                let answer = format!("{request} is {} letters long", request.len());
                if forgetful {
                    std::mem::forget(answer.clone());
                }
                // The other end is there until all threads have ended.
                drop(send.send(answer));
            });
        }
    });
    drop(send);
    for answer in answers {
        println!("{answer}");
    }
}

fn main() -> Result<(), heapledger::Error> {
    // The first thing in `main`, so the last that is dropped. It needs a name: `_` alone would
    // drop it at once.
    let _leaks = Process::new().to_stderr().exit_code(23).start()?;

    let forgetful = std::env::args().nth(1).is_some_and(|word| word == "leak");
    serve(&["whole", "process"], forgetful);
    Ok(())
}
