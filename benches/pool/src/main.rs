//! quick probe
use std::hint::black_box;
use std::time::Instant;
fn main() {
    let pool = heapledger::pool::Pool::from_fn(|| Vec::<u8>::with_capacity(1024));
    let clearing = heapledger::pool::Pool::with_manager(
        heapledger::pool::Clearing::<Vec<u8>>::with_capacity(1024),
    );
    let n = 50_000_000u32;
    for _ in 0..3 {
        let t = Instant::now();
        for _ in 0..n {
            let mut g = pool.acquire();
            black_box(&mut *g);
        }
        let a = t.elapsed().as_secs_f64() * 1e9 / f64::from(n);
        let t = Instant::now();
        for _ in 0..n {
            let mut g = clearing.acquire();
            black_box(&mut *g);
        }
        let b = t.elapsed().as_secs_f64() * 1e9 / f64::from(n);
        let t = Instant::now();
        let mut held = Vec::with_capacity(256);
        for _ in 0..n / 256 {
            for _ in 0..256 {
                held.push(pool.acquire());
            }
            black_box(&mut held);
            held.clear();
        }
        let c = t.elapsed().as_secs_f64() * 1e9 / f64::from(n);
        let t = Instant::now();
        for _ in 0..n / 10 {
            let mut v = Vec::<u8>::with_capacity(1024);
            black_box(&mut v);
        }
        let d = t.elapsed().as_secs_f64() * 1e9 / f64::from(n / 10);
        println!("pool {a:.2} clearing {b:.2} hold {c:.2} malloc {d:.2}");
    }
}
