//! A bounded pool under tokio: a hundred tasks share three connections.
//!
//! ```text
//! cargo run --example pool_async
//! ```

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use heapledger::pool::{BoundedPool, Manager, Pooled, Reset};

/// What is dear to make and limited in number.
#[derive(Debug)]
struct Connection {
    id: u32,
    broken: bool,
}

impl Connection {
    async fn query(&mut self, n: u32) -> Result<u32, &'static str> {
        tokio::time::sleep(Duration::from_millis(2)).await;
        if n % 25 == 24 {
            self.broken = true;
            return Err("the peer hung up");
        }
        Ok(n * n)
    }
}

#[derive(Default)]
struct Connector {
    made: AtomicU32,
}

impl Manager<Connection> for Connector {
    type Error = std::io::Error;

    fn create(&self) -> Result<Connection, Self::Error> {
        let id = self.made.fetch_add(1, Relaxed);
        Ok(Connection { id, broken: false })
    }

    fn reset(&self, connection: &mut Connection) -> Reset {
        if connection.broken {
            Reset::Discard
        } else {
            Reset::Keep
        }
    }
}

#[tokio::main]
async fn main() {
    let pool = Arc::new(BoundedPool::with_manager(3, Connector::default()));
    let tasks: Vec<_> = (0..100)
        .map(|n| {
            let pool = Arc::clone(&pool);
            tokio::spawn(async move {
                // Waits in turn; dropped at any moment, it takes no permit along.
                let waiting = tokio::time::timeout(Duration::from_millis(40), pool.acquire_async());
                let Ok(connection) = waiting.await else {
                    return "gave up waiting";
                };
                match connection.expect("not closed").query(n).await {
                    Ok(_) => "answered",
                    Err(_) => "failed",
                }
            })
        })
        .collect();
    let mut outcomes = std::collections::BTreeMap::new();
    for task in tasks {
        *outcomes.entry(task.await.expect("no panic")).or_insert(0) += 1;
    }
    println!("{outcomes:?}");
    let stats = pool.stats();
    println!("{stats:?}");
    assert!(stats.peak <= 3, "never more than the capacity");

    let last = pool.acquire_async().await.expect("not closed");
    pool.close();
    println!(
        "connection {} was the last to be handed out",
        Pooled::detach(last).id
    );
    let error = pool.acquire_async().await.expect_err("closed");
    println!("after that: {error}");
}
