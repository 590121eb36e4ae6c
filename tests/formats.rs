//! The formats for people and their viewers, read back: text, DHAT, folded.

#![cfg(feature = "profile")]

use std::collections::BTreeSet;

use heapledger::__private::profile::empty;
use heapledger::HeapProfile;
use heapledger::profile::{Amount, Frame, Mode, Names, StackProfile, Value};
use serde_json::Value as Json;

#[path = "fixtures/measured_profile.rs"]
mod measured_profile;
#[path = "fixtures/sample_profile.rs"]
mod sample_profile;

use measured_profile::measured;
use sample_profile::{WEIRD, names, sample};

const SAMPLED: Mode = Mode::Sampled {
    interval_bytes: 512 * 1024,
};

const VALUES: [Value; 6] = [
    Value::LiveBytes,
    Value::LiveBlocks,
    Value::PeakBytes,
    Value::PeakBlocks,
    Value::TotalBytes,
    Value::TotalBlocks,
];

fn exact() -> HeapProfile {
    sample(Mode::EveryAllocation, Some(names()))
}

fn text(profile: &HeapProfile) -> String {
    let mut text = Vec::new();
    profile.write_text(&mut text).expect("memory takes it");
    String::from_utf8(text).expect("text")
}

fn dhat(profile: &HeapProfile) -> Json {
    let mut json = Vec::new();
    profile.write_dhat(&mut json).expect("memory takes it");
    serde_json::from_slice(&json).expect("JSON")
}

fn folded(profile: &HeapProfile, value: Value) -> Vec<(Vec<String>, u64)> {
    let mut lines = Vec::new();
    profile
        .write_folded(&mut lines, value)
        .expect("memory takes it");
    let lines = String::from_utf8(lines).expect("text");
    let read = lines.lines().map(|line| {
        let (stack, value) = line.rsplit_once(' ').expect("a value");
        let stack = stack.split(';').map(String::from).collect();
        (stack, value.parse().expect("a number"))
    });
    read.collect()
}

/// Bug prevented: a report shows our own functions between the program's, and
/// [`HeapProfile::trimmed`] and differences do not.
#[test]
fn every_format_shows_stacks_as_they_are_trimmed() {
    let (profile, shown) = measured();
    let trimmed = profile.trimmed(&profile.stacks[0]);
    let names: Vec<_> = trimmed.iter().map(Frame::function).collect();
    assert_eq!(names, shown);

    let outermost_first: Vec<_> = shown.iter().rev().copied().map(String::from).collect();
    let folded = folded(&profile, Value::LiveBytes);
    assert_eq!(folded, [(outermost_first, 300)]);
    let dhat = dhat(&profile);
    let frames = dhat["pps"][0]["fs"].as_array().expect("a list");
    let table = dhat["ftbl"].as_array().expect("a list");
    let at = |place: &Json| usize::try_from(place.as_u64()?).ok();
    let frames = frames.iter().map(|place| table[at(place)?].as_str());
    let frames: Vec<_> = frames.collect();
    assert_eq!(frames, shown.map(Some));
    let mut page = Vec::new();
    profile.write_html(&mut page).expect("memory takes it");
    let grown = profile.diff(&empty(Mode::EveryAllocation, None));
    let page = String::from_utf8(page).expect("text");
    for report in [text(&profile), page, grown.to_string()] {
        assert!(shown.iter().all(|name| report.contains(name)), "{report}");
        assert!(!report.contains("heapledger::scope"), "{report}");
    }
}

/// Many stacks of one frame each, the later ones larger.
fn many(count: u64) -> HeapProfile {
    let mut profile = empty(Mode::EveryAllocation, Some(Names::default()));
    for n in 1..=count {
        let mut stack = StackProfile::default();
        stack.addresses = vec![n];
        stack.live = Amount::exact(1, n);
        profile.stacks.push(stack);
    }
    profile
}

// --- DHAT

/// Bug prevented: the viewer stops at the first field that is missing, and
/// shows NaN for a lifetime that is.
#[test]
fn dhat_has_every_field_that_the_viewer_asks_for() {
    for profile in [
        exact(),
        sample(SAMPLED, Some(names())),
        empty(Mode::EveryAllocation, None),
    ] {
        let json = dhat(&profile);
        for field in [
            "dhatFileVersion",
            "mode",
            "verb",
            "bklt",
            "bkacc",
            "tu",
            "Mtu",
            "tuth",
            "cmd",
            "pid",
            "tg",
            "te",
            "pps",
            "ftbl",
        ] {
            assert!(!json[field].is_null(), "{field}");
        }
        assert_eq!(json["dhatFileVersion"], 2);
        assert_eq!(
            (&json["bklt"], &json["bkacc"]),
            (&true.into(), &false.into())
        );
        assert_eq!(json["ftbl"][0], "[root]");
        assert!(json["te"].as_u64() >= Some(1), "the viewer divides by it");
        let frames = json["ftbl"].as_array().expect("a list").len() as u64;
        let mut stacks = BTreeSet::new();
        for point in json["pps"].as_array().expect("a list") {
            for field in ["tb", "tbk", "tl", "mb", "mbk", "gb", "gbk", "eb", "ebk"] {
                assert!(point[field].is_u64(), "{field}");
            }
            let stack: Vec<u64> = serde_json::from_value(point["fs"].clone()).expect("numbers");
            assert!(stack.iter().all(|frame| (1..frames).contains(frame)));
            assert!(!stack.is_empty());
            assert!(stacks.insert(stack), "a stack is there twice");
        }
        let used: BTreeSet<u64> = stacks.into_iter().flatten().collect();
        assert!(
            used.into_iter().eq(1..frames),
            "a frame is there for nothing"
        );
    }
}

/// Bug prevented: a peak after the end, as its time is rounded and the end's is not.
#[test]
fn dhats_peak_is_never_after_its_end() {
    let mut profile = sample(Mode::EveryAllocation, Some(names()));
    profile.peak.at_ms = 3;
    for (end, peak) in [(2_400, 2_400), (3_000, 3_000), (9_000, 3_000), (0, 1)] {
        profile.duration = core::time::Duration::from_micros(end);
        let json = dhat(&profile);
        assert_eq!(json["te"], end.max(1));
        assert_eq!(json["tg"], peak, "{end}");
    }
}

/// Bug prevented: amounts lost where stacks are made one.
#[test]
fn dhat_sums_up_to_the_profile() {
    let profile = exact();
    let json = dhat(&profile);
    let sum = |field: &str| -> u64 {
        let points = json["pps"].as_array().expect("a list");
        points
            .iter()
            .filter_map(|point| point[field].as_u64())
            .sum()
    };
    let (live, peak, total) = (profile.live(), profile.peak_amount(), profile.total());
    assert_eq!((sum("eb"), sum("ebk")), (live.bytes, live.blocks));
    assert_eq!((sum("gb"), sum("gbk")), (peak.bytes, peak.blocks));
    assert_eq!((sum("tb"), sum("tbk")), (total.bytes, total.blocks));
    // Nine stacks, of which two look the same, and one has nothing.
    assert_eq!(json["pps"].as_array().map(Vec::len), Some(7));
}

#[test]
fn dhat_points_say_what_the_docs_promise() {
    let json = dhat(&exact());
    let (points, frames) = (&json["pps"], &json["ftbl"]);
    let first = &points[0];
    let stack: Vec<&Json> = first["fs"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|frame| &frames[usize::try_from(frame.as_u64().expect("a number")).expect("small")])
        .collect();
    assert_eq!(
        stack,
        [
            "alloc::vec::Vec<T>::with_capacity (library/alloc/src/vec/mod.rs:500)",
            "sample::Cache<u64>::insert (src/cache.rs:13)",
            "sample::serve (src/main.rs:20)",
            "sample::main (src/main.rs:5)",
        ]
    );
    // The larger of the end and the peak; a mean of 12 ms over all 12 blocks.
    assert_eq!((&first["mb"], &first["mbk"]), (&5_000.into(), &5.into()));
    assert_eq!(first["tl"], 12 * 12_000);
    // Nothing was freed: as long as the profile.
    assert_eq!(points[1]["tl"], 2 * 2_500_000);
    assert_eq!(
        (&json["tg"], &json["te"]),
        (&1_200_000.into(), &2_500_000.into())
    );
    assert_eq!(json["mode"], "rust-heap");
    let estimates = dhat(&sample(SAMPLED, Some(names())));
    assert_eq!(
        estimates["mode"],
        "rust-heap, estimates from one sample in 512.00 KiB"
    );
    let shown = frames.as_array().expect("a list");
    assert!(shown.contains(&format!("{WEIRD} (src/we;ird \"file\".rs:7)").into()));
}

// --- folded

#[test]
fn folded_stacks_sum_up_to_each_value() {
    let profile = exact();
    let (live, peak, total) = (profile.live(), profile.peak_amount(), profile.total());
    let sums = [
        live.bytes,
        live.blocks,
        peak.bytes,
        peak.blocks,
        total.bytes,
        total.blocks,
    ];
    for (value, sum) in VALUES.into_iter().zip(sums) {
        let lines = folded(&profile, value);
        assert_eq!(
            lines.iter().map(|line| line.1).sum::<u64>(),
            sum,
            "{value:?}"
        );
        assert!(lines.iter().all(|line| line.1 > 0), "{value:?}");
        assert!(lines.is_sorted(), "{value:?}");
        let stacks: BTreeSet<_> = lines.iter().map(|line| &line.0).collect();
        assert_eq!(stacks.len(), lines.len(), "a stack is there twice");
    }
}

/// Bug prevented: a name that ends its frame or its line.
#[test]
fn folded_names_stay_one_frame_of_one_line() {
    let lines = folded(&exact(), Value::LiveBytes);
    let stacks: Vec<(String, u64)> = lines
        .into_iter()
        .map(|(stack, value)| (stack.join("|"), value))
        .collect();
    let weird = "sample::<impl Fn(&str)>::{{closure}},a \"b\\c\" d </script><b>é🦀 ";
    let insert = "sample::serve|sample::Cache<u64>::insert|alloc::vec::Vec<T>::with_capacity";
    let expected = [
        (String::from("an unknown stack"), 10),
        (format!("sample::callback|sample::main|{weird}"), 32),
        (String::from("sample::main|an unknown function"), 1),
        (format!("sample::main|{weird}"), 64),
        (format!("sample::main|{insert}"), 3_500),
        (
            format!(
                "sample::main|{insert}|alloc::raw_vec::RawVec<T>::try_allocate|sample::callback"
            ),
            7,
        ),
    ];
    assert_eq!(stacks, expected);
}

/// Bug prevented: functions of one name at two lines drawn as two stacks.
#[test]
fn folded_stacks_with_the_same_functions_are_one() {
    let profile = many(3);
    let mut profile_of_one = profile.clone();
    for stack in &mut profile_of_one.stacks {
        stack.addresses = vec![0x40_2000];
    }
    assert_eq!(folded(&profile, Value::LiveBytes).len(), 3);
    assert_eq!(
        folded(&profile_of_one, Value::LiveBlocks),
        [(vec![String::from("0x402000")], 3)]
    );
}

// --- text

#[test]
fn text_shows_sums_sites_sizes_and_threads() {
    let text = text(&exact());
    for line in [
        "heap profile of 2.500 s: every allocation was recorded",
        "  alive           3.53 KiB in 16 blocks",
        "  at the peak     9.06 KiB in 20 blocks",
        "  ever allocated  410.85 KiB in 127 blocks",
        "  process         3.53 KiB alive, at most 9.06 KiB, 1.200 s after the beginning",
        "== alive: 3.53 KiB in 16 blocks, at 6 sites",
        " 96.8 %  3.42 KiB in 4 blocks  src/cache.rs:13",
        "         lived 12 ms on average, 30 ms at most, resized 3 times",
        "           sample::Cache<u64>::insert at src/cache.rs:13",
        " 53.9 %  4.88 KiB in 5 blocks  src/cache.rs:13",
        " 97.4 %  400.00 KiB in 100 blocks  src/main.rs:5",
        "           an unknown function",
        " 93.7 %           513 to 1,024                   119 blocks",
        "  wor ker (18)                 allocated 400.00 KiB in 100 blocks, freed        0 B in 0",
    ] {
        assert!(text.lines().any(|shown| shown == line), "{line}\n\n{text}");
    }
    assert!(!text.contains("note:"), "nothing is missing:\n{text}");
    assert!(!text.contains("__rust_alloc"), "{text}");
    assert!(!text.contains('±'), "an exact figure has no error:\n{text}");
}

/// Bug prevented: estimates that look like counts, and losses that nobody sees.
#[test]
fn text_says_what_is_estimated_and_what_is_missing() {
    let mut profile = sample(SAMPLED, Some(names()));
    profile.incomplete.blocks = 1;
    profile.incomplete.frames = 2_000;
    profile.incomplete.cut_stacks = 3;
    profile.peak_error_bytes = 64 * 1024;
    let text = text(&profile);
    for line in [
        "heap profile of 2.500 s: estimates from one sample in 512.00 KiB on average",
        "  alive           3.53 KiB ± 761 B in 16 ± 2.0 blocks",
        "note: incomplete: 1 block could not be recorded",
        "note: incomplete: 2,000 frames could not be kept",
        "note: 3 stacks could not be followed to their thread's beginning",
        "  process         3.53 KiB alive, at most 9.06 KiB within 64.00 KiB either way, 1.200 s after the beginning",
    ] {
        assert!(text.lines().any(|shown| shown == line), "{line}\n\n{text}");
    }
}

/// Bug prevented: a report of thousands of pages, or one that hides that it is cut.
#[test]
fn text_shows_the_twenty_largest_and_sums_up_the_rest() {
    let text = text(&many(1_000));
    let sites: Vec<&str> = text
        .lines()
        .filter(|line| line.contains(" in 1 block  "))
        .collect();
    assert_eq!(sites.len(), 20);
    assert!(
        sites[0].ends_with("0.2 %  1000 B in 1 block  0x3e8"),
        "{}",
        sites[0]
    );
    assert!(
        sites[19].ends_with("981 B in 1 block  0x3d5"),
        "{}",
        sites[19]
    );
    let rest: u64 = (1..=980).sum();
    assert_eq!(rest, 480_690);
    assert!(
        text.contains(" 96.0 %  469.42 KiB in 980 blocks  at 980 more sites"),
        "{text}"
    );
}

#[test]
fn text_cuts_a_deep_stack_and_says_so() {
    let mut profile = many(1);
    profile.stacks[0].addresses = (1..=50).collect();
    let text = text(&profile);
    assert!(
        text.contains("           0x8\n           ... and 42 outer frames\n"),
        "{text}"
    );
}

/// Bug prevented: a name from a library that gives orders to the terminal.
#[test]
fn text_gives_the_terminal_no_orders() {
    let text = text(&exact());
    assert!(text.contains("a \"b\\c\" d </script>"), "{text}");
    assert!(text.chars().all(|c| c == '\n' || !c.is_control()));
}

#[test]
fn an_empty_profile_is_a_short_text() {
    let text = text(&empty(Mode::EveryAllocation, None));
    assert!(
        text.contains("== alive: 0 B in 0 blocks, at 0 sites\n"),
        "{text}"
    );
    assert!(
        !text.contains("== sizes") && !text.contains("== threads"),
        "{text}"
    );
    assert_eq!(
        folded(&empty(Mode::EveryAllocation, None), Value::LiveBytes),
        []
    );
}

/// Bug prevented: a format for people full of numbers, since nobody called
/// `symbolize` first.
#[test]
fn names_are_looked_up_when_they_are_not_there() {
    let mut profile = empty(Mode::EveryAllocation, None);
    let mut stack = StackProfile::default();
    // An address inside of a function of ours, as what a call in it returns to.
    stack.addresses = vec![names_are_looked_up_when_they_are_not_there as fn() as usize as u64 + 1];
    stack.live = Amount::exact(1, 1);
    profile.stacks.push(stack);
    let name = "names_are_looked_up_when_they_are_not_there";
    assert!(text(&profile).contains(name));
    assert!(
        dhat(&profile)["ftbl"][1]
            .as_str()
            .is_some_and(|frame| frame.contains(name))
    );
    assert!(folded(&profile, Value::LiveBytes)[0].0[0].contains(name));
    assert!(!profile.is_symbolized());
}
