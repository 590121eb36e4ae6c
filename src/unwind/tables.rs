//! Rules out of a module's `.eh_frame`.
//!
//! Runs inside the allocator, a few times for each call site of the program at
//! most, so: no memory but the stack's (about 2 KiB), no lock, no panic. The
//! parsing is `gimli`'s, with room for a dozen registers in place of its
//! default of 192, whose 18 KiB would not fit on a small thread's stack.

use core::mem::offset_of;

use gimli::{
    BaseAddresses, CfaRule, EhFrame, EhFrameHdr, EhFrameOffset, EndianSlice, LittleEndian,
    Operation, ParsedEhFrameHdr, Register, RegisterRule, UnwindContext, UnwindContextStorage,
    UnwindExpression, UnwindSection, UnwindTableRow, X86_64,
};

use crate::unwind::modules::{self, Module};
use crate::unwind::rule::Rule;

type Bytes = EndianSlice<'static, LittleEndian>;

/// A row of the table holds the registers that a function saves: seven at most
/// in compiled code, all seventeen in the frame of a signal.
struct Small;

impl UnwindContextStorage<usize> for Small {
    type Rules = [(Register, RegisterRule<usize>); 18];
    type Stack = [UnwindTableRow<usize, Self>; 4];
}

/// A rule and the function that it is for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Derived {
    pub(crate) rule: Rule,
    /// Where the function begins.
    pub(crate) function: u64,
}

/// Works out the rule for the instruction at `address`; `None` when it is in no
/// loaded file, has no unwind table, or one that no [`Rule`] can express.
#[cold]
#[inline(never)]
pub(crate) fn derive(address: u64) -> Option<Derived> {
    let module = modules::find(address)?;
    let tables = Tables::of(&module)?;
    let bases = BaseAddresses::default()
        .set_eh_frame_hdr(module.eh_frame_hdr)
        .set_eh_frame(tables.entries_at);
    let eh_frame = EhFrame::new(tables.entries, LittleEndian);
    let entry = tables.entry_by_pairs(address);
    let entry = entry.or_else(|| tables.entry_by_any_table(address, &bases))?;
    // In single steps, because `gimli` subtracts the two pointers without a look.
    let offset = usize::try_from(entry.checked_sub(tables.entries_at)?).ok()?;
    let fde = eh_frame
        .fde_from_offset(&bases, EhFrameOffset(offset), EhFrame::cie_from_offset)
        .ok()?;
    if !fde.contains(address) {
        return None;
    }
    let function = fde.initial_address();
    if fde.is_signal_trampoline() {
        return Some(Derived {
            rule: Rule::SIGNAL,
            function,
        });
    }
    let mut context = UnwindContext::<usize, Small>::new_in();
    let row = fde
        .unwind_info_for_address(&eh_frame, &bases, &mut context, address)
        .ok()?;
    let rule = rule_of(row, &eh_frame)?;
    Some(Derived { rule, function })
}

/// A row of the table as a rule.
fn rule_of(row: &UnwindTableRow<usize, Small>, eh_frame: &EhFrame<Bytes>) -> Option<Rule> {
    match row.register(X86_64::RA) {
        Some(RegisterRule::Undefined) => return Some(Rule::END),
        None | Some(RegisterRule::Offset(-8)) => {}
        Some(_) => return None,
    }
    let saved = row.register(X86_64::RBP);
    match *row.cfa() {
        CfaRule::RegisterAndOffset { register, offset } => {
            let from_rbp = match register {
                X86_64::RSP => false,
                X86_64::RBP => true,
                _ => return None,
            };
            let below = match saved {
                None | Some(RegisterRule::Undefined | RegisterRule::SameValue) => 0,
                Some(RegisterRule::Offset(below)) => u64::try_from(below.checked_neg()?).ok()?,
                Some(_) => return None,
            };
            Rule::plain(from_rbp, u64::try_from(offset).ok()?, below)
        }
        // The CFA was pushed just below `rbp`, and the caller's `rbp` is where it always is.
        CfaRule::Expression(cfa) => {
            let Some(RegisterRule::Expression(saved)) = saved else {
                return None;
            };
            let at_rbp = offset_from_rbp(saved, eh_frame, false)? == 0;
            let below = offset_from_rbp(cfa, eh_frame, true)?.checked_neg()?;
            at_rbp.then(|| Rule::aligned(u64::try_from(below).ok()?))?
        }
    }
}

/// `n` of an expression that is just `rbp + n`, with a load behind it or not.
fn offset_from_rbp(
    expression: UnwindExpression<usize>,
    eh_frame: &EhFrame<Bytes>,
    loaded: bool,
) -> Option<i64> {
    let encoding = gimli::Encoding {
        address_size: 8,
        format: gimli::Format::Dwarf32,
        version: 4,
    };
    let mut operations = expression.get(eh_frame).ok()?.operations(encoding);
    let Ok(Some(Operation::RegisterOffset {
        register: X86_64::RBP,
        offset,
        ..
    })) = operations.next()
    else {
        return None;
    };
    if loaded
        && !matches!(
            operations.next(),
            Ok(Some(Operation::Deref { size: 8, .. }))
        )
    {
        return None;
    }
    matches!(operations.next(), Ok(None)).then_some(offset)
}

/// The bytes of a module's unwind tables.
struct Tables {
    /// `.eh_frame_hdr`: finds the entry for an address.
    index: &'static [u8],
    header: ParsedEhFrameHdr<Bytes>,
    /// Where the index is.
    index_at: u64,
    /// `.eh_frame`: the entries.
    entries: &'static [u8],
    /// Where the entries are.
    entries_at: u64,
}

impl Tables {
    /// Finds the tables by the module's own program headers, so that no byte
    /// outside its read-only segment is ever looked at.
    fn of(module: &Module) -> Option<Self> {
        let headers = program_headers(module)?;
        let first = headers
            .iter()
            .filter(|header| header.p_type == libc::PT_LOAD)
            .map(|header| header.p_vaddr)
            .min()?;
        let bias = module.start.wrapping_sub(first & !0xFFF);
        let segment = headers.iter().find_map(|header| {
            let start = bias.wrapping_add(header.p_vaddr);
            let end = start.checked_add(header.p_memsz)?;
            let here = header.p_type == libc::PT_LOAD
                && header.p_flags & (libc::PF_R | libc::PF_W) == libc::PF_R
                && (start..end).contains(&module.eh_frame_hdr)
                && end <= module.end.next_multiple_of(0x1000);
            here.then_some((start, end))
        })?;
        let index = bytes(module.eh_frame_hdr, segment.1)?;
        let bases = BaseAddresses::default().set_eh_frame_hdr(module.eh_frame_hdr);
        let header = EhFrameHdr::new(index, LittleEndian).parse(&bases, 8).ok()?;
        let entries_at = header.eh_frame_ptr().direct().ok()?;
        if !(segment.0..segment.1).contains(&entries_at) {
            return None;
        }
        Some(Self {
            index,
            header,
            index_at: module.eh_frame_hdr,
            entries: bytes(entries_at, segment.1)?,
            entries_at,
        })
    }

    /// Where the entry is that may be the address's, if the index is as linkers
    /// make it: a count and pairs, all of 32 bits, of distances from the index to
    /// a function and to its entry. (Linux Standard Base, "The `.eh_frame_hdr`
    /// section".)
    fn entry_by_pairs(&self, address: u64) -> Option<u64> {
        // The version, and how the pointer to the entries, the count and the pairs are encoded.
        let (&[1, 0x1B, 0x03, 0x3B], rest) = self.index.split_first_chunk::<4>()? else {
            return None;
        };
        let (_, rest) = rest.split_first_chunk::<4>()?;
        let (count, rest) = rest.split_first_chunk::<4>()?;
        let count = usize::try_from(u32::from_le_bytes(*count)).ok()?;
        let pairs = rest.as_chunks::<8>().0.get(..count)?;
        let half = |pair: &[u8; 8], at: usize| {
            let bytes = pair.get(at..)?.first_chunk::<4>()?;
            Some(i64::from(i32::from_le_bytes(*bytes)))
        };
        let wanted = address.wrapping_sub(self.index_at).cast_signed();
        let after = pairs.partition_point(|pair| half(pair, 0).is_some_and(|at| at <= wanted));
        let entry = half(pairs.get(after.checked_sub(1)?)?, 4)?;
        Some(self.index_at.wrapping_add_signed(entry))
    }

    /// The same for any index.
    #[cold]
    fn entry_by_any_table(&self, address: u64, bases: &BaseAddresses) -> Option<u64> {
        let entry = self.header.table()?.lookup(address, bases).ok()?;
        entry.direct().ok()
    }
}

/// The memory from `start` to `end`, which the caller knows to be in one
/// read-only segment of a loaded module.
fn bytes(start: u64, end: u64) -> Option<&'static [u8]> {
    let len = usize::try_from(end.checked_sub(start)?).ok()?;
    let start = core::ptr::with_exposed_provenance::<u8>(usize::try_from(start).ok()?);
    // SAFETY: both callers found `start..end` inside a readable segment that nobody writes. It is
    // mapped for as long as its code is on the calling thread's stack, and the slice does not
    // outlive the derivation (`modules` says why that is enough).
    Some(unsafe { core::slice::from_raw_parts(start, len) })
}

/// The program headers that follow the ELF header at the module's start.
fn program_headers(module: &Module) -> Option<&'static [libc::Elf64_Phdr]> {
    const ELF_64: [u8; 5] = [0x7F, b'E', b'L', b'F', 2];
    let page = bytes(module.start, module.start.checked_add(0x1000)?)?;
    let field = |at: usize| page.get(at..)?.first_chunk::<2>().copied();
    let magic = page.first_chunk::<5>()? == &ELF_64;
    let offset = page
        .get(offset_of!(libc::Elf64_Ehdr, e_phoff)..)?
        .first_chunk::<8>()?;
    let offset = usize::try_from(u64::from_le_bytes(*offset)).ok()?;
    let size = field(offset_of!(libc::Elf64_Ehdr, e_phentsize))?;
    let count = field(offset_of!(libc::Elf64_Ehdr, e_phnum))?;
    let count = usize::from(u16::from_le_bytes(count));
    let fits = usize::from(u16::from_le_bytes(size)) == size_of::<libc::Elf64_Phdr>();
    let len = count.checked_mul(size_of::<libc::Elf64_Phdr>())?;
    let headers = page.get(offset..offset.checked_add(len)?)?;
    #[expect(clippy::cast_ptr_alignment, reason = "looked at below")]
    let start = headers.as_ptr().cast::<libc::Elf64_Phdr>();
    if !(magic && fits && start.is_aligned()) {
        return None;
    }
    // SAFETY: inside the first page, which is mapped and never written; long enough for `count`
    // headers, aligned, and made of integers only.
    Some(unsafe { core::slice::from_raw_parts(start, count) })
}

#[cfg(test)]
mod tests {
    use super::{Tables, modules};
    use gimli::BaseAddresses;

    /// Bug prevented: our own search and the library's do not find the same entry,
    /// and a frame is taken for one of the function beside it.
    #[test]
    fn both_searches_find_the_same_entry() {
        modules::refresh();
        let mut found = 0;
        for inside in [
            both_searches_find_the_same_entry as fn() as usize as u64,
            libc::malloc as *const () as usize as u64,
        ] {
            let module = modules::find(inside).expect("loaded");
            let tables = Tables::of(&module).expect("it has some");
            let bases = BaseAddresses::default()
                .set_eh_frame_hdr(module.eh_frame_hdr)
                .set_eh_frame(tables.entries_at);
            let step = (module.end - module.start) / 5_000;
            let near = (inside - 300..inside + 300).chain([module.start, module.end - 1]);
            for address in (module.start..module.end)
                .step_by(step as usize)
                .chain(near)
            {
                let ours = tables.entry_by_pairs(address);
                let theirs = tables.entry_by_any_table(address, &bases);
                // Before the first function there is nothing, or the first, which is not there.
                if ours.is_some() {
                    assert_eq!(ours, theirs, "{address:x}");
                    found += 1;
                }
            }
        }
        assert!(found > 5_000, "{found}");
    }
}
