//! Whether a report will have a place, looked at before the program has run.

use std::ffi::CString;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::leaks::stream::Stream;

/// In words what is in the way of a report at this path, and what to do; as far as that can be
/// seen now. A file that is there will be replaced, or written over.
///
/// Nothing is made for it: the program may still make a folder itself, and a file that is there
/// already may look to others like a report.
pub(super) fn trouble(path: &Path, is_replaced: bool) -> Option<String> {
    if Stream::is_at(path) {
        return None;
    }
    let there = fs::metadata(path).ok();
    let shown = path.display();
    // By its name or by what is there.
    if is_a_folders(path) || there.as_ref().is_some_and(fs::Metadata::is_dir) {
        return Some(format!("{shown} is a folder: name a file in it"));
    }
    match &there {
        // Also a file that cannot be replaced can be written over.
        Some(_) if may(path, libc::W_OK) => return None,
        Some(there) if !(is_replaced && there.is_file()) => {
            return Some(format!(
                "{shown} may not be written: allow it before the report, or name another file"
            ));
        }
        // Where a link leads to, only the report itself will tell.
        None if path.is_symlink() => return None,
        _ => {}
    }
    let folder = match path.parent()? {
        empty if empty.as_os_str().is_empty() => Path::new("."),
        folder => folder,
    };
    let shown = folder.display();
    if !folder.is_dir() {
        return Some(format!(
            "there is no folder {shown}: make it before the report, or name another file"
        ));
    }
    (!may(folder, libc::W_OK | libc::X_OK)).then(|| {
        format!(
            "the folder {shown} may not be written: allow it before the report, \
             or name another file"
        )
    })
}

/// Whether only a folder can have this name, whether it is there by now or not.
fn is_a_folders(path: &Path) -> bool {
    let name = path.as_os_str().as_bytes();
    let last = name.rsplit(|&byte| byte == b'/').next();
    last.is_some_and(|last| matches!(last, b"" | b"." | b".."))
}

/// Whether the process may do this with what is there. True if nobody knows.
fn may(path: &Path, what: core::ffi::c_int) -> bool {
    let Ok(path) = CString::new(path.as_os_str().as_bytes()) else {
        return true;
    };
    // SAFETY: the path ends with its zero.
    unsafe { libc::access(path.as_ptr(), what) == 0 }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::trouble;

    /// Bug prevented: a program that has run for a day tells only then that its profile has no
    /// place.
    #[test]
    fn what_is_in_the_way_is_told_with_what_to_do() {
        let folder = std::env::temp_dir().join(format!("heapledger-reach-{}", std::process::id()));
        fs::create_dir(&folder).expect("a folder");
        let said = |name: &str| trouble(&folder.join(name), true);
        let none = said("none/heap.html").expect("there is no such folder");
        assert!(none.contains("there is no folder /"), "{none}");
        assert!(none.contains("/none: make it before the report"), "{none}");
        let itself = said("").expect("a folder");
        assert!(
            itself.contains("is a folder: name a file in it"),
            "{itself}"
        );
        // Whether the folder is made meanwhile or not.
        for name in ["none/", "none/.", "none/.."] {
            let why = said(name).expect("no file");
            assert!(why.contains("is a folder: name a file in it"), "{why}");
        }
        // The report will be where the link leads to.
        std::os::unix::fs::symlink("/proc/none", folder.join("link")).expect("a link");
        assert_eq!(said("link"), None);
        fs::write(folder.join("file"), "").expect("a file");
        assert!(said("file/").is_some_and(|why| why.contains("is a folder: name a file in it")));
        assert!(said("file/heap.html").is_some_and(|why| why.contains("no folder")));
        assert_eq!((said("heap.html"), said("file")), (None, None));
        fs::remove_dir_all(&folder).expect("ours");
        for path in ["/dev/stdout", "/dev/null", "/proc/self/fd/77", "heap.html"] {
            assert_eq!(trouble(Path::new(path), true), None, "{path}");
        }
    }
}
