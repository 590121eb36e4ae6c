//! The report for a browser, as text: what is in it adds up, and nothing in it is more than data.
//!
//! What a person sees of it is for a browser to say: tests/readers/html.mjs.
#![cfg(feature = "profile")]

use std::collections::HashMap;
use std::io::{self, Write};
use std::time::{Duration, SystemTime};

use heapledger::__private::profile::empty;
use heapledger::profile::{
    Amount, Frame, HeapProfile, Mapping, Mode, Moment, Names, Origin, SizeClass, StackProfile,
    ThreadShare,
};
use serde_json::Value;

#[global_allocator]
static HEAP: heapledger::TrackingAllocator = heapledger::TrackingAllocator::new();

fn page(profile: &HeapProfile) -> String {
    let mut page = Vec::new();
    profile.write_html(&mut page).expect("a vector takes all");
    String::from_utf8(page).expect("text")
}

/// The profile's data in the page.
fn data(page: &str) -> Value {
    const BEFORE: &str = "<script id=\"data\" type=\"application/json\">";
    let (_, rest) = page.split_once(BEFORE).expect("the data");
    let (json, _) = rest.split_once("</script>").expect("the data's end");
    serde_json::from_str(json).expect("JSON")
}

fn numbers(column: &Value) -> Vec<u64> {
    let column = column.as_array().expect("a column");
    column
        .iter()
        .map(|n| n.as_u64().expect("a count"))
        .collect()
}

/// `main` calls `work`, which calls `push`, or `lib`, which calls `push`.
fn profile(mode: Mode) -> HeapProfile {
    let frame = |name, file, line, origin| vec![Frame::synthetic(name, file, line, origin, false)];
    let known = HashMap::from([
        (
            1,
            frame("app::main", Some("src/main.rs"), Some(3), Origin::User),
        ),
        (
            2,
            frame("app::work", Some("src/work.rs"), Some(9), Origin::User),
        ),
        (
            3,
            frame(
                "lib::help",
                Some("lib-1.0.0/src/lib.rs"),
                None,
                Origin::Dependency,
            ),
        ),
        (
            4,
            frame(
                "Vec::push",
                Some("library/alloc/src/vec/mod.rs"),
                Some(1),
                Origin::Std,
            ),
        ),
        (5, frame("0x5", None, None, Origin::Unknown)),
    ]);
    let mut profile = empty(mode, Some(Names::new(known)));
    let stacks: [(&[u64], u64, u64); 4] = [
        (&[4, 2, 1], 5_000, 3),
        (&[4, 3, 2, 1], 700, 2),
        (&[5, 1], 60, 1),
        (&[5], 9, 4),
    ];
    for (addresses, bytes, blocks) in stacks {
        let mut stack = StackProfile::default();
        stack.addresses = addresses.to_vec();
        let amount = |times: u64| match mode {
            Mode::EveryAllocation => Amount::exact(blocks * times, bytes * times),
            _ => Amount::estimate(blocks * times, bytes * times, 1.25, 123.456),
        };
        (stack.live, stack.peak, stack.total) = (amount(1), amount(2), amount(7));
        stack.lifetimes.freed_blocks = blocks * 6;
        stack.lifetimes.total_ms = blocks * 60;
        stack.lifetimes.longest_ms = 11;
        profile.stacks.push(stack);
    }
    profile
}

const SAMPLED: Mode = Mode::Sampled {
    interval_bytes: 524_288,
};

/// Bug prevented: a figure that is lost between the profile and the page.
#[test]
fn the_figures_in_the_page_add_up_to_the_profiles() {
    let profile = profile(Mode::EveryAllocation);
    let data = data(&page(&profile));
    let sites = &data["sites"];
    for (kind, amount) in [
        ("live", profile.live()),
        ("peak", profile.peak_amount()),
        ("total", profile.total()),
    ] {
        let sum = |unit| {
            numbers(&sites[format!("{kind}_{unit}")])
                .iter()
                .sum::<u64>()
        };
        assert_eq!(sum("bytes"), amount.bytes, "{kind}");
        assert_eq!(sum("blocks"), amount.blocks, "{kind}");
    }
    assert_eq!(numbers(&sites["freed_blocks"]), [18, 12, 6, 24]);
    assert_eq!(numbers(&sites["life_ms"]), [180, 120, 60, 240]);
    assert_eq!(numbers(&sites["longest_ms"]), [11; 4]);
}

/// Bug prevented: a stack that is read back in another order, or under another's parent.
#[test]
fn every_stack_is_a_way_through_the_tree() {
    let data = data(&page(&profile(Mode::EveryAllocation)));
    let (up, frame) = (
        numbers(&data["tree"]["up"]),
        numbers(&data["tree"]["frame"]),
    );
    let at = |list: &[u64], i: u64| list[usize::try_from(i).expect("small")];
    let name = |frame| {
        let string = at(&numbers(&data["frames"]["function"]), frame);
        String::from(
            data["strings"][usize::try_from(string).expect("small")]
                .as_str()
                .expect("text"),
        )
    };
    let stacks: Vec<String> = numbers(&data["sites"]["node"])
        .into_iter()
        .map(|mut node| {
            let mut names = Vec::new();
            while node > 0 {
                names.push(name(at(&frame, node)));
                node -= at(&up, node);
            }
            names.join(" < ")
        })
        .collect();
    assert_eq!(
        stacks,
        [
            "Vec::push < app::work < app::main",
            "Vec::push < lib::help < app::work < app::main",
            "0x5 < app::main",
            "0x5",
        ]
    );
    // The root, main, work, push, help, push below it, 0x5 below main, and 0x5 alone.
    assert_eq!(up.len(), 8);
    let places: Vec<String> = numbers(&data["sites"]["place"])
        .into_iter()
        .map(name)
        .collect();
    assert_eq!(places, ["app::work", "app::work", "app::main", "0x5"]);
}

/// Bug prevented: a line or a file that is not known shown as line 0 or as the first string.
#[test]
fn what_is_not_known_is_null() {
    let written = page(&profile(Mode::EveryAllocation));
    let data = data(&written);
    let lines = data["frames"]["line"].as_array().expect("lines");
    let files = data["frames"]["file"].as_array().expect("files");
    assert_eq!(lines.iter().filter(|line| line.is_null()).count(), 2);
    assert_eq!(files.iter().filter(|file| file.is_null()).count(), 1);
    assert!(data["started_ms"].is_null());
    assert!(data["interval_bytes"].is_null());
    assert!(data["sites"].get("live_bytes_error").is_none());
}

/// A profile of one block of one byte, whose stack is this frame.
fn of_one_block(frame: Frame) -> HeapProfile {
    let names = Names::new(HashMap::from([(1, vec![frame])]));
    let mut profile = empty(Mode::EveryAllocation, Some(names));
    let mut stack = StackProfile::default();
    stack.addresses = vec![1];
    stack.live = Amount::exact(1, 1);
    profile.stacks.push(stack);
    profile
}

/// Bug prevented: an empty line for a function without a name, which the other formats put into words.
#[test]
fn a_blank_name_has_words_in_its_place() {
    for blank in ["", " ", "\t"] {
        let frame = Frame::synthetic(blank, None, None, Origin::User, false);
        let profile = of_one_block(frame);
        let data = data(&page(&profile));
        assert_eq!(data["strings"][0], "an unknown function", "{blank:?}");
    }
}

/// Bug prevented: estimates without their errors, which then look exact.
#[test]
fn a_sampled_profile_has_the_errors_of_each_figure() {
    let mut profile = profile(SAMPLED);
    profile.stacks[3].live = Amount::estimate(1, 1, f64::INFINITY, f64::NAN);
    let data = data(&page(&profile));
    assert_eq!(data["interval_bytes"], 524_288);
    for kind in ["live", "peak", "total"] {
        assert_eq!(data["sites"][format!("{kind}_bytes_error")][0], 123.46);
        assert_eq!(data["sites"][format!("{kind}_blocks_error")][0], 1.25);
    }
    // JSON has neither, and 0 would say that the figure is exact.
    assert!(data["sites"]["live_bytes_error"][3].is_null());
    assert!(data["sites"]["live_blocks_error"][3].is_null());
}

/// Bug prevented: a name that ends the script it is carried in, and begins one of its own.
#[test]
fn a_name_that_looks_like_markup_stays_inside_of_the_data() {
    let evil = "</script><script>alert(1)</script><!-- {{css}} {{data}}";
    let frame = Frame::synthetic(evil, Some(evil), Some(1), Origin::User, false);
    let mut profile = of_one_block(frame);
    let mut thread = ThreadShare::default();
    thread.name = String::from(evil);
    profile.threads.push(thread);
    let mut mapping = Mapping::default();
    (mapping.path, mapping.build_id) = (String::from(evil), String::from(evil));
    profile.mappings.push(mapping);

    let page = page(&profile);
    assert!(!page.contains("alert(1)</"), "it stands there as it is");
    assert_eq!(page.matches("<script").count(), 2);
    assert_eq!(page.matches("</script").count(), 2);
    let data = data(&page);
    assert_eq!(data["strings"][0], evil);
    assert_eq!(data["threads"]["name"][0], evil);
    assert_eq!(data["mappings"]["path"][0], evil);
    assert_eq!(data["mappings"]["build_id"][0], evil);
}

/// Bug prevented: a report that asks the network for a font or a script, and one that could.
#[test]
fn the_page_names_no_address_and_its_policy_allows_none() {
    let page = page(&profile(Mode::EveryAllocation));
    for address in [
        "http:", "https:", "//", "@import", "url(", "src=", "import(", "fetch(",
    ] {
        assert!(!page.contains(address), "{address} is in the page");
    }
    assert_eq!(page.matches("href=").count(), 1);
    assert!(page.contains("<link rel=\"icon\" href=\"data:,\">"));
    assert!(page.contains(
        "http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; \
         style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:; \
         base-uri 'none'; form-action 'none'\""
    ));
}

/// Bug prevented: data that becomes markup or code by the script's own hand.
#[test]
fn the_scripts_never_make_markup_or_code_of_text() {
    let page = page(&empty(Mode::EveryAllocation, Some(Names::default())));
    for way in [
        "innerHTML",
        "outerHTML",
        "insertAdjacentHTML",
        "document.write",
        "eval(",
        "Function(",
    ] {
        assert!(!page.contains(way), "{way} is in the page");
    }
    // And no place in the page was left open.
    assert!(!page.contains("{{"));
}

/// Bug prevented: a profile of nothing that stops the writer or the page.
#[test]
fn an_empty_profile_is_a_page_with_empty_columns() {
    let data = data(&page(&empty(Mode::EveryAllocation, Some(Names::default()))));
    for (group, column) in [
        ("sites", "node"),
        ("sites", "live_bytes"),
        ("frames", "function"),
        ("timeline", "at_ms"),
        ("sizes", "blocks"),
        ("threads", "name"),
        ("mappings", "path"),
    ] {
        assert_eq!(
            data[group][column].as_array().map(Vec::len),
            Some(0),
            "{group}"
        );
    }
    assert_eq!(numbers(&data["tree"]["up"]), [0], "the root alone");
}

/// Bug prevented: a part of the profile that its report leaves out or puts under another's name.
#[test]
fn all_else_of_the_profile_is_in_the_page() {
    let mut profile = empty(Mode::EveryAllocation, Some(Names::default()));
    profile.started = SystemTime::UNIX_EPOCH + Duration::from_millis(1_234_567);
    profile.duration = Duration::from_millis(2_500);
    profile.timeline = vec![Moment::new(0, 10), Moment::new(40, 30)];
    profile.peak = Moment::new(41, 31);
    profile.peak_error_bytes = 5;
    profile.sizes = vec![SizeClass::new(8, 15, 4)];
    let mut thread = ThreadShare::default();
    (thread.name, thread.id) = (String::from("worker"), 77);
    (thread.allocations, thread.allocated_bytes) = (1, 2);
    (thread.frees, thread.freed_bytes) = (3, 4);
    profile.threads.push(thread);
    let mut mapping = Mapping::default();
    (mapping.start, mapping.end) = (0xffff_ffff_ff60_0001, u64::MAX);
    profile.mappings.push(mapping);
    (profile.stats_before.live_bytes, profile.stats.live_bytes) = (21, 22);
    profile.incomplete.blocks = 31;
    profile.incomplete.frames = 32;
    profile.incomplete.cut_stacks = 33;

    let data = data(&page(&profile));
    assert_eq!(data["started_ms"], 1_234_567);
    assert_eq!(data["duration_ms"], 2_500);
    assert_eq!(data["timeline"]["at_ms"], serde_json::json!([0, 40]));
    assert_eq!(data["timeline"]["live_bytes"], serde_json::json!([10, 30]));
    let peak = serde_json::json!({ "at_ms": 41, "bytes": 31, "error_bytes": 5 });
    assert_eq!(data["peak"], peak);
    let sizes = serde_json::json!({ "min": [8], "max": [15], "blocks": [4] });
    assert_eq!(data["sizes"], sizes);
    let threads = serde_json::json!({
        "name": ["worker"], "id": [77], "allocations": [1], "allocated_bytes": [2],
        "frees": [3], "freed_bytes": [4],
    });
    assert_eq!(data["threads"], threads);
    assert_eq!(data["mappings"]["start"][0], "0xffffffffff600001");
    assert_eq!(data["mappings"]["end"][0], "0xffffffffffffffff");
    assert_eq!(data["before"]["live_bytes"], 21);
    assert_eq!(data["stats"]["live_bytes"], 22);
    let gone = serde_json::json!({ "blocks": 31, "frames": 32, "cut_stacks": 33 });
    assert_eq!(data["incomplete"], gone);
    assert_eq!(data["unnamed"], serde_json::json!([]));
}

/// Bug prevented: a full disk that looks like a report that was written.
#[test]
fn what_the_writer_answers_is_passed_on() {
    struct Full(usize);
    impl Write for Full {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if self.0 < bytes.len() {
                return Err(io::ErrorKind::StorageFull.into());
            }
            self.0 -= bytes.len();
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let profile = profile(Mode::EveryAllocation);
    let length = page(&profile).len();
    assert!(profile.write_html(Full(length)).is_ok());
    let refused = profile.write_html(Full(length - 1));
    assert_eq!(
        refused.map_err(|e| e.kind()),
        Err(io::ErrorKind::StorageFull)
    );
}
