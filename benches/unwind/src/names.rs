//! How long it takes to name many addresses.

use std::collections::BTreeSet;
use std::time::Instant;

use heapledger::__private::symbols::Symbols;

/// Names `count` addresses that are spread over this program's own code, once
/// with nothing known and once more.
pub fn measure(count: usize) {
    let addresses = spread(count);
    let mut symbols = Symbols::new();
    let start = Instant::now();
    symbols.look_up(addresses.iter().copied());
    let first = start.elapsed();
    let mut frames = 0;
    let mut places = BTreeSet::new();
    let start = Instant::now();
    for &address in &addresses {
        let stack = symbols.stack(&[address]);
        frames += stack.frames().len();
        let user = stack.frames().iter().find(|frame| frame.is_user());
        places.extend(user.map(|frame| frame.location()));
    }
    println!(
        "{} addresses named in {first:?}, {frames} frames, {} places in the program's own code; again in {:?}",
        addresses.len(),
        places.len(),
        start.elapsed(),
    );
}

/// Addresses from one end of the program's code to the other.
fn spread(count: usize) -> Vec<u64> {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let this = std::env::current_exe().unwrap();
    let line = maps
        .lines()
        .find(|line| line.contains(" r-xp ") && line.ends_with(this.to_str().unwrap()))
        .unwrap();
    let (range, _) = line.split_once(' ').unwrap();
    let (start, end) = range.split_once('-').unwrap();
    let [start, end] = [start, end].map(|text| u64::from_str_radix(text, 16).unwrap());
    let step = ((end - start) / count as u64).max(1);
    (start..end).step_by(step as usize).take(count).collect()
}
