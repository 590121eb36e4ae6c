//! A test file that asserts how much code allocates, beside other tests.
//!
//! In a project of your own this is a file under `tests/`; here it is an
//! example, so that it can be read on its own. Run its tests with
//!
//! ```text
//! cargo test --example assert_in_tests
//! ```

use heapledger::TrackingAllocator;

// One file under tests/ is one program, and a program has one global allocator.
#[global_allocator]
static HEAP: TrackingAllocator = TrackingAllocator::new();

/// Joins words with a comma, in one allocation.
fn join(words: &[&str]) -> String {
    let len = words.iter().map(|word| word.len() + 1).sum();
    let mut joined = String::with_capacity(len);
    for (i, word) in words.iter().enumerate() {
        if i > 0 {
            joined.push(',');
        }
        joined.push_str(word);
    }
    joined
}

/// Writes into a buffer that the caller keeps.
fn join_into(joined: &mut String, words: &[&str]) {
    joined.clear();
    for word in words {
        joined.push_str(word);
    }
}

fn main() {
    let joined = heapledger::assert_allocs!(== 1, || join(&["one", "two", "three"]));
    println!("{joined}: one allocation, as asserted");

    // What a failure looks like.
    let failure = std::panic::catch_unwind(|| {
        heapledger::assert_no_alloc!(|| join(&["one", "two", "three"]))
    });
    assert!(failure.is_err());

    let mut buffer = String::with_capacity(64);
    heapledger::assert_no_alloc!(|| join_into(&mut buffer, &["no", "allocation"]));
}

#[cfg(test)]
mod tests {
    use heapledger::{assert_allocs, assert_no_alloc};

    use super::{join, join_into};

    #[test]
    fn joining_takes_one_allocation() {
        let joined = assert_allocs!(== 1, || join(&["a", "b", "c"]));
        assert_eq!(joined, "a,b,c");
    }

    #[test]
    fn joining_takes_no_more_bytes_than_it_must() {
        assert_allocs!(<= 6 bytes, || join(&["a", "b", "c"]));
    }

    #[test]
    fn a_warm_buffer_takes_no_allocation() {
        let mut buffer = String::with_capacity(64);
        assert_no_alloc!(|| join_into(&mut buffer, &["warm", "buffer"]));
        assert_eq!(buffer, "warmbuffer");
    }

    /// This runs beside the others and allocates all the time; they do not notice.
    #[test]
    fn a_noisy_neighbour() {
        for i in 0..10_000 {
            assert_eq!(std::hint::black_box(vec![i; 100]).len(), 100);
        }
    }
}
