//! Names for a profile's addresses.

use std::collections::HashMap;
use std::sync::Arc;

use crate::profile::data::{HeapProfile, StackProfile};
use crate::record;
use crate::symbols::{Frame, Resolved};

/// The functions at each return address of a profile: innermost first, those
/// that were inlined included.
#[derive(Clone, Debug, Default)]
pub struct Names {
    known: HashMap<u64, Vec<Frame>>,
}

impl Names {
    /// These names, by return address.
    #[doc(hidden)]
    pub fn new(known: HashMap<u64, Vec<Frame>>) -> Self {
        Self { known }
    }

    /// Looks these addresses up in this process.
    pub(crate) fn look_up(addresses: impl Iterator<Item = u64>) -> Self {
        record::quietly(|| {
            let mut symbols = record::symbols();
            symbols.look_up(addresses);
            Self {
                known: symbols.into_known(),
            }
        })
    }

    /// Looks all of the profile's addresses up in this process.
    fn of(profile: &HeapProfile) -> Self {
        let addresses = profile.stacks.iter().flat_map(|stack| &stack.addresses);
        Self::look_up(addresses.copied())
    }

    /// The functions at a return address; none when it was not looked up.
    pub fn at(&self, address: u64) -> &[Frame] {
        self.known.get(&address).map_or(&[], Vec::as_slice)
    }

    /// The functions of a stack, innermost first, without the allocator's
    /// frames at its beginning and the runtime's at its end.
    pub fn trimmed(&self, stack: &StackProfile) -> Vec<Frame> {
        let frames = stack.addresses.iter().flat_map(|&address| self.at(address));
        Resolved::new(frames.cloned().collect()).trimmed()
    }
}

impl HeapProfile {
    /// Looks up names and lines for all addresses, from the debug information
    /// of this process and its libraries; the formats for people then do not
    /// have to, and [`write_pprof`](Self::write_pprof) writes names.
    ///
    /// It takes time and memory (tens of milliseconds and megabytes at its
    /// first use in a process), and must happen in the process that the profile
    /// is of. None of what it allocates is profiled; the counters show it, some
    /// 35 MB, which are kept for the next time.
    pub fn symbolize(&mut self) {
        if self.names.is_none() {
            self.names = Some(Arc::new(Names::of(self)));
        }
    }

    /// Whether names have been looked up.
    pub const fn is_symbolized(&self) -> bool {
        self.names.is_some()
    }

    /// The functions at a return address, innermost first, those that were
    /// inlined included; none before [`symbolize`](Self::symbolize).
    pub fn frames(&self, address: u64) -> &[Frame] {
        self.names.as_ref().map_or(&[], |names| names.at(address))
    }

    /// The names: those that are there, or else looked up now.
    pub(crate) fn names(&self) -> Arc<Names> {
        self.names
            .clone()
            .unwrap_or_else(|| Arc::new(Names::of(self)))
    }
}
