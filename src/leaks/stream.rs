//! Paths that lead to a file which is open already: `/dev/stdout`, and the log it goes to.
//!
//! Who opens such a path has a place of his own in the file, its beginning: what he writes goes
//! over what the program has written. Who replaces the file takes all of it away. So a report is
//! written through the open file, and comes after what is there.
#![cfg_attr(
    unix,
    expect(
        unsafe_code,
        reason = "asks and writes files by their numbers, open or not"
    )
)]

use core::time::Duration;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;
use std::time::Instant;

use crate::record;
use crate::sync::{AtomicU32, Ordering};

/// How long a report waits for a reader who takes nothing, where the program has asked not to
/// wait. Else what is said before a program's end would keep it from that for ever; and who has
/// asked it to end may kill it when it does not, within ten seconds as a rule.
const PATIENCE: Duration = Duration::from_secs(5);

/// An open file.
#[derive(Debug)]
pub(crate) enum Stream {
    /// Of this process, by its number.
    Number(i32),
    /// Of another process: opened once more, and only added to.
    Others(File),
}

/// To which open file a path leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Meant {
    Number(i32),
    Others,
}

impl Stream {
    /// The open file that this path leads to, if it leads to one.
    ///
    /// Without memory of the program's: there may be none.
    pub(crate) fn at(path: &Path) -> Option<io::Result<Self>> {
        Some(match meant(path)? {
            Meant::Number(number) => Ok(Self::Number(number)),
            Meant::Others => File::options().append(true).open(path).map(Self::Others),
        })
    }

    /// Whether there is one.
    #[cfg(target_os = "linux")]
    pub(crate) fn is_at(path: &Path) -> bool {
        meant(path).is_some()
    }
}

/// Opens a file, under a number that is no standard stream's.
///
/// Where one of those is closed, the next file that is opened gets its number, and what the
/// program's threads print there comes into that file. So it is moved at once, and what was printed
/// in between goes; but where a copy is refused, or a sandbox denies it, it stays.
pub(crate) fn opened(open: impl FnOnce() -> io::Result<File>) -> io::Result<File> {
    let file = open()?;
    #[cfg(unix)]
    if std::os::fd::AsRawFd::as_raw_fd(&file) <= 2
        // Std copies to the numbers behind those.
        && let Ok(moved) = file.try_clone()
    {
        drop(file);
        if moved.metadata()?.is_file() {
            moved.set_len(0)?;
            io::Seek::rewind(&mut &moved)?;
        }
        return Ok(moved);
    }
    Ok(file)
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Others(file) => file.write(bytes),
            Self::Number(number) => write_patiently(*number, bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn meant(path: &Path) -> Option<Meant> {
    named(path).or_else(|| {
        let there = fs::metadata(path).ok()?;
        let is_it = |number: &i32| is_open_as(*number, &there);
        [1, 2].into_iter().find(is_it).map(Meant::Number)
    })
}

/// By the system's own names of open files.
fn named(path: &Path) -> Option<Meant> {
    let name = path.file_name()?.to_str()?;
    let folder = path.parent()?;
    if folder == Path::new("/dev") {
        let names = ["stdin", "stdout", "stderr"];
        let number = names.iter().position(|known| *known == name)?;
        return i32::try_from(number).ok().map(Meant::Number);
    }
    let number = name.parse().ok().filter(|number| *number >= 0)?;
    if folder == Path::new("/dev/fd") {
        return Some(Meant::Number(number));
    }
    let of_process = folder.strip_prefix("/proc").ok()?;
    if !of_process.ends_with("fd") {
        return None;
    }
    let process = of_process.iter().next()?.to_str()?;
    let is_ours = match process.parse::<u32>() {
        Ok(pid) => pid == std::process::id(),
        Err(_) => process == "self" || process == "thread-self",
    };
    Some(if is_ours {
        Meant::Number(number)
    } else {
        Meant::Others
    })
}

/// Whether the process has this very file open under this number.
///
/// It is not copied for the question: a sandbox may refuse that, and there may be no free number.
#[cfg(unix)]
fn is_open_as(number: i32, there: &fs::Metadata) -> bool {
    use core::mem::ManuallyDrop;
    use std::os::fd::FromRawFd;
    use std::os::unix::fs::MetadataExt;

    // SAFETY: 1 or 2, which are the process's own and not ours: `File` closes only when it is
    // dropped, and this one never is. It does not leave this function, and is asked for nothing but
    // what lies there; where nothing is open, that is refused with an error.
    let lent = ManuallyDrop::new(unsafe { File::from_raw_fd(number) });
    lent.metadata()
        .is_ok_and(|open| (open.dev(), open.ino()) == (there.dev(), there.ino()))
}

#[cfg(not(unix))]
fn is_open_as(_: i32, _: &fs::Metadata) -> bool {
    false
}

/// Whether the reader of a standard stream was waited for in vain the last time. Then the next
/// line is not a reason to wait as long again.
static IS_LEFT: [AtomicU32; 3] = [const { AtomicU32::new(0) }; 3];

/// Writes past std's locks and buffers, and waits a while for a reader who takes nothing.
///
/// The program, or who has started it, may have asked not to wait for the reader. A report has
/// nothing else to do.
fn write_patiently(number: i32, bytes: &[u8]) -> io::Result<usize> {
    let is_left = usize::try_from(number).ok().and_then(|at| IS_LEFT.get(at));
    let patience = match is_left.map_or(0, |left| left.load(Ordering::Relaxed)) {
        0 => PATIENCE,
        _ => Duration::ZERO,
    };
    let mut since = None;
    let written = loop {
        match write_once(number, bytes) {
            Err(full)
                if full.kind() == io::ErrorKind::WouldBlock
                    && since.get_or_insert_with(Instant::now).elapsed() < patience =>
            {
                // Not std's sleep, which panics when the system refuses. A millisecond.
                record::nap_for(10);
            }
            written => break written,
        }
    };
    if let Some(left) = is_left {
        let is_full = |error: &io::Error| error.kind() == io::ErrorKind::WouldBlock;
        left.store(
            written.as_ref().is_err_and(is_full).into(),
            Ordering::Relaxed,
        );
    }
    written
}

/// Standard error without a lock, and without a buffer, which std's has not either.
pub(super) struct StandardError {
    /// Whether its reader is waited for.
    pub(super) is_patient: bool,
}

impl Write for StandardError {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.is_patient {
            write_patiently(2, bytes)
        } else {
            write_once(2, bytes)
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The same, without waiting for anybody.
#[cfg(unix)]
fn write_once(number: i32, bytes: &[u8]) -> io::Result<usize> {
    // SAFETY: the declaration below is POSIX's, and the bytes are there. A number that is no open
    // file is refused with an error.
    let written = unsafe { write(number, bytes.as_ptr().cast(), bytes.len()) };
    usize::try_from(written).map_err(|_| io::Error::last_os_error())
}

#[cfg(not(unix))]
fn write_once(number: i32, bytes: &[u8]) -> io::Result<usize> {
    match number {
        1 => io::stdout().write(bytes),
        _ => io::stderr().write(bytes),
    }
}

#[cfg(unix)]
unsafe extern "C" {
    fn write(file: core::ffi::c_int, bytes: *const core::ffi::c_void, length: usize) -> isize;
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{Meant, named};

    /// Bug prevented: the log that the program's output goes to is replaced by a report.
    #[test]
    fn open_files_are_known_by_their_names() {
        let ours = format!("/proc/{}/fd/7", std::process::id());
        let table = [
            ("/dev/stdout", Some(Meant::Number(1))),
            ("/dev//stderr", Some(Meant::Number(2))),
            ("/dev/stdin", Some(Meant::Number(0))),
            ("/dev/./fd/12", Some(Meant::Number(12))),
            ("/proc/self/fd/1", Some(Meant::Number(1))),
            ("/proc/thread-self/fd/2", Some(Meant::Number(2))),
            ("/proc/self/task/5/fd/2", Some(Meant::Number(2))),
            (&ours, Some(Meant::Number(7))),
            // No process has this number.
            ("/proc/4294967295/fd/1", Some(Meant::Others)),
            ("/proc/self/fd/-1", None),
            ("/proc/self/fdinfo/1", None),
            ("/dev/fd/a", None),
            ("/dev/full", None),
            ("dev/stdout", None),
            ("/tmp/fd/1", None),
            ("/", None),
        ];
        for (path, expected) in table {
            assert_eq!(named(Path::new(path)), expected, "{path}");
        }
    }
}
