//! A program of some size under the profiler, and its profile in every format.
//!
//! ```sh
//! cargo run --release --features profile --example profile_a_program
//! cargo run --release --features profile --example profile_a_program -- target/profile
//! ```
//!
//! It parses some megabytes of JSON, builds an index, sorts, and drops half.
//! Where the profile goes and how to look at it is printed at the end.

use std::collections::BTreeMap;
use std::error::Error;
use std::path::PathBuf;

use heapledger::profile::{Format, Value};
use heapledger::{Profiler, TrackingAllocator};

#[global_allocator]
static HEAP: TrackingAllocator = TrackingAllocator::new();

const PEOPLE: usize = 40_000;

struct Person {
    name: String,
    city: String,
    tags: Vec<String>,
}

/// Some five megabytes, as a service would send them.
fn document() -> String {
    let person = |i: usize| {
        let (city, note) = (i * 7_919 % 1_000, "x".repeat(i % 90));
        let (one, two) = (i % 10, i % 100);
        format!(
            r#"{{"name":"person {i}","city":"city {city}","tags":["a{one}","b{two}"],"note":"{note}"}}"#
        )
    };
    let people: Vec<String> = (0..PEOPLE).map(person).collect();
    format!("[{}]", people.join(","))
}

fn text_of(value: &serde_json::Value) -> String {
    String::from(value.as_str().unwrap_or_default())
}

fn parse(text: &str) -> Result<Vec<Person>, Box<dyn Error>> {
    let document: serde_json::Value = serde_json::from_str(text)?;
    let people = document.as_array().ok_or("no list")?;
    let person = |value: &serde_json::Value| Person {
        name: text_of(&value["name"]),
        city: text_of(&value["city"]),
        tags: value["tags"]
            .as_array()
            .map_or_else(Vec::new, |tags| tags.iter().map(text_of).collect()),
    };
    Ok(people.iter().map(person).collect())
}

fn index(people: &[Person]) -> BTreeMap<String, Vec<String>> {
    let mut index: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for person in people {
        index
            .entry(person.city.clone())
            .or_default()
            .push(person.name.clone());
    }
    index
}

fn main() -> Result<(), Box<dyn Error>> {
    let into = std::env::args_os().nth(1);
    let into = into.map_or_else(|| PathBuf::from("target/profile_a_program"), PathBuf::from);
    std::fs::create_dir_all(&into)?;

    // Every allocation, as this takes a second; a server takes samples, see `profile_a_server`.
    let profiler = Profiler::builder().every_allocation().start()?;
    let text = document();
    let mut people = parse(&text)?;
    drop(text);
    let index = index(&people);
    people.sort_by(|a, b| (&a.city, &a.tags, &a.name).cmp(&(&b.city, &b.tags, &b.name)));
    people.truncate(PEOPLE / 2);
    people.shrink_to_fit();
    let mut profile = profiler.finish();
    let cities = index.len();
    println!("{} people of {PEOPLE} kept, {cities} cities", people.len());

    // Names once, for all formats.
    profile.symbolize();
    let formats = [
        (
            Format::Text,
            "heap.txt",
            "read it; the largest sites come first",
        ),
        (
            Format::Html,
            "heap.html",
            "open it in a browser; it needs no network",
        ),
        (
            Format::Dhat,
            "heap.json",
            "open it in valgrind's dh_view.html",
        ),
        (
            Format::Pprof,
            "heap.pb.gz",
            "go tool pprof -http=: heap.pb.gz",
        ),
        (
            Format::Folded(Value::LiveBytes),
            "heap.folded",
            "flamegraph.pl heap.folded > heap.svg",
        ),
    ];
    for (format, name, how) in formats {
        let path = into.join(name);
        profile.save(&path, format)?;
        println!("{:<40} {how}", path.display());
    }
    let (live, total) = (profile.live(), profile.total());
    println!(
        "{} of {} bytes are alive, in {} stacks",
        live.bytes,
        total.bytes,
        profile.stacks.len()
    );
    Ok(())
}
