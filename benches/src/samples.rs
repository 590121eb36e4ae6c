//! What the programs work on: the same for the same seed, on every machine.

use std::fmt::Write as _;

/// A small generator of pseudo-random numbers (splitmix64).
#[derive(Debug)]
pub struct Random(u64);

impl Random {
    /// The generator for `seed`.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Any number.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number from `low` to `high`, both included.
    pub fn between(&mut self, low: usize, high: usize) -> usize {
        let span = (high - low + 1) as u64;
        low + usize::try_from(self.next_u64() % span).expect("less than the span")
    }

    /// The numbers below `count`, each once, in an order of chance. For who comes when in a
    /// round: what one leaves behind in the machine must not always meet the same next one.
    pub fn order(&mut self, count: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..count).collect();
        for last in (1..count).rev() {
            order.swap(last, self.between(0, last));
        }
        order
    }

    /// A word of `low` to `high` letters.
    pub fn word(&mut self, low: usize, high: usize) -> String {
        let length = self.between(low, high);
        (0..length)
            .map(|_| char::from(b"aabcdeeefghiijklmnooprstuvwyz"[self.between(0, 28)]))
            .collect()
    }
}

/// About `bytes` of JSON: an array of records as a web service would send them.
pub fn json(bytes: usize) -> String {
    let mut random = Random::new(2);
    let mut text = String::with_capacity(bytes + 1_024);
    text.push('[');
    while text.len() < bytes {
        if text.len() > 1 {
            text.push(',');
        }
        record(&mut text, &mut random);
    }
    text.push(']');
    text
}

fn record(text: &mut String, random: &mut Random) {
    let id = random.next_u64() >> 20;
    let (name, mail) = (random.word(3, 12), random.word(5, 20));
    let (whole, part) = (random.between(0, 9_999), random.between(0, 99));
    let active = random.between(0, 1) == 0;
    write!(
        text,
        r#"{{"id":{id},"name":"{name}","mail":"{mail}@example.org","balance":{whole}.{part:02},"active":{active},"parent":null,"tags":["#
    )
    .expect("writing to a string");
    for at in 0..random.between(0, 6) {
        let comma = if at == 0 { "" } else { "," };
        write!(text, r#"{comma}"{}""#, random.word(2, 9)).expect("writing to a string");
    }
    let (street, city) = (random.word(6, 24), random.word(4, 14));
    let (lat, lon) = (random.between(0, 89_999), random.between(0, 179_999));
    write!(
        text,
        r#"],"address":{{"street":"{street}","city":"{city}","at":[{lat}e-3,{lon}e-3]}},"note":"{}"}}"#,
        random.word(0, 120)
    )
    .expect("writing to a string");
}

/// About `bytes` of Rust: this package's own sources, over and over, each in a
/// module of its own.
pub fn rust(bytes: usize) -> String {
    const SOURCES: [&str; 6] = [
        include_str!("children.rs"),
        include_str!("contenders.rs"),
        include_str!("micro.rs"),
        include_str!("peers.rs"),
        include_str!("programs.rs"),
        include_str!("samples.rs"),
    ];
    let mut text = String::with_capacity(2 * bytes);
    for (number, source) in SOURCES.iter().cycle().enumerate() {
        if text.len() >= bytes {
            break;
        }
        write!(text, "mod m{number} {{\n{source}}}\n").expect("writing to a string");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    // A sample that does not parse would make the whole-program bench measure error paths.
    #[test]
    fn the_samples_parse_and_have_the_size_that_was_asked_for() {
        let text = json(100_000);
        assert!((100_000..102_000).contains(&text.len()));
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert!(value.as_array().unwrap().len() > 100);

        let source = rust(300_000);
        assert!(source.len() >= 300_000);
        assert!(syn::parse_file(&source).unwrap().items.len() > 20);
    }
}
