//! What we read and what a library for all of DWARF reads.

use gimli::{
    BaseAddresses, CfaRule, EhFrame, EhFrameOffset, EndianSlice, LittleEndian, Register,
    RegisterRule, UnwindContext, UnwindContextStorage, UnwindExpression, UnwindSection,
    UnwindTableRow, X86_64,
};

use super::{Cfa, Entries, Place, Row};
use crate::unwind::tests::Dice;

type Bytes = EndianSlice<'static, LittleEndian>;

/// As many rows aside as we have, besides the first one and the present one.
struct Rows;

impl UnwindContextStorage<usize> for Rows {
    type Rules = [(Register, RegisterRule<usize>); 192];
    type Stack = [UnwindTableRow<usize, Self>; 6];
}

/// The same entries for the library.
struct Judge {
    eh_frame: EhFrame<Bytes>,
    bases: BaseAddresses,
    at: u64,
}

impl Judge {
    fn new(entries: &Entries) -> Self {
        Self {
            eh_frame: EhFrame::new(entries.bytes, LittleEndian),
            bases: BaseAddresses::default().set_eh_frame(entries.at),
            at: entries.at,
        }
    }

    fn function(&self, at: u64) -> Option<gimli::FrameDescriptionEntry<Bytes>> {
        let offset = EhFrameOffset(usize::try_from(at.checked_sub(self.at)?).ok()?);
        let found = self
            .eh_frame
            .fde_from_offset(&self.bases, offset, EhFrame::cie_from_offset);
        found.ok()
    }

    fn expression(&self, expression: UnwindExpression<usize>) -> &'static [u8] {
        expression.get(&self.eh_frame).expect("inside").0.slice()
    }

    fn place(&self, rule: Option<&RegisterRule<usize>>) -> Place {
        match rule {
            None | Some(RegisterRule::SameValue) => Place::Unchanged,
            Some(RegisterRule::Undefined) => Place::Lost,
            Some(RegisterRule::Offset(offset)) => Place::Offset(*offset),
            Some(RegisterRule::Expression(expression)) => {
                Place::Expression(self.expression(*expression))
            }
            Some(_) => Place::Other,
        }
    }

    fn row(&self, row: &UnwindTableRow<usize, Rows>) -> Row {
        Row {
            cfa: match *row.cfa() {
                CfaRule::RegisterAndOffset { register, offset } => {
                    Cfa::Offset(u64::from(register.0), offset)
                }
                CfaRule::Expression(expression) => Cfa::Expression(self.expression(expression)),
            },
            rbp: self.place(row.register(X86_64::RBP).as_ref()),
            return_address: self.place(row.register(X86_64::RA).as_ref()),
        }
    }

    /// Compares all that is said of one function; gives how many rows that were.
    fn compare(&self, entries: &Entries, at: u64) -> usize {
        let theirs = self.function(at).expect("an entry");
        let ours = entries.function(at).expect("an entry");
        assert_eq!(
            (ours.start, ours.len, ours.is_trampoline()),
            (
                theirs.initial_address(),
                theirs.len(),
                theirs.is_signal_trampoline()
            )
        );
        let mut context = UnwindContext::<usize, Rows>::new_in();
        let mut table = theirs
            .rows(&self.eh_frame, &self.bases, &mut context)
            .expect("a program");
        let mut rows = 0;
        while let Some(row) = table.next_row().expect("a row") {
            // A row may be empty: hand-written ones end where the function does.
            let ends = [row.start_address(), row.end_address().wrapping_sub(1)];
            for address in ends.into_iter().filter(|at| row.contains(*at)) {
                assert!(ours.contains(address));
                assert_eq!(ours.row_at(address), Some(self.row(row)), "{address:x}");
            }
            rows += 1;
        }
        rows
    }
}

/// All entries of the file that is loaded around `inside`.
fn entries_around(inside: u64) -> (Entries, Vec<u64>) {
    crate::unwind::refresh();
    let (entries, functions) = crate::unwind::tables::all_around(inside).expect("tables");
    assert!(functions.len() > 1_000, "{}", functions.len());
    (entries, functions)
}

/// Bug prevented: a frame is left by the wrong rule, and what is read there is taken
/// for a return address.
#[test]
fn every_row_of_this_program_and_of_the_c_library_is_read_as_the_library_reads_it() {
    for inside in [
        every_row_of_this_program_and_of_the_c_library_is_read_as_the_library_reads_it as fn()
            as usize as u64,
        libc::malloc as *const () as usize as u64,
    ] {
        let (entries, functions) = entries_around(inside);
        let judge = Judge::new(&entries);
        let rows: usize = functions
            .iter()
            .map(|at| judge.compare(&entries, *at))
            .sum();
        assert!(rows > 2 * functions.len(), "{rows}");
    }
}

fn any_byte(dice: &mut Dice) -> u8 {
    u8::try_from(dice.roll(256)).expect("below 256")
}

/// One instruction that there is, or any byte, with small operands.
fn instruction(dice: &mut Dice, program: &mut Vec<u8>) {
    const PLAIN: [u8; 4] = [0x00, 0x0a, 0x0b, 0x00];
    const ONE: [u8; 8] = [0x02, 0x06, 0x07, 0x08, 0x0d, 0x0e, 0x13, 0x2e];
    const TWO: [u8; 8] = [0x05, 0x09, 0x0c, 0x11, 0x12, 0x14, 0x15, 0x03];
    let index = usize::try_from(dice.roll(8)).expect("small");
    // The columns that count, more often than others.
    let register = [6, 6, 7, 16, 3, 12, 6, 16][index];
    let operand = if dice.roll(20) == 0 {
        any_byte(dice)
    } else {
        any_byte(dice) & 0x7f
    };
    match dice.roll(16) {
        0 => program.push(PLAIN[index % 4]),
        1 | 2 => program.push(PLAIN[1 + index % 2]),
        3..=5 => program.push(0x40 | operand & 0x0f),
        6 | 7 => program.extend([0x80 | register, operand]),
        8 => program.push(0xc0 | register),
        9 | 10 => program.extend([ONE[index], register]),
        11..=13 => program.extend([TWO[index], register, operand]),
        14 => {
            let code = [0x10, 0x16, 0x0f][index % 3];
            program.push(code);
            if code != 0x0f {
                program.push(register);
            }
            program.extend([2, 0x76, operand]);
        }
        _ => program.push(any_byte(dice)),
    }
}

/// A CIE and an FDE with these programs, for a function of 256 bytes at 0x1000; and
/// where the second one is.
fn section(common: &[u8], own: &[u8]) -> (Entries, u64) {
    let entry = |body: Vec<u8>| {
        let len = u32::try_from(body.len()).expect("small");
        [len.to_le_bytes().to_vec(), body].concat()
    };
    let cie = entry([&[0, 0, 0, 0, 1, b'z', b'R', 0, 1, 0x78, 16, 1, 0], common].concat());
    let back = u32::try_from(cie.len() + 4).expect("small").to_le_bytes();
    let start = 0x1000_u64.to_le_bytes();
    let len = 0x100_u64.to_le_bytes();
    let fde = entry([&back, start.as_slice(), &len, &[0], own].concat());
    let at = 0x8000;
    let second = at + cie.len() as u64;
    let bytes = [cie, fde, vec![0; 4]].concat().leak();
    (Entries { at, bytes }, second)
}

/// Bug prevented: a program that nobody has seen yet is followed another way than it
/// goes; or one that is broken is read beyond its end.
#[test]
fn programs_at_random_are_followed_as_the_library_follows_them_or_refused() {
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    let (mut followed, mut refused, mut careful) = (0, 0, 0);
    for _ in 0..20_000 {
        let mut programs = [vec![0x0c, 7, 8, 0x90, 1], vec![]];
        for _ in 0..dice.roll(3) {
            let mut one = Vec::new();
            instruction(&mut dice, &mut one);
            // No way on in what is nowhere yet: the library takes it for nothing.
            if !matches!(one[0], 0x02..=0x04 | 0x40..0x80) {
                programs[0].append(&mut one);
            }
        }
        for _ in 0..dice.roll(24) {
            instruction(&mut dice, &mut programs[1]);
        }
        let (entries, at) = section(&programs[0], &programs[1]);
        let judge = Judge::new(&entries);
        let theirs = judge.function(at).expect("an entry");
        let ours = entries.function(at).expect("an entry");
        for inside in [0, 1, 7, 40, 0xff] {
            let address = 0x1000 + inside;
            let mut context = UnwindContext::<usize, Rows>::new_in();
            let found = theirs.unwind_info_for_address(
                &judge.eh_frame,
                &judge.bases,
                &mut context,
                address,
            );
            match (ours.row_at(address), found) {
                (Some(ours), Ok(row)) => {
                    assert_eq!(ours, judge.row(row), "{programs:x?} {inside}");
                    followed += 1;
                }
                (None, Err(_)) => refused += 1,
                // Codes that no compiler writes here, and more rows aside than anyone has.
                (None, Ok(_)) => careful += 1,
                (Some(ours), Err(error)) => {
                    panic!("{programs:x?} {inside}: {ours:?}, but {error}")
                }
            }
        }
    }
    assert!(followed > 20_000 && refused > 5_000, "{followed} {refused}");
    assert!(careful < followed / 20, "{careful}");
}

/// Bug prevented: entries that are cut off are read beyond their end.
#[test]
fn entries_that_are_cut_off_anywhere_are_refused() {
    let (whole, at) = section(&[0x0c, 7, 8, 0x90, 1], &[0x41, 0x0e, 16, 0x86, 2]);
    let row = |entries: Entries| entries.function(at)?.row_at(0x10ff);
    let found = row(whole).expect("whole");
    assert_eq!(
        (found.cfa, found.rbp),
        (Cfa::Offset(7, 16), Place::Offset(-16))
    );
    for len in 0..whole.bytes.len() - 4 {
        let bytes = &whole.bytes[..len];
        assert_eq!(row(Entries { bytes, ..whole }), None, "{len}");
    }
    for at in [at - 1, at + 1, 0x7fff, 0, u64::MAX] {
        assert!(whole.function(at).is_none(), "{at:x}");
    }
}

/// Bug prevented: an entry of another form is read as if it had the usual one.
#[test]
fn what_is_of_another_form_is_refused() {
    let (usual, at) = section(&[], &[]);
    assert!(usual.function(at).is_some());
    // The length of 64 bits, the version, two letters, the column, an encoding, a length
    // below 0.
    let changes = [(3, 0xff), (8, 4), (9, b'e'), (10, b'x'), (14, 17), (16, 1)];
    // Behind two numbers of four bytes, and an address and the length of eight.
    let last_of_len = usize::try_from(at - usual.at).expect("small") + 4 + 4 + 8 + 7;
    for (place, byte) in changes.into_iter().chain([(last_of_len, 0x80)]) {
        let mut bytes = usual.bytes.to_vec();
        bytes[place] = byte;
        if place == 3 {
            bytes[..4].fill(0xff);
        }
        let bytes = bytes.leak();
        let other = Entries { bytes, ..usual };
        assert!(other.function(at).is_none(), "{place}");
    }
    // A CIE is no function.
    assert!(usual.function(usual.at).is_none());
}
