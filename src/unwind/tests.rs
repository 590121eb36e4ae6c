//! Walks over made-up stacks: what is kept must never show.

use std::collections::HashMap;

use crate::unwind::registers::Registers;
use crate::unwind::rule::Rule;
use crate::unwind::rules::RULES;
use crate::unwind::stack::{DEEP_START, DEPTH, Names, Stack};
use crate::unwind::{Capture, DEEP, FOREIGN, ROOT, UNKNOWN};

mod met;

/// Return addresses that no program has. The first few are the allocator's.
const IPS: u64 = 60;
const OWN: u64 = 6;
/// Memories that the long tests make up; a few where each takes ten times as long.
const ROUNDS: usize = if cfg!(debug_assertions) { 600 } else { 4_000 };
const FIRST_IP: u64 = 0x1_0001;

/// Who puts rules for these addresses: they are for all threads.
static TURN: parking_lot::Mutex<()> = parking_lot::Mutex::new(());

/// Numbers that look random, the same each time.
pub(super) struct Dice(pub(super) u64);

impl Dice {
    pub(super) fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) % sides
    }

    fn one_in(&mut self, sides: u64) -> bool {
        self.roll(sides) == 0
    }
}

fn ip(number: u64) -> u64 {
    FIRST_IP + number * 16
}

fn add_rules(dice: &mut Dice) {
    for number in 0..IPS {
        let rule = match dice.roll(12) {
            0 => Rule::aligned(8 * (1 + dice.roll(2))),
            1 => Some(Rule::END),
            2..=4 => Rule::plain(true, 16, 16),
            5..=7 => Rule::plain(false, 8 * (2 + dice.roll(3)), 16),
            _ => Rule::plain(false, 8 * (1 + dice.roll(4)), 0),
        };
        let is_own = number < OWN;
        let rule = if is_own && !dice.one_in(3) {
            Rule::plain(false, 8 * (2 + dice.roll(2)), 16 * dice.roll(2))
        } else {
            rule
        };
        RULES.put(ip(number) - 1, rule.expect("it fits").owned(is_own));
    }
}

/// A stack of words: return addresses, saved frame pointers, and other things.
struct Memory(Vec<u64>);

impl Memory {
    fn address(&self, index: u64) -> u64 {
        (self.0.as_ptr().expose_provenance() as u64) + index * 8
    }

    fn word(&self, index: u64, dice: &mut Dice) -> u64 {
        match dice.roll(16) {
            0 => dice.roll(3),
            1..=5 => self.address(index + 1 + dice.roll(6)),
            _ => ip(dice.roll(IPS)),
        }
    }

    fn change(&mut self, dice: &mut Dice) {
        let index = dice.roll(self.0.len() as u64 - 8);
        let word = self.word(index, dice);
        self.write(usize::try_from(index).expect("small"), word);
    }

    fn write(&mut self, index: usize, word: u64) {
        let place = self.0.get_mut(index).expect("inside");
        // Through a volatile write, because the walk reads it behind the compiler's back.
        // SAFETY: a place in the vector.
        unsafe { core::ptr::from_mut(place).write_volatile(word) };
    }
}

#[derive(Default)]
struct Tree(HashMap<(u32, u64), u32>);

impl Tree {
    fn child(&mut self, parent: u32, ip: u64) -> u32 {
        let next = u32::try_from(self.0.len()).expect("small") + 4;
        *self.0.entry((parent, ip)).or_insert(next)
    }

    fn capture(&mut self, stack: &mut Stack, start: Registers) -> Capture {
        stack.capture_native(start, &mut |parent, ip| self.child(parent, ip))
    }
}

fn on(memory: &Memory) -> Box<Stack> {
    let mut stack = Box::new(Stack::new());
    // As when the bounds were asked for.
    stack.asked = 1;
    stack.forget();
    // There is always room enough, so that each rule can be looked for.
    stack.low = memory.address(0) - (1 << 20);
    stack.high = memory.address(memory.0.len() as u64);
    stack
}

/// Bug prevented: a kept frame is met though a word that had led to it, or past
/// it, has changed: a return address, a saved `rbp`, the register itself.
#[test]
fn a_walk_that_meets_kept_frames_finds_what_a_walk_from_scratch_finds() {
    let _turn = TURN.lock();
    let mut dice = Dice(0x1234_5678_9ABC_DEF1);
    let (mut whole, mut frames, mut fresh) = (0, 0, 0);
    for _ in 0..ROUNDS {
        add_rules(&mut dice);
        let mut memory = Memory(vec![0; 64]);
        for _ in 0..400 {
            memory.change(&mut dice);
        }
        let (mut keeping, mut forgetful) = (on(&memory), on(&memory));
        let mut tree = Tree::default();
        let mut start = Registers {
            ip: ip(0),
            sp: memory.address(0),
            bp: 0,
        };
        for _ in 0..400 {
            if dice.one_in(3) {
                start.sp = memory.address(dice.roll(8));
            }
            if dice.one_in(3) {
                start.bp = memory.address(dice.roll(16));
            }
            if dice.one_in(4) {
                start.ip = ip(dice.roll(OWN));
            }
            for _ in 0..dice.roll(3) {
                memory.change(&mut dice);
            }
            let mut count = 0;
            let kept = keeping.capture_native(start, &mut |parent, ip| {
                count += 1;
                tree.child(parent, ip)
            });
            forgetful.forget();
            (forgetful.exits, forgetful.exits_reach) = (Stack::new().exits, 0);
            let scratch = tree.capture(&mut forgetful, start);
            assert_eq!(kept, scratch, "{start:x?} {:x?}", memory.0);
            assert_eq!(keeping.depth(), forgetful.depth());
            whole += u64::from(kept.is_whole());
            frames += forgetful.depth();
            fresh += count;
        }
    }
    // It is about frames that are kept, and stacks that lead somewhere.
    assert!(whole > ROUNDS as u64 * 22, "{whole}");
    assert!(fresh < frames * 2 / 3, "{fresh} of {frames}");
}

/// Bug prevented: a memo of a site leads on though a word that had decided it has
/// changed, or though the frames that it leads to are others.
#[test]
fn a_memo_finds_what_a_walk_from_scratch_finds() {
    let _turn = TURN.lock();
    let mut dice = Dice(0x2718_2818_2845_9045);
    // By the way out of the allocator: at fixed distances, and by `rbp`.
    // Of each, rounds in which it is remembered, and others.
    let (mut recalled, mut captures) = ([0; 4], 0);
    for round in 0..ROUNDS {
        add_rules(&mut dice);
        // A short way out of the allocator, and then some call. With frame pointers, the second
        // function has pushed `rbp` and pointed it there.
        let by_rbp = round % 2 == 1;
        let second = if by_rbp { 16 } else { 0 };
        for (own, uses_rbp, saved) in [(0, false, 0), (1, by_rbp, second)] {
            let rule = Rule::plain(uses_rbp, 16, saved).expect("it fits");
            RULES.put(ip(own) - 1, rule.owned(true));
        }
        let mut memory = Memory(vec![0; 64]);
        for _ in 0..400 {
            memory.change(&mut dice);
        }
        // A few sites that take turns: the inner part of the stack is one of these.
        let mut sites = Vec::new();
        for _ in 0..4 {
            let depth = 4 + dice.roll(24);
            for _ in 0..depth {
                memory.change(&mut dice);
            }
            let bp = if by_rbp { 2 } else { dice.roll(16) };
            let bp = memory.address(bp);
            let words = memory.0.get(..usize::try_from(depth).expect("small"));
            let mut words = words.expect("inside").to_vec();
            if let [_, own, saved, call, ..] = words.as_mut_slice() {
                (*own, *call) = (ip(1), ip(OWN + dice.roll(IPS - OWN)));
                if by_rbp {
                    *saved = memory.address(4 + dice.roll(12));
                }
            }
            sites.push((words, bp));
        }
        let (mut keeping, mut forgetful) = (on(&memory), on(&memory));
        let mut tree = Tree::default();
        for _ in 0..400 {
            let site = usize::try_from(dice.roll(4)).expect("small");
            let (words, bp) = sites.get_mut(site).expect("there are four");
            if dice.one_in(8) {
                *bp = memory.address(dice.roll(16));
            }
            if let [_, _, saved, ..] = words.as_mut_slice()
                && by_rbp
                && dice.one_in(8)
            {
                *saved = memory.address(2 + dice.roll(14));
            }
            if dice.one_in(8) {
                let index = dice.roll(words.len() as u64);
                let word = memory.word(index, &mut dice);
                *words
                    .get_mut(usize::try_from(index).expect("small"))
                    .expect("inside") = word;
            }
            let (words, bp) = (words.clone(), *bp);
            for (index, word) in words.into_iter().enumerate() {
                memory.write(index, word);
            }
            if dice.one_in(8) {
                memory.change(&mut dice);
            }
            let start = Registers {
                ip: ip(0),
                sp: memory.address(0),
                bp,
            };
            if round % 4 > 1 {
                // Now it is gone step by step.
                (keeping.exits, keeping.exits_reach) = (Stack::new().exits, 0);
            }
            let kept = tree.capture(&mut keeping, start);
            forgetful.forget();
            (forgetful.exits, forgetful.exits_reach) = (Stack::new().exits, 0);
            let scratch = tree.capture(&mut forgetful, start);
            assert_eq!(kept, scratch, "{start:x?} {:x?}", memory.0);
            assert_eq!(keeping.depth(), forgetful.depth());
            captures += 1;
        }
        recalled[round % 4] += keeping.recalled;
        assert_eq!(forgetful.recalled, 0);
    }
    assert!(
        recalled.iter().all(|&ways| ways > captures / 800),
        "{recalled:?} of {captures}"
    );
}

/// Bug prevented: a leaf that was found by what a signal had left behind has the
/// address and place of one that a call has left there, and not its stack; it is
/// taken for that one.
#[test]
fn a_memo_of_a_call_is_not_taken_for_a_signal_s_frame() {
    let _turn = TURN.lock();
    let plain = |bytes: u64| Rule::plain(false, bytes, 0).expect("it fits");
    RULES.put(ip(0) - 1, plain(16).owned(true));
    RULES.put(ip(1) - 1, Rule::SIGNAL.owned(true));
    RULES.put(ip(2) - 1, plain(22 * 8).owned(true));
    RULES.put(ip(10) - 1, plain(16));
    for at in 11..14 {
        RULES.put(ip(at) - 1, plain(8));
    }
    RULES.put(ip(14) - 1, Rule::END);
    let mut memory = Memory(vec![0; 40]);
    for at in 24..40 {
        memory.write(at, ip(if at % 2 == 0 { 11 } else { 12 }));
    }
    memory.write(35, ip(14));
    // The stack pointer that the signal has saved.
    let interrupted = memory.address(26);
    memory.write(22, interrupted);
    let mut keeping = on(&memory);
    let mut tree = Tree::default();
    for turn in 0..40 {
        // Two calls by turns, so that their ways are remembered; at last the signal.
        let (own, leaf) = match turn {
            39 => (ip(1), ip(10) - 1),
            _ if turn % 2 == 0 => (ip(2), ip(10)),
            _ => (ip(2), ip(13)),
        };
        memory.write(1, own);
        memory.write(23, leaf);
        let start = Registers {
            ip: ip(0),
            sp: memory.address(0),
            bp: 0,
        };
        let kept = tree.capture(&mut keeping, start);
        let mut forgetful = on(&memory);
        assert_eq!(kept, tree.capture(&mut forgetful, start), "{turn}");
        assert_eq!(keeping.depth(), forgetful.depth());
    }
    assert!(keeping.recalled > 0);
}

/// Bug prevented: a memo of a thread's is good again for one that has the same
/// slot four thousand million eras later, and is compared with what lies beyond
/// the end of that one's stack.
#[test]
fn a_memo_is_never_of_an_era_that_comes_again() {
    let _turn = TURN.lock();
    let own = Rule::plain(false, 16, 0).expect("it fits");
    let call = Rule::plain(false, 8, 0).expect("it fits");
    RULES.put(ip(0) - 1, own.owned(true));
    RULES.put(ip(1) - 1, own.owned(true));
    RULES.put(ip(2) - 1, call);
    RULES.put(ip(3) - 1, call);
    RULES.put(ip(4) - 1, Rule::END);
    // Two sites that take turns, on the same trunk.
    let sites = [ip(2), ip(3)].map(|site| Memory(vec![0, ip(1), 0, site, ip(3), ip(2), ip(4)]));
    let mut memory = Memory(vec![0; 7]);
    let mut stack = on(&memory);
    let mut tree = Tree::default();
    let mut capture = |stack: &mut Stack, turn: usize| {
        let site = sites.get(turn % 2).expect("two");
        for (index, &word) in site.0.iter().enumerate() {
            memory.write(index, word);
        }
        let start = Registers {
            ip: ip(0),
            sp: memory.address(0),
            bp: 0,
        };
        tree.capture(stack, start);
    };
    let first = stack.era;
    (0..20).for_each(|turn| capture(&mut stack, turn));
    assert!(stack.recalled > 0);
    let good = |stack: &Stack| {
        let memos = stack.memos.iter().flatten();
        memos.filter(|memo| memo.era == stack.era).count()
    };
    assert!(good(&stack) > 0);
    stack.era = u32::MAX;
    while stack.era != first {
        stack.forget();
        assert_eq!(good(&stack), 0, "in era {}", stack.era);
    }
}

/// A stack of equal frames of one word, the last of which is the end.
fn recursion(depth: u64) -> Memory {
    RULES.put(ip(100) - 1, Rule::plain(false, 8, 0).expect("it fits"));
    RULES.put(ip(101) - 1, Rule::END);
    let mut words = vec![ip(100); usize::try_from(depth).expect("small")];
    words.push(ip(101));
    Memory(words)
}

/// The path of the node, and what is above it.
fn path(tree: &Tree, mut node: u32) -> (Vec<u64>, u32) {
    let up: HashMap<u32, (u32, u64)> = tree.0.iter().map(|(&up, &node)| (node, up)).collect();
    let mut ips = Vec::new();
    while let Some(&(parent, ip)) = up.get(&node) {
        ips.push(ip);
        node = parent;
    }
    (ips, node)
}

#[test]
fn a_stack_is_whole_up_to_its_limit_and_cut_beyond_it() {
    for (depth, root, frames) in [
        (DEPTH as u64 - 1, ROOT, DEPTH),
        (DEPTH as u64, DEEP, DEEP_START),
        (3 * DEPTH as u64, DEEP, DEEP_START),
    ] {
        let memory = recursion(depth);
        let mut stack = on(&memory);
        let mut tree = Tree::default();
        let start = Registers {
            ip: ip(100),
            sp: memory.address(0) - 8,
            bp: 0,
        };
        // The first step reads the word at `sp`.
        let start = Registers {
            sp: start.sp + 8,
            ..start
        };
        let capture = tree.capture(&mut stack, start);
        assert_eq!(capture.root, root, "{depth}");
        assert_eq!(stack.depth(), frames, "{depth}");
        let (ips, above) = path(&tree, capture.node);
        assert_eq!((ips.len(), above), (frames, root));
        assert_eq!(ips.first(), Some(&ip(100)));
    }
}

/// Bug prevented: an endless walk, or one into another stack, on a fiber.
#[test]
fn nothing_is_read_outside_the_bounds() {
    let memory = recursion(100);
    let mut stack = on(&memory);
    let mut tree = Tree::default();
    let mut root_from = |sp: u64| {
        let start = Registers {
            ip: ip(100),
            sp,
            bp: 0,
        };
        tree.capture(&mut stack, start).root
    };
    assert_eq!(root_from(memory.address(0)), ROOT);
    assert_eq!(root_from(memory.address(101)), FOREIGN);
    assert_eq!(root_from(memory.address(0) + 4), FOREIGN);
    assert_eq!(root_from(0), FOREIGN);
    // Without its end, the stack ends where the bounds do.
    stack.high = memory.address(60);
    stack.forget();
    let mut count = 0;
    let start = Registers {
        ip: ip(100),
        sp: memory.address(0),
        bp: 0,
    };
    let capture = stack.capture_native(start, &mut |_, _| {
        count += 1;
        9
    });
    assert_eq!((capture.root, count), (UNKNOWN, 60));
}

/// Bug prevented: frame pointers that lead back down make a loop.
#[test]
fn a_frame_pointer_that_leads_down_ends_the_walk() {
    RULES.put(ip(110) - 1, Rule::plain(true, 16, 16).expect("it fits"));
    let mut memory = Memory(vec![ip(110); 32]);
    let (at, back) = (memory.address(8), memory.address(4));
    if let Some(place) = memory.0.get_mut(8) {
        *place = back;
    }
    let mut stack = on(&memory);
    let start = Registers {
        ip: ip(110),
        sp: memory.address(0),
        bp: at,
    };
    let capture = Tree::default().capture(&mut stack, start);
    assert_eq!((capture.root, stack.depth()), (UNKNOWN, 1));
}

/// Bug prevented: too little stack to read unwind tables ends in a fault, not in a flag.
#[test]
fn without_room_to_work_out_a_rule_the_stack_ends_flagged_and_is_not_kept() {
    let memory = recursion(5);
    let mut stack = on(&memory);
    stack.low = memory.address(0);
    let mut tree = Tree::default();
    let start = Registers {
        ip: ip(100),
        sp: memory.address(0),
        bp: 0,
    };
    assert_eq!(tree.capture(&mut stack, start).root, ROOT);
    // An address inside this very program, whose rule nobody has asked for.
    let mut memory = memory;
    if let Some(place) = memory.0.get_mut(3) {
        *place = (add_rules as fn(&mut Dice) as usize as u64) + 3;
    }
    assert_eq!(tree.capture(&mut stack, start).root, UNKNOWN);
    assert_eq!(stack.depth(), 0);
}

/// Bug prevented: a remembered way out is never taken, which only costs time; or it
/// is looked for beyond the end of the stack, which belongs to somebody else.
#[test]
fn a_remembered_way_out_is_taken_where_the_stack_has_room_for_it_and_not_else() {
    let _turn = TURN.lock();
    let plain = |bytes: u64| Rule::plain(false, bytes, 0).expect("it fits");
    RULES.put(ip(0) - 1, plain(16).owned(true));
    RULES.put(ip(1) - 1, plain(16).owned(true));
    RULES.put(ip(2) - 1, plain(8));
    RULES.put(ip(4) - 1, Rule::END);
    // Twice the same, and the second time the stack ends before the caller's return address.
    let way = [0, ip(1), 0, ip(2), ip(4), 0];
    let memory = Memory([way, way].concat());
    let mut stack = on(&memory);
    let mut tree = Tree::default();
    let start = |index| Registers {
        ip: ip(0),
        sp: memory.address(index),
        bp: 0,
    };
    // SAFETY: registers as if at a place in the vector, which is all of the stack.
    let taken = |stack: &Stack, index| unsafe { stack.take_exit(start(index)) }.map(|f| f.slot);
    assert_eq!(taken(&stack, 0), None);
    assert!(tree.capture(&mut stack, start(0)).is_whole());
    assert_eq!(taken(&stack, 0), Some(memory.address(3)));
    stack.pass_on();
    (stack.asked, stack.low) = (1, memory.address(0) - (1 << 20));
    for (end, expected) in [(9, None), (10, None), (12, Some(memory.address(9)))] {
        stack.high = memory.address(end);
        assert_eq!(taken(&stack, 6), expected, "{end}");
    }
}

/// Bug prevented: a way out that goes by frame pointers is taken again although
/// one of them points elsewhere now.
#[test]
fn a_way_out_by_frame_pointers_is_taken_while_they_point_where_they_did() {
    let _turn = TURN.lock();
    let by_rbp = Rule::plain(true, 16, 16).expect("it fits");
    RULES.put(ip(0) - 1, by_rbp.owned(true));
    RULES.put(ip(1) - 1, by_rbp.owned(true));
    RULES.put(ip(2) - 1, Rule::END);
    let mut memory = Memory(vec![0; 12]);
    let second = memory.address(4);
    // Saved `rbp` and return address, of one function and the next; another pair further up.
    for (at, word) in [(1, second), (2, ip(1)), (5, ip(2)), (8, ip(2))] {
        memory.write(at, word);
    }
    let mut stack = on(&memory);
    let start = |memory: &Memory, bp| Registers {
        ip: ip(0),
        sp: memory.address(0),
        bp: memory.address(bp),
    };
    // SAFETY: registers as if at a place in the vector, which is all of the stack.
    let taken = |stack: &Stack, start| unsafe { stack.take_exit(start) }.map(|f| (f.slot, f.ip));
    let mut tree = Tree::default();
    assert!(tree.capture(&mut stack, start(&memory, 1)).is_whole());
    let caller = Some((memory.address(5), ip(2)));
    assert_eq!(taken(&stack, start(&memory, 1)), caller);
    assert_eq!(taken(&stack, start(&memory, 3)), None);
    let third = memory.address(7);
    memory.write(1, third);
    assert_eq!(taken(&stack, start(&memory, 1)), None);
    // Found step by step, and then remembered, too.
    assert!(tree.capture(&mut stack, start(&memory, 1)).is_whole());
    let caller = Some((memory.address(8), ip(2)));
    assert_eq!(taken(&stack, start(&memory, 1)), caller);
    // In place of the other, which would never be looked at again.
    let remembered = stack.exits.iter().filter(|exit| exit.start != 0);
    assert_eq!(remembered.count(), 1);
}

/// Bug prevented: a memo is looked for under the name of its neighbour.
#[test]
fn each_memo_of_a_set_is_found_by_its_name() {
    for of in 0..256_u32 {
        let of = [0, 2, 4, 6].map(|shift| 0xffff_fff0 + (of >> shift & 3));
        let names = Names { of, ..Names::NONE };
        for name in 0xffff_ffef..0xffff_fff5 {
            let mask = |(at, one): (usize, &u32)| u32::from(*one == name) << at;
            let one_by_one: u32 = of.iter().enumerate().map(mask).sum();
            assert_eq!(names.those_named(name), one_by_one);
        }
    }
}
