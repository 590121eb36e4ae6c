//! What a function's call frame program says at one of its instructions.
//!
//! A program describes a table with a row for each stretch of the function and a
//! column for each register (DWARF 5, section 6.4.2). A [`Rule`](crate::unwind::rule::Rule)
//! holds three of the columns, so only these are followed, up to the row that is wanted.

use crate::unwind::dwarf::reader::Reader;

/// The numbers of the columns, as the System V ABI for x86-64 has them.
pub(in crate::unwind) const RBP: u64 = 6;
pub(in crate::unwind) const RSP: u64 = 7;
const RETURN_ADDRESS: u64 = 16;

/// Rows that a program puts aside at once, while it describes another way out.
const ASIDE: usize = 4;

/// Where the caller's frame begins.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::unwind) enum Cfa {
    /// So far above what is in a register.
    Offset(u64, i64),
    /// Where these operations lead to.
    Expression(&'static [u8]),
}

/// Where the caller's value of a register is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::unwind) enum Place {
    /// Still in the register.
    Unchanged,
    /// Nowhere.
    Lost,
    /// So far above the CFA.
    Offset(i64),
    /// Where these operations lead to.
    Expression(&'static [u8]),
    /// In any other way.
    Other,
}

/// What is known at one instruction.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::unwind) struct Row {
    pub(in crate::unwind) cfa: Cfa,
    pub(in crate::unwind) rbp: Place,
    pub(in crate::unwind) return_address: Place,
}

impl Row {
    fn place(&mut self, register: u64) -> Option<&mut Place> {
        match register {
            RBP => Some(&mut self.rbp),
            RETURN_ADDRESS => Some(&mut self.return_address),
            _ => None,
        }
    }
}

/// A program that is being run. Each step gives `None` when it is broken, or of a
/// sort that compilers do not make for x86-64.
#[derive(Debug)]
pub(super) struct Program {
    /// What distances in code are multiples of.
    code_unit: u64,
    /// What distances on the stack are multiples of.
    data_unit: i64,
    row: Row,
    /// The row that all functions of this kind begin with.
    first: Option<Row>,
    aside: [Option<Row>; ASIDE],
    /// How far it is to the instruction that is wanted.
    left: u64,
}

impl Program {
    pub(super) fn new(code_unit: u64, data_unit: i64) -> Self {
        Self {
            code_unit,
            data_unit,
            row: Row {
                cfa: Cfa::Offset(RSP, 0),
                rbp: Place::Unchanged,
                return_address: Place::Unchanged,
            },
            first: None,
            aside: [None; ASIDE],
            left: 0,
        }
    }

    /// The row for the instruction that is `inside` bytes behind the function's first
    /// one, by what all functions of its kind begin with, and by its own program.
    pub(super) fn row_at(mut self, inside: u64, common: Reader, own: Reader) -> Option<Row> {
        self.run(common)?;
        self.first = Some(self.row);
        self.left = inside;
        self.run(own)?;
        Some(self.row)
    }

    fn run(&mut self, mut bytes: Reader) -> Option<()> {
        while let Some(code) = bytes.byte() {
            let low = u64::from(code & 0x3f);
            let step = match code >> 6 {
                // DW_CFA_advance_loc
                1 => low,
                // DW_CFA_offset
                2 => {
                    let offset = bytes.unsigned()?;
                    self.put(low, Place::Offset(self.scaled(offset)));
                    continue;
                }
                // DW_CFA_restore
                3 => {
                    self.restore(low)?;
                    continue;
                }
                _ => match code {
                    // DW_CFA_advance_loc1, 2 and 4
                    0x02 => u64::from(bytes.byte()?),
                    0x03 => u64::from(bytes.half()?),
                    0x04 => u64::from(bytes.word()?),
                    _ => {
                        self.step(code, &mut bytes)?;
                        continue;
                    }
                },
            };
            // What all begin with is nowhere yet.
            self.first?;
            match self.left.checked_sub(step.wrapping_mul(self.code_unit)) {
                Some(left) => self.left = left,
                None => break,
            }
        }
        Some(())
    }

    /// Does what a code of one byte says that is no way on.
    fn step(&mut self, code: u8, bytes: &mut Reader) -> Option<()> {
        match code {
            // DW_CFA_nop
            0x00 => {}
            // DW_CFA_remember_state
            0x0a => *self.aside.iter_mut().find(|place| place.is_none())? = Some(self.row),
            // DW_CFA_restore_state
            0x0b => self.row = self.aside.iter_mut().rev().find_map(Option::take)?,
            // DW_CFA_def_cfa, and its twin with a sign
            0x0c => self.row.cfa = Cfa::Offset(bytes.register()?, bytes.unsigned()?.cast_signed()),
            0x12 => {
                let register = bytes.register()?;
                self.row.cfa = Cfa::Offset(register, self.scaled_signed(bytes.signed()?));
            }
            // DW_CFA_def_cfa_register
            0x0d => match &mut self.row.cfa {
                Cfa::Offset(register, _) => *register = bytes.register()?,
                Cfa::Expression(_) => return None,
            },
            // DW_CFA_def_cfa_offset, and its twin with a sign
            0x0e | 0x13 => {
                let to = if code == 0x0e {
                    bytes.unsigned()?.cast_signed()
                } else {
                    self.scaled_signed(bytes.signed()?)
                };
                match &mut self.row.cfa {
                    Cfa::Offset(_, offset) => *offset = to,
                    Cfa::Expression(_) => return None,
                }
            }
            // DW_CFA_def_cfa_expression
            0x0f => self.row.cfa = Cfa::Expression(Self::expression(bytes)?),
            // DW_CFA_GNU_args_size
            0x2e => {
                bytes.unsigned()?;
            }
            // All others begin with a register.
            _ => {
                let register = bytes.register()?;
                self.set(code, register, bytes)?;
            }
        }
        Some(())
    }

    /// Does what a code says of one register.
    fn set(&mut self, code: u8, register: u64, bytes: &mut Reader) -> Option<()> {
        let place = match code {
            // DW_CFA_offset_extended, and its twin with a sign
            0x05 => Place::Offset(self.scaled(bytes.unsigned()?)),
            0x11 => Place::Offset(self.scaled_signed(bytes.signed()?)),
            // DW_CFA_restore_extended
            0x06 => return self.restore(register),
            // DW_CFA_undefined
            0x07 => Place::Lost,
            // DW_CFA_same_value
            0x08 => Place::Unchanged,
            // DW_CFA_expression
            0x10 => Place::Expression(Self::expression(bytes)?),
            // DW_CFA_register
            0x09 => {
                bytes.register()?;
                Place::Other
            }
            // DW_CFA_val_offset, and its twin with a sign, which has as many bytes
            0x14 | 0x15 => {
                bytes.unsigned()?;
                Place::Other
            }
            // DW_CFA_val_expression
            0x16 => {
                Self::expression(bytes)?;
                Place::Other
            }
            // DW_CFA_set_loc among them: no compiler writes it for x86-64.
            _ => return None,
        };
        self.put(register, place);
        Some(())
    }

    fn expression(bytes: &mut Reader) -> Option<&'static [u8]> {
        let len = bytes.unsigned()?;
        bytes.block(len)
    }

    fn restore(&mut self, register: u64) -> Option<()> {
        // There is nothing to go back to in what all begin with.
        let mut first = self.first?;
        if let Some(place) = first.place(register).copied() {
            self.put(register, place);
        }
        Some(())
    }

    #[inline]
    fn put(&mut self, register: u64, place: Place) {
        if let Some(column) = self.row.place(register) {
            *column = place;
        }
    }

    #[inline]
    fn scaled(&self, distance: u64) -> i64 {
        self.scaled_signed(distance.cast_signed())
    }

    #[inline]
    fn scaled_signed(&self, distance: i64) -> i64 {
        distance.wrapping_mul(self.data_unit)
    }
}
