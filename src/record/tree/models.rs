//! Every interleaving of small worlds around one tree, and of broken twins that
//! the model must reject: a model that accepts everything proves nothing.
//!
//! ```text
//! RUSTFLAGS="--cfg loom" cargo test --release --lib --features profile models
//! ```
//!
//! A waiter gives up after two yields here, so a child may be `OVERFLOW`; then
//! it must have been counted.

use loom::sync::Arc;
use loom::thread;

use super::chains::{bucket, hash};
use super::{FIRST, Node, OVERFLOW, ROOT, Tree};
use crate::sync::Ordering;

/// Whether `id` is this child, or a loss.
fn assert_child(tree: &Tree, id: u32, parent: u32, return_address: u64) {
    if id == OVERFLOW {
        assert!(tree.losses().busy > 0, "a loss that nobody counted");
    } else {
        assert_eq!(tree.node(id), Some((parent, return_address)), "node {id}");
    }
}

/// The first two nodes that a tree gives out.
const ONE: u32 = FIRST;
const TWO: u32 = FIRST + 1;

/// A tree that was cleared, whose second node still holds the address 99 of the
/// stack that it was for. This thread makes it again, for another stack,
/// while another looks for 99.
///
/// Who only loads is the one that is spawned, here and below: the checker keeps
/// one last access to each cell, so a writer's own load of it hides that others
/// have loaded it too, and the order in which the writer comes first would not
/// be tried.
fn look_beside_a_new_node(make: fn(&Tree)) {
    loom::model(move || {
        let tree = Arc::new(Tree::model(8));
        assert_eq!(tree.child(ROOT, 1), ONE);
        assert_eq!(tree.child(ONE, 99), TWO);
        assert!(tree.clear());
        assert_eq!(tree.child(ROOT, 1), ONE);
        let looking = {
            let tree = Arc::clone(&tree);
            thread::spawn(move || tree.child(ONE, 99))
        };
        make(&tree);
        let found = looking.join().expect("the thread that looks");
        assert_child(&tree, found, ONE, 99);
    });
}

#[test]
fn a_node_is_never_seen_with_another_ones_address() {
    look_beside_a_new_node(|tree| {
        let made = tree.child(ONE, 10);
        assert_child(tree, made, ONE, 10);
    });
}

/// Makes the second node the child 10 of the first, published by `publish`.
fn make_by_hand(tree: &Tree, publish: fn(&Node)) {
    if let Some(_guard) = tree.writers.lock.acquire() {
        let used = tree.writers.used.load(Ordering::Relaxed);
        if let (TWO, Some(node)) = (used, tree.nodes.get(u64::from(TWO))) {
            tree.writers.used.store(TWO + 1, Ordering::Relaxed);
            publish(node);
        }
    }
}

#[test]
#[should_panic(expected = "node 6")]
fn a_parent_stored_before_the_address_is_rejected() {
    look_beside_a_new_node(|tree| {
        make_by_hand(tree, |node| {
            node.parent.store(ONE + 1, Ordering::Release);
            node.return_address.store(10, Ordering::Relaxed);
        });
    });
}

#[test]
#[should_panic(expected = "node 6")]
fn a_parent_stored_without_release_is_rejected() {
    look_beside_a_new_node(|tree| {
        make_by_hand(tree, |node| {
            node.return_address.store(10, Ordering::Relaxed);
            node.parent.store(ONE + 1, Ordering::Relaxed);
        });
    });
}

#[test]
fn two_threads_that_meet_at_a_new_call_get_one_node() {
    loom::model(|| {
        let tree = Arc::new(Tree::model(8));
        let other = {
            let tree = Arc::clone(&tree);
            thread::spawn(move || tree.child(ROOT, 7))
        };
        let mine = tree.child(ROOT, 7);
        let theirs = other.join().expect("the other thread");
        for id in [mine, theirs] {
            assert_child(&tree, id, ROOT, 7);
        }
        if mine != OVERFLOW && theirs != OVERFLOW {
            assert_eq!((mine, theirs, tree.len()), (ONE, ONE, 1));
        }
    });
}

/// This thread adds nodes, which splits chains; another looks for an old node.
fn look_during_a_split(find: fn(&Tree) -> u32) {
    loom::model(move || {
        let tree = Arc::new(Tree::model(12));
        let old = tree.child(ROOT, moving());
        let looking = {
            let tree = Arc::clone(&tree);
            thread::spawn(move || find(&tree))
        };
        for address in [5, 6] {
            let added = tree.child(ROOT, address);
            assert_child(&tree, added, ROOT, address);
        }
        let found = looking.join().expect("the thread that looks");
        assert!(found == old || found == OVERFLOW, "found {found}");
        assert_child(&tree, found, ROOT, moving());
    });
}

/// An address that moves when the two new nodes split chains 0 and 1 of two.
fn moving() -> u64 {
    let moves = |&address: &u64| bucket(hash(ROOT, address), 4) >= 2;
    (100..).find(moves).expect("every second one")
}

#[test]
fn a_node_that_moves_to_another_chain_is_found_all_the_time() {
    look_during_a_split(|tree| tree.child(ROOT, moving()));
}

#[test]
#[should_panic(expected = "found 0")]
fn a_miss_that_is_believed_without_the_lock_is_rejected() {
    look_during_a_split(|tree| tree.find(hash(ROOT, moving()), ROOT, moving()));
}
