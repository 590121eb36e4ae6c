//! Every order of a switch and a change of the mask, and of broken twins that the
//! model must reject.
//!
//! ```text
//! RUSTFLAGS="--cfg loom" cargo test --release --lib --features profile models
//! ```

use core::ptr::without_provenance_mut;
use loom::sync::Arc;
use loom::thread;

use super::{Look, Ordering};

/// One thread makes the mask that in force, where all was looked at before, while
/// another gets a place for samples, has one there, and frees it.
fn cover_beside(switch: fn(&Look)) {
    const PLACE: usize = 0x7f12_3456_7800;
    loom::model(move || {
        let look = Arc::new(Look::new());
        look.look_for_samples();
        look.watch_frees(true);
        let switching = {
            let look = Arc::clone(&look);
            thread::spawn(move || switch(&look))
        };
        let place = without_provenance_mut(PLACE);
        let is_covered = look.cover(PLACE, PLACE);
        assert!(!is_covered || look.looks_at(place), "not looked at");
        switching.join().expect("the thread that switches");
        assert!(
            !is_covered || look.looks_at(place),
            "not looked at any more"
        );
    });
}

/// Bug prevented: a mask that was read before a bit was taken from it is put in force
/// after that.
#[test]
fn what_is_covered_while_another_switches_is_looked_at() {
    cover_beside(|look| look.watch_frees(false));
}

/// Bug prevented: a sample stays where it is, as another thread has just begun to have
/// that looked at.
#[test]
fn what_another_thread_covers_too_is_looked_at() {
    loom::model(|| {
        let look = Arc::new(Look::new());
        look.look_for_samples();
        look.watch_frees(false);
        let place = without_provenance_mut(0x7f12_3456_7800);
        let other = {
            let look = Arc::clone(&look);
            thread::spawn(move || !look.covers_all() || look.looks_at(place))
        };
        assert!(look.cover_all() && look.looks_at(place));
        assert!(other.join().expect("the other thread"));
    });
}

#[test]
#[should_panic(expected = "not looked at")]
fn a_switch_that_does_not_keep_the_mask_to_itself_is_rejected() {
    cover_beside(|look| {
        let mask = look.samples.load(Ordering::Relaxed);
        look.word.store(mask, Ordering::Relaxed);
    });
}
