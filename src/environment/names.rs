//! Names of files with places for numbers.

use std::path::{Path, PathBuf};

/// A file's name, with its `{pid}` and `{n}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Name {
    /// Where it begins when it does not begin at the root. Apart, as its braces are no places for
    /// numbers and it need not be text.
    folder: PathBuf,
    text: String,
}

impl Name {
    /// The name; in words what is wrong when it has other braces.
    pub(super) fn new(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Err(String::from("file= has no name"));
        }
        if has_percent_p(text) {
            return Err(format!(
                "file={text} has %p, which stands for nothing here; the number of the process is {{pid}}"
            ));
        }
        let rest = text.replace("{pid}", "").replace("{n}", "");
        if rest.contains(['{', '}']) {
            return Err(format!(
                "file={text} has braces that are neither {{pid}} nor {{n}}"
            ));
        }
        Ok(Self {
            folder: PathBuf::new(),
            text: String::from(text),
        })
    }

    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// The path of report number `n` of the process with this number. A name that
    /// tells no processes apart gets the number of one that is `forked`.
    pub(super) fn path(&self, pid: &str, n: u64, forked: bool) -> PathBuf {
        let text = if forked && !self.text.contains("{pid}") {
            &with_pid(&self.text)
        } else {
            &self.text
        };
        let text = text.replace("{pid}", pid);
        self.folder.join(text.replace("{n}", &n.to_string()))
    }

    /// The same name, beginning at the root when it begins at this folder.
    pub(super) fn from(self, folder: &Path) -> Self {
        Self {
            folder: folder.to_path_buf(),
            ..self
        }
    }
}

/// Whether the file's own name has what stands for the process's number elsewhere; not where it
/// is the beginning of a word, nor in a folder's name.
fn has_percent_p(text: &str) -> bool {
    let file = text.rsplit('/').next().unwrap_or(text);
    let mut after = file.split("%p").skip(1);
    after.any(|rest| !rest.starts_with(char::is_alphanumeric))
}

/// `heap.pb.gz` as `heap-{pid}.pb.gz`.
fn with_pid(name: &str) -> String {
    let file = name.rfind('/').map_or(0, |slash| slash + 1);
    // What begins with a dot is hidden, and that dot no ending's.
    let hidden = usize::from(name[file..].starts_with('.'));
    let end = name[file + hidden..]
        .find('.')
        .map_or(name.len(), |dot| file + hidden + dot);
    format!("{}-{{pid}}{}", &name[..end], &name[end..])
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    use std::path::Path;

    use super::Name;

    /// Bug prevented: a child writes its report over its parent's.
    #[test]
    fn a_forked_process_never_has_its_parents_name() {
        let table = [
            ("heap-{pid}.html", "heap-7.html", "heap-7.html"),
            ("heap.pb.gz", "heap.pb.gz", "heap-7.pb.gz"),
            ("a.b/heap", "a.b/heap", "a.b/heap-7"),
            ("/x/.heap.txt", "/x/.heap.txt", "/x/.heap-7.txt"),
            ("{n}/{n}-{pid}", "3/3-7", "3/3-7"),
        ];
        for (name, own, forked) in table {
            let name = Name::new(name).expect("a name");
            assert_eq!(name.path("7", 3, false), Path::new(own));
            assert_eq!(name.path("7", 3, true), Path::new(forked));
        }
    }

    /// Bug prevented: a folder or a word that begins with it is taken for what stands for a
    /// number elsewhere.
    #[test]
    fn percent_p_is_refused_only_where_it_is_meant() {
        for name in ["heap.%p", "heap-%p.html", "/x/%p-heap", "%project/%p"] {
            assert!(Name::new(name).is_err_and(|why| why.contains("{pid}")));
        }
        for name in ["my%project/heap.html", "%p/heap", "heap-%peak.html", "50%"] {
            assert!(Name::new(name).is_ok(), "{name}");
        }
    }

    /// Bug prevented: a report goes where the program has gone meanwhile, or has
    /// a number in the name of a folder.
    #[test]
    fn a_name_is_bound_to_the_folder_of_the_start() {
        let folders = [
            &b"/where/it/began"[..],
            b"/{n}/{pid}",
            b"/braces{",
            b"/no\xFFtext",
        ];
        for folder in folders.map(|folder| Path::new(OsStr::from_bytes(folder))) {
            let here = Name::new("{n}/heap.txt").expect("a name").from(folder);
            assert_eq!(here.path("7", 3, false), folder.join("3/heap.txt"));
            assert_eq!(here.path("7", 3, true), folder.join("3/heap-7.txt"));
            let elsewhere = Name::new("/else/where/{pid}").expect("a name").from(folder);
            assert_eq!(elsewhere.path("7", 3, true), Path::new("/else/where/7"));
        }
    }
}
