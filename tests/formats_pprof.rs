//! `write_pprof`, read by a protobuf and a gzip that are not ours.

#![cfg(feature = "profile")]

use heapledger::__private::profile::empty;
use heapledger::HeapProfile;
use heapledger::profile::{Amount, Mapping, Mode, StackProfile, Value};
use proptest::prelude::*;

#[path = "fixtures/measured_profile.rs"]
mod measured_profile;
#[path = "support/proto.rs"]
mod proto;
#[path = "fixtures/sample_profile.rs"]
mod sample_profile;

use measured_profile::measured;
use sample_profile::{WEIRD, names, sample};

fn exact() -> HeapProfile {
    sample(Mode::EveryAllocation, Some(names()))
}

/// What the six sums must be.
fn totals(profile: &HeapProfile) -> [i64; 6] {
    let (live, peak, total) = (profile.live(), profile.peak_amount(), profile.total());
    [total, live, peak]
        .iter()
        .flat_map(|amount| [amount.blocks, amount.bytes])
        .map(|value| i64::try_from(value).expect("small"))
        .collect::<Vec<_>>()
        .try_into()
        .expect("six")
}

/// Bug prevented: an amount that is in the profile and in no sample, or in two.
#[test]
fn the_samples_sum_up_to_the_profile() {
    for mode in [Mode::EveryAllocation, SAMPLED] {
        for names in [None, Some(names())] {
            let profile = sample(mode, names);
            let read = proto::read(&profile);
            assert_eq!(read.sums(), totals(&profile));
            assert_eq!(totals(&profile), [127, 420_710, 16, 3_614, 20, 9_274]);
            // The stack of nothing is left out.
            assert_eq!(read.sample.len(), profile.stacks.len() - 1);
        }
    }
}

const SAMPLED: Mode = Mode::Sampled {
    interval_bytes: 512 * 1024,
};

/// Bug prevented: the user's function cut off with the allocator's that were
/// inlined at the same address, or the allocator's left where it was cut in
/// another stack.
#[test]
fn stacks_are_trimmed_within_an_address() {
    let read = proto::read(&exact());
    let stacks: Vec<_> = read.sample.iter().map(|s| read.stack(s)).collect();
    let insert = [
        "alloc::vec::Vec<T>::with_capacity:500",
        "sample::Cache<u64>::insert:13",
        "sample::serve:20",
        "sample::main:5",
    ];
    assert_eq!(stacks[0], insert);
    assert_eq!(stacks[1], insert);
    let mut whole = vec![
        "sample::callback:40",
        "alloc::raw_vec::RawVec<T>::try_allocate:477",
    ];
    whole.extend(insert);
    assert_eq!(stacks[4], whole);
    assert_eq!(stacks[5], ["qsort:0", "sample::main:5"]);
    assert_eq!(stacks[6], ["an unknown function:0", "sample::main:5"]);
    assert_eq!(stacks[7], ["an unknown stack:0"]);
}

/// Bug prevented: pprof shows our own functions between the program's, which
/// [`HeapProfile::trimmed`] does not.
#[test]
fn measurements_are_cut_out_of_an_address() {
    let (profile, shown) = measured();
    let read = proto::read(&profile);
    let stack = read.stack(&read.sample[0]);
    assert_eq!(stack, shown.map(|name| format!("{name}:0")));
    // The address that they were inlined at is there all the same, once.
    assert_eq!(read.location.len(), 2);
}

/// Bug prevented: names that a reader takes apart: pprof removes `<..>` from
/// one that equals its system name.
#[test]
fn names_arrive_as_they_are() {
    let read = proto::read(&exact());
    assert_eq!(read.stack(&read.sample[2])[0], format!("{WEIRD}:7"));
    assert!(
        read.strings
            .iter()
            .any(|text| text == "src/we;ird \"file\".rs")
    );
    assert!(
        read.function
            .iter()
            .all(|function| function.system_name == 0)
    );
}

/// Bug prevented: the line after the call shown for the call, and code that
/// lies in no file, or at the end of the one before.
#[test]
fn places_are_those_of_the_calls_and_lie_in_their_files() {
    let mut profile = exact();
    // The first address behind the mapping is a return address of its last call.
    let mut last = profile.stacks[0].clone();
    last.addresses = vec![0x50_0000, 0x50_0001, 0x10];
    profile.stacks = vec![last];
    let read = proto::read(&profile);
    let places: Vec<_> = read
        .location
        .iter()
        .map(|l| (l.address, l.mapping))
        .collect();
    assert_eq!(places, [(0x4f_ffff, 1), (0x50_0000, 0), (0xf, 0)]);
}

/// Bug prevented: tools that look names up again since nothing says that they
/// are there, or do not look since something says so.
#[test]
fn mappings_say_whether_names_are_there() {
    for names in [Some(names()), None] {
        let named = names.is_some();
        let read = proto::read(&sample(Mode::EveryAllocation, names));
        for mapping in &read.mapping {
            let has = [
                mapping.has_functions,
                mapping.has_filenames,
                mapping.has_line_numbers,
                mapping.has_inline_frames,
            ];
            assert_eq!(has, [named; 4]);
        }
        let lines = read.location.iter().filter(|l| l.address != 0);
        assert!(lines.clone().count() >= 8);
        assert!(lines.clone().all(|l| l.line.is_empty() != named));
        let cut = read.text(read.drop_frames);
        assert_eq!(
            cut.contains("__rust_alloc") || cut.contains("__rust_(alloc"),
            !named
        );
        let first = &read.mapping[0];
        assert_eq!(
            (first.start, first.limit, first.offset),
            (0x40_0000, 0x50_0000, 0x1000)
        );
        assert_eq!(read.text(first.file), "/nowhere/sample");
        assert_eq!(read.text(first.build_id), "00ff17");
    }
}

/// Bug prevented: pprof takes the first mapping for the program.
#[test]
fn the_program_itself_is_the_first_mapping() {
    let mut profile = exact();
    let mut own = Mapping::default();
    (own.start, own.end) = (0x10_0000, 0x20_0000);
    let path = std::env::current_exe().expect("a path");
    own.path = path.to_str().expect("text").to_owned();
    profile.mappings.push(own.clone());
    let read = proto::read(&profile);
    let files: Vec<_> = read.mapping.iter().map(|m| read.text(m.file)).collect();
    assert_eq!(
        files,
        [
            own.path.as_str(),
            "/nowhere/sample",
            "/nowhere/libsample.so.1"
        ]
    );
    // The places followed their mapping.
    assert!(read.location.iter().any(|l| l.mapping == 2));
    assert!(read.location.iter().all(|l| l.mapping != 1));
}

#[test]
fn the_head_says_when_how_long_and_how() {
    let read = proto::read(&exact());
    assert_eq!(read.time_nanos, 1_795_000_000_000_000_000);
    assert_eq!(read.duration_nanos, 2_500_000_000);
    assert_eq!(read.period, 1);
    let comments: Vec<_> = read.comment.iter().map(|c| read.text(*c)).collect();
    assert_eq!(comments, ["heapledger: every allocation was recorded"]);

    let mut profile = sample(SAMPLED, Some(names()));
    profile.incomplete.blocks = 1_000;
    profile.incomplete.cut_stacks = 1;
    let read = proto::read(&profile);
    assert_eq!(read.period, 512 * 1024);
    let comments: Vec<_> = read.comment.iter().map(|c| read.text(*c)).collect();
    assert_eq!(
        comments,
        [
            "heapledger: estimates from one sample in 512.00 KiB on average",
            "incomplete: 1,000 blocks could not be recorded",
            "1 stack could not be followed to its thread's beginning",
        ]
    );
}

/// Bug prevented: a page that is asked for what was ever allocated, and tools
/// that show what is alive.
#[test]
fn any_figure_can_be_the_one_that_is_shown_first() {
    let table = [
        (Value::TotalBlocks, "alloc_objects"),
        (Value::TotalBytes, "alloc_space"),
        (Value::LiveBlocks, "inuse_objects"),
        (Value::LiveBytes, "inuse_space"),
        (Value::PeakBlocks, "peak_objects"),
        (Value::PeakBytes, "peak_space"),
    ];
    for (value, name) in table {
        let mut gzip = Vec::new();
        let written = exact().write_pprof_showing(&mut gzip, value);
        written.expect("memory takes it");
        let read = proto::decoded(&gzip);
        assert_eq!(read.text(read.default_sample_type), name);
        assert_eq!(read.sample.len(), proto::read(&exact()).sample.len());
    }
}

#[test]
fn an_empty_profile_is_a_valid_file() {
    for names in [Some(names()), None] {
        let read = proto::read(&empty(Mode::EveryAllocation, names));
        assert_eq!((read.sample.len(), read.location.len()), (0, 0));
    }
}

/// Bug prevented: numbers that do not fit the format's signed ones turning negative.
#[test]
fn amounts_beyond_the_format_are_its_largest() {
    let mut profile = empty(Mode::EveryAllocation, None);
    let mut stack = StackProfile::default();
    stack.addresses = vec![u64::MAX, 0];
    stack.total = Amount::exact(u64::MAX, u64::MAX);
    profile.stacks.push(stack);
    let read = proto::read(&profile);
    assert_eq!(read.sample[0].value, [i64::MAX, i64::MAX, 0, 0, 0, 0]);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Bug prevented: a rule of the format that only some profiles break.
    #[test]
    fn any_profile_keeps_the_rules(
        stacks in prop::collection::vec(
            (prop::collection::vec(0usize..11, 0..12), prop::array::uniform6(0u64..1 << 40)),
            0..40,
        ),
        named: bool,
    ) {
        // One address has no name: it was not looked up.
        const ADDRESSES: [u64; 11] = [
            0x40_1000, 0x40_2000, 0x40_2010, 0x40_3000, 0x40_4000, 0x40_5000, 0x40_6000,
            0x40_7000, 0x40_8000, 0x7f00_0000_1000, 0x77,
        ];
        let mut profile = sample(Mode::EveryAllocation, named.then(names));
        profile.stacks.clear();
        for (places, values) in stacks {
            let mut stack = StackProfile::default();
            stack.addresses = places.iter().map(|&place| ADDRESSES[place]).collect();
            let [a, b, c, d, e, f] = values;
            stack.live = Amount::exact(a, b);
            stack.peak = Amount::exact(c, d);
            stack.total = Amount::exact(e, f);
            profile.stacks.push(stack);
        }
        let read = proto::read(&profile);
        prop_assert_eq!(read.sums(), totals(&profile));
    }
}
