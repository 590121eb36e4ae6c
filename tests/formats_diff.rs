//! `HeapProfile::diff`: what grew between two profiles.

#![cfg(feature = "profile")]

use heapledger::__private::profile::empty;
use heapledger::HeapProfile;
use heapledger::profile::{Amount, Mode, Names, StackProfile};

#[path = "fixtures/sample_profile.rs"]
mod sample_profile;

use sample_profile::{names, sample};

/// Stacks by their addresses, each with what is alive and what was ever allocated.
fn profile(stacks: &[(&[u64], Amount, Amount)], names: Option<Names>) -> HeapProfile {
    let mut profile = empty(Mode::EveryAllocation, names);
    for (addresses, live, total) in stacks {
        let mut stack = StackProfile::default();
        stack.addresses = addresses.to_vec();
        (stack.live, stack.total) = (*live, *total);
        profile.stacks.push(stack);
    }
    profile
}

const fn exact(blocks: u64, bytes: u64) -> Amount {
    Amount::exact(blocks, bytes)
}

/// Bug prevented: a stack that is in one of the profiles only is forgotten, and
/// what shrank shows as an enormous growth.
#[test]
fn stacks_are_matched_by_their_addresses_and_sorted_by_growth() {
    let before = profile(
        &[
            (&[1, 2], exact(5, 500), exact(5, 500)),
            (&[1, 3], exact(1, 10), exact(1, 10)),
            (&[4], exact(2, 80), exact(2, 80)),
            (&[5], exact(9, 9), exact(9, 9)),
        ],
        None,
    );
    let after = profile(
        &[
            // The same stack twice is their sum.
            (&[1, 3], exact(2, 20), exact(3, 30)),
            (&[1, 3], exact(1, 60), exact(1, 60)),
            (&[1, 2], exact(2, 200), exact(6, 600)),
            (&[5], exact(9, 9), exact(9, 9)),
            (&[6], exact(0, 0), exact(7, 7_000)),
            (&[7], exact(1, 4_096), exact(1, 4_096)),
        ],
        None,
    );
    let diff = after.diff(&before);
    let found: Vec<_> = diff
        .stacks
        .iter()
        .map(|s| {
            (
                &*s.addresses,
                s.live.blocks,
                s.live.bytes,
                s.total.blocks,
                s.total.bytes,
            )
        })
        .collect();
    let expected: [(&[u64], i64, i64, i64, i64); 5] = [
        (&[7], 1, 4_096, 1, 4_096),
        (&[1, 3], 2, 70, 3, 80),
        (&[6], 0, 0, 7, 7_000),
        (&[4], -2, -80, -2, -80),
        (&[1, 2], -3, -300, 1, 100),
    ];
    assert_eq!(found, expected);
    assert_eq!((diff.live.blocks, diff.live.bytes), (-2, 3_786));
    assert_eq!((diff.total.blocks, diff.total.bytes), (10, 11_196));

    // The other way round is the same with the other sign.
    let back = before.diff(&after);
    assert_eq!((back.live.blocks, back.live.bytes), (2, -3_786));
    assert_eq!(back.stacks.len(), 5);
}

#[test]
fn a_profile_does_not_differ_from_itself() {
    let profile = sample(Mode::EveryAllocation, Some(names()));
    let diff = profile.diff(&profile);
    assert!(diff.stacks.is_empty());
    assert!(diff.live.is_zero() && diff.total.is_zero());
    assert_eq!(
        diff.to_string(),
        "alive      0 bytes in 0 blocks\nallocated  0 bytes in 0 blocks"
    );
}

/// Bug prevented: a difference of two estimates shown as if it were exact.
#[test]
fn errors_add_up_by_their_squares() {
    let estimate = |bytes, error| Amount::estimate(10, bytes, error / 10.0, error);
    let before = profile(
        &[(&[1], estimate(1_000, 30.0), estimate(1_000, 30.0))],
        None,
    );
    let after = profile(
        &[(&[1], estimate(5_000, 40.0), estimate(5_000, 40.0))],
        None,
    );
    let diff = after.diff(&before);
    let stack = &diff.stacks[0];
    for change in [stack.live, stack.total, diff.live] {
        assert!((change.bytes_error - 50.0).abs() < 1e-9, "{change:?}");
        assert!((change.blocks_error - 5.0).abs() < 1e-9, "{change:?}");
        assert_eq!(change.to_string(), "+4,000 bytes ± 50 B in 0 ± 5.0 blocks");
    }
}

/// Bug prevented: a block that is certain to have been seen reads as one that may not be there.
#[test]
fn an_error_of_nearly_nothing_is_not_shown() {
    let large = Amount::estimate(1, 10_000_000, 7.2e-5, 0.4);
    let after = profile(&[(&[1], large, large)], None);
    let change = after.diff(&profile(&[], None)).live;
    assert!(change.blocks_error > 0.0, "it is there for a program");
    assert_eq!(change.to_string(), "+10,000,000 bytes in +1 block");
}

#[test]
fn numbers_at_the_ends_do_not_wrap() {
    let most = profile(&[(&[1], exact(u64::MAX, u64::MAX), exact(0, 0))], None);
    let none = profile(&[], None);
    assert_eq!(most.diff(&none).live.bytes, i64::MAX);
    assert_eq!(none.diff(&most).live.bytes, i64::MIN);
}

#[test]
fn people_see_what_grew_where() {
    let stack: &[u64] = &[0x40_1000, 0x40_2000, 0x40_3000, 0x40_4000, 0x40_5000];
    let gone: &[u64] = &[0x40_6000];
    let before = |names| {
        let stacks = [
            (stack, exact(1, 100), exact(1, 100)),
            (gone, exact(1, 7), exact(1, 7)),
        ];
        profile(&stacks, names)
    };
    let after = |names| profile(&[(stack, exact(3, 2_148), exact(4, 2_200))], names);
    // The names may be in either of the two.
    for diff in [
        after(Some(names())).diff(&before(None)),
        after(None).diff(&before(Some(names()))),
    ] {
        assert_eq!(
            diff.to_string(),
            "alive      +2,041 bytes in +1 block\n\
             allocated  +2,093 bytes in +2 blocks\n\
             \n\
             +2,048 bytes in +2 blocks, at src/cache.rs:13\n    \
                 alloc::vec::Vec<T>::with_capacity at library/alloc/src/vec/mod.rs:500\n    \
                 sample::Cache<u64>::insert at src/cache.rs:13\n    \
                 sample::serve at src/main.rs:20\n    \
                 sample::main at src/main.rs:5\n\
             \n\
             -7 bytes at 1 stack that shrank"
        );
    }
}

/// Bug prevented: a log full of one difference, or one that hides that it is cut.
#[test]
fn the_largest_are_shown_and_the_rest_summed_up() {
    let mut after = profile(&[], Some(names()));
    for n in 1..=100 {
        let mut stack = StackProfile::default();
        stack.addresses = (0..n).collect();
        stack.live = exact(1, n);
        after.stacks.push(stack);
    }
    let text = after.diff(&profile(&[], None)).to_string();
    assert!(text.contains("\n\n+100 bytes in +1 block, at "), "{text}");
    assert!(text.contains("\n\n+81 bytes in +1 block, at "), "{text}");
    assert!(!text.contains("+80 bytes"), "{text}");
    assert!(
        text.contains("    0x7\n    ... and 92 outer frames"),
        "{text}"
    );
    assert!(
        text.ends_with("... and +3,240 bytes at 80 more stacks that grew"),
        "{text}"
    );
}

/// Bug prevented: a difference full of numbers, since nobody called `symbolize`.
#[test]
fn names_are_looked_up_for_what_is_shown() {
    let inside = names_are_looked_up_for_what_is_shown as fn() as usize as u64 + 1;
    let after = profile(&[(&[inside], exact(1, 1), exact(1, 1))], None);
    let text = after.diff(&profile(&[], None)).to_string();
    assert!(
        text.contains("names_are_looked_up_for_what_is_shown at "),
        "{text}"
    );
}

/// Bug prevented: one of the profiles was symbolized, and what is new in the other is
/// shown as bare numbers.
#[test]
fn names_that_one_of_the_profiles_lacks_are_looked_up() {
    let inside = names_that_one_of_the_profiles_lacks_are_looked_up as fn() as usize as u64 + 1;
    let old: (&[u64], Amount, Amount) = (&[0x40_3000], exact(1, 100), exact(1, 100));
    let new: (&[u64], Amount, Amount) = (&[inside], exact(1, 1), exact(1, 1));
    for (earlier, later) in [(Some(names()), None), (None, Some(names()))] {
        let after = profile(&[old, new], later);
        let text = after.diff(&profile(&[old], earlier)).to_string();
        assert!(
            text.contains("names_that_one_of_the_profiles_lacks_are_looked_up at "),
            "{text}"
        );
    }
}

/// Bug prevented: two calls on one line show as two entries that read the same, and
/// what went from one to the other as a growth.
#[test]
fn stacks_that_look_the_same_are_shown_as_one() {
    let (first, second): (&[u64], &[u64]) = (
        &[0x40_1000, 0x40_2000, 0x40_3000],
        &[0x40_1000, 0x40_2010, 0x40_3000],
    );
    let (inner, outer): (&[u64], &[u64]) = (&[0x40_8000, 0x40_3000], &[0x40_6000, 0x40_3000]);
    let before = profile(
        &[
            (first, exact(3, 300), exact(3, 300)),
            (outer, exact(1, 7), exact(1, 7)),
        ],
        Some(names()),
    );
    let after = profile(
        &[
            (first, exact(1, 100), exact(3, 300)),
            (second, exact(5, 500), exact(5, 500)),
            (inner, exact(1, 250), exact(1, 250)),
        ],
        Some(names()),
    );
    let diff = after.diff(&before);
    assert_eq!(diff.stacks.len(), 4, "by their addresses");
    let text = diff.to_string();
    let growths: Vec<&str> = text.split("\n\n").skip(1).collect();
    assert_eq!(growths.len(), 3, "{text}");
    assert!(growths[0].starts_with("+300 bytes in +3 blocks, at src/cache.rs:13\n"));
    assert!(growths[1].starts_with("+250 bytes in +1 block, at src/main.rs:40\n"));
    assert_eq!(growths[2], "-7 bytes at 1 stack that shrank");
}

/// Bug prevented: of stacks that look the same, one where a block of no bytes was freed is left
/// out, and the entry has more blocks than all entries together.
#[test]
fn what_changed_in_blocks_alone_is_in_the_sum_of_what_looks_the_same() {
    let (first, second): (&[u64], &[u64]) = (&[0x40_2000, 0x40_3000], &[0x40_2010, 0x40_3000]);
    let before = profile(&[(first, exact(2, 100), exact(2, 100))], Some(names()));
    let after = profile(
        &[
            (first, exact(1, 100), exact(2, 100)),
            (second, exact(1, 1), exact(1, 1)),
        ],
        Some(names()),
    );
    let text = after.diff(&before).to_string();
    let header = "alive      +1 byte in 0 blocks\nallocated  +1 byte in +1 block\n\n";
    let entry = text.strip_prefix(header).expect(&text);
    let entry = entry.lines().next();
    assert_eq!(entry, Some("+1 byte in 0 blocks, at src/cache.rs:13"));
}

/// Bug prevented: "1 bytes".
#[test]
fn one_byte_is_one_byte() {
    let stacks: Vec<[u64; 1]> = (1..=21).map(|address| [address]).collect();
    let grown = |bytes| {
        let stacks = stacks.iter().map(|stack| (&stack[..], exact(1, bytes)));
        let stacks: Vec<_> = stacks.map(|(stack, live)| (stack, live, live)).collect();
        profile(&stacks, Some(Names::default()))
    };
    let (before, after) = (grown(1), grown(2));
    let text = after.diff(&before).to_string();
    assert!(text.contains("\n\n+1 byte in 0 blocks, at 0x1\n"), "{text}");
    let rest = "\n\n... and +1 byte at 1 more stack that grew";
    assert!(text.ends_with(rest), "{text}");
    let shrunk = profile(&[(&[1], exact(1, 1), exact(1, 1))], Some(Names::default()));
    let none = profile(&[], None);
    let text = none.diff(&shrunk).to_string();
    assert!(
        text.ends_with("\n\n-1 byte at 1 stack that shrank"),
        "{text}"
    );
}
