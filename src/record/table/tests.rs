//! The table against a plain map, alone and from several threads.

use super::{ADDRESSES, BATCH, Record, SHARDS, Table, TableLosses};
use crate::record::zone::scarcity;
use proptest::prelude::*;
use std::collections::{HashMap, HashSet};

fn table() -> Table {
    let table = Table::new();
    assert!(table.open(1) > 0);
    table
}

fn record(n: u64) -> Record {
    Record {
        node: u32::try_from(n % 1_000_003).expect("small"),
        size: n.wrapping_mul(0x1_0001) % (1 << 40),
        birth: u32::try_from(n % 77_777).expect("small"),
        recording: u32::try_from(n % 5).expect("small"),
        ..Record::default()
    }
}

#[derive(Clone, Debug)]
enum Step {
    Insert(usize, u64),
    Remove(usize),
    Drain(u32),
}

/// Addresses close together, in one shard or few, so that lines fill and strays go.
fn address() -> impl Strategy<Value = usize> {
    prop_oneof![
        8 => (1_usize..4_000).prop_map(|n| 0x7f00_0000_0000 + n * 16),
        1 => (1_usize..400).prop_map(|n| 0x7f00_0000_0000 + n),
        1 => (1_usize..400).prop_map(|n| n << 20),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        60 => (address(), any::<u64>()).prop_map(|(at, n)| Step::Insert(at, n)),
        40 => address().prop_map(Step::Remove),
        1 => (0_u32..6).prop_map(Step::Drain),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn it_agrees_with_a_map(steps in prop::collection::vec(step(), 1..4_000)) {
        let table = table();
        let mut map: HashMap<usize, Record> = HashMap::new();
        let mut replaced = 0;
        for step in steps {
            match step {
                Step::Insert(at, n) => {
                    prop_assert!(table.insert(at, &record(n)));
                    replaced += u64::from(map.insert(at, record(n)).is_some());
                }
                Step::Remove(at) => prop_assert_eq!(table.remove(at), map.remove(&at)),
                Step::Drain(recording) => {
                    let mut drained = HashMap::new();
                    let complete = table.drain(recording, |at, record| {
                        assert_eq!(drained.insert(at, record), None);
                    });
                    prop_assert!(complete);
                    let expected: HashMap<_, _> =
                        map.extract_if(|_, record| record.recording == recording).collect();
                    prop_assert_eq!(drained, expected);
                }
            }
            prop_assert_eq!(table.len(), map.len() as u64);
        }
        let mut seen = HashMap::new();
        let complete = table.for_each(|at, record| assert_eq!(seen.insert(at, record), None));
        prop_assert!(complete);
        prop_assert_eq!(&seen, &map);
        prop_assert_eq!(table.losses().replaced, replaced);
        for (at, record) in map {
            prop_assert_eq!(table.remove(at), Some(record));
        }
        prop_assert!(table.is_empty());
    }
}

#[test]
fn a_million_records_in_random_order_come_back_and_cost_32_bytes_at_most() {
    let table = Table::new();
    table.open(4 << 20);
    // 64 MiB of blocks of 16 to 112 bytes, in an order of no sense.
    let mut addresses = Vec::new();
    let mut at = 0x5555_5555_0000_usize;
    for n in 0..1_000_000_usize {
        at += 16 + n * 7 % 97 / 16 * 16;
        addresses.push(at);
    }
    let shuffled = |step: usize| (0..1_000_000).map(move |n| n * step % 1_000_000);
    for (count, index) in shuffled(611_953).enumerate() {
        assert!(table.insert(addresses[index], &record(index as u64)));
        if count >= 100_000 && count % 10_007 == 0 {
            assert!(
                table.bytes() <= 32 * table.len(),
                "at {count}: {}",
                table.bytes()
            );
        }
    }
    assert_eq!(table.len(), 1_000_000);
    for index in shuffled(700_001) {
        assert_eq!(table.remove(addresses[index] + 8), None);
        assert_eq!(table.remove(addresses[index]), Some(record(index as u64)));
    }
    assert_eq!((table.len(), table.losses()), (0, TableLosses::default()));
}

/// Bug prevented: strays that are forgotten, or that make every later look-up walk.
#[test]
fn an_index_that_was_crowded_for_long_still_finds_all_and_forgets_its_strays() {
    let table = table();
    let mut live = Vec::new();
    let mut state = 11_u64;
    for round in 0..300_000_u64 {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        let at = 0x7f12_3400_0000 + usize::try_from(state >> 44).expect("small");
        if table.insert(at, &record(round)) {
            live.push(at);
        }
        if live.len() > 9_000 {
            let victim = usize::try_from(state >> 20).expect("64 bits") % live.len();
            table.remove(live.swap_remove(victim));
        }
    }
    for at in live {
        table.remove(at);
    }
    assert!(table.is_empty());
    for shard in &table.shards {
        assert_eq!(shard.strays(), 0);
    }
}

#[test]
fn a_visitor_may_use_the_table_itself() {
    let table = table();
    let count = BATCH * 3 + 1;
    for n in 1..=count {
        table.insert(n * 16, &Record::default());
    }
    let mut seen = HashSet::new();
    assert!(table.drain(0, |at, record| {
        assert!(seen.insert(at));
        assert!(table.insert(
            at + (1 << 30),
            &Record {
                recording: 9,
                ..record
            }
        ));
        assert_eq!(table.remove(at), None);
    }));
    assert_eq!((seen.len(), table.len()), (count, count as u64));
    assert_eq!(table.losses(), TableLosses::default());
}

/// Bug prevented: a full shard that panics, or takes another's place.
#[test]
fn what_does_not_fit_is_refused_and_counted() {
    let table = table();
    let room = usize::try_from(table.room()).expect("64 bits") / SHARDS;
    // All in one region, so all in one shard.
    for n in 0..room {
        assert!(table.insert(0x7f00_0000_0000 + n, &record(n as u64)));
    }
    for n in room..room + 100 {
        assert!(!table.insert(0x7f00_0000_0000 + n, &record(n as u64)));
    }
    assert_eq!((table.len(), table.losses().full), (room as u64, 100));
    for n in 0..room {
        assert_eq!(table.remove(0x7f00_0000_0000 + n), Some(record(n as u64)));
    }
    assert!(!table.insert(usize::try_from(ADDRESSES).expect("64 bits"), &record(1)));
    assert_eq!(table.losses().full, 101);
}

/// Bug prevented: recording before there is room, or when there never was any.
#[test]
fn without_memory_nothing_is_kept_and_nothing_else_happens() {
    // None; for one of two zones; and for both, but none for the program.
    for granted in 0..3 {
        let table = Table::new();
        assert_eq!(scarcity::after(granted, || table.open(1 << 24)), 0);
        assert!(!table.insert(16, &record(1)));
        assert_eq!(table.remove(16), None);
        assert!(table.drain(1, |_, _| panic!("nothing to show")));
        assert_eq!((table.len(), table.losses().full), (0, 1));
        // Memory has come back.
        assert!(table.open(1) > 0);
        assert!(table.insert(16, &record(1)));
        assert_eq!(table.remove(16), Some(record(1)));
    }
}

#[test]
fn threads_with_blocks_of_their_own_lose_nothing() {
    let table = table();
    std::thread::scope(|scope| {
        for thread in 0..8_u64 {
            let table = &table;
            scope.spawn(move || {
                // Interleaved: neighbours in a line belong to different threads.
                let at = |n: u64| {
                    0x7f00_0000_0000 + usize::try_from(n * 8 + thread).expect("64 bits") * 16
                };
                for round in 0..6 {
                    for n in 0..3_000 {
                        assert!(table.insert(at(n), &record(n + round + thread)));
                        // Never there: a negative answer without the lock.
                        assert_eq!(table.remove(at(n) + 8), None);
                    }
                    for n in 0..3_000 {
                        assert_eq!(table.remove(at(n)), Some(record(n + round + thread)));
                    }
                }
            });
        }
    });
    assert_eq!((table.len(), table.losses()), (0, TableLosses::default()));
}

/// Bug prevented: an address that two threads fight for is left behind twice.
#[test]
fn threads_at_the_same_addresses_leave_at_most_one_record_each() {
    let table = table();
    std::thread::scope(|scope| {
        for thread in 0..8_u64 {
            let table = &table;
            scope.spawn(move || {
                let mut state = thread + 1;
                for n in 0..100_000_u64 {
                    state = state
                        .wrapping_mul(6_364_136_223_846_793_005)
                        .wrapping_add(1);
                    let at = 0x7f00_0000_0000 + usize::try_from(state >> 54).expect("small") * 16;
                    if state >> 32 & 1 == 0 {
                        assert!(table.insert(at, &record(n)));
                    } else {
                        table.remove(at);
                    }
                    if n % 20_000 == 0 {
                        table.drain(u32::try_from(thread % 5).expect("small"), |_, _| ());
                    }
                }
            });
        }
    });
    let mut seen = HashSet::new();
    table.for_each(|at, _| assert!(seen.insert(at)));
    assert_eq!(seen.len() as u64, table.len());
    for at in seen {
        assert!(table.remove(at).is_some());
        assert_eq!(table.remove(at), None);
    }
    let losses = table.losses();
    assert_eq!((losses.busy, losses.full, losses.inherited), (0, 0, 0));
}

/// Bug prevented: a shard that another thread held at `fork` is held for ever,
/// or used half written.
#[test]
fn a_shard_whose_holder_vanished_is_repaired_with_all_its_records() {
    let table = table();
    for n in 1..=5_000_u64 {
        table.insert(usize::try_from(n).expect("small") * 16, &record(n));
    }
    for n in 1..=1_000 {
        table.remove(n * 16);
    }
    for shard in &table.shards {
        shard.abandon();
    }
    // The states a vanished thread may leave behind.
    let shard = table.shard_of(16).expect("open");
    shard.wreck();
    for n in 1_001..=5_000_u64 {
        assert_eq!(
            table.remove(usize::try_from(n).expect("small") * 16),
            Some(record(n))
        );
    }
    assert!(table.is_empty());
    assert_eq!(table.losses().inherited, 1);
}

/// Bug prevented: a signal handler that allocates while its thread holds a shard hangs.
#[test]
fn a_handler_on_the_thread_that_holds_a_shard_loses_its_own_operations_only() {
    let table = table();
    assert!(table.insert(16, &record(1)));
    let shard = table.shard_of(16).expect("open");
    shard.held(|| {
        assert!(!table.insert(32, &record(2)));
        assert_eq!(table.remove(16), None);
        assert!(!table.drain(1, |_, _| ()));
        // Not there, and so no lock is needed.
        assert_eq!(table.remove(48), None);
    });
    assert_eq!((table.losses().busy, table.losses().missed), (3, 2));
    assert_eq!(table.remove(16), Some(record(1)));
}

/// Bug prevented: a shard that looks empty is passed by, while another thread
/// puts a record into it and has not yet seen that the recording is over.
#[test]
fn whoever_ends_something_looks_into_empty_shards_too_under_their_locks() {
    let table = table();
    let shard = &table.shards[SHARDS / 2];
    shard.held(|| {
        assert!(!table.amend(|_| super::Amend::Keep));
        assert!(!table.drain(1, |_, _| {}));
    });
    assert!(table.amend(|_| super::Amend::Keep));
    assert!(table.drain(1, |_, _| {}));
}

/// Bug prevented: a new record goes beside one of the same address that has strayed.
#[test]
fn what_strayed_is_replaced_and_not_doubled() {
    let table = table();
    let at = |n: usize| 0x7f00_0000_0000 + n * n % 262_139;
    // All in one shard, and as many as its first lines take: some stray.
    for n in 1..64 * 12 {
        assert!(table.insert(at(n), &record(n as u64)));
    }
    assert!(table.shard_of(at(1) as u64).expect("open").strays() > 0);
    // Their homes get room.
    let stay = || (1..64 * 12).filter(|n| n % 3 != 0);
    for n in (1..64 * 12).filter(|n| n % 3 == 0) {
        assert!(table.remove(at(n)).is_some());
    }
    for n in stay() {
        assert!(table.insert(at(n), &record(1_000 + n as u64)));
    }
    assert_eq!(table.len(), stay().count() as u64);
    for n in stay() {
        assert_eq!(table.remove(at(n)), Some(record(1_000 + n as u64)));
    }
    assert!(table.is_empty());
}

/// Bug prevented: a record is not found while another thread's makes the index larger.
#[test]
fn what_is_taken_out_while_the_index_grows_is_found() {
    for _ in 0..40 {
        let table = table();
        let over = core::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for n in 0..12_000 {
                    assert!(table.insert(0x7f00_0000_0000 + n * 16, &record(1)));
                }
                over.store(true, core::sync::atomic::Ordering::Relaxed);
            });
            let mut n = 0;
            while !over.load(core::sync::atomic::Ordering::Relaxed) {
                let at = 0x7f00_0003_0000 + n % 1000 * 16;
                n += 1;
                assert!(table.insert(at, &record(2)));
                assert_eq!(table.remove(at), Some(record(2)));
            }
        });
        assert_eq!(table.losses(), TableLosses::default());
    }
}
