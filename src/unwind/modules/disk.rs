//! Whether the file on disk is still the one that is in memory.
//!
//! Names are read from the file at a path. Where a program was deployed again while it runs,
//! or a library built again, another file lies there, and its names would be wrong ones.

use core::ffi::CStr;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use once_cell::sync::OnceCell;

use super::mapped::{self, Mapped};

/// Leads to the file that runs, as long as the main thread does.
pub(crate) const PROGRAM: &str = "/proc/self/exe";

/// What the system writes behind the path of a file that has been removed.
const REMOVED: &str = " (deleted)";

/// The longest path that the system tells.
const PATH_MAX: usize = 4096;

/// The program's path at the start, and its length.
static AT_THE_START: OnceCell<([u8; PATH_MAX], usize)> = OnceCell::new();

/// Remembers where the program lies. Before `main`: takes no memory.
pub(super) fn note_program() {
    let link: &CStr = c"/proc/self/exe";
    let mut path = [0_u8; PATH_MAX];
    let room = path.as_mut_ptr().cast();
    // SAFETY: the link's name is a C string, and so many bytes are there to be written.
    let len = unsafe { libc::readlink(link.as_ptr(), room, path.len()) };
    let len = usize::try_from(len).unwrap_or(0);
    // Only the first counts.
    let _ = AT_THE_START.set((path, len));
}

/// Of what the system shows of the process, the file of this name. The main thread's has nothing
/// more in it once that thread has ended; other threads' have the same.
fn of_process(main: &'static str, this_thread: &'static str) -> &'static str {
    // Not before Linux 3.17.
    if fs::symlink_metadata("/proc/thread-self").is_ok() {
        this_thread
    } else {
        main
    }
}

/// Opens the file that runs, wherever it lies by now, and also when it has been removed.
pub(crate) fn running() -> &'static str {
    of_process(PROGRAM, "/proc/thread-self/exe")
}

/// The program's path as it was at the start, or as it is now if that is not known.
pub(crate) fn program_at_the_start() -> PathBuf {
    let noted = AT_THE_START.get().and_then(|(path, len)| path.get(..*len));
    match noted {
        Some(path) if !path.is_empty() => PathBuf::from(OsStr::from_bytes(path)),
        _ => fs::read_link(running()).unwrap_or_default(),
    }
}

/// Whether the program lies where it was at the start, and who asks the system for its path, as
/// `backtrace` does, is told so.
pub(crate) fn is_where_it_was() -> bool {
    fs::read_link(PROGRAM).is_ok_and(|now| now == program_at_the_start())
}

/// The program's path as it is now, also when the file is no longer there.
pub(super) fn program() -> String {
    let path = fs::read_link(running()).unwrap_or_default();
    let text = path.display().to_string();
    match text.strip_suffix(REMOVED) {
        Some(before) if !path.exists() => String::from(before),
        _ => text,
    }
}

impl Mapped {
    /// Whether it is the program, and no loader of programs that was started with it.
    ///
    /// An error when the program's file cannot be read: with fewer rights than at the start,
    /// without `/proc`, without a free number for an open file.
    pub(crate) fn is_what_runs(&self) -> io::Result<bool> {
        Ok(self.running()?.is_some())
    }

    /// What the system says of the file that runs, if that is this one.
    fn running(&self) -> io::Result<Option<fs::Metadata>> {
        if !self.is_program {
            return Ok(None);
        }
        let file = File::open(running())?;
        let running = file.metadata()?;
        let is_it = if self.build_id.is_empty() {
            inode_at(self.start).is_none_or(|inode| inode == running.ino())
        } else {
            build_id(&file).as_ref() == Some(&self.build_id)
        };
        Ok(is_it.then_some(running))
    }

    /// Whether the file at this path is the one that is in memory here; `None` when there is
    /// none, or it cannot be read.
    pub(crate) fn is_at(&self, path: &Path) -> Option<bool> {
        let here = fs::metadata(path).ok()?;
        if !here.is_file() {
            return Some(false);
        }
        let file = File::open(path).ok()?;
        if let Ok(Some(running)) = self.running() {
            return Some((here.dev(), here.ino()) == (running.dev(), running.ino()));
        }
        if !self.build_id.is_empty() {
            return Some(build_id(&file).is_some_and(|id| id == self.build_id));
        }
        // Not the device: some file systems show another one there. Where nobody knows it is taken
        // for the one that it was.
        Some(inode_at(self.start).is_none_or(|inode| inode == here.ino()))
    }
}

/// The inode of the file that is mapped at an address.
fn inode_at(address: u64) -> Option<u64> {
    // Paths need not be text.
    let maps = fs::read(of_process("/proc/self/maps", "/proc/thread-self/maps")).ok()?;
    let maps = String::from_utf8_lossy(&maps);
    // `start-end rights offset device inode path`, in hexadecimal but for the inode.
    maps.lines().find_map(|line| {
        let mut words = line.split_ascii_whitespace();
        let (start, end) = words.next()?.split_once('-')?;
        let [start, end] = [start, end].map(|text| u64::from_str_radix(text, 16));
        let inode = words.nth(3)?.parse().ok()?;
        ((start.ok()?..end.ok()?).contains(&address) && inode != 0).then_some(inode)
    })
}

/// The build id in a file, as its program headers lead to it.
fn build_id(file: &File) -> Option<String> {
    let mut elf = [0; size_of::<libc::Elf64_Ehdr>()];
    file.read_exact_at(&mut elf, 0).ok()?;
    if !elf.starts_with(b"\x7fELF\x02") {
        return None;
    }
    let first = number(&elf, 32, 8)?;
    let (size, count) = (number(&elf, 54, 2)?, number(&elf, 56, 2)?);
    (0..count).find_map(|n| {
        let mut header = [0; size_of::<libc::Elf64_Phdr>()];
        let at = n.checked_mul(size)?.checked_add(first)?;
        file.read_exact_at(&mut header, at).ok()?;
        if number(&header, 0, 4)? != u64::from(libc::PT_NOTE) {
            return None;
        }
        let (offset, len) = (number(&header, 8, 8)?, number(&header, 32, 8)?);
        let len = usize::try_from(len).ok().filter(|&len| len <= LONGEST)?;
        let mut notes = vec![0; len];
        file.read_exact_at(&mut notes, offset).ok()?;
        mapped::build_id_in(&notes)
    })
}

/// Longer notes are a broken file's.
const LONGEST: usize = 1 << 20;

/// The number of so many bytes at a place.
fn number(bytes: &[u8], at: usize, len: usize) -> Option<u64> {
    let mut word = [0; 8];
    let there = bytes.get(at..at.checked_add(len)?)?;
    word.get_mut(..len)?.copy_from_slice(there);
    Some(u64::from_le_bytes(word))
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::path::Path;

    use super::super::mapped::{Mapped, mapped};
    use super::{build_id, inode_at};

    /// Bug prevented: names of another file with the same path.
    #[test]
    fn a_file_on_disk_is_told_from_another() {
        let list = mapped();
        let program = list.first().expect("the program");
        let libc = |file: &&Mapped| file.path.contains("libc.so");
        let library = list.iter().find(libc).expect("libc");
        for file in [program, library] {
            assert_eq!(file.is_at(Path::new(&file.path)), Some(true), "{file:?}");
            assert_eq!(file.is_at(Path::new("/no/such/file")), None);
            assert_eq!(file.is_at(Path::new("/")), Some(false));
            assert_eq!(file.is_at(Path::new("/proc/self/maps")), Some(false));
        }
        assert_eq!(program.is_at(Path::new(&library.path)), Some(false));
        assert_eq!(library.is_at(Path::new(&program.path)), Some(false));
        // As both are told apart when they have no build id.
        let mut without = library.clone();
        without.build_id.clear();
        assert_eq!(without.is_at(Path::new(&library.path)), Some(true));
        assert_eq!(without.is_at(Path::new(&program.path)), Some(false));
        assert_eq!(inode_at(0), None);
    }

    /// Bug prevented: each library is taken for another one, since its build id on disk is read
    /// where it is not.
    #[test]
    fn a_build_id_on_disk_is_the_one_in_memory() {
        let files: Vec<_> = mapped();
        let mut with = files.iter().filter(|file| !file.build_id.is_empty());
        assert!(with.clone().any(|file| file.path.contains("libc.so")));
        assert!(with.all(|file| {
            let opened = File::open(&file.path);
            opened.map_or(true, |opened| {
                build_id(&opened).as_ref() == Some(&file.build_id)
            })
        }));
    }
}
