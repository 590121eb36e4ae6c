//! A leak in a task, on a runtime with several threads: the check goes where
//! the task goes.
//!
//! ```text
//! cargo run --features profile --example leak_in_async
//! ```

use heapledger::TrackingAllocator;
use heapledger::leaks::{self, Check, LeakReport};
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

#[global_allocator]
static HEAP: TrackingAllocator = TrackingAllocator::new();

/// Answers requests until the channel closes, and remembers too much.
async fn serve(mut requests: mpsc::Receiver<String>, leaks: bool) {
    // At each `.await` the task may go on on another of the runtime's threads.
    while let Some(request) = requests.recv().await {
        let answer = request.to_uppercase();
        if leaks {
            std::mem::forget(answer);
        }
    }
}

/// A task on the runtime, inside the check that the caller is in.
fn spawn_checked<F>(future: F) -> JoinHandle<F::Output>
where
    F: Future<Output: Send> + Send + 'static,
{
    tokio::spawn(leaks::carry().wrap_future(future))
}

async fn conversation(leaks: bool) {
    let (to, requests) = mpsc::channel(4);
    let server = spawn_checked(serve(requests, leaks));
    for name in ["one", "two", "three"] {
        to.send(String::from(name)).await.expect("a server");
    }
    drop(to);
    server.await.expect("no panic");
}

/// Runs the future on the runtime, from outside of it, and checks it.
fn check(runtime: &Runtime, leaks: bool) -> Result<(), LeakReport> {
    Check::new().run(|| runtime.block_on(leaks::carry().wrap_future(conversation(leaks))))
}

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .build()
        .expect("a runtime");
    // Once outside of a check: the runtime makes what it keeps for itself.
    runtime.block_on(conversation(false));

    if let Err(report) = check(&runtime, false) {
        panic!("{report}");
    }

    let report = check(&runtime, true).expect_err("answers are forgotten");
    assert_eq!((report.blocks(), report.bytes()), (3, 11), "{report}");
    let place = report.sites.first().map(leaks::LeakSite::location);
    assert!(place.is_some_and(|place| place.contains("leak_in_async.rs:")));
    println!("{report:#}");
}
