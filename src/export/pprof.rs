//! pprof's `profile.proto`, in a gzip file.
//!
//! With names when the profile has them. Without, a program in production
//! writes addresses, what is mapped where, and build ids, and pprof looks the
//! names up where the debug information is.

use std::collections::HashMap;
use std::io::{self, Write};
use std::time::SystemTime;

use crate::export::hand_over;
use crate::export::protobuf::Message;
use crate::export::{gzip, words};
use crate::profile::{Frame, HeapProfile, Mapping, Mode, Names, StackProfile, Value};
use crate::symbols;

/// What pprof drops, with all that it called, once it has looked names up
/// itself: the compiler's doors to the allocator, by whole names but for their
/// paths and hashes, so that nothing else can be meant.
const ALLOCATOR: &str = ".*__rust_(alloc|alloc_zeroed|realloc)(::h[0-9a-f]+)?";

impl HeapProfile {
    /// Writes a gzip file that `go tool pprof` and all that read its format open: it is
    /// described in `proto/profile.proto` of pprof's sources.
    ///
    /// The sample types are `alloc_objects`, `alloc_space`, `inuse_objects`,
    /// `inuse_space` (which tools show first), `peak_objects` and `peak_space`:
    /// what was ever allocated, what is alive, and what was alive at the
    /// process's peak. The values are final: the samples of a sampled profile
    /// are already weighted, and its interval is only told as the period.
    ///
    /// After [`symbolize`](Self::symbolize) the file has functions and lines,
    /// those that were inlined included, without the allocator's frames, the runtime's
    /// and those of this crate's measurements. Before, it has addresses and what is needed to look them up
    /// elsewhere: `pprof` does so by itself where it finds the files with these
    /// build ids.
    ///
    /// # Errors
    ///
    /// What `w` answers.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// # let mode = heapledger::profile::Mode::EveryAllocation;
    /// # let profile = heapledger::__private::profile::empty(mode, None);
    /// let mut gzip = Vec::new();
    /// profile.write_pprof(&mut gzip)?;
    /// assert!(gzip.starts_with(&[0x1f, 0x8b]));
    /// # Ok(())
    /// # }
    /// ```
    pub fn write_pprof<W: Write>(&self, w: W) -> io::Result<()> {
        self.write_pprof_showing(w, Value::LiveBytes)
    }

    /// [`write_pprof`](Self::write_pprof), with another figure that tools show
    /// first; they have all of them in any case.
    ///
    /// What Go's servers give as `/debug/pprof/allocs` is
    /// [`Value::TotalBytes`].
    ///
    /// # Errors
    ///
    /// What `w` answers.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// # let mode = heapledger::profile::Mode::EveryAllocation;
    /// # let profile = heapledger::__private::profile::empty(mode, None);
    /// use heapledger::profile::Value;
    ///
    /// let (mut heap, mut same, mut allocs) = (Vec::new(), Vec::new(), Vec::new());
    /// profile.write_pprof(&mut heap)?;
    /// profile.write_pprof_showing(&mut same, Value::LiveBytes)?;
    /// profile.write_pprof_showing(&mut allocs, Value::TotalBytes)?;
    /// assert!(heap == same && heap != allocs);
    /// # Ok(())
    /// # }
    /// ```
    pub fn write_pprof_showing<W: Write>(&self, w: W, value: Value) -> io::Result<()> {
        hand_over(w, || gzip::file(&encode(self, value)))
    }
}

/// The sample type that has this figure.
const fn sample_type(value: Value) -> &'static str {
    match value {
        Value::TotalBlocks => "alloc_objects",
        Value::TotalBytes => "alloc_space",
        Value::LiveBlocks => "inuse_objects",
        Value::LiveBytes => "inuse_space",
        Value::PeakBlocks => "peak_objects",
        Value::PeakBytes => "peak_space",
    }
}

/// The fields of `Profile` by their numbers.
mod field {
    pub(super) const SAMPLE_TYPE: u64 = 1;
    pub(super) const SAMPLE: u64 = 2;
    pub(super) const MAPPING: u64 = 3;
    pub(super) const LOCATION: u64 = 4;
    pub(super) const FUNCTION: u64 = 5;
    pub(super) const STRING: u64 = 6;
    pub(super) const DROP_FRAMES: u64 = 7;
    pub(super) const TIME_NANOS: u64 = 9;
    pub(super) const DURATION_NANOS: u64 = 10;
    pub(super) const PERIOD_TYPE: u64 = 11;
    pub(super) const PERIOD: u64 = 12;
    pub(super) const COMMENT: u64 = 13;
    pub(super) const DEFAULT_SAMPLE_TYPE: u64 = 14;
}

const SAMPLE_TYPES: [(&str, &str); 6] = [
    ("alloc_objects", "count"),
    ("alloc_space", "bytes"),
    ("inuse_objects", "count"),
    ("inuse_space", "bytes"),
    ("peak_objects", "count"),
    ("peak_space", "bytes"),
];

fn encode(profile: &HeapProfile, shown: Value) -> Vec<u8> {
    let mut to = Message::default();
    let mut strings = Strings::new();
    let value_type = |to: &mut Message, field, strings: &mut Strings, (kind, unit)| {
        let (kind, unit) = (strings.number(kind), strings.number(unit));
        to.message(field, |to| {
            to.number(1, kind);
            to.number(2, unit);
        });
    };
    for pair in SAMPLE_TYPES {
        value_type(&mut to, field::SAMPLE_TYPE, &mut strings, pair);
    }

    let nowhere = [Frame::nowhere()];
    let mut locations = Locations::new(profile, &nowhere);
    let mut stack = Vec::new();
    for each in &profile.stacks {
        let values = values(each);
        if values.iter().all(|&value| value == 0) {
            continue;
        }
        locations.of(each, &mut stack);
        to.message(field::SAMPLE, |to| {
            to.packed(1, stack.iter().copied());
            to.packed(2, values.iter().copied());
        });
    }

    for (i, mapping) in locations.mappings.iter().enumerate() {
        let (path, id) = (
            strings.number(&mapping.path),
            strings.number(&mapping.build_id),
        );
        to.message(field::MAPPING, |to| {
            to.number(1, i as u64 + 1);
            to.number(2, mapping.start);
            to.number(3, mapping.end);
            to.number(4, mapping.offset);
            to.number(5, path);
            to.number(6, id);
            for has in 7..=10 {
                to.flag(has, profile.is_symbolized());
            }
        });
    }
    let mut functions = Functions::default();
    for (i, location) in locations.list.iter().enumerate() {
        to.message(field::LOCATION, |to| {
            to.number(1, i as u64 + 1);
            to.number(2, location.mapping);
            to.number(3, location.address);
            for frame in &location.lines {
                let function = functions.number(frame, &mut strings);
                to.message(4, |to| {
                    to.number(1, function);
                    to.number(2, frame.line().map_or(0, u64::from));
                });
            }
        });
    }
    for (i, &(name, file)) in functions.list.iter().enumerate() {
        to.message(field::FUNCTION, |to| {
            to.number(1, i as u64 + 1);
            to.number(2, name);
            // No system name: where it equals the name, pprof takes `<..>` out of both.
            to.number(4, file);
        });
    }

    to.number(field::TIME_NANOS, nanos(profile.started));
    to.number(
        field::DURATION_NANOS,
        signed(u64::try_from(profile.duration.as_nanos()).unwrap_or(u64::MAX)),
    );
    value_type(
        &mut to,
        field::PERIOD_TYPE,
        &mut strings,
        ("space", "bytes"),
    );
    to.number(
        field::PERIOD,
        match profile.mode {
            Mode::EveryAllocation => 1,
            Mode::Sampled { interval_bytes } => signed(interval_bytes),
        },
    );
    if !profile.is_symbolized() {
        to.number(field::DROP_FRAMES, strings.number(ALLOCATOR));
    }
    let comments: Vec<u64> = words::notes(profile)
        .iter()
        .map(|note| strings.number(note))
        .collect();
    to.packed(field::COMMENT, comments.into_iter());
    let shown = strings.number(sample_type(shown));
    to.number(field::DEFAULT_SAMPLE_TYPE, shown);
    for text in strings.list() {
        to.text(field::STRING, text);
    }
    to.into_bytes()
}

/// In the order of `SAMPLE_TYPES`.
fn values(stack: &StackProfile) -> [u64; 6] {
    [
        stack.total.blocks,
        stack.total.bytes,
        stack.live.blocks,
        stack.live.bytes,
        stack.peak.blocks,
        stack.peak.bytes,
    ]
    .map(signed)
}

/// As much as the format's signed numbers hold.
const fn signed(value: u64) -> u64 {
    const MOST: u64 = i64::MAX.unsigned_abs();
    if value > MOST { MOST } else { value }
}

fn nanos(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| {
            signed(u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
        })
}

/// The strings, each once; the first is empty.
struct Strings {
    numbers: HashMap<String, u64>,
}

impl Strings {
    fn new() -> Self {
        Self {
            numbers: HashMap::from([(String::new(), 0)]),
        }
    }

    fn number(&mut self, text: &str) -> u64 {
        if let Some(&number) = self.numbers.get(text) {
            return number;
        }
        let number = self.numbers.len() as u64;
        self.numbers.insert(String::from(text), number);
        number
    }

    fn list(&self) -> impl Iterator<Item = &str> {
        let mut list: Vec<_> = self.numbers.iter().map(|(text, n)| (n, text)).collect();
        list.sort_unstable();
        list.into_iter().map(|(_, text)| text.as_str())
    }
}

/// The functions, each once, by the numbers of their name and file.
#[derive(Default)]
struct Functions {
    numbers: HashMap<(u64, u64), u64>,
    list: Vec<(u64, u64)>,
}

impl Functions {
    fn number(&mut self, frame: &Frame, strings: &mut Strings) -> u64 {
        let key = (
            strings.number(frame.name()),
            strings.number(frame.file().unwrap_or("")),
        );
        *self.numbers.entry(key).or_insert_with(|| {
            self.list.push(key);
            self.list.len() as u64
        })
    }
}

/// A place in the code.
struct Location<'a> {
    mapping: u64,
    address: u64,
    /// Innermost first; none when the names are not known.
    lines: Vec<&'a Frame>,
}

/// Which frames of an address a place has, and the place's number.
type Numbered = (Box<[usize]>, u64);

/// The places in the code, each once.
///
/// Where a stack is trimmed within an address, since part of what was inlined
/// there is the allocator's, or a measurement of ours, and part the user's, the
/// place has only the lines that stay: it is another place than the untrimmed one
/// with that address.
struct Locations<'a> {
    names: Option<&'a Names>,
    /// What stands for a stack without addresses, so that its amount is seen.
    nowhere: &'a [Frame; 1],
    mappings: Vec<&'a Mapping>,
    /// Where each mapping begins and ends, and its number; sorted.
    ranges: Vec<(u64, u64, u64)>,
    /// By address.
    numbers: HashMap<u64, Vec<Numbered>>,
    list: Vec<Location<'a>>,
}

impl<'a> Locations<'a> {
    fn new(profile: &'a HeapProfile, nowhere: &'a [Frame; 1]) -> Self {
        let program = std::env::current_exe().unwrap_or_default();
        let mut mappings: Vec<&Mapping> = profile.mappings.iter().collect();
        // The first is the program itself, by the format; the rest stay as they are.
        mappings.sort_by_key(|mapping| program.as_os_str() != mapping.path.as_str());
        let mut ranges: Vec<_> = (1..)
            .zip(&mappings)
            .map(|(number, mapping)| (mapping.start, mapping.end, number))
            .collect();
        ranges.sort_unstable();
        Self {
            names: profile.names.as_deref(),
            nowhere,
            mappings,
            ranges,
            numbers: HashMap::new(),
            list: Vec::new(),
        }
    }

    /// The numbers of a stack's places, innermost first.
    fn of(&mut self, stack: &StackProfile, numbers: &mut Vec<u64>) {
        numbers.clear();
        if stack.addresses.is_empty() {
            numbers.push(self.number(0, self.nowhere, &[0]));
            return;
        }
        let Some(names) = self.names else {
            for &address in &stack.addresses {
                let number = self.number(address, &[], &[]);
                numbers.push(number);
            }
            return;
        };
        let frames: Vec<&Frame> = stack
            .addresses
            .iter()
            .flat_map(|&address| names.at(address))
            .collect();
        let shown = symbols::shown(&frames);
        let mut shown = shown.into_iter().peekable();
        let (mut begin, mut lines) = (0, Vec::new());
        for &address in &stack.addresses {
            let here = names.at(address);
            let end = begin + here.len();
            let here_shown = core::iter::from_fn(|| shown.next_if(|&place| place < end));
            lines.clear();
            lines.extend(here_shown.map(|place| place - begin));
            // An address without any name is no frame that could be cut.
            if !lines.is_empty() || here.is_empty() {
                let number = self.number(address, here, &lines);
                numbers.push(number);
            }
            begin = end;
        }
    }

    /// The number of the place at an address that has these of its frames.
    fn number(&mut self, address: u64, frames: &'a [Frame], lines: &[usize]) -> u64 {
        let known = self.numbers.get(&address).into_iter().flatten();
        for (other, number) in known {
            if &**other == lines {
                return *number;
            }
        }
        // The call, not what it returns to: the next line may be another's.
        let call = address.saturating_sub(1);
        let mapping = self.mapping(call);
        let lines_there = lines.iter().filter_map(|&line| frames.get(line));
        self.list.push(Location {
            mapping,
            address: call,
            lines: lines_there.collect(),
        });
        let number = self.list.len() as u64;
        let places = self.numbers.entry(address).or_default();
        places.push((lines.into(), number));
        number
    }

    /// The number of the mapping with this address, or 0.
    fn mapping(&self, address: u64) -> u64 {
        let after = self.ranges.partition_point(|&(start, ..)| start <= address);
        after
            .checked_sub(1)
            .and_then(|at| self.ranges.get(at))
            .filter(|&&(_, end, _)| address < end)
            .map_or(0, |&(.., number)| number)
    }
}
