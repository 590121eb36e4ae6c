//! An object and the place in memory that it never leaves.

/// A value on cache lines of its own.
///
/// Objects of one pool are used by different threads at the same time. Small
/// boxes that the allocator happened to put side by side on one cache line made
/// two threads 5.4 times slower.
#[derive(Debug)]
#[repr(align(64))]
pub(crate) struct Padded<T>(T);

const _: () = assert!(align_of::<Padded<u8>>() == 64);
// A value without size stays without, and then a box is no allocation at all.
const _: () = assert!(size_of::<Padded<()>>() == 0);

/// An object of a pool. It has one owner at a time by the rules of `Box`: a
/// guard, a line, the depot, a seat in a queue, or a call on its way between
/// them.
#[derive(Debug)]
#[repr(transparent)]
#[cfg_attr(
    not(loom),
    expect(
        unnameable_types,
        reason = "in the methods of the trait that seals `Home`"
    )
)]
pub struct Object<T>(Box<Padded<T>>);

impl<T> Object<T> {
    /// Puts a value on lines of its own.
    pub(crate) fn new(value: T) -> Self {
        Self(Box::new(Padded(value)))
    }

    #[inline]
    pub(crate) fn value(&self) -> &T {
        &self.0.0
    }

    #[inline]
    pub(crate) fn value_mut(&mut self) -> &mut T {
        &mut self.0.0
    }

    /// The value, and no object any more.
    pub(crate) fn into_value(self) -> T {
        self.0.0
    }

    /// Its address, which is a multiple of 64 and not 0, also without size.
    #[inline]
    pub(crate) fn into_raw(self) -> *mut Padded<T> {
        Box::into_raw(self.0)
    }

    /// # Safety
    /// `raw` is from [`into_raw`](Self::into_raw), and nobody uses it again.
    #[inline]
    pub(crate) unsafe fn from_raw(raw: *mut Padded<T>) -> Self {
        // SAFETY: the caller has it from `Box::into_raw`, once.
        Self(unsafe { Box::from_raw(raw) })
    }
}
