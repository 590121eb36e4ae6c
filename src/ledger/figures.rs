//! What a slot counts, as plain numbers.

/// The six cumulative figures of a slot at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Figures {
    pub(crate) allocated_bytes: u64,
    pub(crate) allocations: u64,
    pub(crate) freed_bytes: u64,
    pub(crate) frees: u64,
    pub(crate) reallocations: u64,
    pub(crate) failures: u64,
}

impl Figures {
    /// The figures in the order of the fields.
    pub(crate) fn as_array(&self) -> [u64; 6] {
        [
            self.allocated_bytes,
            self.allocations,
            self.freed_bytes,
            self.frees,
            self.reallocations,
            self.failures,
        ]
    }

    /// What [`as_array`](Self::as_array) gave.
    pub(crate) fn from_array(values: [u64; 6]) -> Self {
        let [
            allocated_bytes,
            allocations,
            freed_bytes,
            frees,
            reallocations,
            failures,
        ] = values;
        Self {
            allocated_bytes,
            allocations,
            freed_bytes,
            frees,
            reallocations,
            failures,
        }
    }

    /// Figure by figure `f(self, other)`.
    #[inline]
    fn zip(&self, other: &Self, f: impl Fn(u64, u64) -> u64) -> Self {
        let (a, b) = (self.as_array(), other.as_array());
        Self::from_array(core::array::from_fn(|i| f(a[i], b[i])))
    }

    /// What was added since `earlier`, modulo 2^64.
    pub(crate) fn since(&self, earlier: &Self) -> Self {
        self.zip(earlier, u64::wrapping_sub)
    }

    /// The sum, modulo 2^64.
    pub(crate) fn plus(&self, other: &Self) -> Self {
        self.zip(other, u64::wrapping_add)
    }

    /// Bytes allocated less bytes freed.
    pub(crate) fn net(&self) -> i64 {
        self.allocated_bytes
            .wrapping_sub(self.freed_bytes)
            .cast_signed()
    }
}
