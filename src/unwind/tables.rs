//! Rules out of a module's `.eh_frame`.
//!
//! Runs inside the allocator, a few times for each call site of the program at
//! most, so: no memory but the stack's (about a KiB), no lock, no panic. The index
//! is searched here, what it leads to is read by [`dwarf`].

use core::mem::offset_of;

use crate::unwind::dwarf::{self, Cfa, Entries, Place, RBP, RSP, Row};
use crate::unwind::modules::{self, Module};
use crate::unwind::rule::Rule;

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
    let entry = tables.index.entry_for(address)?;
    let function = tables.entries.function(entry)?;
    if !function.contains(address) {
        return None;
    }
    let row = function.row_at(address)?;
    let rule = if function.is_trampoline() {
        is_of_the_kernel(&row).then_some(Rule::SIGNAL)?
    } else {
        rule_of(&row)?
    };
    Some(Derived {
        rule,
        function: function.start,
    })
}

/// Whether a frame that says it is a signal's is where the kernel leaves the registers for a
/// handler to return to, as glibc's `__restore_rt` has them: stack pointer and address so far
/// above `rsp`. Coroutines' own trampolines say so, too, and are something else.
fn is_of_the_kernel(row: &Row) -> bool {
    const STACK_POINTER: i64 = 160;
    const ADDRESS: i64 = 168;
    let (Cfa::Expression(cfa), Place::Expression(at)) = (row.cfa, row.return_address) else {
        return false;
    };
    offset_from(RSP_PLUS, cfa, true) == Some(STACK_POINTER)
        && offset_from(RSP_PLUS, at, false) == Some(ADDRESS)
}

/// A row of the table as a rule.
fn rule_of(row: &Row) -> Option<Rule> {
    match row.return_address {
        Place::Lost => return Some(Rule::END),
        Place::Offset(-8) => {}
        _ => return None,
    }
    match row.cfa {
        Cfa::Offset(register, offset) => {
            let from_rbp = match register {
                RSP => false,
                RBP => true,
                _ => return None,
            };
            let below = match row.rbp {
                Place::Unchanged | Place::Lost => 0,
                Place::Offset(below) => u64::try_from(below.checked_neg()?).ok()?,
                Place::Expression(_) | Place::Other => return None,
            };
            Rule::plain(from_rbp, u64::try_from(offset).ok()?, below)
        }
        // The CFA was pushed just below `rbp`, and the caller's `rbp` is where it always is.
        Cfa::Expression(cfa) => {
            let Place::Expression(saved) = row.rbp else {
                return None;
            };
            let at_rbp = offset_from(RBP_PLUS, saved, false)? == 0;
            let below = offset_from(RBP_PLUS, cfa, true)?.checked_neg()?;
            at_rbp.then(|| Rule::aligned(u64::try_from(below).ok()?))?
        }
    }
}

/// `DW_OP_breg6` and `DW_OP_breg7`.
const RBP_PLUS: u8 = 0x76;
const RSP_PLUS: u8 = 0x77;

/// `n` of an expression that is just a register and `n`, with a load behind it or not.
fn offset_from(register: u8, expression: &'static [u8], loaded: bool) -> Option<i64> {
    // And `DW_OP_deref`.
    let mut bytes = expression.strip_prefix(&[register])?;
    if loaded {
        bytes = bytes.strip_suffix(&[0x06])?;
    }
    dwarf::signed(bytes)
}

/// The bytes of a module's unwind tables.
struct Tables {
    /// `.eh_frame_hdr`: finds the entry for an address.
    index: Index,
    /// `.eh_frame`.
    entries: Entries,
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
        let index = Index::of(bytes(module.eh_frame_hdr, segment.1)?, module.eh_frame_hdr)?;
        let at = index.entries_at;
        if !(segment.0..segment.1).contains(&at) {
            return None;
        }
        let bytes = bytes(at, segment.1)?;
        Some(Self {
            index,
            entries: Entries { at, bytes },
        })
    }
}

/// An index of unwind entries, as all linkers make it: where the entries are, a
/// count, and so many pairs, sorted, of a function and its entry. All are distances
/// of 32 bits, the first from where it stands, the others from the index. (Linux
/// Standard Base, "The `.eh_frame_hdr` section".)
struct Index {
    /// Where it is itself.
    at: u64,
    entries_at: u64,
    pairs: &'static [[u8; 8]],
}

impl Index {
    /// `None` if it is of another form.
    fn of(bytes: &'static [u8], at: u64) -> Option<Self> {
        // The version, and how the three are encoded: DW_EH_PE_pcrel | DW_EH_PE_sdata4,
        // DW_EH_PE_udata4, DW_EH_PE_datarel | DW_EH_PE_sdata4.
        let (&[1, 0x1B, 0x03, 0x3B], rest) = bytes.split_first_chunk::<4>()? else {
            return None;
        };
        let (entries, rest) = rest.split_first_chunk::<4>()?;
        let (count, rest) = rest.split_first_chunk::<4>()?;
        let count = usize::try_from(u32::from_le_bytes(*count)).ok()?;
        let entries = i64::from(i32::from_le_bytes(*entries));
        Some(Self {
            at,
            entries_at: at.wrapping_add(4).wrapping_add_signed(entries),
            pairs: rest.as_chunks::<8>().0.get(..count)?,
        })
    }

    /// Where the entry is that may be the address's.
    fn entry_for(&self, address: u64) -> Option<u64> {
        let half = |pair: &[u8; 8], at: usize| {
            let bytes = pair.get(at..)?.first_chunk::<4>()?;
            Some(i64::from(i32::from_le_bytes(*bytes)))
        };
        let wanted = address.wrapping_sub(self.at).cast_signed();
        let is_before = |pair: &[u8; 8]| half(pair, 0).is_some_and(|function| function <= wanted);
        let after = self.pairs.partition_point(is_before);
        let entry = half(self.pairs.get(after.checked_sub(1)?)?, 4)?;
        Some(self.at.wrapping_add_signed(entry))
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

/// All entries of the file that is loaded around `inside`, and where each function's is.
#[cfg(test)]
pub(super) fn all_around(inside: u64) -> Option<(Entries, Vec<u64>)> {
    let tables = Tables::of(&modules::find(inside)?)?;
    let starts = tables.index.pairs.iter().map(|pair| {
        let start = i32::from_le_bytes(*pair.first_chunk::<4>()?);
        let start = tables.index.at.wrapping_add_signed(i64::from(start));
        tables.index.entry_for(start)
    });
    Some((tables.entries, starts.collect::<Option<_>>()?))
}

#[cfg(test)]
mod tests {
    use super::{Cfa, Index, Place, RBP, Row, all_around, is_of_the_kernel, modules};
    use crate::unwind::dwarf::Function;
    use gimli::{BaseAddresses, EhFrameHdr, LittleEndian, Pointer};

    /// Bug prevented: our search and the library's do not find the same entry, and
    /// a frame is taken for one of the function beside it.
    #[test]
    fn the_entry_found_is_the_one_that_the_library_finds() {
        modules::refresh();
        let mut found = 0;
        for inside in [
            the_entry_found_is_the_one_that_the_library_finds as fn() as usize as u64,
            libc::malloc as *const () as usize as u64,
        ] {
            let module = modules::find(inside).expect("loaded");
            let at = module.eh_frame_hdr;
            let bytes = super::bytes(at, module.end).expect("in the module");
            let index = Index::of(bytes, at).expect("of the form that is known");
            let bases = BaseAddresses::default().set_eh_frame_hdr(at);
            let header = EhFrameHdr::new(bytes, LittleEndian);
            let header = header.parse(&bases, 8).expect("an index");
            assert_eq!(header.eh_frame_ptr(), Pointer::Direct(index.entries_at));
            let step = usize::try_from((module.end - module.start) / 5_000).expect("small");
            let near = (inside - 300..inside + 300).chain([module.start, module.end - 1]);
            for address in (module.start..module.end).step_by(step).chain(near) {
                // Before the first function there is nothing; the library gives the first one then.
                if let Some(ours) = index.entry_for(address) {
                    let theirs = header.table().expect("a table").lookup(address, &bases);
                    assert_eq!(theirs, Ok(Pointer::Direct(ours)), "{address:x}");
                    found += 1;
                }
            }
        }
        assert!(found > 5_000, "{found}");
    }

    /// Bug prevented: an index that ends too soon, or of another form, is read beyond
    /// its end, or not as it is.
    #[test]
    fn an_index_that_is_not_as_expected_has_no_entries() {
        const GOOD: [u8; 4] = [1, 0x1B, 0x03, 0x3B];
        let pair =
            |function: i32, entry: i32| [function.to_le_bytes(), entry.to_le_bytes()].concat();
        let index = |form: [u8; 4], count: u32| {
            let head = [form, (-0x14_i32).to_le_bytes(), count.to_le_bytes()].concat();
            [head, pair(-0x100, 8), pair(0x200, 16)].concat()
        };
        let read = |index: Vec<u8>| Index::of(index.leak(), 0x1000);
        let good = read(index(GOOD, 2)).expect("as linkers make it");
        assert_eq!(good.entries_at, 0xFF0);
        for (address, entry) in [
            (0, None),
            (0xEFF, None),
            (0xF00, Some(0x1008)),
            (0x11FF, Some(0x1008)),
            (0x1200, Some(0x1010)),
            (u64::MAX >> 1, Some(0x1010)),
        ] {
            assert_eq!(good.entry_for(address), entry, "{address:x}");
        }
        let empty = read(index(GOOD, 0)).expect("as linkers make it");
        assert_eq!(empty.entry_for(0x1200), None);
        assert!(read(index(GOOD, 3)).is_none());
        assert!(read(index(GOOD, u32::MAX)).is_none());
        assert!(read(index([1, 0x1B, 0x03, 0xFF], 2)).is_none());
        for len in 0..index(GOOD, 2).len() {
            let short = index(GOOD, 2).drain(..len).collect();
            assert!(read(short).is_none(), "{len}");
        }
    }

    /// Bug prevented: a coroutine's trampoline says that it is a signal's frame, as they do
    /// for the debuggers' sake, and its caller is made up of what lies on the stack.
    #[test]
    fn only_where_the_kernel_has_left_the_registers_is_a_signal_s_frame() {
        let of_the_kernel = Row {
            cfa: Cfa::Expression(&[0x77, 0xa0, 0x01, 0x06]),
            rbp: Place::Expression(&[0x77, 0xf8, 0x00]),
            return_address: Place::Expression(&[0x77, 0xa8, 0x01]),
        };
        assert!(is_of_the_kernel(&of_the_kernel));
        let of_a_coroutine = Row {
            cfa: Cfa::Offset(RBP, 16),
            rbp: Place::Offset(-16),
            return_address: Place::Offset(-8),
        };
        assert!(!is_of_the_kernel(&of_a_coroutine));
        for elsewhere in [
            Row {
                cfa: Cfa::Expression(&[0x77, 0xa8, 0x01, 0x06]),
                ..of_the_kernel
            },
            Row {
                cfa: Cfa::Expression(&[0x76, 0xa0, 0x01, 0x06]),
                ..of_the_kernel
            },
            Row {
                return_address: Place::Expression(&[0x77, 0xa0, 0x01]),
                ..of_the_kernel
            },
        ] {
            assert!(!is_of_the_kernel(&elsewhere), "{elsewhere:?}");
        }
    }

    /// And that of the C library is one.
    #[cfg(target_env = "gnu")]
    #[test]
    fn the_c_library_s_own_is_found() {
        modules::refresh();
        // Sanitizers have functions of their own for most others.
        let inside = libc::gnu_get_libc_version as *const () as usize as u64;
        let (entries, all) = all_around(inside).expect("loaded");
        let trampolines = all.into_iter().filter_map(|entry| entries.function(entry));
        let mut trampolines = trampolines.filter(Function::is_trampoline);
        let is_found = trampolines.any(|function| {
            function
                .row_at(function.start)
                .is_some_and(|row| is_of_the_kernel(&row))
        });
        assert!(is_found);
    }
}
