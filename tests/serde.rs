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
