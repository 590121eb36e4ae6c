//! What counting costs, allocator by allocator, with criterion: each is called
//! directly, as a value, in one process.
//!
//! `cargo bench -p heapledger-benches --bench counting`; with `-- --quick` or
//! `-- --test` a look only. For ratios on a machine that is not quiet see
//! `ratios.rs`.

use std::time::Duration;

use criterion::{Criterion, Throughput};
use heapledger_benches::contenders::Contender;
use heapledger_benches::micro::Workload;

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
