//! What is met again, and by which way.

use super::{Memory, TURN, Tree, ip, on};
use crate::unwind::registers::Registers;
use crate::unwind::rule::Rule;
use crate::unwind::rules::RULES;
use crate::unwind::stack::{DEPTH, Stack};
use crate::unwind::{Capture, ROOT};

fn plain(by_rbp: bool, bytes: u64, saved: u64) -> Rule {
    Rule::plain(by_rbp, bytes, saved).expect("it fits")
}

fn start(memory: &Memory) -> Registers {
    Registers {
        ip: ip(0),
        sp: memory.address(0),
        bp: 0,
    }
}

/// Bug prevented: a frame that is met again is taken for unchanged although the
/// `rbp` that its step goes by has changed where its new callee has saved it.
#[test]
fn a_met_frame_that_needs_rbp_is_proven_by_where_it_is_saved_now() {
    let _turn = TURN.lock();
    RULES.put(ip(0) - 1, plain(false, 8, 0).owned(true));
    // Hands it on; saves it; goes by it.
    RULES.put(ip(10) - 1, plain(false, 24, 0));
    RULES.put(ip(11) - 1, plain(false, 24, 16));
    RULES.put(ip(12) - 1, plain(true, 16, 16));
    RULES.put(ip(13) - 1, Rule::END);
    RULES.put(ip(14) - 1, Rule::END);
    let mut memory = Memory(vec![0; 12]);
    let (near, far) = (memory.address(5), memory.address(8));
    for (at, word) in [(3, ip(12)), (6, ip(13)), (9, ip(14))] {
        memory.write(at, word);
    }
    let (mut keeping, mut tree) = (on(&memory), Tree::default());
    let mut seen = Vec::new();
    for (leaf, saved) in [(10, near), (11, near), (11, far)] {
        memory.write(0, ip(leaf));
        memory.write(2, saved);
        let start = Registers {
            bp: near,
            ..start(&memory)
        };
        let kept = tree.capture(&mut keeping, start);
        assert_eq!(kept, tree.capture(&mut on(&memory), start));
        seen.push(kept.node);
    }
    seen.dedup();
    assert_eq!(seen.len(), 3);
}

/// Bug prevented: a way is looked for beyond the end of a stack; or the one that is
/// taken stays behind the others.
#[test]
fn the_way_that_is_taken_comes_first_where_the_stack_has_room_for_all() {
    let _turn = TURN.lock();
    for own in 0..4 {
        RULES.put(ip(own) - 1, plain(false, 16, 0).owned(true));
    }
    RULES.put(ip(5) - 1, Rule::END);
    let mut memory = Memory(vec![0; 8]);
    memory.write(3, ip(5));
    let (mut stack, mut tree) = (on(&memory), Tree::default());
    for way in 1..4 {
        memory.write(1, ip(way));
        tree.capture(&mut stack, start(&memory));
    }
    let order = |stack: &Stack| stack.exits.each_ref().map(|exit| exit.ips.first().copied());
    let known = [ip(3), ip(2), ip(1), 0].map(Some);
    assert_eq!(order(&stack), known);
    memory.write(1, ip(1));
    let end = stack.high;
    stack.high = memory.address(0) + stack.exits_reach;
    // SAFETY: the words are a stack, and the registers are at its beginning.
    unsafe { stack.prefer_exit(start(&memory)) };
    assert_eq!(order(&stack), known);
    stack.high = end;
    // SAFETY: as above.
    unsafe { stack.prefer_exit(start(&memory)) };
    assert_eq!(order(&stack), [ip(1), ip(3), ip(2), 0].map(Some));
}

/// Bug prevented: of two memos with one name only the first is ever found.
#[test]
fn two_ways_of_one_leaf_are_both_recalled() {
    let _turn = TURN.lock();
    for own in 0..2 {
        RULES.put(ip(own) - 1, plain(false, 16, 0).owned(true));
    }
    for at in 2..6 {
        RULES.put(ip(at) - 1, plain(false, 8, 0));
    }
    RULES.put(ip(6) - 1, Rule::END);
    let mut memory = Memory(vec![0, ip(1), 0, ip(2), ip(3), ip(5), ip(6)]);
    let (mut stack, mut tree) = (on(&memory), Tree::default());
    let mut late = 0;
    for turn in 0..60 {
        memory.write(4, ip(3 + turn % 2));
        let before = stack.recalled;
        tree.capture(&mut stack, start(&memory));
        late += if turn < 40 {
            0
        } else {
            stack.recalled - before
        };
    }
    assert_eq!(late, 20);
}

/// Bug prevented: a stack as deep as one can be, with two words for each frame, has
/// no room for the last of them, and is walked again each time.
#[test]
fn there_is_room_for_what_proves_the_deepest_stack() {
    let _turn = TURN.lock();
    RULES.put(ip(0) - 1, plain(false, 8, 0).owned(true));
    // Goes by `rbp`, which the one inside of it has saved.
    RULES.put(ip(20) - 1, plain(true, 16, 16));
    let mut memory = Memory(vec![0; 2 * DEPTH + 4]);
    memory.write(0, ip(20));
    for frame in 0..DEPTH {
        let saved = memory.address(3 + 2 * frame as u64);
        memory.write(1 + 2 * frame, saved);
        memory.write(2 + 2 * frame, if frame + 1 < DEPTH { ip(20) } else { 0 });
    }
    let (mut stack, mut tree) = (on(&memory), Tree::default());
    let start = Registers {
        bp: memory.address(1),
        ..start(&memory)
    };
    let whole = tree.capture(&mut stack, start);
    assert_eq!((whole.root, stack.depth()), (ROOT, DEPTH));
    let entered = |stack: &mut Stack, tree: &mut Tree| -> (Capture, usize) {
        let mut fresh = 0;
        let capture = stack.capture_native(start, &mut |parent, ip| {
            fresh += 1;
            tree.child(parent, ip)
        });
        (capture, fresh)
    };
    assert_eq!(entered(&mut stack, &mut tree), (whole, 0));
    // What is kept and what is new lie over each other.
    for kept in [100, 200, 300] {
        let at = 2 * (DEPTH - kept);
        memory.write(at, 0);
        let cut = tree.capture(&mut stack, start);
        assert_eq!(cut, tree.capture(&mut on(&memory), start));
        memory.write(at, ip(20));
        assert_eq!(entered(&mut stack, &mut tree).0, whole);
    }
}
