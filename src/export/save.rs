//! A profile as a file: whole or not at all, where that can be.

use core::fmt;
use std::fs::{self, File, Permissions};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

use crate::leaks::stream::{Stream, opened};
#[cfg(target_os = "linux")]
use crate::leaks::way_out;
use crate::profile::{Format, HeapProfile};
use crate::record;
use crate::sync::{AtomicU64, Ordering};

/// So that two threads that save to one path do not write to one file.
static SAVES: AtomicU64 = AtomicU64::new(0);

/// How many names that are taken are passed over: more than were ever left behind.
const TRIES: u32 = 10_000;

/// How many links a path may lead through, as the system has it.
const LINKS: u32 = 40;

impl HeapProfile {
    /// Writes the profile to a file in this format.
    ///
    /// It is written beside its place first and then renamed, so that a file
    /// which was there is kept when the disk is full, and nobody reads half a
    /// profile. Only where that cannot be, since the folder may not be written or
    /// the file is a mount of its own, as in a container, is the old file itself
    /// written over.
    ///
    /// What is not a file (a device, a pipe) is written to as it is. So is what is
    /// open already as standard output or standard error, under any name:
    /// `/dev/stdout`, `/dev/fd/1`, the log that it goes to. The profile is added
    /// there, after what standard output has buffered; for that its lock is waited
    /// for, as `println!` does.
    ///
    /// # Errors
    ///
    /// When the file cannot be opened, written or replaced. The text says which,
    /// and names `path`, as it was given, and the system's reason.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// use heapledger::profile::Format;
    ///
    /// # let mode = heapledger::profile::Mode::EveryAllocation;
    /// # let profile = heapledger::__private::profile::empty(mode, None);
    /// # let path = std::env::temp_dir().join(format!("save-{}.pb.gz", std::process::id()));
    /// profile.save(&path, Format::Pprof)?;
    /// # std::fs::remove_file(&path)?;
    ///
    /// let error = profile.save("/no/such/folder/heap.txt", Format::Text).unwrap_err();
    /// assert!(error.to_string().contains("/no/such/folder"));
    /// # Ok(())
    /// # }
    /// ```
    pub fn save(&self, path: impl AsRef<Path>, format: Format) -> io::Result<()> {
        let path = path.as_ref();
        record::quietly(|| self.save_flushing(path, format, || drop(io::stdout().flush())))
    }

    /// The same where nobody waits for ever: standard output's lock may be kept by a thread that
    /// waits for its input, or has stopped for good.
    #[cfg(target_os = "linux")]
    pub(crate) fn save_unattended(&self, path: &Path, format: Format) -> io::Result<()> {
        self.save_flushing(path, format, || {
            way_out::flush_unless_kept();
        })
    }

    fn save_flushing(&self, asked: &Path, format: Format, flush: impl FnOnce()) -> io::Result<()> {
        if let Some(stream) = Stream::at(asked) {
            let stream = stream.map_err(|error| said(error, "open", asked))?;
            flush();
            return self
                .write_as(stream, format)
                .map_err(|error| said(error, "write", asked));
        }
        let there = match fs::metadata(asked) {
            Ok(there) => Some(there),
            // Also of a link that the system does not follow for us, so that nobody makes us write
            // where he may not.
            Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                return Err(said(error, "open", asked));
            }
            Err(_) => None,
        };
        if there.as_ref().is_some_and(|there| !there.is_file()) {
            let file = opened(|| File::options().write(true).open(asked))
                .map_err(|error| said(error, "open", asked))?;
            return self
                .write_as(file, format)
                .map_err(|error| said(error, "write", asked));
        }
        // Where a link leads, the file is replaced and not the link.
        let path = &behind_links(asked);
        let old = there.map(|there| there.permissions());
        let replaced = self.replace(path, old.clone(), format);
        // Where it is new there is nothing else to try.
        if let Err(Unfinished { error, .. }) = &replaced
            && old.is_some()
            && is_about_the_folder(error)
            && let Ok(file) = opened(|| File::options().write(true).truncate(true).open(path))
        {
            return self
                .write_as(&file, format)
                .and_then(|()| settle(&file))
                .map_err(|error| said(error, "write", asked));
        }
        replaced.map_err(|Unfinished { doing, error }| said(error, doing, asked))
    }

    /// Writes another file and renames it. `old` is what the one that is there has.
    fn replace(
        &self,
        path: &Path,
        old: Option<Permissions>,
        format: Format,
    ) -> Result<(), Unfinished> {
        let unfinished = |doing| move |error| Unfinished { doing, error };
        let (mut file, beside) = sibling(path, old.is_some()).map_err(unfinished("write"))?;
        let done = old
            // First: what few may read is not for others meanwhile either.
            .map_or(Ok(()), |old| permit(&file, old))
            .and_then(|()| self.write_as(&mut file, format))
            // Some file systems tell of a full disk only now.
            .and_then(|()| settle(&file))
            .map_err(unfinished("write"))
            .and_then(|()| fs::rename(&beside, path).map_err(unfinished("replace")));
        if done.is_err() {
            // It may be gone with its folder; the first error is the one to tell.
            drop(fs::remove_file(&beside));
        }
        done
    }

    fn write_as<W: Write>(&self, w: W, format: Format) -> io::Result<()> {
        match format {
            Format::Text => self.write_text(w),
            Format::Dhat => self.write_dhat(w),
            Format::Pprof => self.write_pprof(w),
            Format::Folded(value) => self.write_folded(w, value),
            Format::Html => self.write_html(w),
        }
    }
}

/// Gives a file these permissions, where the file system has such.
fn permit(file: &File, permissions: Permissions) -> io::Result<()> {
    if_it_can(file.set_permissions(permissions))
}

/// Waits until the disk has it, where that can be waited for.
fn settle(file: &File) -> io::Result<()> {
    if_it_can(file.sync_all())
}

/// What a file system cannot do, or a sandbox lets nobody do, is no reason to have no report. What
/// a disk has not taken is.
fn if_it_can(done: io::Result<()>) -> io::Result<()> {
    match done {
        Err(error)
            if matches!(
                error.kind(),
                ErrorKind::PermissionDenied | ErrorKind::Unsupported | ErrorKind::InvalidInput
            ) =>
        {
            Ok(())
        }
        done => done,
    }
}

/// Whether it may be otherwise with a file that is there: one that may be written although its
/// folder may not, or that is a mount of its own.
fn is_about_the_folder(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::PermissionDenied
            | ErrorKind::ReadOnlyFilesystem
            | ErrorKind::ResourceBusy
            | ErrorKind::CrossesDevices
    )
}

/// The path without links, also where the file that they lead to is not there yet.
fn behind_links(path: &Path) -> PathBuf {
    let mut real = path.to_path_buf();
    for _ in 0..LINKS {
        match fs::canonicalize(&real) {
            Ok(real) => return real,
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            // The system does not follow it, and neither do we.
            Err(_) => break,
        }
        let Ok(next) = fs::read_link(&real) else {
            return real;
        };
        // From the link's folder on; `..` is left to the system.
        real = real.with_file_name("").join(next);
    }
    path.to_path_buf()
}

/// A file in the same folder that nobody else uses, and its path. Nobody else may read one that
/// is `private`.
fn sibling(path: &Path, private: bool) -> io::Result<(File, PathBuf)> {
    let mut options = File::options();
    options.write(true).create_new(true);
    #[cfg(unix)]
    if private {
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    }
    let mut tries = 0;
    loop {
        // Not made of the file's own name, which may be as long as names can be.
        let beside = path.with_file_name(format!(
            ".heapledger-{}-{}.part",
            std::process::id(),
            SAVES.fetch_add(1, Ordering::Relaxed)
        ));
        match opened(|| options.open(&beside)) {
            // Left there by a process that was killed and had our number, as the first one in a
            // container always has the same.
            Err(error) if error.kind() == ErrorKind::AlreadyExists && tries < TRIES => {
                tries += 1;
            }
            done => return done.map(|file| (file, beside)),
        }
    }
}

/// What could not be done, and why.
struct Unfinished {
    doing: &'static str,
    error: io::Error,
}

/// What failed, where, and why.
#[derive(Debug)]
struct Failed {
    doing: &'static str,
    path: PathBuf,
    error: io::Error,
}

fn said(error: io::Error, doing: &'static str, path: &Path) -> io::Error {
    let kind = error.kind();
    let path = path.to_path_buf();
    io::Error::new(kind, Failed { doing, path, error })
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (doing, path) = (self.doing, self.path.display());
        write!(f, "the heap profile: cannot {doing} {path}: {}", self.error)
    }
}

impl core::error::Error for Failed {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        Some(&self.error)
    }
}
