//! A test file that asserts that code leaks nothing, beside other tests.
//!
//! In a project of your own this is a file under `tests/`; here it is an
//! example, so that it can be read on its own. Run its tests with
//!
//! ```text
//! cargo test --features profile --example leak_test
//! ```

use std::cell::RefCell;
use std::rc::{Rc, Weak};

use heapledger::TrackingAllocator;
use heapledger::leaks::{self, LeakReport};

// One file under tests/ is one program, and a program has one global allocator.
#[global_allocator]
static HEAP: TrackingAllocator = TrackingAllocator::new();

/// A tree whose children know their parent: by a counted reference, which makes
/// a cycle, or by a weak one, which does not.
#[derive(Default)]
struct Node {
    children: RefCell<Vec<Rc<Node>>>,
    strong: RefCell<Option<Rc<Node>>>,
    weak: RefCell<Weak<Node>>,
}

fn leaking_tree() {
    let parent = Rc::new(Node::default());
    let child = Rc::new(Node::default());
    *child.strong.borrow_mut() = Some(parent.clone());
    parent.children.borrow_mut().push(child);
}

fn tidy_tree() {
    let parent = Rc::new(Node::default());
    let child = Rc::new(Node::default());
    *child.weak.borrow_mut() = Rc::downgrade(&parent);
    assert!(child.weak.borrow().upgrade().is_some());
    parent.children.borrow_mut().push(child);
}

fn main() {
    heapledger::assert_no_leaks!(tidy_tree);

    let report: LeakReport = leaks::check(leaking_tree).expect_err("a cycle");
    // Two nodes, and the list of children.
    assert_eq!(report.blocks(), 3);
    let lines: Vec<String> = report.sites.iter().map(leaks::LeakSite::location).collect();
    assert!(lines.iter().all(|line| line.contains("leak_test.rs:")));
    println!("{report:#}");
}

#[cfg(test)]
mod tests {
    use heapledger::assert_no_leaks;
    use heapledger::leaks::Check;

    #[test]
    fn a_tidy_tree_leaks_nothing() {
        assert_no_leaks!(super::tidy_tree);
    }

    /// What a failure looks like.
    #[test]
    #[should_panic(expected = "3 blocks leaked")]
    fn a_tree_with_a_cycle_leaks() {
        assert_no_leaks!(super::leaking_tree);
    }

    /// For code that keeps something on purpose, or that is not yours to mend.
    #[test]
    fn what_is_known_can_be_left_out() {
        let known = Check::new().suppress("leaking_tree");
        if let Err(report) = known.run(super::leaking_tree) {
            panic!("{report}");
        }
        let few = Check::new().allow_blocks(3);
        assert!(few.run(super::leaking_tree).is_ok());
    }

    /// This runs beside the others and allocates all the time; they do not notice.
    #[test]
    fn a_noisy_neighbour() {
        let kept: Vec<String> = (0..10_000).map(|i| i.to_string()).collect();
        assert_eq!(std::hint::black_box(kept).len(), 10_000);
    }
}
