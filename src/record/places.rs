//! The visits that a thread has open, the innermost last.
//!
//! ```text
//!   7   7×2   hole   9   12   hole   9        a visit is known by its place's number,
//!   1    2     -     4    5    -     8        wherever that is
//! ```
//!
//! A visit that ends before a later one leaves a hole, which goes when everything above it
//! has gone, or when there is no place left.

use core::cell::Cell;

use crate::record::tag::{Entry, Tag};

/// Recordings that a thread can be in at once; what is lost by those that come
/// after is counted for them.
const PLACES: usize = 32;

/// Where a thread's visits are. Zero bytes are its fresh state.
#[derive(Debug)]
pub(super) struct Places {
    /// How many are in use, holes included.
    depth: Cell<usize>,
    /// That of the last place which was begun.
    number: Cell<u32>,
    all: [Place; PLACES],
}

/// Open visits to one recording that began one after the other, or a hole.
#[derive(Debug)]
struct Place {
    entry: Cell<Option<&'static Entry>>,
    id: Cell<u32>,
    /// How many: a job that waits for others may run them inside of itself.
    count: Cell<u32>,
    number: Cell<u32>,
}

impl Place {
    fn get(&self) -> Option<Tag> {
        let id = self.id.get();
        self.entry.get().map(|entry| Tag { entry, id })
    }

    fn begin(&self, tag: Tag, number: u32) {
        self.entry.set(Some(tag.entry));
        self.id.set(tag.id);
        self.count.set(1);
        self.number.set(number);
    }

    fn leave(&self) {
        self.count.set(self.count.get().saturating_sub(1));
        if self.count.get() == 0 {
            self.entry.set(None);
        }
    }

    fn move_to(&self, other: &Self) {
        other.entry.set(self.entry.take());
        other.id.set(self.id.get());
        other.count.set(self.count.get());
        other.number.set(self.number.get());
    }
}

impl Places {
    /// Whether there is no visit.
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.depth.get() == 0
    }

    /// The innermost visit's recording.
    #[inline]
    pub(super) fn last(&self) -> Option<Tag> {
        let last = self.depth.get().checked_sub(1)?;
        self.all.get(last)?.get()
    }

    /// The visits' recordings, the innermost first.
    pub(super) fn tags(&self) -> impl Iterator<Item = Tag> {
        self.in_use().iter().rev().filter_map(Place::get)
    }

    fn in_use(&self) -> &[Place] {
        let depth = self.depth.get().min(PLACES);
        self.all.get(..depth).unwrap_or(&[])
    }

    /// Forgets all visits.
    pub(super) fn clear(&self) {
        self.depth.set(0);
    }

    /// Whether there is a place for a visit to this recording.
    pub(super) fn is_full_for(&self, tag: Tag) -> bool {
        self.depth.get() >= PLACES && self.last_to(tag).is_none()
    }

    /// The innermost visit's place, if it is one to this recording.
    fn last_to(&self, tag: Tag) -> Option<&Place> {
        let last = self.in_use().last()?;
        last.get().filter(|open| open.id == tag.id).map(|_| last)
    }

    /// Finds a place for a visit; the number that it is left by, or `None` when there is no
    /// place.
    pub(super) fn enter(&self, tag: Tag) -> Option<u32> {
        if let Some(last) = self.last_to(tag) {
            last.count.set(last.count.get() + 1);
            return Some(last.number.get());
        }
        let depth = self.depth.get();
        let place = self.all.get(depth)?;
        let number = self.number.get().wrapping_add(1);
        self.number.set(number);
        place.begin(tag, number);
        self.depth.set(depth + 1);
        Some(number)
    }

    /// Ends a visit.
    pub(super) fn leave(&self, number: u32) {
        let mut open = self.in_use().iter().rev();
        // Not there if nobody wanted it any more when there was no place left.
        if let Some(place) =
            open.find(|place| place.number.get() == number && place.get().is_some())
        {
            place.leave();
        }
        let last = self
            .in_use()
            .iter()
            .rposition(|place| place.get().is_some());
        self.depth.set(last.map_or(0, |last| last + 1));
    }

    /// Closes all holes, and the places of visits that are not `wanted` any more.
    pub(super) fn close_up(&self, wanted: impl Fn(Tag) -> bool) {
        let mut kept = 0;
        for (at, place) in self.in_use().iter().enumerate() {
            if !place.get().is_some_and(&wanted) {
                place.entry.set(None);
                continue;
            }
            if at != kept
                && let Some(free) = self.all.get(kept)
            {
                place.move_to(free);
            }
            kept += 1;
        }
        self.depth.set(kept);
    }
}

#[cfg(test)]
mod tests {
    use core::cell::Cell;

    use super::{PLACES, Place, Places, Tag};
    use crate::record::recording::Recording;

    fn none() -> Places {
        let place = |_| Place {
            entry: Cell::new(None),
            id: Cell::new(0),
            count: Cell::new(0),
            number: Cell::new(0),
        };
        Places {
            depth: Cell::new(0),
            number: Cell::new(0),
            all: core::array::from_fn(place),
        }
    }

    /// The same, said simply: visits in the order in which they began.
    #[derive(Default)]
    struct Model(Vec<(u32, u32)>);

    impl Model {
        fn agrees_with(&self, places: &Places) {
            let mut ids: Vec<u32> = self.0.iter().rev().map(|&(_, id)| id).collect();
            ids.dedup();
            let mut found: Vec<u32> = places.tags().map(|tag| tag.id).collect();
            found.dedup();
            assert_eq!(found, ids);
            let last = places.last().map(|tag| tag.id);
            assert_eq!(last, ids.first().copied());
        }
    }

    /// Bug prevented: of visits that end in any order one that is open is gone, or one that
    /// has ended is not, or they are in another order.
    #[test]
    fn visits_that_end_in_any_order_are_as_if_there_were_places_without_end() {
        let recordings: [Recording; 5] = core::array::from_fn(|_| Recording::open().expect("room"));
        let tags = recordings.each_ref().map(Recording::tag);
        let (places, mut model) = (none(), Model::default());
        let mut random = 1_u64;
        let mut draw = |below: usize| {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            usize::try_from(random >> 33).expect("31 bits") % below
        };
        let mut closed_up = 0;
        for _ in 0..100_000 {
            if model.0.len() < 20 && draw(2) == 0 {
                let tag: Tag = *tags.get(draw(tags.len())).expect("one");
                if places.is_full_for(tag) {
                    places.close_up(|_| true);
                    closed_up += 1;
                }
                let number = places.enter(tag).expect("fewer than there are places");
                model.0.push((number, tag.id));
            } else if !model.0.is_empty() {
                let (number, _) = model.0.remove(draw(model.0.len()));
                places.leave(number);
            }
            model.agrees_with(&places);
        }
        assert!(closed_up > 100, "{closed_up}");
    }

    /// Bug prevented: a visit whose place went to another ends that one.
    #[test]
    fn what_nobody_wants_any_more_makes_room() {
        let recordings: [Recording; 2] = core::array::from_fn(|_| Recording::open().expect("room"));
        let [one, other] = recordings.each_ref().map(Recording::tag);
        let places = none();
        let tags = [one, other].into_iter().cycle();
        let numbers: Vec<u32> = tags
            .take(PLACES)
            .filter_map(|tag| places.enter(tag))
            .collect();
        assert_eq!(numbers.len(), PLACES);
        assert!(places.is_full_for(one) && !places.is_full_for(other));
        assert!(places.enter(one).is_none());
        places.close_up(|tag| tag.id == other.id);
        assert_eq!(places.tags().count(), PLACES / 2);
        let last = places.enter(one).expect("room");
        // Of those that went first.
        places.leave(*numbers.first().expect("one"));
        assert_eq!(places.last().map(|tag| tag.id), Some(one.id));
        places.leave(last);
        assert_eq!(places.last().map(|tag| tag.id), Some(other.id));
    }
}
