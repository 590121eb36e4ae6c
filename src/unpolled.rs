//! Whether what a closure gives back has still to be run.
//!
//! `assert_no_alloc!(|| async { .. })` makes a future and runs none of it: an
//! assertion on that has measured nothing, and would always pass.

use core::cell::Cell;
use core::iter::FusedIterator;
use core::marker::PhantomData;

/// An iterator that is at its end, and says that it stays there if `T` is a
/// future.
///
/// A macro could ask with a method that only futures have. But the compiler then
/// wants to know the type of the result there and then, and code stops compiling
/// whose result is known by what comes after it: `collect`, `parse`, a closure
/// that panics. So it is asked where the type is known in any case, by the one
/// thing that std does by such a mark alone: `Fuse` asks an iterator no more that
/// has ended, unless it is fused already, when `Fuse` is documented to do
/// nothing. Should that change, no future is seen any more, and our tests say so;
/// no other value is taken for one.
struct Probe<'a, T> {
    asked: &'a Cell<u32>,
    of: PhantomData<T>,
}

impl<T> Iterator for Probe<'_, T> {
    type Item = ();

    fn next(&mut self) -> Option<()> {
        self.asked.set(self.asked.get() + 1);
        None
    }
}

impl<T: Future> FusedIterator for Probe<'_, T> {}

/// Whether a value of this type is a future.
fn is_future<T>() -> bool {
    let asked = Cell::new(0);
    let mut probe = Probe::<T> {
        asked: &asked,
        of: PhantomData,
    }
    .fuse();
    probe.next();
    probe.next();
    asked.get() == 2
}

/// Panics when `R`, which a closure gives back to the `caller`, is a future.
///
/// # Panics
/// As it says, with what to do instead.
#[inline]
#[track_caller]
pub(crate) fn refuse_futures<R>(caller: &str, instead: &str) {
    assert!(
        !is_future::<R>(),
        "{caller} would measure nothing: its closure gives back a future, of which nothing has run \
         by then\n  {instead}\n  if only making the future is meant, give it back in a tuple: \
         `|| (future,)`"
    );
}

#[cfg(test)]
mod tests {
    use core::future::{Ready, ready};
    use core::pin::Pin;
    use core::task::Poll;
    use std::rc::Rc;

    use super::is_future;

    fn type_of<T>(_: &T) -> bool {
        is_future::<T>()
    }

    fn in_a_generic_function<T, R>(_: T, _: impl FnOnce(T) -> R) -> bool {
        is_future::<R>()
    }

    #[test]
    fn futures_of_all_sorts_are_seen() {
        let text = String::from("borrowed");
        assert!(type_of(&async {}));
        assert!(type_of(&async { Rc::new(&text).len() }));
        let asynchronous = async || text.len();
        assert!(type_of(&asynchronous()));
        assert!(is_future::<Ready<u8>>());
        assert!(is_future::<Pin<Box<dyn Future<Output = u8> + '_>>>());
        assert!(type_of(&core::future::poll_fn(|_| Poll::Ready(()))));
        assert!(in_a_generic_function(1, ready));
    }

    #[test]
    fn nothing_else_is_taken_for_one() {
        let text = String::from("borrowed");
        assert!(!is_future::<()>());
        assert!(!is_future::<core::convert::Infallible>());
        assert!(!type_of(&text.as_str()));
        assert!(!type_of(&&text));
        assert!(!type_of(&Rc::new(&text)));
        assert!(!type_of(&|| text.len()));
        assert!(!type_of(&async || text.len()));
        assert!(!type_of(&(async {},)));
        assert!(!type_of(&Some(ready(1))));
        assert!(!is_future::<fn() -> Ready<u8>>());
        assert!(!is_future::<Poll<u8>>());
        assert!(!in_a_generic_function(1, |n| n));
    }
}
