//! quick probe
use std::hint::black_box;
use std::time::Instant;
#[inline(never)]
fn hot(pool: &heapledger::pool::Pool<Vec<u8>>, n: u32) {
    for _ in 0..n {
        let mut g = pool.acquire();
        black_box(&mut *g);
    }
}
#[inline(never)]
fn hold(pool: &heapledger::pool::Pool<Vec<u8>>, n: u32) {
    let mut held = Vec::with_capacity(256);
    for _ in 0..n / 256 {
        for _ in 0..256 {
            held.push(pool.acquire());
        }
        black_box(&mut held);
        held.clear();
    }
}
#[inline(never)]
fn chain(n: u32) {
    for _ in 0..n {
        unsafe { std::arch::asm!("add {0}, 1","add {0}, 1","add {0}, 1","add {0}, 1", out(reg) _) }
    }
}
fn min(f: impl Fn(u32)) -> f64 {
    let n = 100_000;
    (0..300)
        .map(|_| {
            let t = Instant::now();
            f(n);
            t.elapsed().as_secs_f64() * 1e9 / f64::from(n)
        })
        .fold(f64::MAX, f64::min)
}
fn main() {
    let pool = heapledger::pool::Pool::from_fn(|| Vec::<u8>::with_capacity(1024));
    let clearing = heapledger::pool::Pool::with_manager(
        heapledger::pool::Clearing::<Vec<u8>>::with_capacity(1024),
    );
    let arc = std::sync::Arc::new(heapledger::pool::Pool::from_fn(|| {
        Vec::<u8>::with_capacity(1024)
    }));
    let bounded = heapledger::pool::BoundedPool::from_fn(300, || Vec::<u8>::with_capacity(1024));
    let mutexed = parking_lot::Mutex::new(vec![Box::new(Vec::<u8>::with_capacity(1024))]);
    println!("cycle {:.3}", min(chain) / 4.0);
    println!("pool {:.2}", min(|n| hot(&pool, n)));
    println!("clearing {:.2}", min(|n| hot(&clearing, n)));
    println!("hold {:.2}", min(|n| hold(&pool, n)));
    println!(
        "owned {:.2}",
        min(|n| for _ in 0..n {
            let mut g = arc.acquire_owned();
            black_box(&mut *g);
        })
    );
    println!(
        "bounded {:.2}",
        min(|n| for _ in 0..n {
            let mut g = bounded.try_acquire().unwrap();
            black_box(&mut *g);
        })
    );
    println!(
        "mutexed {:.2}",
        min(|n| for _ in 0..n {
            let mut g = mutexed.lock().pop().unwrap();
            black_box(&mut *g);
            mutexed.lock().push(g)
        })
    );
    println!(
        "malloc {:.2}",
        min(|n| for _ in 0..n {
            let mut v = Vec::<u8>::with_capacity(1024);
            black_box(&mut v);
        })
    );
}
