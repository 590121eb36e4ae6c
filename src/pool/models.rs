//! Every interleaving of small worlds, and of a broken twin of each that the
//! model must reject: a model that accepts everything proves nothing.
//!
//! ```text
//! RUSTFLAGS="--cfg loom" cargo test --release --lib models
//! ```

use core::task::Waker;

use loom::sync::Arc;
use loom::thread;

use crate::pool::depot::Depot;
use crate::pool::desk::{Desk, Grant};
use crate::pool::indices::Indices;
use crate::pool::line::{Base, Own, Room};
use crate::pool::object::Object;
use crate::pool::queue::{Outcome, Queue, Ticket};
use crate::pool::table::{Place, Table};
use crate::sync::{Mutex, Ordering};

/// The rooms of a pool that threads meet in, without its user's code.
struct World {
    indices: Indices,
    table: Table<u32>,
    depot: Depot<u32>,
}

impl World {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            indices: Indices::new(),
            table: Table::new(),
            depot: Depot::new(usize::MAX, 1),
        })
    }

    /// The line of a number that the caller has claimed.
    fn line(&self, index: usize) -> Own<'_, u32> {
        let place = Place::of(index);
        self.table.grow(place);
        // SAFETY: the claim, as far as the model goes; it rejects those that are none.
        unsafe { self.table.own(place) }.expect("grown")
    }

    /// As a pool's acquire, up to the point where it would create.
    fn acquire(&self, index: usize) -> Option<Object<u32>> {
        let line = self.line(index);
        line.pop(base()).or_else(|| self.depot.take(Some(line)))
    }

    /// As a pool's release.
    fn release(&self, index: usize, object: Object<u32>) {
        let line = self.line(index);
        if let Err(object) = line.push(base(), room(), object) {
            self.depot.relieve(line, || line.is_current(base()));
            line.push(base(), room(), object).expect("relieved");
        }
    }
}

fn base() -> Base {
    Base::of(0)
}

fn room() -> Room {
    Room::at_most(usize::MAX)
}

/// A thread ends and another starts, perhaps with the same line.
fn hand_over(give_back: fn(&Indices, usize)) {
    loom::model(move || {
        let world = World::new();
        let first = {
            let world = Arc::clone(&world);
            thread::spawn(move || {
                let index = world.indices.claim().expect("free");
                world.release(index, Object::new(7));
                give_back(&world.indices, index);
            })
        };
        let index = world.indices.claim().expect("free");
        let found = world.acquire(index).map(Object::into_value);
        assert!(found.is_none() || found == Some(7));
        world.release(index, Object::new(8));
        give_back(&world.indices, index);
        first.join().expect("the first owner");
        let left: u64 = world.table.lines().map(crate::pool::line::Line::idle).sum();
        assert_eq!(left, if found.is_some() { 1 } else { 2 });
    });
}

#[test]
fn a_line_changes_hands_with_what_is_in_it() {
    hand_over(Indices::give_back);
}

#[test]
#[should_panic(expected = "Causality violation")]
fn a_number_given_back_without_release_is_rejected() {
    hand_over(|indices, index| indices.give_back_with(index, Ordering::Relaxed));
}

/// A third thread that changes other bits of the word in between does not break
/// the chain from the last owner to the next.
#[test]
fn a_number_can_be_given_back_while_others_come_and_go() {
    loom::model(|| {
        let world = World::new();
        let index = world.indices.claim().expect("free");
        world.table.grow(Place::of(index));
        let owner = {
            let world = Arc::clone(&world);
            thread::spawn(move || {
                world.release(index, Object::new(7));
                world.indices.give_back(index);
            })
        };
        let other = {
            let world = Arc::clone(&world);
            thread::spawn(move || world.indices.try_claim(index + 1))
        };
        // As `shrink_to` empties a line that nobody owns.
        if world.indices.try_claim(index) {
            assert!(world.acquire(index).is_some());
            world.indices.give_back(index);
        }
        owner.join().expect("the owner");
        assert!(other.join().expect("the other"));
    });
}

/// Two threads, one of which only gives back and one of which only takes.
fn exchange(take: fn(&World, usize, usize) -> Option<Object<u32>>) {
    loom::model(move || {
        let world = World::new();
        let [giver, taker] = core::array::from_fn(|_| world.indices.claim().expect("free"));
        for value in 0..2 {
            world.release(giver, Object::new(value));
        }
        let giving = {
            let world = Arc::clone(&world);
            thread::spawn(move || {
                for value in 2..4 {
                    world.release(giver, Object::new(value));
                }
            })
        };
        let taken: Vec<_> = (0..2)
            .filter_map(|_| take(&world, taker, giver).map(Object::into_value))
            .collect();
        giving.join().expect("the giver");
        // Each value is in exactly one place.
        let mut all = taken;
        let rest = core::iter::from_fn(|| {
            let object = world.acquire(giver).or_else(|| world.acquire(taker))?;
            Some(object.into_value())
        });
        all.extend(rest);
        all.sort_unstable();
        assert_eq!(all, [0, 1, 2, 3]);
    });
}

#[test]
fn objects_that_go_through_the_depot_are_in_one_place() {
    exchange(|world, own, _| world.acquire(own));
}

#[test]
#[should_panic(expected = "Causality violation")]
fn taking_from_another_threads_line_is_rejected() {
    exchange(|world, own, other| world.acquire(own).or_else(|| world.acquire(other)));
}

/// A permit in a queue, and nothing else.
struct Counter {
    free: u32,
    queue: Queue<()>,
}

type Permits = Mutex<Counter>;

fn permits() -> Arc<Permits> {
    Arc::new(Mutex::new(Counter {
        free: 1,
        queue: Queue::new(),
    }))
}

/// Waits for a permit, as `BoundedPool::acquire` does.
fn acquire(desk: &Permits) {
    let mut counter = desk.lock();
    if counter.free > 0 {
        counter.free -= 1;
        return;
    }
    let mut ticket = counter.queue.join(None);
    let turn = counter.queue.turn(&ticket);
    loop {
        counter = turn.wait(counter);
        ticket = match counter.queue.outcome(ticket) {
            Outcome::Granted(()) => return,
            Outcome::Closed | Outcome::LostInFork => panic!("nobody closes it, or forks"),
            Outcome::Waiting(ticket) => ticket,
        };
    }
}

fn release(desk: &Permits) {
    let mut counter = desk.lock();
    if counter.queue.grant(()).is_err() {
        counter.free += 1;
    }
}

#[test]
fn a_thread_that_waits_gets_what_comes_back() {
    loom::model(|| {
        let desk = permits();
        let other = {
            let desk = Arc::clone(&desk);
            thread::spawn(move || {
                acquire(&desk);
                release(&desk);
            })
        };
        acquire(&desk);
        release(&desk);
        other.join().expect("the other");
        assert_eq!(desk.lock().free, 1);
    });
}

// In the broken twins nobody blocks: a deadlock would end the whole test process.

/// As a task: a permit, or a place in the queue.
fn acquire_or_join(desk: &Permits) -> Option<Ticket> {
    let mut counter = desk.lock();
    if counter.free > 0 {
        counter.free -= 1;
        return None;
    }
    Some(counter.queue.join(Some(Waker::noop().clone())))
}

/// Whoever came in time for the only permit must have it when all is quiet.
fn assert_served(desk: &Permits, ticket: Option<Ticket>) {
    if let Some(ticket) = ticket {
        let outcome = desk.lock().queue.outcome(ticket);
        assert!(matches!(outcome, Outcome::Granted(())), "left waiting");
    }
    assert_eq!(desk.lock().free, 0);
}

/// One task has the only permit and gives it back, another comes meanwhile.
fn come_while_it_is_given_back(release: fn(&Permits)) {
    loom::model(move || {
        let desk = permits();
        acquire(&desk);
        let coming = {
            let desk = Arc::clone(&desk);
            thread::spawn(move || acquire_or_join(&desk))
        };
        release(&desk);
        let ticket = coming.join().expect("the one who comes");
        assert_served(&desk, ticket);
    });
}

#[test]
fn whoever_comes_while_a_permit_is_given_back_gets_it() {
    come_while_it_is_given_back(release);
}

#[test]
#[should_panic(expected = "left waiting")]
fn a_look_at_the_queue_under_another_lock_is_rejected() {
    come_while_it_is_given_back(|desk| {
        let nobody_waits = desk.lock().queue.waiting() == 0;
        let mut counter = desk.lock();
        if nobody_waits || counter.queue.grant(()).is_err() {
            counter.free += 1;
        }
    });
}

/// One task has the only permit and gives it back, a second joins and gives up, a
/// third waits.
fn give_up(leave: fn(&mut Counter, Ticket)) {
    loom::model(move || {
        let desk = permits();
        acquire(&desk);
        let giving_up = {
            let desk = Arc::clone(&desk);
            thread::spawn(move || match acquire_or_join(&desk) {
                Some(ticket) => leave(&mut desk.lock(), ticket),
                None => release(&desk),
            })
        };
        let coming = {
            let desk = Arc::clone(&desk);
            thread::spawn(move || acquire_or_join(&desk))
        };
        release(&desk);
        giving_up.join().expect("the one who gives up");
        let ticket = coming.join().expect("the one who comes");
        assert_served(&desk, ticket);
    });
}

#[test]
fn who_gives_up_passes_on_what_was_handed_over() {
    give_up(|counter, ticket| {
        if counter.queue.leave(ticket).0.is_some() && counter.queue.grant(()).is_err() {
            counter.free += 1;
        }
    });
}

#[test]
#[should_panic(expected = "left waiting")]
fn giving_up_without_passing_on_is_rejected() {
    give_up(|counter, ticket| {
        let _lost = counter.queue.leave(ticket);
    });
}

/// A bounded pool of one object, which goes around the lock while nobody waits.
fn one_object() -> Arc<Desk<u32>> {
    let desk = Arc::new(Desk::new(1));
    let grant = desk.lock().and_then(|mut locked| locked.take());
    assert!(matches!(grant, Some(Grant::Permit)), "free");
    desk
}

/// As `BoundedPool` gives an object back.
fn put_back(desk: &Desk<u32>, object: Object<u32>) {
    if let Err(object) = desk.spare.put(object) {
        let mut locked = desk.lock().expect("no fork");
        let _waker = locked.give(object).expect("open");
    }
}

/// As a task that acquires: the object, or a place in the queue.
fn take_or_join(desk: &Desk<u32>, join: Join) -> Result<Object<u32>, Ticket> {
    if let Some(object) = desk.spare.take() {
        return Ok(object);
    }
    let mut locked = desk.lock().expect("no fork");
    match locked.take() {
        Some(Grant::Object(object)) => Ok(object),
        Some(Grant::Permit) => panic!("the only permit is used"),
        None => join(&mut locked),
    }
}

type Join = fn(&mut crate::pool::desk::Locked<'_, u32>) -> Result<Object<u32>, Ticket>;

/// What has come of waiting.
fn look(desk: &Desk<u32>, ticket: Ticket) -> Result<Object<u32>, Ticket> {
    match desk.lock().expect("no fork").queue.outcome(ticket) {
        Outcome::Granted(Grant::Object(object)) => Ok(object),
        Outcome::Waiting(ticket) => Err(ticket),
        _ => panic!("neither closed nor a permit"),
    }
}

/// The object comes back while two tasks want it.
fn come_back_beside_the_lock(join: Join) {
    loom::model(move || {
        let desk = one_object();
        let coming = {
            let desk = Arc::clone(&desk);
            thread::spawn(move || take_or_join(&desk, join))
        };
        put_back(&desk, Object::new(7));
        let own = take_or_join(&desk, join);
        let other = coming.join().expect("the one who comes");
        let [own, other] = [own, other].map(|answer| answer.or_else(|ticket| look(&desk, ticket)));
        // Who has the object gives it back, and then the other must have it.
        let ticket = match (own, other) {
            (Ok(object), Err(ticket)) | (Err(ticket), Ok(object)) => {
                put_back(&desk, object);
                ticket
            }
            (Ok(_), Ok(_)) => panic!("two objects"),
            (Err(_), Err(_)) => panic!("left waiting, both"),
        };
        let Ok(object) = look(&desk, ticket) else {
            panic!("left waiting");
        };
        assert_eq!(object.into_value(), 7);
    });
}

#[test]
fn an_object_that_comes_back_beside_the_lock_reaches_who_waits() {
    come_back_beside_the_lock(|locked| match locked.join(None) {
        Ok(ticket) => Err(ticket),
        Err((object, _)) => Ok(object),
    });
}

#[test]
#[should_panic(expected = "left waiting")]
fn joining_without_shutting_the_spare_place_is_rejected() {
    come_back_beside_the_lock(|locked| Err(locked.state.queue.join(None)));
}
