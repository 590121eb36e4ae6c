//! `profile.proto` as another reader of protobuf sees it, and whether such a
//! message keeps the rules of its format.

use std::collections::{BTreeMap, BTreeSet};

use heapledger::HeapProfile;
use prost::Message;
use zune_inflate::DeflateDecoder;

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Proto {
    #[prost(message, repeated, tag = "1")]
    pub(crate) sample_type: Vec<ValueType>,
    #[prost(message, repeated, tag = "2")]
    pub(crate) sample: Vec<Sample>,
    #[prost(message, repeated, tag = "3")]
    pub(crate) mapping: Vec<Mapping>,
    #[prost(message, repeated, tag = "4")]
    pub(crate) location: Vec<Location>,
    #[prost(message, repeated, tag = "5")]
    pub(crate) function: Vec<Function>,
    #[prost(string, repeated, tag = "6")]
    pub(crate) strings: Vec<String>,
    #[prost(int64, tag = "7")]
    pub(crate) drop_frames: i64,
    #[prost(int64, tag = "9")]
    pub(crate) time_nanos: i64,
    #[prost(int64, tag = "10")]
    pub(crate) duration_nanos: i64,
    #[prost(message, optional, tag = "11")]
    pub(crate) period_type: Option<ValueType>,
    #[prost(int64, tag = "12")]
    pub(crate) period: i64,
    #[prost(int64, repeated, tag = "13")]
    pub(crate) comment: Vec<i64>,
    #[prost(int64, tag = "14")]
    pub(crate) default_sample_type: i64,
}

#[derive(Clone, Copy, PartialEq, Message)]
pub(crate) struct ValueType {
    #[prost(int64, tag = "1")]
    pub(crate) kind: i64,
    #[prost(int64, tag = "2")]
    pub(crate) unit: i64,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Sample {
    #[prost(uint64, repeated, tag = "1")]
    pub(crate) location: Vec<u64>,
    #[prost(int64, repeated, tag = "2")]
    pub(crate) value: Vec<i64>,
}

#[derive(Clone, Copy, PartialEq, Message)]
#[expect(clippy::struct_excessive_bools, reason = "the format has them")]
pub(crate) struct Mapping {
    #[prost(uint64, tag = "1")]
    pub(crate) id: u64,
    #[prost(uint64, tag = "2")]
    pub(crate) start: u64,
    #[prost(uint64, tag = "3")]
    pub(crate) limit: u64,
    #[prost(uint64, tag = "4")]
    pub(crate) offset: u64,
    #[prost(int64, tag = "5")]
    pub(crate) file: i64,
    #[prost(int64, tag = "6")]
    pub(crate) build_id: i64,
    #[prost(bool, tag = "7")]
    pub(crate) has_functions: bool,
    #[prost(bool, tag = "8")]
    pub(crate) has_filenames: bool,
    #[prost(bool, tag = "9")]
    pub(crate) has_line_numbers: bool,
    #[prost(bool, tag = "10")]
    pub(crate) has_inline_frames: bool,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Location {
    #[prost(uint64, tag = "1")]
    pub(crate) id: u64,
    #[prost(uint64, tag = "2")]
    pub(crate) mapping: u64,
    #[prost(uint64, tag = "3")]
    pub(crate) address: u64,
    #[prost(message, repeated, tag = "4")]
    pub(crate) line: Vec<Line>,
}

#[derive(Clone, Copy, PartialEq, Message)]
pub(crate) struct Line {
    #[prost(uint64, tag = "1")]
    pub(crate) function: u64,
    #[prost(int64, tag = "2")]
    pub(crate) line: i64,
}

#[derive(Clone, Copy, PartialEq, Message)]
pub(crate) struct Function {
    #[prost(uint64, tag = "1")]
    pub(crate) id: u64,
    #[prost(int64, tag = "2")]
    pub(crate) name: i64,
    #[prost(int64, tag = "3")]
    pub(crate) system_name: i64,
    #[prost(int64, tag = "4")]
    pub(crate) file: i64,
}

/// What the profile is written as, read again.
pub(crate) fn read(profile: &HeapProfile) -> Proto {
    let mut gzip = Vec::new();
    profile.write_pprof(&mut gzip).expect("memory takes it");
    let proto = decoded(&gzip);
    assert_eq!(proto.text(proto.default_sample_type), "inuse_space");
    proto
}

/// What is in such a file.
pub(crate) fn decoded(gzip: &[u8]) -> Proto {
    // The reader compares the checksum and the length.
    let message = DeflateDecoder::new(gzip)
        .decode_gzip()
        .expect("a gzip file");
    let proto = Proto::decode(&*message).expect("a message");
    proto.keeps_the_rules();
    // Nothing else is in it: no field that this reader does not know, none twice.
    assert_eq!(proto.encoded_len(), message.len());
    proto
}

impl Proto {
    pub(crate) fn text(&self, at: i64) -> &str {
        let at = usize::try_from(at).expect("an index");
        self.strings.get(at).expect("a string")
    }

    /// The format's own rules, for any profile.
    fn keeps_the_rules(&self) {
        assert_eq!(self.strings.first().map(String::as_str), Some(""));
        let distinct: BTreeSet<_> = self.strings.iter().collect();
        assert_eq!(
            distinct.len(),
            self.strings.len(),
            "a string is there twice"
        );

        let numbered = |ids: Vec<u64>| assert!(ids.iter().copied().eq(1..=ids.len() as u64));
        numbered(self.mapping.iter().map(|m| m.id).collect());
        numbered(self.location.iter().map(|l| l.id).collect());
        numbered(self.function.iter().map(|f| f.id).collect());

        let types: Vec<_> = self
            .sample_type
            .iter()
            .map(|t| (self.text(t.kind), self.text(t.unit)))
            .collect();
        assert_eq!(
            types,
            [
                ("alloc_objects", "count"),
                ("alloc_space", "bytes"),
                ("inuse_objects", "count"),
                ("inuse_space", "bytes"),
                ("peak_objects", "count"),
                ("peak_space", "bytes"),
            ]
        );
        let period = self.period_type.expect("a period");
        assert_eq!(
            (self.text(period.kind), self.text(period.unit)),
            ("space", "bytes")
        );

        let mut used = BTreeSet::new();
        for sample in &self.sample {
            assert_eq!(sample.value.len(), types.len());
            assert!(sample.value.iter().all(|value| *value >= 0));
            assert!(sample.value.iter().any(|value| *value > 0));
            assert!(!sample.location.is_empty(), "its amount is nowhere");
            used.extend(sample.location.iter().copied());
        }
        let there: BTreeSet<_> = self.location.iter().map(|l| l.id).collect();
        assert_eq!(used, there, "each place is there, and none for nothing");
        let mut functions = BTreeSet::new();
        for location in &self.location {
            functions.extend(location.line.iter().map(|line| line.function));
            let mapping = self.mapping.iter().find(|m| m.id == location.mapping);
            if let Some(mapping) = mapping {
                assert!((mapping.start..mapping.limit).contains(&location.address));
            } else {
                assert_eq!(location.mapping, 0);
            }
        }
        let there: BTreeSet<_> = self.function.iter().map(|f| f.id).collect();
        assert_eq!(functions, there);
        for function in &self.function {
            assert_ne!(self.text(function.name), "");
            self.text(function.file);
        }
    }

    /// The sum of each sample type.
    pub(crate) fn sums(&self) -> [i64; 6] {
        let mut sums = [0; 6];
        for sample in &self.sample {
            for (sum, value) in sums.iter_mut().zip(&sample.value) {
                *sum += value;
            }
        }
        sums
    }

    /// `function:line` of a sample's frames, innermost first.
    pub(crate) fn stack(&self, sample: &Sample) -> Vec<String> {
        let places: BTreeMap<_, _> = self.location.iter().map(|l| (l.id, l)).collect();
        let lines = sample.location.iter().flat_map(|id| &places[id].line);
        lines
            .map(|line| {
                let function = self.function.iter().find(|f| f.id == line.function);
                let name = self.text(function.expect("the function").name);
                format!("{name}:{}", line.line)
            })
            .collect()
    }
}
