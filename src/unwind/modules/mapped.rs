//! The code that is mapped into the process, for those who name addresses
//! elsewhere.

use core::ffi::CStr;
use core::fmt::Write as _;
use core::ops::ControlFlow;

use super::{disk, loaded};

/// A file's code in memory, by whole pages as `/proc/self/maps` has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Mapped {
    pub(crate) start: u64,
    pub(crate) end: u64,
    /// What of the file lies at `start`.
    pub(crate) offset: u64,
    /// How much higher all of it lies than the file says.
    pub(crate) bias: u64,
    pub(crate) path: String,
    /// In hexadecimal; empty if there is none.
    pub(crate) build_id: String,
    /// Whether it is the program itself.
    pub(crate) is_program: bool,
}

const PAGE: u64 = 4096;
/// The type of a build id's note (`<elf.h>`).
const NT_GNU_BUILD_ID: u32 = 3;

/// All mapped code, the program's own first, and what was opened last at the end. From a normal
/// context: takes the loader's lock, and memory.
pub(crate) fn mapped() -> Vec<Mapped> {
    let [mut first, rest] = mapped_in_two(0);
    first.extend(rest);
    first
}

/// The same, that of so many files and that of the rest.
pub(crate) fn mapped_in_two(files: usize) -> [Vec<Mapped>; 2] {
    let ([mut first, mut rest], mut seen) = ([const { Vec::new() }; 2], 0);
    loaded::each(|file| {
        seen += 1;
        let list = if seen > files { &mut rest } else { &mut first };
        // The first is the program, whatever another C library calls it.
        let name = if seen == 1 { c"" } else { file.name() };
        add(list, file.base(), file.headers(), name);
        ControlFlow::Continue(())
    });
    [first, rest]
}

/// Remembers where the program lies; how many files there are, and how many have been closed.
/// As the process starts: takes the loader's lock, and no memory.
pub(crate) fn note_files() -> (usize, u64) {
    disk::note_program();
    files()
}

/// How many files there are, and how many have been closed. From a normal context: takes the
/// loader's lock.
pub(crate) fn files() -> (usize, u64) {
    let (mut files, mut closed) = (0, 0);
    loaded::each(|file| {
        files += 1;
        (_, closed) = file.counts();
        ControlFlow::Continue(())
    });
    (files, closed)
}

fn add(list: &mut Vec<Mapped>, base: u64, headers: &[libc::Elf64_Phdr], name: &CStr) {
    let is_program = name.is_empty();
    let path = match name.to_string_lossy() {
        // The program itself.
        name if name.is_empty() => disk::program(),
        name => name.into_owned(),
    };
    let build_id = headers
        .iter()
        .filter(|header| header.p_type == libc::PT_NOTE && is_loaded(header, headers))
        .find_map(|header| build_id(base, header))
        .unwrap_or_default();
    let is_code = |header: &&libc::Elf64_Phdr| {
        header.p_type == libc::PT_LOAD && header.p_flags & libc::PF_X != 0
    };
    for header in headers.iter().filter(is_code) {
        let start = base.wrapping_add(header.p_vaddr);
        let within = start % PAGE;
        list.push(Mapped {
            start: start - within,
            end: start.wrapping_add(header.p_memsz).next_multiple_of(PAGE),
            offset: header.p_offset.saturating_sub(within),
            bias: base,
            path: path.clone(),
            build_id: build_id.clone(),
            is_program,
        });
    }
}

/// Whether all of a segment is in memory: notes need not be.
fn is_loaded(part: &libc::Elf64_Phdr, headers: &[libc::Elf64_Phdr]) -> bool {
    let end = |header: &libc::Elf64_Phdr| header.p_vaddr.checked_add(header.p_memsz);
    headers.iter().any(|header| {
        header.p_type == libc::PT_LOAD
            && header.p_flags & libc::PF_R != 0
            && header.p_vaddr <= part.p_vaddr
            && end(part).is_some_and(|last| end(header).is_some_and(|end| last <= end))
    })
}

/// The build id in a segment of notes.
fn build_id(base: u64, header: &libc::Elf64_Phdr) -> Option<String> {
    let len = usize::try_from(header.p_memsz).ok()?;
    let address = usize::try_from(base.wrapping_add(header.p_vaddr)).ok()?;
    let first: *const u8 = core::ptr::with_exposed_provenance(address);
    // SAFETY: a segment that is loaded, as the caller has seen, which stays mapped while the loader's lock is held, as
    // it is in its callback; notes are never written to.
    let notes = unsafe { core::slice::from_raw_parts(first, len) };
    build_id_in(notes)
}

/// The build id among notes: each is the lengths of its name and its content, a type, and both
/// of these, padded to four bytes.
pub(super) fn build_id_in(mut notes: &[u8]) -> Option<String> {
    while let Some((lengths, rest)) = notes.split_first_chunk::<12>() {
        let word = |at: usize| {
            let bytes = lengths.get(at..at + 4)?;
            Some(u32::from_ne_bytes(bytes.try_into().ok()?))
        };
        let (name_len, len, kind) = (word(0)? as usize, word(4)? as usize, word(8)?);
        let name = rest.get(..name_len)?;
        let rest = rest.get(name_len.next_multiple_of(4)..)?;
        let content = rest.get(..len)?;
        if kind == NT_GNU_BUILD_ID && name == b"GNU\0" {
            let mut text = String::with_capacity(len * 2);
            for byte in content {
                let _ = write!(text, "{byte:02x}");
            }
            return Some(text);
        }
        notes = rest.get(len.next_multiple_of(4)..)?;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::mapped;

    /// Bug prevented: notes that the file has and the memory has not are read.
    #[test]
    fn notes_outside_of_what_is_loaded_are_left_alone() {
        // SAFETY: integers only.
        let header = |p_type, p_vaddr, p_memsz| libc::Elf64_Phdr {
            p_type,
            p_vaddr,
            p_memsz,
            p_flags: libc::PF_R,
            ..unsafe { core::mem::zeroed() }
        };
        let headers = [
            header(libc::PT_LOAD, 0x1000, 0x1000),
            header(libc::PT_NOTE, 0x1100, 0x20),
            header(libc::PT_NOTE, 0x1ff0, 0x20),
            header(libc::PT_NOTE, 0x9_0000_0000, 0x20),
            header(libc::PT_NOTE, 0x1100, u64::MAX),
        ];
        let loaded: Vec<_> = headers
            .iter()
            .map(|h| super::is_loaded(h, &headers))
            .collect();
        assert_eq!(loaded, [true, true, false, false, false]);
        let mut list = Vec::new();
        // Would read there otherwise, and crash.
        super::add(&mut list, 0, &headers[3..], c"no file");
        assert!(list.is_empty());
    }

    #[test]
    fn the_program_comes_first_and_holds_this_function() {
        let list = mapped();
        let here = mapped as *const () as u64;
        let own = list.first().expect("the program");
        let exe = std::env::current_exe().expect("a path");
        assert_eq!(own.path, exe.display().to_string());
        assert!(own.start <= here && here < own.end, "{own:?}");
        assert!(list.iter().any(|file| file.path.contains("libc.so")));
    }
}
