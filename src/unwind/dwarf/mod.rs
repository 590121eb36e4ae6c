//! What a file says of its functions' frames: the entries of `.eh_frame`.
//!
//! ```text
//!   CIE   what many functions have in common: units, encodings, how they begin
//!    ▲
//!    └── FDE   one function: where it begins, how long it is, and its program
//! ```
//!
//! (Linux Standard Base 5.0, "Exception Frames"; DWARF 5, section 6.4.1.) A reader of
//! our own because it runs inside the allocator: each call of it is known not to
//! panic, and it follows only what a [`Rule`](crate::unwind::rule::Rule) can hold, in
//! half as many instructions as a reader of everything. Tests compare the two on
//! whole files, and on programs at random.

mod program;
mod reader;
#[cfg(test)]
mod tests;

use program::Program;
pub(super) use program::{Cfa, Place, RBP, RSP, Row};
use reader::Reader;

/// The bytes of some entries, and where they are in memory.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entries {
    pub(super) at: u64,
    pub(super) bytes: &'static [u8],
}

/// One function's frame, as far as it is described.
#[derive(Clone, Copy, Debug)]
pub(super) struct Function {
    /// Where it begins.
    pub(super) start: u64,
    len: u64,
    common: Common,
    program: Reader,
}

/// What many functions have in common.
#[derive(Clone, Copy, Debug)]
struct Common {
    code_unit: u64,
    data_unit: i64,
    /// How addresses are written.
    encoding: u8,
    /// Whether each function has more to say, after a length.
    has_more: bool,
    /// Whether the system calls them for a signal.
    is_trampoline: bool,
    program: Reader,
}

/// How an address is written: as it is, or from the place where it stands.
const RELATIVE: u8 = 0x10;

impl Entries {
    /// The bytes of the entry at `at`, without their number, and where they are.
    fn entry(&self, at: u64) -> Option<(u64, Reader)> {
        let from = usize::try_from(at.checked_sub(self.at)?).ok()?;
        let mut bytes = Reader(self.bytes.get(from..)?);
        // All ones would announce a longer number, which no linker needs.
        let len = bytes.word().filter(|len| *len < 0xffff_fff0)?;
        let entry = Reader(bytes.block(u64::from(len))?);
        Some((at.checked_add(4)?, entry))
    }

    /// The function whose entry is at `at`.
    pub(super) fn function(&self, at: u64) -> Option<Function> {
        let (at, mut entry) = self.entry(at)?;
        // A CIE has none.
        let back = entry.word().filter(|back| *back != 0)?;
        let common = self.common(at.checked_sub(u64::from(back))?)?;
        let at = at.checked_add(4)?;
        let start = address(&mut entry, common.encoding, at)?;
        // A length, not an address, and not one with a sign.
        let len = address(&mut entry, common.encoding & !RELATIVE, 0)?;
        if len.cast_signed() < 0 {
            return None;
        }
        if common.has_more {
            let more = entry.unsigned()?;
            entry.block(more)?;
        }
        Some(Function {
            start,
            len,
            common,
            program: entry,
        })
    }

    fn common(&self, at: u64) -> Option<Common> {
        let (_, mut entry) = self.entry(at)?;
        let (0, 1 | 3) = (entry.word()?, entry.byte()?) else {
            return None;
        };
        let letters = entry.name()?;
        let mut common = Common {
            code_unit: entry.unsigned()?,
            data_unit: entry.signed()?,
            encoding: 0,
            has_more: false,
            is_trampoline: false,
            program: entry,
        };
        // The column of the return address: of one byte in both versions.
        let (16, rest) = (entry.byte()?, letters.strip_prefix(b"z")) else {
            return None;
        };
        if let Some(letters) = rest {
            common.has_more = true;
            let len = entry.unsigned()?;
            let mut more = Reader(entry.block(len)?);
            for letter in letters {
                match letter {
                    b'R' => common.encoding = more.byte()?,
                    b'S' => common.is_trampoline = true,
                    // Where the language's own data are encoded.
                    b'L' => {
                        more.byte()?;
                    }
                    // The function that reads these.
                    b'P' => {
                        let encoding = more.byte()?;
                        // At the next multiple of 8, or left out: nobody does either.
                        if encoding & 0x70 == 0x50 || encoding == 0xff {
                            return None;
                        }
                        address(&mut more, encoding & 0x0f, 0)?;
                    }
                    _ => return None,
                }
            }
        } else if !letters.is_empty() {
            return None;
        }
        common.program = entry;
        Some(common)
    }
}

impl Function {
    /// Whether the system calls it for a signal.
    pub(super) fn is_trampoline(&self) -> bool {
        self.common.is_trampoline
    }

    pub(super) fn contains(&self, address: u64) -> bool {
        address.wrapping_sub(self.start) < self.len
    }

    /// What is known at the instruction at `address`, which is inside.
    pub(super) fn row_at(&self, address: u64) -> Option<Row> {
        let inside = address.checked_sub(self.start)?;
        let program = Program::new(self.common.code_unit, self.common.data_unit);
        program.row_at(inside, self.common.program, self.program)
    }
}

/// What `bytes` are as one number with a sign.
pub(super) fn signed(bytes: &'static [u8]) -> Option<i64> {
    let mut bytes = Reader(bytes);
    let number = bytes.signed()?;
    bytes.0.is_empty().then_some(number)
}

/// An address that is encoded so, and stands at `at`.
fn address(bytes: &mut Reader, encoding: u8, at: u64) -> Option<u64> {
    let value = match encoding & 0x0f {
        0x00 | 0x04 | 0x0c => bytes.long()?,
        0x02 => u64::from(bytes.half()?),
        0x03 => u64::from(bytes.word()?),
        0x0a => i64::from(bytes.half()?.cast_signed()).cast_unsigned(),
        0x0b => i64::from(bytes.word()?.cast_signed()).cast_unsigned(),
        _ => return None,
    };
    match encoding & 0xf0 {
        0 => Some(value),
        RELATIVE => Some(at.wrapping_add(value)),
        _ => None,
    }
}
