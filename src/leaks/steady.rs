//! What has grown between the middle of many runs and their end.
//!
//! ```text
//!   in the middle    A: 100, 400    B: 64
//!   at the end       A: 100 ───┐    B: -       C: 128, moved; 32, new
//!                    as it was ┘        gone ────────┘
//! ```
//!
//! Sites are compared. A block that is at another one because it was resized there is not
//! compared there, but with what is gone where nothing has come for it. Which of that it
//! was, nobody knows, so the largest is taken: what is reported as growth is.
//!
//! Where no site grows, a line may: each run comes there on a way of its own. Its blocks are
//! counted after each eighth of the runs ([`Turns`]).

use core::cmp::{Ordering, Reverse};
use core::hash::Hash;
use std::collections::{HashMap, HashSet};

use crate::leaks::report::Growth;
use crate::leaks::turns::Turns;
use crate::record::Survivor;

/// Where the nodes of the tree of calls are.
pub(super) trait Places {
    /// A line of the user's own code.
    type Line: Eq + Hash;

    /// The number of a node's site, which is that of all nodes that look the same.
    fn site(&mut self, node: u32) -> usize;

    /// Which of two sites comes first where all else is the same.
    fn order(&self, one: usize, other: usize) -> Ordering;

    /// The innermost line of the user's own code in a site's stack.
    fn line(&self, site: usize) -> Option<Self::Line>;
}

/// What was alive before the end.
#[derive(Debug, Default)]
pub(super) struct Past {
    /// In the middle, once it is over.
    pub(super) half: Option<Half>,
    /// After each part of the runs.
    pub(super) turns: Turns,
}

impl Past {
    /// What has grown until `now`, in the last so many runs.
    pub(super) fn growth(&self, now: &[Survivor], runs: u32, places: &mut impl Places) -> Grown {
        let Some(half) = &self.half else {
            return Grown::default();
        };
        let lines = self.turns.lines(now, places);
        half.growth(now, runs, &lines, places)
    }
}

/// What was alive in the middle.
#[derive(Debug)]
pub(super) struct Half {
    blocks: Vec<Survivor>,
}

/// The blocks of one site, then and now.
#[derive(Debug, Default)]
struct Site {
    /// Those of the middle.
    before: Sum,
    /// The sizes of those of them that are not as they were, the largest first.
    gone: Vec<u64>,
    /// Those that are as they were, or new.
    own: Sum,
    /// Those that are new.
    new: Sum,
    /// The sizes of those that have been resized since, the smallest first.
    resized: Vec<u64>,
}

/// Blocks and their bytes.
#[derive(Clone, Copy, Debug, Default)]
struct Sum {
    blocks: u64,
    bytes: u64,
}

impl Sum {
    fn add(&mut self, size: u64) {
        self.blocks += 1;
        self.bytes += size;
    }
}

impl Site {
    /// Takes back those resized blocks that have a place here, where as many are gone.
    /// Gives the others' sizes.
    fn settle(&mut self) -> Vec<u64> {
        let places = self.places().min(self.resized.len());
        let others = self.resized.split_off(places);
        self.resized.iter().for_each(|&size| self.own.add(size));
        others
    }

    /// How many are gone without another having come.
    fn places(&self) -> usize {
        let places = self.before.blocks.saturating_sub(self.own.blocks);
        usize::try_from(places).unwrap_or(usize::MAX)
    }

    /// What there is more than before; `None` if that is nothing, or there was nothing.
    fn growth(&self) -> Option<Sum> {
        let (before, own) = (self.before, self.own);
        // Either: larger buffers may have taken the place of more, smaller ones.
        let has_grown = before.blocks < own.blocks || before.bytes < own.bytes;
        (before.blocks > 0 && has_grown).then(|| Sum {
            blocks: own.blocks.saturating_sub(before.blocks),
            bytes: own.bytes.saturating_sub(before.bytes),
        })
    }
}

impl Half {
    pub(super) fn new(blocks: Vec<Survivor>) -> Self {
        Self { blocks }
    }

    /// What has grown until `now`, in the last so many runs; `lines` have, whoever called them.
    fn growth<P: Places>(
        &self,
        now: &[Survivor],
        runs: u32,
        lines: &HashSet<P::Line>,
        places: &mut P,
    ) -> Grown {
        let nodes = self.nodes(now);
        // To name them takes long, and most checks pass.
        if lines.is_empty() && nodes.values().all(Site::is_steady) {
            return Grown::default();
        }
        let (site_of, names, mut sites) = merged(nodes, places);
        let mut homeless = Vec::new();
        let mut grown = Vec::with_capacity(sites.len());
        for (index, site) in sites.iter_mut().enumerate() {
            homeless.extend(site.settle().into_iter().map(|size| (size, index)));
            grown.push(site.growth());
        }
        let by_name = |one: usize, other: usize| match (names.get(one), names.get(other)) {
            (Some(&one), Some(&other)) => places.order(one, other),
            _ => Ordering::Equal,
        };
        homeless.sort_unstable_by(|&(size, one), &(other_size, other)| {
            other_size.cmp(&size).then_with(|| by_name(one, other))
        });
        for (index, bytes) in grown_elsewhere(&homeless, &sites) {
            if let Some(place) = grown.get_mut(index) {
                place.get_or_insert_default().bytes += bytes;
            }
        }
        if !lines.is_empty() {
            let of_lines = grown.iter_mut().zip(&sites).zip(&names);
            for ((grown, site), &name) in of_lines {
                // What had some before has only been replaced.
                if grown.is_none() && site.before.blocks == 0 && site.new.blocks > 0 {
                    let line = places.line(name).filter(|line| lines.contains(line));
                    *grown = line.map(|_| site.new);
                }
            }
        }
        let in_runs = |Sum { blocks, bytes }| Growth {
            blocks,
            bytes,
            runs,
        };
        let growth = grown.into_iter().map(|sum| sum.map(in_runs)).collect();
        Grown { site_of, growth }
    }

    /// The blocks by node.
    fn nodes(&self, now: &[Survivor]) -> HashMap<u32, Site> {
        let key = |block: &Survivor| (block.block, block.node, block.size);
        let before: HashSet<_> = self.blocks.iter().map(key).collect();
        let seen = now.iter().filter(|block| block.seen);
        let as_before: HashSet<_> = seen
            .map(key)
            .filter(|block| before.contains(block))
            .collect();
        let mut nodes: HashMap<u32, Site> = HashMap::new();
        for block in &self.blocks {
            let site = nodes.entry(block.node).or_default();
            site.before.add(block.size);
            if !as_before.contains(&key(block)) {
                site.gone.push(block.size);
            }
        }
        for block in now {
            let site = nodes.entry(block.node).or_default();
            if block.seen && !as_before.contains(&key(block)) {
                site.resized.push(block.size);
            } else {
                site.own.add(block.size);
            }
            if !block.seen {
                site.new.add(block.size);
            }
        }
        nodes
    }
}

/// Where there is growth.
#[derive(Debug, Default)]
pub(super) struct Grown {
    site_of: HashMap<u32, usize>,
    growth: Vec<Option<Growth>>,
}

impl Grown {
    /// That of the node's site, for the first of its nodes; for the others there is none left.
    /// `None` where nothing has grown.
    pub(super) fn take(&mut self, node: u32) -> Option<Growth> {
        let site = self.site_of.get(&node)?;
        self.growth.get_mut(*site)?.as_mut().map(Growth::take)
    }
}

/// Of each node which of the sites it is at, what these are called, and what is there: nodes are
/// one site when they look the same, as one that asks for a block and one that makes it larger.
fn merged(
    nodes: HashMap<u32, Site>,
    places: &mut impl Places,
) -> (HashMap<u32, usize>, Vec<usize>, Vec<Site>) {
    let mut known: HashMap<usize, usize> = HashMap::new();
    let (mut site_of, mut names, mut sites) = (HashMap::new(), Vec::new(), Vec::new());
    for (node, part) in nodes {
        let name = places.site(node);
        let index = *known.entry(name).or_insert_with(|| {
            sites.push(Site::default());
            names.push(name);
            sites.len() - 1
        });
        site_of.insert(node, index);
        if let Some(site) = sites.get_mut(index) {
            site.merge(part);
        }
    }
    for site in &mut sites {
        site.gone.sort_unstable_by_key(|&size| Reverse(size));
        site.resized.sort_unstable();
    }
    (site_of, names, sites)
}

impl Site {
    /// Whether nothing can have grown, here or elsewhere, by what is here.
    fn is_steady(&self) -> bool {
        let (before, own) = (self.before, self.own);
        self.resized.is_empty() && own.blocks <= before.blocks && own.bytes <= before.bytes
    }

    fn merge(&mut self, part: Self) {
        for (sum, more) in [
            (&mut self.before, part.before),
            (&mut self.own, part.own),
            (&mut self.new, part.new),
        ] {
            sum.blocks += more.blocks;
            sum.bytes += more.bytes;
        }
        self.gone.extend(part.gone);
        self.resized.extend(part.resized);
    }
}

/// By how much blocks have grown, all together, that were resized where they have no place;
/// the first are said to have grown most.
fn grown_elsewhere(homeless: &[(u64, usize)], sites: &[Site]) -> Vec<(usize, u64)> {
    let (mut missed, mut replaced) = (Vec::new(), Vec::new());
    for site in sites {
        let (most, others) = site.gone.split_at(site.places().min(site.gone.len()));
        missed.extend_from_slice(most);
        replaced.extend_from_slice(others);
    }
    for sizes in [&mut missed, &mut replaced] {
        sizes.sort_unstable_by_key(|&size| Reverse(size));
    }
    let were = missed.iter().chain(&replaced).take(homeless.len());
    let before: u64 = were.sum();
    let now: u64 = homeless.iter().map(|(size, _)| size).sum();
    let mut growth = now.saturating_sub(before);
    let mut shares = Vec::new();
    for &(size, site) in homeless {
        let bytes = growth.min(size);
        if bytes == 0 {
            break;
        }
        growth -= bytes;
        shares.push((site, bytes));
    }
    shares
}

#[cfg(test)]
pub(super) mod tests {
    use core::cmp::Ordering;
    use std::collections::{BTreeMap, BTreeSet};

    use super::{Half, Past, Places, Survivor, Turns};

    /// Nodes 10 to 19 are one site, and so on; sites 100 to 199 one line.
    pub(in crate::leaks) struct Numbered;

    impl Places for Numbered {
        type Line = usize;

        fn site(&mut self, node: u32) -> usize {
            node as usize / 10
        }

        fn order(&self, one: usize, other: usize) -> Ordering {
            one.cmp(&other)
        }

        fn line(&self, site: usize) -> Option<usize> {
            Some(site / 100).filter(|&line| line > 0)
        }
    }

    /// A block of this size at this place, born at a site or last resized there.
    pub(in crate::leaks) fn at(block: usize, node: u32, size: u64) -> Survivor {
        Survivor {
            node,
            size,
            age_ms: 0,
            block,
            seen: true,
        }
    }

    /// One that is younger than the middle.
    pub(in crate::leaks) fn new(block: usize, node: u32, size: u64) -> Survivor {
        Survivor {
            seen: false,
            ..at(block, node, size)
        }
    }

    /// Site, blocks and bytes of what has grown.
    fn grown(before: &[Survivor], now: &[Survivor]) -> Vec<(u32, u64, u64)> {
        let half = Some(Half::new(before.to_vec()));
        let turns = Turns::default();
        grown_since(&Past { half, turns }, now)
    }

    fn grown_since(past: &Past, now: &[Survivor]) -> Vec<(u32, u64, u64)> {
        let mut grown = past.growth(now, 5, &mut Numbered);
        let nodes: BTreeSet<u32> = now.iter().map(|block| block.node).collect();
        let mut sites: BTreeMap<u32, (u64, u64)> = BTreeMap::new();
        for node in nodes {
            if let Some(growth) = grown.take(node) {
                assert_eq!(growth.runs, 5);
                let (blocks, bytes) = sites.entry(node / 10).or_default();
                *blocks += growth.blocks;
                *bytes += growth.bytes;
            }
        }
        let flat = |(site, (blocks, bytes))| (site, blocks, bytes);
        sites.into_iter().map(flat).collect()
    }

    /// Bug prevented: a block that was resized away is not missed where it was.
    #[test]
    fn what_was_resized_elsewhere_is_compared_with_what_is_gone() {
        let before = [at(1, 10, 64), at(2, 20, 500)];
        assert_eq!(
            grown(&before, &[at(1, 30, 100), at(2, 20, 500)]),
            [(3, 0, 36)]
        );
        assert_eq!(grown(&before, &[at(1, 30, 64), at(2, 20, 500)]), []);
        // A new block has come where the other one was.
        assert_eq!(
            grown(&before, &[at(1, 30, 100), new(3, 20, 500)]),
            [(3, 0, 36)]
        );
        // It may have been the other one.
        assert_eq!(grown(&before, &[at(1, 30, 100)]), []);
        // But not both of them.
        let now = [at(1, 30, 100), at(2, 40, 700)];
        assert_eq!(grown(&before, &now), [(4, 0, 236)]);
    }

    /// Bug prevented: what is replaced where as many come is taken for what was resized, as
    /// long as something is missed elsewhere.
    #[test]
    fn what_is_missed_goes_before_what_is_replaced() {
        let before = [at(1, 10, 64), at(2, 20, 500)];
        let now = [at(9, 30, 100), new(2, 20, 500)];
        assert_eq!(grown(&before, &now), [(3, 0, 36)]);
        // All sites have as many as before, so it has come to them.
        let now = [at(9, 30, 700), new(2, 20, 500), new(1, 10, 64)];
        assert_eq!(grown(&before, &now), [(3, 0, 200)]);
    }

    /// Bug prevented: a block at its old site is a stranger there.
    #[test]
    fn what_was_resized_where_it_was_is_of_its_site() {
        let before = [at(1, 10, 64), at(2, 10, 64)];
        let now = [at(7, 11, 100), at(2, 10, 64)];
        assert_eq!(grown(&before, &now), [(1, 0, 36)]);
        let now = [at(7, 11, 100), at(2, 12, 20)];
        assert_eq!(grown(&before, &now), []);
        // One more than there was place for: the larger one is from elsewhere.
        let now = [at(7, 11, 100), at(2, 10, 64), at(8, 11, 70)];
        let before = [at(1, 10, 64), at(2, 10, 64), at(3, 20, 100)];
        assert_eq!(grown(&before, &now), [(1, 0, 6)]);
    }

    /// Bug prevented: what is made once is growth, or new blocks of a known site are none.
    #[test]
    fn new_blocks_are_growth_at_sites_that_had_some() {
        let before = [at(1, 10, 64)];
        let now = [at(1, 10, 64), new(2, 11, 8), new(3, 50, 1_000)];
        assert_eq!(grown(&before, &now), [(1, 1, 8)]);
        assert_eq!(grown(&[], &now[1..]), []);
        assert_eq!(grown(&before, &[]), []);
    }

    /// Bug prevented: of a line that grows, sites are told that have nothing new, or have grown
    /// themselves, twice.
    #[test]
    fn of_a_line_that_grows_those_sites_are_told_that_are_new() {
        let all: Vec<Survivor> = (1..=4)
            .map(|n: u32| at(n as usize, 1_000 + 10 * n, 8))
            .chain((5..=8).map(|n: u32| new(n as usize, 1_000 + 10 * n, 8)))
            .collect();
        let mut past = Past::default();
        for part in 1..8 {
            past.turns.look(&all[..part]);
        }
        past.half = Some(Half::new(all[..4].to_vec()));
        let mut now = all.clone();
        // One goes, two come: that is one more, though two are new.
        now[0] = new(9, 1_010, 8);
        now.push(new(10, 1_011, 8));
        // Another is only replaced.
        now[1] = new(2, 1_020, 8);
        let told = [
            (101, 1, 8),
            (105, 1, 8),
            (106, 1, 8),
            (107, 1, 8),
            (108, 1, 8),
        ];
        assert_eq!(grown_since(&past, &now), told);
    }

    /// Bug prevented: a new block at an old one's address is taken for it.
    #[test]
    fn a_new_block_in_an_old_one_s_place_is_new() {
        let before = [at(1, 10, 64), at(2, 20, 64)];
        let now = [new(1, 20, 64), at(2, 20, 64)];
        assert_eq!(grown(&before, &now), [(2, 1, 64)]);
    }
}
