//! As much of the protobuf wire format as a profile needs.

/// A message that is being written.
#[derive(Debug, Default)]
pub(super) struct Message {
    bytes: Vec<u8>,
}

/// The wire types that are used here.
const VARINT: u64 = 0;
const LENGTH: u64 = 2;

impl Message {
    /// A number; 0 is the default and not written.
    pub(super) fn number(&mut self, field: u64, value: u64) {
        if value != 0 {
            self.varint(field << 3 | VARINT);
            self.varint(value);
        }
    }

    /// A flag; `false` is the default and not written.
    pub(super) fn flag(&mut self, field: u64, value: bool) {
        self.number(field, u64::from(value));
    }

    /// An element of a repeated string: written when it is empty, too.
    pub(super) fn text(&mut self, field: u64, value: &str) {
        self.block(field, value.as_bytes());
    }

    /// Repeated numbers as one block.
    pub(super) fn packed(&mut self, field: u64, values: impl Iterator<Item = u64> + Clone) {
        let length: usize = values.clone().map(length).sum();
        if length != 0 {
            self.varint(field << 3 | LENGTH);
            self.varint(length as u64);
            for value in values {
                self.varint(value);
            }
        }
    }

    /// A message inside of this one.
    pub(super) fn message(&mut self, field: u64, write: impl FnOnce(&mut Self)) {
        let mut inner = Self::default();
        write(&mut inner);
        self.block(field, &inner.bytes);
    }

    /// What has been written.
    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    fn block(&mut self, field: u64, bytes: &[u8]) {
        self.varint(field << 3 | LENGTH);
        self.varint(bytes.len() as u64);
        self.bytes.extend_from_slice(bytes);
    }

    /// Seven bits in a byte, the lowest first; the eighth says that more follow.
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.bytes.push((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        self.bytes.push((value & 0x7f) as u8);
    }
}

/// How many bytes a number takes.
fn length(value: u64) -> usize {
    let bits = u64::BITS - (value | 1).leading_zeros();
    bits.div_ceil(7) as usize
}

#[cfg(test)]
mod tests {
    use super::{Message, length};

    #[test]
    fn numbers_take_as_many_bytes_as_they_need() {
        let table: [(u64, &[u8]); 6] = [
            (1, &[1]),
            (127, &[0x7f]),
            (128, &[0x80, 1]),
            (300, &[0xac, 2]),
            (16_384, &[0x80, 0x80, 1]),
            (
                u64::MAX,
                &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1],
            ),
        ];
        for (value, bytes) in table {
            let mut message = Message::default();
            message.number(1, value);
            assert_eq!(message.into_bytes(), [&[8], bytes].concat(), "{value}");
            assert_eq!(length(value), bytes.len(), "{value}");
        }
    }

    #[test]
    fn defaults_are_left_out_but_not_an_element() {
        let mut message = Message::default();
        message.number(1, 0);
        message.flag(2, false);
        message.packed(3, [].into_iter());
        message.text(6, "");
        message.packed(4, [0, 128].into_iter());
        assert_eq!(message.into_bytes(), [0x32, 0, 0x22, 3, 0, 0x80, 1]);
    }
}
