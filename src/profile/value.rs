//! Which figure of a profile is meant.

use crate::profile::data::{Amount, StackProfile};

/// One of a profile's figures, for formats that hold one only.
///
/// ```
/// use heapledger::profile::Value;
///
/// assert_eq!(Value::default(), Value::LiveBytes);
/// assert_eq!(Value::PeakBlocks.name(), "peak blocks");
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Value {
    /// Bytes alive when the profile was taken.
    #[default]
    LiveBytes,
    /// Blocks alive when the profile was taken.
    LiveBlocks,
    /// Bytes alive when the process was at its peak.
    PeakBytes,
    /// Blocks alive when the process was at its peak.
    PeakBlocks,
    /// Bytes ever allocated since the profile began.
    TotalBytes,
    /// Blocks ever allocated since the profile began.
    TotalBlocks,
}

impl Value {
    /// The figure of one stack, in bytes or blocks.
    ///
    /// ```
    /// use heapledger::profile::Value;
    ///
    /// # use heapledger::profile::{Amount, Mode, StackProfile};
    /// # let mut profile = heapledger::__private::profile::empty(Mode::EveryAllocation, None);
    /// # for (live, peak) in [(900, 900), (100, 4_000)] {
    /// #     let mut stack = StackProfile::default();
    /// #     (stack.live, stack.peak) = (Amount::exact(1, live), Amount::exact(1, peak));
    /// #     profile.stacks.push(stack);
    /// # }
    /// let largest = |value: Value| profile.stacks.iter().map(|stack| value.of(stack)).max();
    /// assert_eq!(largest(Value::LiveBytes), Some(900));
    /// assert_eq!(largest(Value::PeakBytes), Some(4_000));
    /// ```
    pub const fn of(self, stack: &StackProfile) -> u64 {
        self.among(&stack.live, &stack.peak, &stack.total)
    }

    /// The figure among these.
    pub(crate) const fn among(self, live: &Amount, peak: &Amount, total: &Amount) -> u64 {
        match self {
            Self::LiveBytes => live.bytes,
            Self::LiveBlocks => live.blocks,
            Self::PeakBytes => peak.bytes,
            Self::PeakBlocks => peak.blocks,
            Self::TotalBytes => total.bytes,
            Self::TotalBlocks => total.blocks,
        }
    }

    /// What people call it: `live bytes`.
    ///
    /// ```
    /// use heapledger::profile::Value;
    ///
    /// let title = format!("heap by {}", Value::TotalBlocks.name());
    /// assert_eq!(title, "heap by total blocks");
    /// ```
    pub const fn name(self) -> &'static str {
        match self {
            Self::LiveBytes => "live bytes",
            Self::LiveBlocks => "live blocks",
            Self::PeakBytes => "peak bytes",
            Self::PeakBlocks => "peak blocks",
            Self::TotalBytes => "total bytes",
            Self::TotalBlocks => "total blocks",
        }
    }
}

/// What a profile can be written as; for [`HeapProfile::save`](crate::HeapProfile::save).
///
/// ```
/// use heapledger::profile::{Format, Value};
///
/// assert_eq!(Format::Pprof.extension(), "pb.gz");
/// assert_eq!(Format::Folded(Value::LiveBytes).extension(), "folded");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Format {
    /// For people: [`HeapProfile::write_text`](crate::HeapProfile::write_text).
    Text,
    /// For valgrind's `dh_view`: [`HeapProfile::write_dhat`](crate::HeapProfile::write_dhat).
    Dhat,
    /// For `pprof`: [`HeapProfile::write_pprof`](crate::HeapProfile::write_pprof).
    Pprof,
    /// For flame graphs: [`HeapProfile::write_folded`](crate::HeapProfile::write_folded).
    Folded(Value),
    /// For a browser: [`HeapProfile::write_html`](crate::HeapProfile::write_html).
    Html,
}

impl Format {
    /// What such a file's name usually ends with, without the first dot.
    ///
    /// ```
    /// use heapledger::profile::Format;
    ///
    /// let names = [Format::Html, Format::Text].map(|format| format!("heap.{}", format.extension()));
    /// assert_eq!(names, ["heap.html", "heap.txt"]);
    /// ```
    pub const fn extension(self) -> &'static str {
        match self {
            Self::Text => "txt",
            Self::Dhat => "json",
            Self::Pprof => "pb.gz",
            Self::Folded(_) => "folded",
            Self::Html => "html",
        }
    }
}
