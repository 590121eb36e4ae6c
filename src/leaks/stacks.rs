//! The stacks of many blocks, of which most look the same.
//!
//! ```text
//!   main ── walk:7 ── walk:8 ── leaf:3       nodes 1, 2, 3, 4
//!               └──── walk:8 ── leaf:3       nodes 5, 6: another call on line 8
//!
//!   look(4) = look(6) = 4                    as look(3) = look(5) = 3
//! ```
//!
//! A walk through a tree leaks millions of blocks with as many stacks, which are hundreds of
//! calls deep. Whoever makes the names of all these before he puts together what looks the same
//! takes hundreds of times the memory that recording them took. So a node is told apart by
//! two numbers: what its parent looks like, and what the call looks like. Names are made of
//! the first node of each look alone.

use core::cmp::Ordering;
use std::collections::HashMap;
use std::rc::Rc;

use crate::leaks::report::by_frames;
use crate::leaks::steady::Places;
use crate::record;
use crate::symbols::{Frame, Resolved, Symbols};

/// The look of stacks without any call.
const NOTHING: u32 = 0;

/// Stacks by their nodes.
#[derive(Debug)]
pub(super) struct Stacks {
    symbols: Symbols,
    /// The looks of nodes: of each, the first node that was found to look so.
    looks: HashMap<u32, u32>,
    /// That node by its parent's look and its call's.
    firsts: HashMap<(u32, u32), u32>,
    calls: Calls,
    sites: Sites,
}

/// Stacks as reports have them, without the frames of what stands around the user's code: many
/// looks can be one of them.
#[derive(Debug, Default)]
struct Sites {
    by_look: HashMap<u32, usize>,
    by_stack: HashMap<Rc<Vec<Frame>>, usize>,
    stacks: Vec<Rc<Vec<Frame>>>,
}

/// What calls look like.
#[derive(Debug, Default)]
struct Calls {
    by_address: HashMap<u64, u32>,
    by_frames: HashMap<Vec<Frame>, u32>,
}

impl Calls {
    /// The same number for addresses with the same functions and lines.
    fn look(&mut self, address: u64, symbols: &mut Symbols) -> u32 {
        *self.by_address.entry(address).or_insert_with(|| {
            let frames = symbols.stack(&[address]).into_frames();
            // No more than there are addresses of calls in a tree whose nodes a `u32` counts.
            let next = u32::try_from(self.by_frames.len()).unwrap_or(u32::MAX);
            *self.by_frames.entry(frames).or_insert(next)
        })
    }
}

impl Stacks {
    /// None yet, to be named by these.
    pub(super) fn new(symbols: Symbols) -> Self {
        Self {
            symbols,
            looks: HashMap::new(),
            firsts: HashMap::new(),
            calls: Calls::default(),
            sites: Sites::default(),
        }
    }

    pub(super) fn symbols(&mut self) -> &mut Symbols {
        &mut self.symbols
    }

    /// A node whose stack has the same frames; the same one for all that have them.
    pub(super) fn look(&mut self, node: u32) -> u32 {
        let mut unknown = Vec::new();
        let mut at = node;
        let mut look = loop {
            if let Some(&look) = self.looks.get(&at) {
                break look;
            }
            // Each parent is older, unless something has written over the tree.
            let call = record::call(at).filter(|&(parent, _)| parent < at);
            let Some((parent, address)) = call else {
                break NOTHING;
            };
            unknown.push((at, address));
            at = parent;
        };
        // At one go: each for itself would take a thread each where there is little stack.
        let calls = &self.calls.by_address;
        let new = unknown.iter().map(|&(_, address)| address);
        self.symbols
            .look_up(new.filter(|address| !calls.contains_key(address)));
        for (node, address) in unknown.into_iter().rev() {
            let call = self.calls.look(address, &mut self.symbols);
            look = *self.firsts.entry((look, call)).or_insert(node);
            self.looks.insert(node, look);
        }
        look
    }

    /// The frames of a site.
    fn stack(&self, site: usize) -> &[Frame] {
        self.sites.stacks.get(site).map_or(&[], |stack| stack)
    }

    /// The frames of a node's stack.
    pub(super) fn whole(&mut self, node: u32) -> Resolved {
        let (addresses, _) = record::frames(node);
        self.symbols.stack(&addresses)
    }
}

impl Places for Stacks {
    type Line = Line;

    fn site(&mut self, node: u32) -> usize {
        let look = self.look(node);
        if let Some(&site) = self.sites.by_look.get(&look) {
            return site;
        }
        let stack = Rc::new(self.whole(look).trimmed());
        let Sites {
            by_look,
            by_stack,
            stacks,
        } = &mut self.sites;
        let site = *by_stack.entry(stack).or_insert_with_key(|stack| {
            stacks.push(Rc::clone(stack));
            stacks.len() - 1
        });
        by_look.insert(look, site);
        site
    }

    fn order(&self, one: usize, other: usize) -> Ordering {
        by_frames(self.stack(one), self.stack(other))
    }

    fn line(&self, site: usize) -> Option<Self::Line> {
        line_of(self.stack(site))
    }
}

/// The function and where it is. Where that is known, the function is told without types: those of
/// a generic one have them in their names in a release, and of one line of a macro or of generated
/// code there are many functions.
type Line = (String, String);

/// The innermost line of the user's own code.
fn line_of(stack: &[Frame]) -> Option<Line> {
    let place = stack.iter().find(|frame| frame.is_user())?;
    let is_line = place.file().is_some() && place.line().is_some();
    let function = if is_line {
        without_types(place.function())
    } else {
        String::from(place.function())
    };
    Some((function, place.location()))
}

/// A name without what stands between angle brackets.
fn without_types(name: &str) -> String {
    let (mut depth, mut last) = (0_usize, ' ');
    let is_outside = |one: char| {
        // Of `fn() -> u8` it is an arrow.
        let ends = one == '>' && core::mem::replace(&mut last, one) != '-';
        last = one;
        if one == '<' {
            depth += 1;
        } else if ends {
            depth = depth.saturating_sub(1);
        }
        depth == 0 && !ends
    };
    let mut outside = String::from(name);
    outside.retain(is_outside);
    outside
}

#[cfg(test)]
mod tests {
    use super::line_of;
    use crate::symbols::{Frame, Origin};

    /// Bug prevented: a line of a generic function is another one for each type, or functions of
    /// which no line is known are one.
    #[test]
    fn a_line_is_told_by_its_place_and_a_function_without_one_by_its_name() {
        let line = |function, file, line| {
            let frame = Frame::synthetic(function, file, line, Origin::User, false);
            let dependency = Frame::synthetic("alloc", None, None, Origin::Dependency, false);
            line_of(&[dependency, frame]).expect("one of the user's")
        };
        let here = Some("src/app.rs");
        let first = line("push::<u8>", here, Some(3));
        assert_eq!(first, line("push::<u16>", here, Some(3)));
        assert_eq!(first, line("push::<[fn(u8) -> Vec<u8>; 2]>", here, Some(3)));
        assert_ne!(first, line("pop::<u8>", here, Some(3)));
        assert_ne!(
            line("<A>::get", here, Some(3)),
            line("<A>::put", here, Some(3))
        );
        assert_ne!(first, line("push::<u8>", here, Some(4)));
        assert_ne!(line("push", here, None), line("pop", here, None));
        assert_ne!(line("push", None, None), line("pop", None, None));
        assert_eq!(line_of(&[]), None);
    }
}
