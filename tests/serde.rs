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
