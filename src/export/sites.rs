//! Stacks as people see them.
//!
//! A profile knows a stack by its addresses. Two calls on one line are two
//! addresses, and what is cut off a stack (the allocator's own frames, the
//! runtime's, those of our own measurements) may be all that set it apart from another: so stacks are
//! trimmed first, and then those that look the same are made one.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use crate::profile::{Amount, Frame, HeapProfile, Lifetimes, Names, Origin, StackProfile};
use crate::record;
use crate::symbols;

/// All stacks of a profile, trimmed, each once.
#[derive(Debug)]
pub(super) struct Sites {
    /// Every frame once; a site names its frames by their places in here.
    pub(super) frames: Vec<Frame>,
    /// In the order of the profile's stacks.
    pub(super) list: Vec<Site>,
    /// All names of the profile.
    pub(super) names: Arc<Names>,
}

/// What was allocated by one way of getting there.
#[derive(Clone, Debug)]
pub(super) struct Site {
    /// Innermost first. Never empty.
    pub(super) stack: Vec<u32>,
    pub(super) live: Amount,
    pub(super) peak: Amount,
    pub(super) total: Amount,
    pub(super) reallocations: u64,
    pub(super) lifetimes: Lifetimes,
}

impl Sites {
    /// The sites of a profile, with names that are looked up if need be.
    pub(super) fn new(profile: &HeapProfile) -> Self {
        let names = profile.names();
        record::quietly(|| {
            let mut building = Building::default();
            let mut places = HashMap::new();
            let mut sites = Vec::new();
            let amounts = |stack: &StackProfile| [stack.live, stack.peak, stack.total];
            for stack in &profile.stacks {
                // After a reset: viewers would show it as a place that allocates nothing.
                if amounts(stack).iter().all(Amount::is_zero) {
                    continue;
                }
                let frames = building.trimmed(stack, &names);
                match places.entry(frames) {
                    Entry::Vacant(place) => {
                        sites.push(Site::new(place.key(), stack));
                        place.insert(sites.len() - 1);
                    }
                    Entry::Occupied(place) => {
                        if let Some(site) = sites.get_mut(*place.get()) {
                            site.add(stack);
                        }
                    }
                }
            }
            let frames = building.frames;
            let made = Self {
                frames,
                list: sites,
                names: Arc::clone(&names),
            };
            made.compact()
        })
    }

    /// Without the frames that were cut from every stack they were in.
    fn compact(mut self) -> Self {
        let mut used: HashMap<u32, u32> = HashMap::new();
        let mut frames = Vec::new();
        for id in self.list.iter_mut().flat_map(|site| &mut site.stack) {
            *id = *used.entry(*id).or_insert_with(|| {
                frames.extend(at(&self.frames, *id).cloned());
                number_of(frames.len() - 1)
            });
        }
        self.frames = frames;
        self
    }

    /// The frames of a site, innermost first.
    pub(super) fn stack<'a>(&'a self, site: &'a Site) -> impl Iterator<Item = &'a Frame> {
        site.stack.iter().filter_map(|&id| at(&self.frames, id))
    }

    /// The innermost frame in the user's own code, or the innermost of all.
    pub(super) fn place<'a>(&'a self, site: &'a Site) -> Option<&'a Frame> {
        self.stack(site)
            .find(|frame| frame.is_user())
            .or_else(|| self.stack(site).next())
    }
}

impl Site {
    fn new(frames: &[u32], stack: &StackProfile) -> Self {
        Self {
            stack: frames.to_vec(),
            live: stack.live,
            peak: stack.peak,
            total: stack.total,
            reallocations: stack.reallocations,
            lifetimes: stack.lifetimes,
        }
    }

    fn add(&mut self, stack: &StackProfile) {
        self.live = self.live.plus(&stack.live);
        self.peak = self.peak.plus(&stack.peak);
        self.total = self.total.plus(&stack.total);
        self.reallocations = self.reallocations.saturating_add(stack.reallocations);
        self.lifetimes = self.lifetimes.plus(&stack.lifetimes);
    }
}

/// What makes a frame another one for people; whether it was inlined does not.
type Key = (String, Option<String>, Option<u32>, Origin);

/// Numbers the frames as they come.
#[derive(Default)]
struct Building {
    frames: Vec<Frame>,
    ids: HashMap<Key, u32>,
    known: HashMap<u64, Arc<[u32]>>,
}

impl Building {
    /// The frames of a stack that people want to see, innermost first.
    fn trimmed(&mut self, stack: &StackProfile, names: &Names) -> Vec<u32> {
        let mut ids: Vec<u32> = Vec::with_capacity(stack.addresses.len() * 2);
        for &address in &stack.addresses {
            ids.extend_from_slice(&self.at(address, names));
        }
        let frames: Vec<&Frame> = ids.iter().filter_map(|&id| at(&self.frames, id)).collect();
        let shown = symbols::shown(&frames);
        if shown.is_empty() {
            // No stack at all: it needs a name all the same, and viewers a frame.
            return vec![self.number(&Frame::nowhere())];
        }
        let ids = shown.into_iter().filter_map(|place| ids.get(place));
        ids.copied().collect()
    }

    /// The frames at an address, at least one.
    fn at(&mut self, address: u64, names: &Names) -> Arc<[u32]> {
        if let Some(ids) = self.known.get(&address) {
            return Arc::clone(ids);
        }
        let frames = names.at(address);
        let ids: Arc<[u32]> = if frames.is_empty() {
            Arc::new([self.number(&Frame::unknown(address))])
        } else {
            frames.iter().map(|frame| self.number(frame)).collect()
        };
        self.known.insert(address, Arc::clone(&ids));
        ids
    }

    /// Frames that read the same are the same.
    fn number(&mut self, frame: &Frame) -> u32 {
        let key = (
            String::from(frame.function()),
            frame.file().map(String::from),
            frame.line(),
            frame.origin(),
        );
        *self.ids.entry(key).or_insert_with(|| {
            self.frames.push(frame.clone());
            number_of(self.frames.len() - 1)
        })
    }
}

fn number_of(place: usize) -> u32 {
    // More frames than that do not fit the memory.
    u32::try_from(place).unwrap_or(u32::MAX)
}

fn at(frames: &[Frame], id: u32) -> Option<&Frame> {
    frames.get(usize::try_from(id).ok()?)
}
