//! What changed between two profiles of one process.

use core::cmp::Reverse;
use core::fmt;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use crate::profile::data::{Amount, HeapProfile, StackProfile};
use crate::profile::names::Names;
use crate::record;
use crate::symbols::{Frame, Resolved};
use crate::units::{BlocksError, BytesError, Grouped, Signed, plural};

/// How many stacks [`Display`](fmt::Display) shows.
const SHOWN: usize = 20;

/// How many frames of each.
const FRAMES: usize = 8;

/// By how much blocks and bytes grew; negative where they shrank.
///
/// With the standard errors of both when they come from estimates. The two
/// estimates are taken as independent, which is on the safe side: blocks that
/// are in both were sampled once. A change that is too large for an `i64` stops at
/// its limits.
///
/// ```
/// # use heapledger::__private::profile::empty;
/// # use heapledger::profile::{Amount, Mode, StackProfile};
/// # let (mut before, mut after) =
/// #     (empty(Mode::EveryAllocation, None), empty(Mode::EveryAllocation, None));
/// # let mut stack = StackProfile::default();
/// # stack.live = Amount::exact(1, 100);
/// # before.stacks.push(stack.clone());
/// # stack.live = Amount::exact(3, 300);
/// # after.stacks.push(stack);
/// let live = after.diff(&before).live;
/// assert_eq!((live.blocks, live.bytes), (2, 200));
/// assert_eq!(live.to_string(), "+200 bytes in +2 blocks");
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Change {
    /// Blocks.
    pub blocks: i64,
    /// Bytes.
    pub bytes: i64,
    /// The standard error of `blocks`; 0 when both profiles are exact.
    pub blocks_error: f64,
    /// The standard error of `bytes`; 0 when both profiles are exact.
    pub bytes_error: f64,
}

impl Change {
    fn between(earlier: &Amount, later: &Amount) -> Self {
        Self {
            blocks: difference(earlier.blocks, later.blocks),
            bytes: difference(earlier.bytes, later.bytes),
            blocks_error: earlier.blocks_error.hypot(later.blocks_error),
            bytes_error: earlier.bytes_error.hypot(later.bytes_error),
        }
    }

    /// Both together; the errors of different blocks are independent.
    fn plus(&self, other: &Self) -> Self {
        Self {
            blocks: self.blocks.saturating_add(other.blocks),
            bytes: self.bytes.saturating_add(other.bytes),
            blocks_error: self.blocks_error.hypot(other.blocks_error),
            bytes_error: self.bytes_error.hypot(other.bytes_error),
        }
    }

    /// Whether neither blocks nor bytes changed; the errors are not looked at.
    ///
    /// ```
    /// # use heapledger::__private::profile::empty;
    /// # use heapledger::profile::{Amount, Mode, StackProfile};
    /// # let (mut before, mut after) =
    /// #     (empty(Mode::EveryAllocation, None), empty(Mode::EveryAllocation, None));
    /// # let mut stack = StackProfile::default();
    /// # stack.live = Amount::exact(1, 100);
    /// # before.stacks.push(stack.clone());
    /// # stack.live = Amount::exact(3, 300);
    /// # after.stacks.push(stack);
    /// assert!(after.diff(&after).live.is_zero());
    /// assert!(!after.diff(&before).live.is_zero());
    /// ```
    pub const fn is_zero(&self) -> bool {
        self.blocks == 0 && self.bytes == 0
    }
}

/// What changed at one stack; from [`HeapProfile::diff`].
///
/// ```
/// # #[global_allocator]
/// # static HEAP: heapledger::TrackingAllocator = heapledger::TrackingAllocator::new();
/// # use heapledger::Profiler;
/// let profiler = Profiler::builder().every_allocation().start()?;
/// let before = profiler.snapshot();
/// let kept = std::hint::black_box(vec![0u8; 300]);
/// drop(kept.clone());
/// let grown = profiler.finish().diff(&before);
/// let [kept_one, dropped_one] = &grown.stacks[..] else { panic!("two stacks") };
/// assert_eq!((kept_one.live.bytes, kept_one.total.bytes), (300, 300));
/// assert_eq!((dropped_one.live.bytes, dropped_one.total.bytes), (0, 300));
/// # drop(kept);
/// # Ok::<(), heapledger::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct StackDiff {
    /// The return addresses, innermost first.
    pub addresses: Vec<u64>,
    /// What is alive.
    pub live: Change,
    /// What was ever allocated.
    pub total: Change,
}

/// What grew and what shrank between two profiles; from [`HeapProfile::diff`].
///
/// [`Display`](fmt::Display) shows the stacks whose live bytes grew most, with
/// `file:line` and the calls that led there. Stacks that look the same there are shown
/// as one; in [`stacks`](Self::stacks) each has its own addresses. Names that neither
/// profile has are looked up, in the process that the profiles are of. Serialised
/// (feature `serde`), it has the names that the profiles have, in the field `names`:
/// [`symbolize`](HeapProfile::symbolize) both.
///
/// ```
/// # #[global_allocator]
/// # static HEAP: heapledger::TrackingAllocator = heapledger::TrackingAllocator::new();
/// # use heapledger::Profiler;
/// let profiler = Profiler::builder().every_allocation().start()?;
/// let before = profiler.snapshot();
/// let kept = std::hint::black_box(vec![0u8; 10_000]);
/// let grown = profiler.finish().diff(&before);
/// assert_eq!((grown.stacks.len(), grown.live.bytes), (1, 10_000));
/// assert!(grown.to_string().starts_with("alive      +10,000 bytes in +1 block\n"));
/// # drop(kept);
/// # Ok::<(), heapledger::Error>(())
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ProfileDiff {
    /// The stacks at which anything changed, what grew most in live bytes first
    /// and what shrank most last.
    pub stacks: Vec<StackDiff>,
    /// What is alive, over all stacks.
    pub live: Change,
    /// What was ever allocated, over all stacks.
    pub total: Change,
    /// The later profile's names, and the earlier's.
    names: [Option<Arc<Names>>; 2],
}

impl HeapProfile {
    /// What changed since an earlier profile of the same process: by stack, the
    /// difference of what is alive and of what was ever allocated, what grew
    /// most in live bytes first.
    ///
    /// Stacks are matched by their addresses, so profiles of two processes, or
    /// of one where a library was unloaded in between, have little in common. Of
    /// profiles on either side of a reset the totals may have shrunk.
    ///
    /// ```
    /// use heapledger::profile::{Amount, Mode, StackProfile};
    ///
    /// # use heapledger::__private::profile::empty;
    /// # let (mut before, mut after) =
    /// #     (empty(Mode::EveryAllocation, None), empty(Mode::EveryAllocation, None));
    /// # let mut stack = StackProfile::default();
    /// # stack.live = Amount::exact(1, 100);
    /// # before.stacks.push(stack.clone());
    /// # stack.live = Amount::exact(3, 300);
    /// # after.stacks.push(stack);
    /// let grown = after.diff(&before);
    /// assert_eq!((grown.live.blocks, grown.live.bytes), (2, 200));
    /// ```
    #[must_use]
    pub fn diff(&self, earlier: &Self) -> ProfileDiff {
        let mut pairs: HashMap<&[u64], [StackProfile; 2]> = HashMap::new();
        for (side, profile) in [earlier, self].into_iter().enumerate() {
            for stack in &profile.stacks {
                let pair = pairs.entry(&stack.addresses).or_default();
                if let Some(sum) = pair.get_mut(side) {
                    sum.live = sum.live.plus(&stack.live);
                    sum.total = sum.total.plus(&stack.total);
                }
            }
        }
        let mut stacks: Vec<StackDiff> = pairs
            .into_iter()
            .map(|(addresses, [earlier, later])| StackDiff {
                addresses: addresses.to_vec(),
                live: Change::between(&earlier.live, &later.live),
                total: Change::between(&earlier.total, &later.total),
            })
            .filter(|stack| !stack.live.is_zero() || !stack.total.is_zero())
            .collect();
        stacks.sort_by(|a, b| key(a).cmp(&key(b)));
        ProfileDiff {
            stacks,
            live: Change::between(&earlier.live(), &self.live()),
            total: Change::between(&earlier.total(), &self.total()),
            names: [self.names.clone(), earlier.names.clone()],
        }
    }
}

/// What the differences are ordered by; the addresses make the order one of a kind.
fn key(stack: &StackDiff) -> (Reverse<[i64; 4]>, &[u64]) {
    let (live, total) = (&stack.live, &stack.total);
    (
        Reverse([live.bytes, live.blocks, total.bytes, total.blocks]),
        &stack.addresses,
    )
}

fn difference(earlier: u64, later: u64) -> i64 {
    let difference = i128::from(later) - i128::from(earlier);
    i64::try_from(difference).unwrap_or(if difference < 0 { i64::MIN } else { i64::MAX })
}

/// `+1,024 bytes`, or `-1 byte`.
fn signed_bytes(bytes: i64) -> String {
    let what = plural(bytes.unsigned_abs(), "byte", "bytes");
    format!("{} {what}", Signed(bytes))
}

/// Stacks that look the same, as one.
struct Look {
    /// Innermost first, trimmed.
    frames: Vec<Frame>,
    live: Change,
}

impl Look {
    /// The innermost frame in the user's own code, or the innermost of all.
    fn place(&self) -> String {
        let user = self.frames.iter().find(|frame| frame.is_user());
        user.or(self.frames.first())
            .map_or_else(|| String::from("an unknown place"), Frame::location)
    }

    /// What it is told apart by: what people see of it.
    fn text(frames: &[Frame]) -> String {
        let lines = frames.iter().map(|frame| format!("\n    {frame}"));
        lines.collect()
    }
}

impl ProfileDiff {
    /// The names that neither profile has of these stacks.
    fn missing(&self, stacks: &[&StackDiff]) -> Names {
        let addresses = stacks.iter().flat_map(|stack| &stack.addresses).copied();
        Names::look_up(addresses.filter(|&address| self.known(address).is_none()))
    }

    /// The functions at an address, as one of the profiles has them.
    fn known(&self, address: u64) -> Option<&[Frame]> {
        let known = self.names.iter().flatten().map(|names| names.at(address));
        known.into_iter().find(|here| !here.is_empty())
    }

    /// The frames of a stack, innermost first, trimmed.
    fn frames(&self, stack: &StackDiff, missing: &Names) -> Vec<Frame> {
        let mut frames = Vec::new();
        for &address in &stack.addresses {
            match self.known(address).unwrap_or(missing.at(address)) {
                [] => frames.push(Frame::unknown(address)),
                here => frames.extend_from_slice(here),
            }
        }
        Resolved::new(frames).trimmed()
    }

    /// What changed of what is alive, as people see it, what grew most first; and what is to
    /// be said of files that have no names.
    ///
    /// Two calls on one line are two addresses, and so two stacks, but not to a reader. So one
    /// that changed in blocks alone is here, too: it belongs to the sum of what looks the same.
    fn looks(&self) -> (Vec<Look>, BTreeSet<String>) {
        let stacks = self.stacks.iter().filter(|stack| !stack.live.is_zero());
        let stacks: Vec<&StackDiff> = stacks.collect();
        let missing = self.missing(&stacks);
        let mut looks: Vec<Look> = Vec::new();
        let mut places = HashMap::new();
        for stack in stacks {
            let frames = self.frames(stack, &missing);
            let place = *places.entry(Look::text(&frames)).or_insert(looks.len());
            match looks.get_mut(place) {
                Some(look) => look.live = look.live.plus(&stack.live),
                None => looks.push(Look {
                    frames,
                    live: stack.live,
                }),
            }
        }
        // Stable: equals stay in the order of the stacks.
        looks.sort_by_key(|look| Reverse((look.live.bytes, look.live.blocks)));
        let known = self.names.iter().flatten().map(Arc::as_ref);
        let notes = known.chain([&missing]).flat_map(Names::notes).collect();
        (looks, notes)
    }
}

#[cfg(feature = "serde")]
impl serde::Serialize for ProfileDiff {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeStruct;
        // Those of its own stacks only; a profile may have many more.
        let addresses = self.stacks.iter().flat_map(|stack| &stack.addresses);
        let known = addresses.filter_map(|&address| Some((address, self.known(address)?)));
        let known: std::collections::BTreeMap<u64, &[Frame]> = known.collect();
        let has_names = self.names.iter().any(Option::is_some);
        let mut diff = serializer.serialize_struct("ProfileDiff", 4)?;
        diff.serialize_field("stacks", &self.stacks)?;
        diff.serialize_field("live", &self.live)?;
        diff.serialize_field("total", &self.total)?;
        diff.serialize_field("names", &has_names.then_some(known))?;
        diff.end()
    }
}

impl fmt::Display for ProfileDiff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Laid out first: what it is written to is the caller's, and is profiled.
        let text = record::quietly(|| {
            let mut text = String::new();
            self.lay_out(&mut text).map(|()| text)
        });
        f.write_str(&text?)
    }
}

impl ProfileDiff {
    /// Writes it for people.
    fn lay_out(&self, f: &mut impl fmt::Write) -> fmt::Result {
        write!(f, "alive      {}", self.live)?;
        write!(f, "\nallocated  {}", self.total)?;
        let (looks, notes) = self.looks();
        for (i, note) in notes.iter().enumerate() {
            let gap = if i == 0 { "\n\n" } else { "\n" };
            write!(f, "{gap}note: {note}")?;
        }
        let grown: Vec<&Look> = looks.iter().filter(|look| look.live.bytes > 0).collect();
        let (shown, rest) = grown.split_at(grown.len().min(SHOWN));
        for look in shown {
            write!(f, "\n\n{}, at {}", look.live, look.place())?;
            let (inner, outer) = look.frames.split_at(look.frames.len().min(FRAMES));
            f.write_str(&Look::text(inner))?;
            let more = outer.len() as u64;
            if more > 0 {
                let what = plural(more, "frame", "frames");
                write!(f, "\n    ... and {} outer {what}", Grouped(more))?;
            }
        }
        let sum = |looks: &[&Look]| {
            let each = looks.iter().map(|look| look.live.bytes);
            (looks.len() as u64, each.fold(0, i64::saturating_add))
        };
        if !rest.is_empty() {
            let (count, bytes) = sum(rest);
            write!(
                f,
                "\n\n... and {} at {} more {} that grew",
                signed_bytes(bytes),
                Grouped(count),
                plural(count, "stack", "stacks"),
            )?;
        }
        let shrunk: Vec<&Look> = looks.iter().filter(|look| look.live.bytes < 0).collect();
        if !shrunk.is_empty() {
            let (count, bytes) = sum(&shrunk);
            write!(
                f,
                "\n\n{} at {} {} that shrank",
                signed_bytes(bytes),
                Grouped(count),
                plural(count, "stack", "stacks"),
            )?;
        }
        Ok(())
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // As with the whole difference.
        let text = record::quietly(|| {
            let blocks = self.blocks.unsigned_abs();
            format!(
                "{}{} in {}{} {}",
                signed_bytes(self.bytes),
                BytesError(self.bytes_error),
                Signed(self.blocks),
                BlocksError(self.blocks_error),
                plural(blocks, "block", "blocks"),
            )
        });
        f.write_str(&text)
    }
}
