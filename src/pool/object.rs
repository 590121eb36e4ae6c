//! An object and the place in memory that it never leaves.

/// A value on cache lines of its own.
///
/// Objects of one pool are used by different threads at the same time. Small
/// boxes that the allocator happened to put side by side on one cache line made
/// two threads 5.4 times slower.
#[derive(Debug)]
#[repr(align(64))]
struct Padded<T>(T);

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
}
