//! Numbers as DWARF writes them.

/// What is left of some bytes of a loaded file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reader(pub(super) &'static [u8]);

impl Reader {
    #[inline]
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (first, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*first)
    }

    #[inline]
    pub(super) fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    pub(super) fn half(&mut self) -> Option<u16> {
        self.take().map(u16::from_le_bytes)
    }

    pub(super) fn word(&mut self) -> Option<u32> {
        self.take().map(u32::from_le_bytes)
    }

    pub(super) fn long(&mut self) -> Option<u64> {
        self.take().map(u64::from_le_bytes)
    }

    /// The next `len` bytes.
    pub(super) fn block(&mut self, len: u64) -> Option<&'static [u8]> {
        let (block, rest) = self.0.split_at_checked(usize::try_from(len).ok()?)?;
        self.0 = rest;
        Some(block)
    }

    /// What comes before the next byte that is zero, which is skipped.
    pub(super) fn name(&mut self) -> Option<&'static [u8]> {
        let len = self.0.iter().position(|byte| *byte == 0)?;
        let name = self.block(len as u64)?;
        self.byte()?;
        Some(name)
    }

    /// A number of any length, seven bits in each byte.
    #[inline]
    pub(super) fn unsigned(&mut self) -> Option<u64> {
        // Nearly all have one byte.
        let first = self.byte()?;
        if first < 0x80 {
            return Some(u64::from(first));
        }
        self.rest_of(first, 1).map(|(value, ..)| value)
    }

    /// The number of a register.
    #[inline]
    pub(super) fn register(&mut self) -> Option<u64> {
        self.unsigned()
            .filter(|register| u16::try_from(*register).is_ok())
    }

    /// A number with a sign.
    pub(super) fn signed(&mut self) -> Option<i64> {
        let first = self.byte()?;
        let (value, bits, last) = if first < 0x80 {
            (u64::from(first), 7, first)
        } else {
            self.rest_of(first, 0x7f)?
        };
        let is_negative = last & 0x40 != 0 && bits < u64::BITS;
        let sign = if is_negative { u64::MAX << bits } else { 0 };
        Some((value | sign).cast_signed())
    }

    /// A number of more than one byte: its bits, how many were there, the last byte. If
    /// there are ten bytes, the last is 0 or `tenth`.
    #[cold]
    fn rest_of(&mut self, first: u8, tenth: u8) -> Option<(u64, u32, u8)> {
        let mut value = u64::from(first & 0x7f);
        let mut bits = 7;
        loop {
            let byte = self.byte()?;
            // There is room for one bit more, or for a sign.
            if bits == 63 && byte != 0 && byte != tenth {
                return None;
            }
            value |= u64::from(byte & 0x7f) << bits;
            bits += 7;
            if byte < 0x80 {
                return Some((value, bits, byte));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Reader;

    /// What `read` makes of all these bytes.
    fn whole<T>(bytes: &[u8], read: fn(&mut Reader) -> Option<T>) -> Option<T> {
        let mut reader = Reader(bytes.to_vec().leak());
        let value = read(&mut reader)?;
        assert!(reader.0.is_empty());
        Some(value)
    }

    /// The examples of DWARF 5, section 7.6, and the limits.
    #[test]
    fn numbers_of_any_length() {
        let unsigned: [(&[u8], u64); 6] = [
            (&[2], 2),
            (&[0x7f], 127),
            (&[0x80, 1], 128),
            (&[0x81, 1], 129),
            (&[0xb9, 0x64], 12_857),
            (
                &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1],
                u64::MAX,
            ),
        ];
        for (bytes, value) in unsigned {
            assert_eq!(whole(bytes, Reader::unsigned), Some(value));
        }
        let signed: [(&[u8], i64); 9] = [
            (&[2], 2),
            (&[0x7e], -2),
            (&[0xff, 0], 127),
            (&[0x81, 0x7f], -127),
            (&[0x80, 1], 128),
            (&[0x80, 0x7f], -128),
            (&[0x81, 1], 129),
            (&[0xff, 0x7e], -129),
            (
                &[0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x7f],
                i64::MIN,
            ),
        ];
        for (bytes, value) in signed {
            assert_eq!(whole(bytes, Reader::signed), Some(value));
        }
        let too_large = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2];
        for bytes in [&[] as &[u8], &[0x80], &[0x80; 20], &too_large] {
            assert_eq!(whole(bytes, Reader::unsigned), None);
            assert_eq!(whole(bytes, Reader::signed), None);
        }
    }

    #[test]
    fn nothing_is_read_beyond_the_end() {
        let mut reader = Reader(b"zR\0\x01\x02\x03");
        assert_eq!(reader.name(), Some(b"zR".as_slice()));
        assert_eq!((reader.word(), reader.long()), (None, None));
        assert_eq!((reader.half(), reader.half()), (Some(0x201), None));
        assert_eq!(reader.block(2), None);
        assert_eq!(reader.block(1), Some([3].as_slice()));
        assert_eq!((reader.byte(), reader.name()), (None, None));
    }
}
