//! The tree against a plain map, alone and from several threads.

use super::chains::{bucket, is_crowded};
use super::{FIRST, OVERFLOW, ROOT, Tree};
use crate::record::zone::scarcity;
use proptest::prelude::*;
use std::collections::HashMap;

fn tree(nodes: u32) -> Tree {
    let tree = Tree::new();
    assert!(tree.open(nodes) > 0);
    tree
}

/// A generator that needs no crate.
fn random(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

/// 20 calls deep, from few functions: stacks that share much.
fn random_stack(state: &mut u64) -> Vec<u64> {
    (0..20)
        .map(|_| 0x5555_0000_0000 + random(state) % 3 * 16)
        .collect()
}

fn enter(tree: &Tree, stack: &[u64]) -> u32 {
    stack
        .iter()
        .fold(ROOT, |node, &address| tree.child(node, address))
}

fn read(tree: &Tree, id: u32) -> Vec<u64> {
    let mut stack: Vec<_> = tree.stack(id).collect();
    stack.reverse();
    stack
}

#[test]
fn a_stack_comes_back_as_it_was_entered() {
    let tree = tree(1 << 16);
    let mut state = 1;
    let mut entered = Vec::new();
    for _ in 0..2_000 {
        let stack = random_stack(&mut state);
        entered.push((enter(&tree, &stack), stack));
    }
    for (id, stack) in &entered {
        assert_eq!(&read(&tree, *id), stack);
        assert_eq!(enter(&tree, stack), *id);
    }
    assert!(read(&tree, ROOT).is_empty());
    assert!(read(&tree, OVERFLOW).is_empty());
    assert_eq!(tree.losses(), super::TreeLosses::default());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn it_agrees_with_a_map(steps in prop::collection::vec((0_usize..400, 0_u64..12), 1..3_000)) {
        let tree = tree(1 << 14);
        let mut map = HashMap::new();
        let mut ids = vec![ROOT];
        for (parent, address) in steps {
            let parent = ids[parent % ids.len()];
            let id = tree.child(parent, address);
            let expected = *map.entry((parent, address)).or_insert(id);
            prop_assert_eq!(id, expected);
            prop_assert_eq!(tree.node(id), Some((parent, address)));
            if !ids.contains(&id) {
                ids.push(id);
            }
        }
        prop_assert_eq!(tree.len() as usize, map.len());
    }
}

/// Bug prevented: a chain that was split is looked for in the wrong half.
#[test]
fn a_bucket_is_split_between_itself_and_the_new_one() {
    for chains in 1..300 {
        for hash in 0..2_000 {
            let (before, after) = (bucket(hash, chains), bucket(hash, chains + 1));
            assert!(before < chains);
            if before != after {
                assert_eq!(after, chains);
                assert_eq!(before, bucket(u64::from(chains), chains));
            }
        }
    }
}

#[test]
fn a_node_costs_at_most_24_bytes_all_in() {
    let tree = tree(1 << 20);
    let mut state = 7;
    for _ in 0..20_000 {
        enter(&tree, &random_stack(&mut state));
        if tree.len() > 10_000 {
            assert!(tree.bytes() <= 24 * u64::from(tree.len()));
        }
    }
    assert!(tree.len() > 100_000);
    assert!(!is_crowded(
        tree.len(),
        tree.chains.load(core::sync::atomic::Ordering::Relaxed)
    ));
}

/// Bug prevented: a full tree that panics, hangs, or gives another stack's node.
#[test]
fn what_does_not_fit_is_overflow_and_is_counted_once_a_stack() {
    let tree = tree(1 << 10);
    let room = u64::from(tree.room());
    assert_eq!(room, (1 << 10) - u64::from(FIRST));
    for address in 0..room {
        assert_ne!(tree.child(ROOT, address), OVERFLOW);
    }
    assert_eq!(tree.losses().full, 0);
    for address in room..room + 10 {
        let cut = tree.child(ROOT, address);
        assert_eq!(cut, OVERFLOW);
        assert_eq!(tree.child(tree.child(cut, 1), 2), OVERFLOW);
    }
    assert_eq!(tree.losses().full, 10);
    for address in 0..room {
        assert_eq!(read(&tree, tree.child(ROOT, address)), [address]);
    }
    assert_eq!(tree.node(OVERFLOW), None);
}

/// Bug prevented: recording before there is room, or when there never was any.
#[test]
fn without_memory_every_stack_is_overflow() {
    // None; for one of two zones; and for both, but none for the program.
    for granted in 0..3 {
        let tree = Tree::new();
        assert_eq!(scarcity::after(granted, || tree.open(1 << 20)), 0);
        assert_eq!(tree.child(ROOT, 1), OVERFLOW);
        assert_eq!((tree.len(), tree.losses().full), (0, 1));
        // Memory has come back.
        assert!(tree.open(1 << 12) > 0);
        assert_ne!(tree.child(ROOT, 1), OVERFLOW);
    }
}

#[test]
fn a_tree_that_was_cleared_is_a_new_one() {
    let tree = tree(1 << 14);
    let mut state = 3;
    for round in 0..3 {
        assert!(tree.is_empty());
        let stacks: Vec<_> = (0..500).map(|_| random_stack(&mut state)).collect();
        let ids: Vec<_> = stacks.iter().map(|stack| enter(&tree, stack)).collect();
        for (id, stack) in ids.iter().zip(&stacks) {
            assert_eq!(&read(&tree, *id), stack, "round {round}");
        }
        assert!(tree.clear());
    }
}

/// Bug prevented: two threads that meet at a new call make two nodes of it.
#[test]
fn threads_that_enter_the_same_stacks_get_the_same_nodes() {
    let tree = tree(1 << 19);
    let run = |seed: u64| {
        let mut state = seed;
        (0..10_000)
            .map(|_| {
                let stack = random_stack(&mut state);
                let id = enter(&tree, &stack);
                assert_eq!(read(&tree, id), stack);
                id
            })
            .collect::<Vec<_>>()
    };
    let all: Vec<_> = std::thread::scope(|scope| {
        let run = &run;
        let threads: Vec<_> = (0..8)
            .map(|thread| scope.spawn(move || run(1 + thread % 2)))
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().expect("thread"))
            .collect()
    });
    for thread in 2..8 {
        assert_eq!(all[thread], all[thread % 2]);
    }
    // Every node is there once.
    let mut nodes: Vec<_> = (FIRST..FIRST + tree.len())
        .map(|id| tree.node(id))
        .collect();
    nodes.sort_unstable();
    let before = nodes.len();
    nodes.dedup();
    assert_eq!(nodes.len(), before);
    assert_eq!(tree.losses(), super::TreeLosses::default());
}

/// Bug prevented: a lock held by a thread that a fork left behind.
#[test]
fn a_tree_whose_holder_vanished_goes_on() {
    let tree = tree(1 << 12);
    let known = tree.child(ROOT, 1);
    tree.writers.lock.abandon();
    assert_eq!(tree.child(ROOT, 1), known);
    let new = tree.child(known, 2);
    assert_ne!(new, OVERFLOW);
    assert_eq!(read(&tree, new), [1, 2]);
    assert_eq!(tree.losses().busy, 0);
}

/// Bug prevented: a signal handler that allocates while its thread makes a node hangs.
#[test]
fn a_handler_on_the_thread_that_holds_the_lock_loses_its_stack_only() {
    let tree = tree(1 << 12);
    let known = tree.child(ROOT, 1);
    let guard = tree.writers.lock.acquire().expect("free");
    assert_eq!(tree.child(ROOT, 1), known);
    assert_eq!(tree.child(ROOT, 2), OVERFLOW);
    assert_eq!(tree.losses().busy, 1);
    drop(guard);
    assert_ne!(tree.child(ROOT, 2), OVERFLOW);
}
