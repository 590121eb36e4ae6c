//! The result types as data, with the feature `serde`.
#![cfg(feature = "serde")]

use heapledger::{ScopeStats, Stats, StatsDelta, TrackingAllocator};

#[global_allocator]
static HEAP: TrackingAllocator = TrackingAllocator::new();

#[test]
fn figures_come_back_from_json_as_they_went() {
    let before = heapledger::stats();
    let (text, scope) = heapledger::measure(|| String::from("measured"));
    let stats = heapledger::stats();
    let change = stats.since(&before);
    assert_eq!((scope.allocations, text.len()), (1, 8));

    let json = serde_json::to_string(&stats).expect("JSON");
    assert_eq!(serde_json::from_str::<Stats>(&json).expect("stats"), stats);
    assert!(json.contains(&format!(r#""live_bytes":{}"#, stats.live_bytes)));
    let json = serde_json::to_string(&change).expect("JSON");
    assert_eq!(
        serde_json::from_str::<StatsDelta>(&json).expect("a change"),
        change
    );
    let json = serde_json::to_string(&scope).expect("JSON");
    assert_eq!(
        serde_json::from_str::<ScopeStats>(&json).expect("a scope"),
        scope
    );
}

#[cfg(feature = "profile")]
#[test]
fn a_leak_report_is_json_with_all_its_fields() {
    use heapledger::leaks::Check;
    use std::hint::black_box;

    #[inline(never)]
    fn known() {
        std::mem::forget(black_box(vec![0u8; 8]));
        black_box(());
    }
    let check = Check::new().suppress("known");
    let report = check
        .run(|| {
            known();
            std::mem::forget(black_box(vec![0u8; 100]));
        })
        .expect_err("a leak");
    let json = serde_json::to_value(&report).expect("JSON");
    assert_eq!(json["runs"], 1);
    assert_eq!(json["suppressed"]["bytes"], 8);
    assert_eq!(json["harness"]["blocks"], 0);
    assert_eq!(json["incomplete"]["blocks"], 0);
    let site = &json["sites"][0];
    assert_eq!((&site["blocks"], &site["bytes"]), (&1.into(), &100.into()));
    assert_eq!(site["growth"]["bytes"], 100);
    let place = report.sites[0].place().expect("a place");
    let frames = site["stack"].as_array().expect("frames");
    let line = serde_json::Value::from(place.line());
    assert!(frames.iter().any(|frame| frame["line"] == line));
}

/// Bug prevented: a profile in a file whose addresses nobody can name any more, though
/// its names had been looked up.
#[cfg(feature = "profile")]
#[test]
fn a_profile_has_its_names_in_json_once_it_is_symbolized() {
    use heapledger::__private::profile::empty;
    use heapledger::profile::{Amount, Frame, Mode, Names, Origin, StackProfile};

    let frame = Frame::synthetic(
        "app::fill",
        Some("src/app.rs"),
        Some(7),
        Origin::User,
        false,
    );
    let names = Names::new([(16, vec![frame.clone()]), (4, vec![frame])].into());
    let mut stack = StackProfile::default();
    stack.addresses = vec![16, 32];
    stack.live = Amount::exact(1, 100);
    for names in [None, Some(names)] {
        let has_names = names.is_some();
        let before = empty(Mode::EveryAllocation, None);
        let mut profile = empty(Mode::EveryAllocation, names);
        profile.stacks.push(stack.clone());
        let json = serde_json::to_value(&profile).expect("JSON");
        assert_eq!(json["stacks"][0]["addresses"], serde_json::json!([16, 32]));
        let diff = serde_json::to_value(profile.diff(&before)).expect("JSON");
        assert_eq!(diff["stacks"][0]["live"]["bytes"], 100);
        assert_eq!(
            (&diff["live"], &diff["total"]["bytes"]),
            (&diff["stacks"][0]["live"], &0.into())
        );
        for json in [&json, &diff] {
            assert_eq!(json["names"].is_object(), has_names, "{json}");
            assert_eq!(json["names"].is_null(), !has_names, "{json}");
        }
        if has_names {
            for json in [&json, &diff] {
                let frame = &json["names"]["16"][0];
                assert_eq!(
                    (&frame["function"], &frame["line"]),
                    (&"app::fill".into(), &7.into())
                );
            }
            // A difference has the names of its own stacks only.
            assert!(json["names"].get("4").is_some() && diff["names"].get("4").is_none());
        }
    }
}
