//! Lines that leave something behind in each part of many runs, on ways of their own.
//!
//! ```text
//!   after the      1st   2nd   3rd   4th   5th   6th   7th   8th eighth
//!   cache.rs:13      2     4     6     8    10    12    14    16   grows
//!   start.rs:20      1     3     3     3     3     3     3     9   does not: two bursts
//! ```
//!
//! A recursion that is one deeper in each run, or handlers that take turns, leave no site that
//! has more than before: each has blocks of its own. Their line has. But what is made once, late,
//! is at some line, too, and one that all of a program calls has several of these. So a line grows
//! when it had more blocks after each eighth than after the one before it, and as many that are
//! new as there were eighths since the middle.

use std::collections::{HashMap, HashSet};

use crate::leaks::steady::Places;
use crate::record::Survivor;

/// How many parts there are.
pub(super) const PARTS: u32 = 8;
/// The same, of places in a list.
const LOOKS: usize = PARTS as usize;

/// How many blocks of each node were alive after each part but the last.
#[derive(Debug, Default)]
pub(super) struct Turns {
    looks: Vec<HashMap<u32, u64>>,
}

impl Turns {
    /// After a part.
    pub(super) fn look(&mut self, survivors: &[Survivor]) {
        self.looks.push(by_node(survivors));
    }

    /// The lines that grew in each part; `now` is what is alive after the last. None when there
    /// were too few runs for so many parts.
    pub(super) fn lines<P: Places>(&self, now: &[Survivor], places: &mut P) -> HashSet<P::Line> {
        let new: Vec<&Survivor> = now.iter().filter(|block| !block.seen).collect();
        // To name them takes long, and most checks leave less.
        if self.looks.len() + 1 != LOOKS || new.len() < LOOKS / 2 {
            return HashSet::new();
        }
        let mut line = |node: u32| {
            let site = places.site(node);
            places.line(site)
        };
        let mut fresh: HashMap<P::Line, u64> = HashMap::new();
        for (node, blocks) in by_node(new) {
            if let Some(line) = line(node) {
                *fresh.entry(line).or_default() += blocks;
            }
        }
        fresh.retain(|_, &mut blocks| blocks >= u64::from(PARTS / 2));
        if fresh.is_empty() {
            return HashSet::new();
        }
        let last = by_node(now);
        let mut sums: HashMap<P::Line, [u64; LOOKS]> = HashMap::new();
        for (part, blocks) in self.looks.iter().chain([&last]).enumerate() {
            for (&node, blocks) in blocks {
                if let Some(line) = line(node).filter(|line| fresh.contains_key(line)) {
                    let parts = sums.entry(line).or_default();
                    parts
                        .iter_mut()
                        .skip(part)
                        .take(1)
                        .for_each(|sum| *sum += blocks);
                }
            }
        }
        let grows = |parts: &[u64; LOOKS]| {
            parts[0] > 0 && parts.windows(2).all(|pair| pair.first() < pair.last())
        };
        let those = sums.into_iter().filter(|(_, parts)| grows(parts));
        those.map(|(line, _)| line).collect()
    }
}

fn by_node<'a>(survivors: impl IntoIterator<Item = &'a Survivor>) -> HashMap<u32, u64> {
    let mut blocks = HashMap::new();
    for survivor in survivors {
        *blocks.entry(survivor.node).or_default() += 1;
    }
    blocks
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::{LOOKS, Survivor, Turns};
    use crate::leaks::steady::tests::{Numbered, at, new};

    /// Which lines have grown when so many blocks were alive after each part, of so many sites;
    /// all of line 1, each at the site of its number.
    fn lines(parts: [usize; LOOKS], sites: usize) -> HashSet<usize> {
        let block = |number: usize, middle: usize| {
            let node = 1_000 + 10 * u32::try_from(number % sites).expect("few");
            let block = if number < middle { at } else { new };
            block(number, node, 64)
        };
        let all = |blocks: usize| -> Vec<Survivor> {
            (0..blocks).map(|number| block(number, parts[3])).collect()
        };
        let mut turns = Turns::default();
        for &blocks in &parts[..LOOKS - 1] {
            turns.look(&all(blocks));
        }
        turns.lines(&all(parts[LOOKS - 1]), &mut Numbered)
    }

    /// Bug prevented: what each run leaves on a way of its own is not seen; or what a line has
    /// made now and then is said to go on.
    #[test]
    fn a_line_grows_when_it_does_in_each_part() {
        for (parts, grows) in [
            ([1, 2, 3, 4, 5, 6, 7, 8], true),
            ([9, 10, 20, 21, 22, 40, 90, 91], true),
            // Not before the second.
            ([0, 2, 3, 4, 5, 6, 7, 8], false),
            ([1, 2, 3, 4, 5, 6, 7, 7], false),
            ([1, 2, 3, 3, 5, 6, 7, 8], false),
            ([1, 2, 3, 2, 5, 6, 7, 8], false),
            // An early burst and a late one.
            ([1, 9, 9, 9, 9, 9, 19, 19], false),
            ([5; LOOKS], false),
            ([0; LOOKS], false),
        ] {
            for sites in [1, 7, 90] {
                assert_eq!(lines(parts, sites).contains(&1), grows, "{parts:?}");
            }
        }
    }

    /// Bug prevented: blocks that are resized at one line after the other make it grow.
    #[test]
    fn what_was_there_in_the_middle_is_nothing_new() {
        let mut all: Vec<Survivor> = (0..8).map(|number| at(number, 1_000, 64)).collect();
        let mut turns = Turns::default();
        (1..8).for_each(|blocks| turns.look(&all[..blocks]));
        for (number, grows) in [(7, false), (6, false), (5, false), (4, true)] {
            all[number] = new(number, 1_000, 64);
            let lines = turns.lines(&all, &mut Numbered);
            assert_eq!(lines.contains(&1), grows, "{number}");
        }
    }

    /// Bug prevented: where the user has no line, all that has none is taken for one.
    #[test]
    fn what_has_no_line_grows_at_none() {
        let all: Vec<Survivor> = (0..8)
            .map(|number: u32| new(number as usize, 10 * number, 64))
            .collect();
        let mut turns = Turns::default();
        (1..8).for_each(|blocks| turns.look(&all[..blocks]));
        assert!(turns.lines(&all, &mut Numbered).is_empty());
    }

    /// Bug prevented: with fewer runs than parts, a part is taken for all.
    #[test]
    fn too_few_parts_show_nothing() {
        let all: Vec<Survivor> = (0..8).map(|number| new(number, 1_000, 64)).collect();
        let mut turns = Turns::default();
        for blocks in 1..7 {
            turns.look(&all[..blocks]);
            assert!(turns.lines(&all, &mut Numbered).is_empty());
        }
        turns.look(&all[..7]);
        assert_eq!(turns.lines(&all, &mut Numbered).len(), 1);
    }
}
