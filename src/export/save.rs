//! A profile as a file, whole or not at all.

use core::fmt;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::profile::{Format, HeapProfile};
use crate::sync::{AtomicU64, Ordering};

/// So that two threads that save to one path do not write to one file.
static SAVES: AtomicU64 = AtomicU64::new(0);

/// How many names that are taken are passed over: more than were ever left behind.
const TRIES: u32 = 10_000;

impl HeapProfile {
    /// Writes the profile to a file in this format.
    ///
    /// It is written beside its place first and then renamed, so that a file
    /// which was there is kept when the disk is full, and nobody reads half a
    /// profile. What is not a file (a device, a pipe) is written to as it is.
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
        let asked = path.as_ref();
        let there = fs::metadata(asked).ok();
        if there.as_ref().is_some_and(|there| !there.is_file()) {
            let file = File::options()
                .write(true)
                .open(asked)
                .map_err(|error| said(error, "open", asked))?;
            return self
                .write_as(&file, format)
                .map_err(|error| said(error, "write", asked));
        }
        // Where a link leads, the file is replaced and not the link.
        let path = &fs::canonicalize(asked).unwrap_or_else(|_| asked.to_path_buf());
        let (mut file, beside) = sibling(path).map_err(|error| said(error, "write", asked))?;
        let written = self
            .write_as(&mut file, format)
            // Some file systems tell of a full disk only now.
            .and_then(|()| file.sync_all())
            .and_then(|()| there.map_or(Ok(()), |old| file.set_permissions(old.permissions())))
            .map_err(|error| said(error, "write", asked))
            .and_then(|()| {
                fs::rename(&beside, path).map_err(|error| said(error, "replace", asked))
            });
        if written.is_err() {
            // It may be gone with its folder; the first error is the one to tell.
            drop(fs::remove_file(&beside));
        }
        written
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

/// A file in the same folder that nobody else uses, and its path.
fn sibling(path: &Path) -> io::Result<(File, PathBuf)> {
    let mut tries = 0;
    loop {
        let mut name = OsString::from(".");
        name.push(path.file_name().unwrap_or_default());
        name.push(format!(
            ".{}-{}.part",
            std::process::id(),
            SAVES.fetch_add(1, Ordering::Relaxed)
        ));
        let beside = path.with_file_name(name);
        match File::options().write(true).create_new(true).open(&beside) {
            // Left there by a process that was killed and had our number, as the first one in a
            // container always has the same.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && tries < TRIES => {
                tries += 1;
            }
            opened => return opened.map(|file| (file, beside)),
        }
    }
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
