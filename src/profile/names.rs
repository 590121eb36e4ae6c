//! Names for a profile's addresses.

use std::collections::HashMap;
use std::sync::Arc;

use crate::profile::data::{HeapProfile, StackProfile};
use crate::record;
use crate::symbols::{Frame, Missed, Resolved};

/// The functions at each return address of a profile: innermost first, those
/// that were inlined included.
///
/// What a profile keeps of [`symbolize`](HeapProfile::symbolize), and
/// [`HeapProfile::frames`] reads.
#[derive(Clone, Debug, Default)]
pub struct Names {
    known: HashMap<u64, Vec<Frame>>,
    /// Files that have no names, because another is there by now, or none that can be read.
    missed: Vec<Missed>,
}

impl Names {
    /// These names, by return address.
    #[doc(hidden)]
    pub fn new(known: HashMap<u64, Vec<Frame>>) -> Self {
        let missed = Vec::new();
        Self { known, missed }
    }

    /// Looks these addresses up in this process.
    pub(crate) fn look_up(addresses: impl Iterator<Item = u64>) -> Self {
        record::quietly(|| {
            let mut symbols = record::symbols();
            symbols.look_up(addresses);
            let missed = symbols.missed();
            Self {
                known: symbols.into_known(),
                missed,
            }
        })
    }

    /// Looks all of the profile's addresses up in this process.
    fn of(profile: &HeapProfile) -> Arc<Self> {
        let addresses = profile.stacks.iter().flat_map(|stack| &stack.addresses);
        // What the names are kept in is as little of the program's as they are.
        record::quietly(|| Arc::new(Self::look_up(addresses.copied())))
    }

    /// The functions at a return address; none when it was not looked up.
    pub fn at(&self, address: u64) -> &[Frame] {
        self.known.get(&address).map_or(&[], Vec::as_slice)
    }

    /// What is to be said of files that have no names.
    pub(crate) fn notes(&self) -> impl Iterator<Item = String> {
        self.missed.iter().map(Missed::note)
    }

    /// See [`HeapProfile::trimmed`].
    pub fn trimmed(&self, stack: &StackProfile) -> Vec<Frame> {
        let frames = stack.addresses.iter().flat_map(|&address| self.at(address));
        Resolved::new(frames.cloned().collect()).trimmed()
    }
}

#[cfg(feature = "serde")]
impl serde::Serialize for Names {
    /// As a map from address to frames, in the order of the addresses.
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let ordered: std::collections::BTreeMap<_, _> = self.known.iter().collect();
        serializer.collect_map(ordered)
    }
}

/// The names of a profile, if it has any.
#[cfg(feature = "serde")]
#[expect(clippy::ref_option, reason = "serde calls it with the field")]
pub(super) fn serialize<S: serde::Serializer>(
    names: &Option<Arc<Names>>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serde::Serialize::serialize(&names.as_deref(), serializer)
}

impl HeapProfile {
    /// Looks up names and lines for all addresses, from the debug information
    /// of this process and its libraries; the formats for people then do not
    /// have to, [`write_pprof`](Self::write_pprof) writes names, and so does `Serialize`
    /// (feature `serde`).
    ///
    /// It takes time and memory (tens of milliseconds and megabytes at its
    /// first use in a process), and must happen in the process that the profile
    /// is of. None of what it allocates is profiled; the counters show it, some
    /// 35 MB, which are kept for the next time. What has its names already keeps them.
    ///
    /// Where another file has come to the path of one that is loaded, or none is there any
    /// more, the program itself has its names all the same (on Linux x86-64); functions of a
    /// library may have their addresses only, and text, HTML and pprof have a note that says so.
    ///
    /// ```
    /// # #[global_allocator]
    /// # static HEAP: heapledger::TrackingAllocator = heapledger::TrackingAllocator::new();
    /// # use heapledger::Profiler;
    /// let profiler = Profiler::builder().every_allocation().start()?;
    /// let kept = std::hint::black_box(vec![0u8; 10_000]);
    /// let mut profile = profiler.finish();
    /// let address = profile.stacks[0].addresses[0];
    /// assert!(profile.frames(address).is_empty());
    /// profile.symbolize();
    /// println!("{}", profile.frames(address)[0]);
    /// # drop(kept);
    /// # Ok::<(), heapledger::Error>(())
    /// ```
    pub fn symbolize(&mut self) {
        if self.names.is_none() {
            self.names = Some(Names::of(self));
        }
    }

    /// Whether names have been looked up.
    ///
    /// ```
    /// # let mode = heapledger::profile::Mode::EveryAllocation;
    /// # let mut profile = heapledger::__private::profile::empty(mode, None);
    /// assert!(!profile.is_symbolized());
    /// profile.symbolize();
    /// assert!(profile.is_symbolized());
    /// ```
    pub const fn is_symbolized(&self) -> bool {
        self.names.is_some()
    }

    /// The functions at a return address, innermost first, those that were
    /// inlined included; none before [`symbolize`](Self::symbolize), then at least
    /// one for each address of the profile.
    ///
    /// ```
    /// # #[global_allocator]
    /// # static HEAP: heapledger::TrackingAllocator = heapledger::TrackingAllocator::new();
    /// # use heapledger::Profiler;
    /// # let profiler = Profiler::builder().every_allocation().start()?;
    /// #[inline(never)]
    /// fn remember() -> Vec<u8> {
    ///     std::hint::black_box(vec![0; 10_000])
    /// }
    /// # let kept = remember();
    /// # let mut profile = profiler.finish();
    /// profile.symbolize();
    /// let addresses = &profile.stacks[0].addresses;
    /// let mut frames = addresses.iter().flat_map(|&address| profile.frames(address));
    /// assert!(frames.any(|frame| frame.function().ends_with("::remember")));
    /// # drop(kept);
    /// # Ok::<(), heapledger::Error>(())
    /// ```
    pub fn frames(&self, address: u64) -> &[Frame] {
        self.names.as_ref().map_or(&[], |names| names.at(address))
    }

    /// The functions of a stack as the reports show them, innermost first: without the
    /// allocator's at its beginning, the runtime's at its end, and in between those of this
    /// crate's measurements, such as [`measure`](crate::measure) and leak checks. None before
    /// [`symbolize`](Self::symbolize).
    ///
    /// ```
    /// # #[global_allocator]
    /// # static HEAP: heapledger::TrackingAllocator = heapledger::TrackingAllocator::new();
    /// # use heapledger::Profiler;
    /// # use heapledger::profile::Origin;
    /// # let profiler = Profiler::builder().every_allocation().start()?;
    /// # #[inline(never)]
    /// # fn remember() -> Vec<u8> {
    /// #     std::hint::black_box(vec![0; 10_000])
    /// # }
    /// # let kept = remember();
    /// # let mut profile = profiler.finish();
    /// profile.symbolize();
    /// let stack = &profile.stacks[0];
    /// let whole = stack.addresses.iter().flat_map(|&address| profile.frames(address));
    /// let trimmed = profile.trimmed(stack);
    /// assert!(trimmed.len() < whole.count());
    /// assert_ne!(trimmed[0].origin(), Origin::Allocator);
    /// # drop(kept);
    /// # Ok::<(), heapledger::Error>(())
    /// ```
    pub fn trimmed(&self, stack: &StackProfile) -> Vec<Frame> {
        let names = self.names.as_ref();
        names.map_or_else(Vec::new, |names| names.trimmed(stack))
    }

    /// The names: those that are there, or else looked up now.
    pub(crate) fn names(&self) -> Arc<Names> {
        self.names.clone().unwrap_or_else(|| Names::of(self))
    }
}
