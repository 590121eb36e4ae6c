//! The live table: pairs, look-ups of what is not there, and many live blocks.

use crate::timing::{line, processor_time, random, sink};
use std::sync::atomic::{AtomicU64, Ordering};

use heapledger::__private::record::{Record, Table};

const BATCH: usize = 1_000_000;
/// Where glibc's main heap and a thread's arena would be, roughly.
const ARENAS: [usize; 2] = [0x5555_5570_0000, 0x7fff_e800_0020];

fn record(n: usize) -> Record {
    Record {
        node: n as u32,
        size: 48,
        birth: 1,
        recording: 1,
        ..Record::default()
    }
}

/// Addresses of blocks of 16 to 160 bytes, side by side.
fn blocks(arena: usize, count: usize) -> Vec<usize> {
    let mut state = arena as u64;
    let mut at = arena;
    (0..count)
        .map(|_| {
            at += 32 + random(&mut state) as usize % 9 * 16;
            at
        })
        .collect()
}

fn shuffled(mut blocks: Vec<usize>) -> Vec<usize> {
    let mut state = 5;
    for i in (1..blocks.len()).rev() {
        blocks.swap(i, (random(&mut state) % (i as u64 + 1)) as usize);
    }
    blocks
}

pub fn run(wanted: &str) {
    line(
        wanted,
        "table: for comparison, one compare-exchange and one store",
        BATCH,
        |thread| {
            let own = AtomicU64::new(thread as u64);
            for n in 0..BATCH as u64 {
                let _ =
                    own.compare_exchange(thread as u64, n, Ordering::Acquire, Ordering::Relaxed);
                own.store(thread as u64, Ordering::Release);
            }
            sink(&own);
        },
    );
    for live in [0, 100_000, 1_000_000] {
        with(wanted, live);
    }
}

fn with(wanted: &str, live: usize) {
    let label = |what: &str| format!("table, {live} live: {what}");
    let table = Table::new();
    assert!(table.open(16 << 20) > 0);
    let arenas = ARENAS.map(|arena| blocks(arena, live / 2 + 8));
    for block in arenas.iter().flat_map(|blocks| &blocks[..live / 2]) {
        assert!(table.insert(*block, &record(1)));
    }
    if live > 0 {
        eprintln!(
            "table: {} live, {:.1} bytes a record",
            table.len(),
            table.bytes() as f64 / live as f64
        );
    }
    line(
        wanted,
        &label("insert + remove of one address, a pair"),
        BATCH,
        |thread| {
            let at = arenas[thread][live / 2];
            for n in 0..BATCH {
                table.insert(at, &record(n));
                sink(table.remove(at));
            }
        },
    );
    line(
        wanted,
        &label("remove of one address that is not there"),
        BATCH,
        |thread| {
            let at = arenas[thread][live / 2 + 1];
            for _ in 0..BATCH {
                sink(table.remove(sink_address(at)));
            }
        },
    );
    if live == 0 {
        return;
    }
    let orders = arenas.map(|blocks| shuffled(blocks[..live / 2].to_vec()));
    line(
        wanted,
        &label("remove of what is not there, at random"),
        BATCH,
        |thread| {
            for at in orders[thread].iter().cycle().take(BATCH) {
                sink(table.remove(at + 8));
            }
        },
    );
    line(
        wanted,
        &label("remove + insert at random in one's own half, a pair"),
        BATCH,
        |thread| {
            for at in orders[thread].iter().cycle().take(BATCH) {
                sink(table.remove(*at));
                table.insert(*at, &record(2));
            }
        },
    );
    // What a free block that is used again costs: a pair of two addresses.
    line(
        wanted,
        &label("remove one, insert one freed before, a pair"),
        BATCH,
        |thread| {
            let order = &orders[thread];
            for at in order.iter().take(1000) {
                table.remove(*at);
            }
            for n in 0..BATCH {
                sink(table.remove(order[(n + 1000) % order.len()]));
                table.insert(order[n % order.len()], &record(3));
            }
            for at in order {
                table.remove(*at);
                table.insert(*at, &record(3));
            }
        },
    );
    if wanted.is_empty() || wanted.contains("table") {
        let begun = processor_time();
        let mut count = 0_u64;
        table.drain(9, |_, _| count += 1);
        println!(
            "| {} | {:.1} | |",
            label("drain of nothing, a live record"),
            (processor_time() - begun).as_nanos() as f64 / live as f64
        );
        let begun = processor_time();
        table.for_each(|_, _| count += 1);
        table.drain(1, |_, _| count += 1);
        table.drain(2, |_, _| count += 1);
        table.drain(3, |_, _| count += 1);
        println!(
            "| {} | {:.1} | |",
            label("drain of all, a record"),
            (processor_time() - begun).as_nanos() as f64 / live as f64
        );
        sink(count);
    }
}

fn sink_address(at: usize) -> usize {
    std::hint::black_box(at)
}
