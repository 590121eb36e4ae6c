//! Who waits, in the order in which they came, and what was handed to them.
//!
//! ```text
//!            join                 grant                     outcome
//!   Free ───────────▶ Waiting ───────────▶ Granted(G) ─────────────────▶ Free
//!                        │                     │                           ▲
//!                        │ close               └──── leave (gives G back) ─┤
//!                        ├────────▶ Closed ───── outcome ──────────────────┤
//!                        │ fork                                            │
//!                        ├────────▶ LostInFork ─ outcome ──────────────────┤
//!                        └── leave: gave up waiting ───────────────────────┘
//! ```
//!
//! A thing that becomes free is written into the seat of the one who waits
//! longest, so that nobody can come in between: there is no moment at which it is
//! up for grabs. Who gives up, because of time or because a future was dropped,
//! takes back what was handed over in the meantime and passes it on.
//!
//! A child of `fork` inherits the seats, but not the threads that wait in them, nor
//! those that would run the tasks. So a seat knows the process in which its wait
//! began, and in any other nothing is handed to it. Its waker is forgotten there:
//! it may need a lock that a thread of the parent holds.
//!
//! Seats are used again, so waiting allocates only when more wait than ever
//! before, or since the seats were [given back](Queue::give_back). All of this happens under the pool's lock and calls no user's code:
//! wakers are handed out to be woken after it.

use core::task::Waker;
use std::sync::Arc;

use crate::sync::forkable::Condvar;

/// The seats, those that wait linked in order.
#[derive(Debug)]
pub(crate) struct Queue<G> {
    seats: Vec<Seat<G>>,
    /// Seats that nobody has.
    free: Vec<usize>,
    first: Option<usize>,
    last: Option<usize>,
}

#[derive(Debug)]
struct Seat<G> {
    state: State<G>,
    before: Option<usize>,
    after: Option<usize>,
    /// In which its wait began.
    process: u32,
    /// Where a thread waits for its turn. Stays with the seat.
    turn: Option<Arc<Condvar>>,
}

#[derive(Debug)]
enum State<G> {
    Free,
    /// With what a task is woken by; a thread waits for the seat's `turn`.
    Waiting(Option<Waker>),
    Granted(G),
    Closed,
    LostInFork,
}

/// The right to a seat. Whoever has one ends it by [`Queue::outcome`] or
/// [`Queue::leave`].
#[derive(Debug)]
#[must_use]
pub(crate) struct Ticket(usize);

/// What came of waiting.
#[derive(Debug)]
pub(crate) enum Outcome<G> {
    Granted(G),
    Closed,
    /// The wait began before a fork, and this is the child.
    LostInFork,
    /// Nothing yet; with the right to the seat.
    Waiting(Ticket),
}

impl<G> Queue<G> {
    pub(crate) const fn new() -> Self {
        Self {
            seats: Vec::new(),
            free: Vec::new(),
            first: None,
            last: None,
        }
    }

    /// Waits behind all others. A task gives its waker; a thread gives none and
    /// waits for its [`turn`](Self::turn).
    pub(crate) fn join(&mut self, waker: Option<Waker>) -> Ticket {
        let at = self.free.pop().unwrap_or_else(|| {
            self.seats.push(Seat {
                state: State::Free,
                before: None,
                after: None,
                process: 0,
                turn: None,
            });
            self.seats.len() - 1
        });
        let seat = &mut self.seats[at];
        seat.state = State::Waiting(waker);
        seat.process = std::process::id();
        seat.before = self.last;
        seat.after = None;
        match self.last {
            Some(last) => self.seats[last].after = Some(at),
            None => self.first = Some(at),
        }
        self.last = Some(at);
        Ticket(at)
    }

    /// Where a thread with this ticket waits.
    pub(crate) fn turn(&mut self, ticket: &Ticket) -> Arc<Condvar> {
        let turn = &mut self.seats[ticket.0].turn;
        Arc::clone(turn.get_or_insert_with(|| Arc::new(Condvar::new())))
    }

    /// Hands `thing` to the one who waits longest; gives it back if nobody does.
    /// A task is to be woken by the caller, after the lock.
    pub(crate) fn grant(&mut self, thing: G) -> Result<Option<Waker>, G> {
        match self.next() {
            Some(at) => Ok(self.settle(at, State::Granted(thing))),
            None => Err(thing),
        }
    }

    /// Tells everybody that there is nothing to wait for; the tasks are to be
    /// woken by the caller, after the lock.
    pub(crate) fn close(&mut self) -> Vec<Waker> {
        let mut wakers = Vec::new();
        while let Some(at) = self.next() {
            wakers.extend(self.settle(at, State::Closed));
        }
        wakers
    }

    /// What has come of waiting.
    pub(crate) fn outcome(&mut self, ticket: Ticket) -> Outcome<G> {
        let seat = &self.seats[ticket.0];
        if matches!(seat.state, State::Waiting(_)) {
            if seat.process == std::process::id() {
                return Outcome::Waiting(ticket);
            }
            self.unlink(ticket.0);
            self.lose(ticket.0);
        }
        match self.vacate(ticket) {
            State::Granted(thing) => Outcome::Granted(thing),
            State::LostInFork => Outcome::LostInFork,
            _ => Outcome::Closed,
        }
    }

    /// Leaves `waker` to be woken by, and gives back the one before.
    pub(crate) fn wake_by(&mut self, ticket: &Ticket, waker: Waker) -> Option<Waker> {
        match &mut self.seats[ticket.0].state {
            State::Waiting(last) => last.replace(waker),
            _ => Some(waker),
        }
    }

    /// Gives up waiting. What was handed over in the meantime comes back, and so
    /// does a waker, to be dropped after the lock.
    pub(crate) fn leave(&mut self, ticket: Ticket) -> (Option<G>, Option<Waker>) {
        let seat = &self.seats[ticket.0];
        if matches!(seat.state, State::Waiting(_)) {
            let is_here = seat.process == std::process::id();
            self.unlink(ticket.0);
            if !is_here {
                self.lose(ticket.0);
            }
        }
        match self.vacate(ticket) {
            State::Granted(thing) => (Some(thing), None),
            State::Waiting(waker) => (None, waker),
            State::Free | State::Closed | State::LostInFork => (None, None),
        }
    }

    /// Whether nobody waits, in this process or in one that it was forked from.
    pub(crate) fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    /// How many wait in this process.
    pub(crate) fn waiting(&self) -> usize {
        if self.is_empty() {
            return 0;
        }
        let process = std::process::id();
        let waits =
            |seat: &&Seat<G>| matches!(seat.state, State::Waiting(_)) && seat.process == process;
        self.seats.iter().filter(waits).count()
    }

    /// Gives up the seats if nobody has one; to be dropped after the lock.
    pub(crate) fn give_back(&mut self) -> Option<Self> {
        let has_any = self.free.len() < self.seats.len();
        (!has_any).then(|| core::mem::replace(self, Self::new()))
    }

    /// Takes the one of this process who waits longest out of the line. The waits
    /// before it, which began in another, are over.
    fn next(&mut self) -> Option<usize> {
        let mut at = self.first?;
        let process = std::process::id();
        loop {
            self.unlink(at);
            if self.seats[at].process == process {
                return Some(at);
            }
            self.lose(at);
            at = self.first?;
        }
    }

    /// Ends a wait that began in another process.
    fn lose(&mut self, at: usize) {
        // A waker in it is forgotten: it knows how to wake a task over there.
        core::mem::forget(core::mem::replace(
            &mut self.seats[at].state,
            State::LostInFork,
        ));
    }

    fn settle(&mut self, at: usize, state: State<G>) -> Option<Waker> {
        let seat = &mut self.seats[at];
        let before = core::mem::replace(&mut seat.state, state);
        if let State::Waiting(Some(waker)) = before {
            return Some(waker);
        }
        // Under the lock, which the thread needs before it can look: it cannot miss this.
        if let Some(turn) = &seat.turn {
            turn.notify_one();
        }
        None
    }

    fn vacate(&mut self, Ticket(at): Ticket) -> State<G> {
        self.free.push(at);
        core::mem::replace(&mut self.seats[at].state, State::Free)
    }

    fn unlink(&mut self, at: usize) {
        let (before, after) = (self.seats[at].before.take(), self.seats[at].after.take());
        match before {
            Some(before) => self.seats[before].after = after,
            None => self.first = after,
        }
        match after {
            Some(after) => self.seats[after].before = before,
            None => self.last = before,
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::{Outcome, Queue};
    use core::task::Waker;

    #[test]
    fn things_go_to_those_who_wait_in_the_order_in_which_they_came() {
        let mut queue = Queue::new();
        assert!(matches!(queue.grant('a'), Err('a')), "nobody waits");
        let [first, second, third] = core::array::from_fn(|_| queue.join(None));
        assert_eq!(queue.leave(second).0, None, "gave up with nothing in hand");
        assert!(queue.grant('b').is_ok());
        assert!(queue.grant('c').is_ok());
        assert!(queue.grant('d').is_err());
        assert!(matches!(queue.outcome(third), Outcome::Granted('c')));
        assert!(matches!(queue.outcome(first), Outcome::Granted('b')));
    }

    /// Bug prevented: a permit handed to a future that was dropped before it
    /// looked is lost for ever.
    #[test]
    fn who_leaves_gives_back_what_was_handed_over() {
        let mut queue = Queue::new();
        let ticket = queue.join(Some(Waker::noop().clone()));
        assert!(matches!(queue.grant(7), Ok(Some(_))), "a task to wake");
        assert_eq!(queue.leave(ticket).0, Some(7));
        assert_eq!(queue.waiting(), 0);
    }

    #[test]
    fn closing_ends_all_waiting_and_keeps_what_was_handed_over_before() {
        let mut queue = Queue::new();
        let served = queue.join(None);
        let [task, thread] = [Some(Waker::noop().clone()), None].map(|waker| queue.join(waker));
        assert!(queue.grant(1).is_ok());
        assert_eq!(queue.close().len(), 1, "one task to wake");
        assert!(matches!(queue.outcome(served), Outcome::Granted(1)));
        assert!(matches!(queue.outcome(task), Outcome::Closed));
        assert!(matches!(queue.outcome(thread), Outcome::Closed));
    }

    /// Bug prevented: what comes back in a child is handed to a thread of the parent.
    #[test]
    fn nothing_is_handed_to_a_wait_that_began_in_another_process() {
        let mut queue = Queue::new();
        let tickets: [_; 3] = core::array::from_fn(|_| queue.join(None));
        for at in [0, 2] {
            queue.seats[at].process = 0;
        }
        assert_eq!(queue.waiting(), 1);
        let [before, here, after] = tickets;
        assert!(matches!(queue.grant('a'), Ok(None)));
        assert!(matches!(queue.grant('b'), Err('b')));
        assert!(queue.is_empty());
        assert!(matches!(queue.outcome(before), Outcome::LostInFork));
        assert!(matches!(queue.outcome(here), Outcome::Granted('a')));
        assert_eq!(queue.leave(after).0, None);
        assert_eq!(queue.free.len(), 3);
    }

    #[test]
    fn a_seat_is_used_again() {
        let mut queue = Queue::<()>::new();
        for _ in 0..100 {
            let tickets = [queue.join(None), queue.join(None)];
            for ticket in tickets {
                assert!(queue.leave(ticket).0.is_none());
            }
        }
        assert_eq!(queue.seats.len(), 2);
    }

    /// Bug prevented: a burst of ten thousand who wait is paid for as long as the pool
    /// lives, in memory and by each question how many wait.
    #[test]
    fn seats_are_given_back_when_nobody_has_one() {
        let mut queue = Queue::new();
        let tickets: [_; 3] = core::array::from_fn(|_| queue.join(None));
        assert!(queue.grant('a').is_ok());
        let [granted, waiting, gone] = tickets;
        assert_eq!(queue.leave(gone).0, None);
        assert!(queue.give_back().is_none(), "two have one");
        assert_eq!(queue.leave(waiting).0, None);
        assert!(queue.give_back().is_none(), "one has to fetch what it got");
        assert!(matches!(queue.outcome(granted), Outcome::Granted('a')));
        assert_eq!(queue.give_back().map(|seats| seats.seats.len()), Some(3));
        assert_eq!(queue.seats.capacity() + queue.free.capacity(), 0);
    }
}
