//! Request buffers in a threaded server loop, without a pool and with one: what
//! our own counters say that each request allocates.
//!
//! ```text
//! cargo run --release --example pool_buffers
//! ```

use std::hint::black_box;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use heapledger::pool::{Clearing, Pool};
use heapledger::{TrackingAllocator, measure};

#[global_allocator]
static HEAP: TrackingAllocator = TrackingAllocator::new();

const WORKERS: usize = 2;
const WARM_UP: usize = 1_000;
const REQUESTS: usize = 50_000;

/// What a request asks for: so many bytes.
struct Request(usize);

/// Reads a request into one buffer and writes the answer into another.
fn handle(request: &Request, body: &mut Vec<u8>, answer: &mut Vec<u8>) {
    body.resize(request.0, b'x');
    answer.extend_from_slice(b"HTTP/1.1 200 OK\r\n\r\n");
    answer.extend(body.iter().rev());
    black_box(answer);
}

fn without_a_pool(request: &Request) {
    let mut body = Vec::with_capacity(1024);
    let mut answer = Vec::with_capacity(1024);
    handle(request, &mut body, &mut answer);
}

fn with_a_pool(pool: &Pool<Vec<u8>>, request: &Request) {
    let mut body = pool.acquire();
    let mut answer = pool.acquire();
    handle(request, &mut body, &mut answer);
}

/// A worker: what its requests after the first ones have allocated, in blocks and
/// bytes.
fn serve(requests: &Receiver<Request>, handle: impl Fn(&Request)) -> (u64, u64) {
    for request in requests.iter().take(WARM_UP) {
        handle(&request);
    }
    let mut total = (0, 0);
    for request in requests {
        let ((), stats) = measure(|| handle(&request));
        total.0 += stats.allocations;
        total.1 += stats.allocated_bytes;
    }
    total
}

/// A server of two threads under a load of requests of 100 to 4,000 bytes.
fn run(name: &str, handle: impl Fn(&Request) + Sync) {
    let (blocks, bytes) = thread::scope(|scope| {
        let workers: Vec<_> = (0..WORKERS)
            .map(|_| {
                let (send, receive): (SyncSender<Request>, _) = sync_channel(64);
                let handle = &handle;
                (send, scope.spawn(move || serve(&receive, handle)))
            })
            .collect();
        for i in 0..(WARM_UP + REQUESTS) {
            for (send, _) in &workers {
                let size = 100 + i * 31 % 3_900;
                send.send(Request(size)).expect("a worker");
            }
        }
        workers.into_iter().fold((0, 0), |sum, (send, worker)| {
            drop(send);
            let total = worker.join().expect("no panic");
            (sum.0 + total.0, sum.1 + total.1)
        })
    });
    let n = (REQUESTS * WORKERS) as u64;
    println!(
        "{name:<16} {blocks:>6} blocks in {n} requests: {} blocks and {} bytes each",
        blocks / n,
        bytes / n
    );
}

fn main() {
    run("without a pool:", without_a_pool);
    let pool = Pool::with_manager(Clearing::<Vec<u8>>::with_capacity(1024).max_capacity(16 * 1024));
    run("with a pool:", |request| with_a_pool(&pool, request));
    println!("the pool: {:?}", pool.stats());
}
