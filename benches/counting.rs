//! What counting costs, allocator by allocator, with criterion: each is called
//! directly, as a value, in one process.
//!
//! `cargo bench -p heapledger-benches --bench counting`; with `-- --quick` or
//! `-- --test` a look only. For ratios on a machine that is not quiet see
//! `ratios.rs`.

// Compiled here and not in the library: a program installs its allocator in its own crate, where
// the thread-local page is one load away; in a library it is reached in a more general, slower way.
#[allow(
    dead_code,
    unreachable_pub,
    unused_imports,
    reason = "each bench uses a part of it"
)]
#[path = "src/contenders.rs"]
mod contenders;

use std::time::Duration;

use contenders::Contender;
use criterion::{Criterion, Throughput};
use heapledger_benches::least;
use heapledger_benches::micro::{self, Workload};
use heapledger_benches::peers;

fn main() {
    let mut criterion = Criterion::default()
        .sample_size(40)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_millis(1_200))
        .without_plots()
        .configure_from_args();
    let contenders = Contender::all();
    for workload in Workload::ALL {
        let mut group = criterion.benchmark_group(workload.name());
        group.throughput(Throughput::Elements(u64::from(workload.operations())));
        for contender in &contenders {
            group.bench_function(contender.name, |bencher| {
                bencher.iter_custom(|turns| contender.run(workload, turns));
            });
        }
        group.finish();
    }
    criterion.final_summary();
}
