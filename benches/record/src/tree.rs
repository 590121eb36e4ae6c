//! The call tree: hits in a large tree, in friendly and unfriendly order, and new nodes.

use crate::timing::{line, random, sink};
use heapledger::__private::record::{ROOT, Tree};

const NODES: u32 = 500_000;
const DEPTH: usize = 24;
const BATCH: usize = 2_000_000;

/// A program of so many functions, each of which calls a few others from a few places.
struct Program {
    calls: Vec<Vec<u64>>,
}

impl Program {
    fn new() -> Self {
        let mut state = 88_172_645_463_325_252;
        let calls = (0..4_000_u64)
            .map(|_| {
                (0..1 + random(&mut state) % 6)
                    .map(|_| 0x5555_5560_0000 + random(&mut state) % (8 << 20))
                    .collect()
            })
            .collect();
        Self { calls }
    }

    /// A stack, outermost call first.
    fn stack(&self, state: &mut u64) -> Vec<u64> {
        let mut function = 0;
        (0..DEPTH)
            .map(|depth| {
                let calls = &self.calls[function];
                // Outer calls nearly always take the same way.
                let way = if depth < 8 && !random(state).is_multiple_of(16) {
                    0
                } else {
                    random(state)
                };
                let call = calls[way as usize % calls.len()];
                function = (call as usize >> 2) % self.calls.len();
                call
            })
            .collect()
    }
}

pub fn run(wanted: &str) {
    if !["tree", "child"].iter().any(|part| wanted.contains(part)) && !wanted.is_empty() {
        return;
    }
    let program = Program::new();
    let tree = Tree::new();
    assert!(tree.open(4 << 20) > 0);
    let mut state = 1;
    let mut stacks = Vec::new();
    while tree.len() < NODES {
        let stack = program.stack(&mut state);
        stack
            .iter()
            .fold(ROOT, |node, &call| tree.child(node, call));
        stacks.push(stack);
    }
    eprintln!(
        "tree: {} nodes, {} stacks, {:.1} bytes a node",
        tree.len(),
        stacks.len(),
        tree.bytes() as f64 / f64::from(tree.len())
    );

    // Every (parent, address) pair of the tree, shuffled.
    let mut pairs: Vec<(u32, u64)> = (2..2 + tree.len()).filter_map(|id| tree.node(id)).collect();
    for i in (1..pairs.len()).rev() {
        pairs.swap(i, (random(&mut state) % (i as u64 + 1)) as usize);
    }
    line(
        wanted,
        "tree: hit, any of 500,000 nodes at random",
        BATCH,
        |thread| {
            let from = thread * pairs.len() / 2;
            let mut sum = 0_u32;
            for &(parent, address) in pairs.iter().cycle().skip(from).take(BATCH) {
                sum = sum.wrapping_add(tree.child(parent, address));
            }
            sink(sum);
        },
    );
    line(
        wanted,
        "tree: hit, whole stacks of 24 at random",
        BATCH,
        |thread| {
            let from = thread * stacks.len() / 2;
            let mut sum = 0_u32;
            for stack in stacks.iter().cycle().skip(from).take(BATCH / DEPTH) {
                sum = sum.wrapping_add(
                    stack
                        .iter()
                        .fold(ROOT, |node, &call| tree.child(node, call)),
                );
            }
            sink(sum);
        },
    );
    line(
        wanted,
        "tree: hit, the last 4 calls of stacks at random",
        BATCH,
        |thread| {
            let mut sum = 0_u32;
            let tails: Vec<(u32, [u64; 4])> = stacks
                .iter()
                .map(|stack| {
                    let node = stack[..DEPTH - 4]
                        .iter()
                        .fold(ROOT, |node, &call| tree.child(node, call));
                    (node, [stack[20], stack[21], stack[22], stack[23]])
                })
                .collect();
            let from = thread * tails.len() / 2;
            for (node, calls) in tails.iter().cycle().skip(from).take(BATCH / 4) {
                sum = sum.wrapping_add(
                    calls
                        .iter()
                        .fold(*node, |node, &call| tree.child(node, call)),
                );
            }
            sink(sum);
        },
    );
    line(
        wanted,
        "tree: hit, 500 stacks that stay in the cache",
        BATCH,
        |thread| {
            let mut sum = 0_u32;
            for stack in stacks[thread * 500..thread * 500 + 500]
                .iter()
                .cycle()
                .take(BATCH / DEPTH)
            {
                sum = sum.wrapping_add(
                    stack
                        .iter()
                        .fold(ROOT, |node, &call| tree.child(node, call)),
                );
            }
            sink(sum);
        },
    );
    fresh(wanted, &stacks);
}

/// Filling a tree; what is timed holds hits and misses in the proportion of the program.
fn fresh(wanted: &str, stacks: &[Vec<u64>]) {
    let calls = stacks.len() / 2 * DEPTH;
    let trees: Vec<Tree> = (0..20).map(|_| Tree::new()).collect();
    let next = std::sync::atomic::AtomicUsize::new(0);
    for tree in &trees {
        tree.open(1 << 20);
    }
    line(
        wanted,
        "tree: filling it with 500,000 nodes, a call",
        calls,
        |thread| {
            // One tree for both threads of a run: the second to come takes the same.
            let turn = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let tree = if turn < 7 {
                &trees[turn]
            } else {
                &trees[7 + (turn - 7) / 2 % 13]
            };
            for stack in &stacks[thread * (stacks.len() / 2)..(thread + 1) * (stacks.len() / 2)] {
                sink(
                    stack
                        .iter()
                        .fold(ROOT, |node, &call| tree.child(node, call)),
                );
            }
        },
    );
}
