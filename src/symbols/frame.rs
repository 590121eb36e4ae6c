//! One function in a stack.

use core::cmp::Ordering;
use core::fmt;
use std::path::{Path, PathBuf};

use crate::symbols::origin::{Origin, own_file};

/// A function in a stack, inlined or called, with the line it was at.
///
/// [`Display`](fmt::Display) prints `function at file:line`, or the function alone
/// where no file is known. It is one line and gives a terminal no orders: control characters
/// are spaces there, and a blank name is `an unknown function`. Of a name of more than
/// 800 characters, as deeply nested generic types have, it shows the first 400 and the
/// last 400, with ` ... ` between them; [`function`](Self::function) has all of it. From
/// [`HeapProfile::frames`](crate::HeapProfile::frames)
/// and [`LeakSite::stack`](crate::leaks::LeakSite::stack).
///
/// ```
/// # use heapledger::profile::{Frame, Mode, Names, Origin, StackProfile};
/// # let own = ("app::cache::insert", Some("src/cache.rs"), Some(13));
/// # let frame = Frame::synthetic(own.0, own.1, own.2, Origin::User, false);
/// # let names = Names::new([(0x40_2000, vec![frame])].into());
/// # let mut profile = heapledger::__private::profile::empty(Mode::EveryAllocation, Some(names));
/// # let mut stack = StackProfile::default();
/// # stack.addresses.push(0x40_2000);
/// # profile.stacks.push(stack);
/// let innermost = profile.stacks[0].addresses[0];
/// let frame = &profile.frames(innermost)[0];
/// assert_eq!(frame.to_string(), "app::cache::insert at src/cache.rs:13");
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Frame {
    function: String,
    file: Option<String>,
    line: Option<u32>,
    origin: Origin,
    inlined: bool,
}

/// What stands for a name that is not known.
const NAMELESS: &str = "an unknown function";

impl Frame {
    pub(super) fn new(
        function: Option<String>,
        file: Option<&Path>,
        line: Option<u32>,
        paths: &Paths,
    ) -> Self {
        let function = function.unwrap_or_else(|| String::from(NAMELESS));
        let origin = Origin::of(&function, file);
        // A line of another file says nothing of the function either.
        let own = own_file(&function, file);
        Self {
            function,
            file: own.map(|file| paths.shorten(file)),
            line: line.filter(|_| own == file),
            origin,
            inlined: false,
        }
    }

    pub(crate) fn unknown(address: u64) -> Self {
        Self {
            function: format!("{address:#x}"),
            file: None,
            line: None,
            origin: Origin::Unknown,
            inlined: false,
        }
    }

    /// Whether the function's name is known, of a frame that was found.
    pub(super) fn is_named(&self) -> bool {
        self.function != NAMELESS
    }

    /// What stands for a stack of which nothing is known.
    pub(crate) fn nowhere() -> Self {
        Self {
            function: String::from("an unknown stack"),
            file: None,
            line: None,
            origin: Origin::Unknown,
            inlined: false,
        }
    }

    /// A frame of these parts, for profiles that no process has written.
    #[doc(hidden)]
    pub fn synthetic(
        function: &str,
        file: Option<&str>,
        line: Option<u32>,
        origin: Origin,
        inlined: bool,
    ) -> Self {
        Self {
            function: String::from(function),
            file: file.map(String::from),
            line,
            origin,
            inlined,
        }
    }

    pub(super) fn set_inlined(&mut self) {
        self.inlined = true;
    }

    /// The function's full name, or its address when it has none.
    ///
    /// With line tables only, a function that was inlined has its bare name, without
    /// crate or module.
    ///
    /// ```
    /// # use heapledger::profile::{Frame, Origin};
    /// # let own = ("app::cache::insert", Some("src/cache.rs"), Some(13));
    /// # let frame = Frame::synthetic(own.0, own.1, own.2, Origin::User, false);
    /// let bare = frame.function().rsplit("::").next();
    /// assert_eq!(bare, Some("insert"));
    /// ```
    pub fn function(&self) -> &str {
        &self.function
    }

    /// The same, or words for a name that is blank.
    pub(crate) fn name(&self) -> &str {
        if self.function.trim().is_empty() {
            NAMELESS
        } else {
            &self.function
        }
    }

    /// The source file: relative when it lies under the working directory (unless that
    /// is `/`) or the package's, and from `library/` or the crate's name on when it is
    /// std's or a registry's. `None` where there is no debug information.
    ///
    /// ```
    /// # use heapledger::profile::{Frame, Origin};
    /// # let own = ("app::cache::insert", Some("src/cache.rs"), Some(13));
    /// # let frame = Frame::synthetic(own.0, own.1, own.2, Origin::User, false);
    /// assert_eq!(frame.file(), Some("src/cache.rs"));
    /// ```
    pub fn file(&self) -> Option<&str> {
        self.file.as_deref()
    }

    /// The line, from 1; `None` where there is no debug information.
    ///
    /// ```
    /// # use heapledger::profile::{Frame, Origin};
    /// # let own = ("app::cache::insert", Some("src/cache.rs"), Some(13));
    /// # let frame = Frame::synthetic(own.0, own.1, own.2, Origin::User, false);
    /// assert_eq!(frame.line(), Some(13));
    /// ```
    pub const fn line(&self) -> Option<u32> {
        self.line
    }

    /// Whose code it is.
    ///
    /// ```
    /// use heapledger::profile::Origin;
    ///
    /// # use heapledger::profile::Frame;
    /// # let file = Some("serde_json-1.0.100/src/de.rs");
    /// # let frame = Frame::synthetic("serde_json::from_str", file, Some(9), Origin::Dependency, false);
    /// assert_eq!(frame.function(), "serde_json::from_str");
    /// assert_eq!(frame.origin(), Origin::Dependency);
    /// ```
    pub const fn origin(&self) -> Origin {
        self.origin
    }

    /// Whether it is the user's own code: its origin is [`Origin::User`].
    ///
    /// ```
    /// # use heapledger::profile::{Frame, Origin};
    /// # let frames = [
    /// #     Frame::synthetic("alloc::vec::Vec<T>::push", None, None, Origin::Std, false),
    /// #     Frame::synthetic("app::insert", Some("src/cache.rs"), Some(13), Origin::User, false),
    /// #     Frame::synthetic("app::main", Some("src/main.rs"), Some(5), Origin::User, false),
    /// # ];
    /// // Innermost first.
    /// let place = frames.iter().find(|frame| frame.is_user());
    /// assert_eq!(place.map(Frame::function), Some("app::insert"));
    /// ```
    pub const fn is_user(&self) -> bool {
        matches!(self.origin, Origin::User)
    }

    /// Whether the function was inlined into the next frame's.
    ///
    /// ```
    /// # use heapledger::profile::{Frame, Mode, Names, Origin};
    /// # let frame = |function, inlined| Frame::synthetic(function, None, None, Origin::User, inlined);
    /// # let here = vec![frame("app::get", true), frame("app::find", true), frame("app::main", false)];
    /// # let names = Names::new([(0x40_2000, here)].into());
    /// # let profile = heapledger::__private::profile::empty(Mode::EveryAllocation, Some(names));
    /// # let address = 0x40_2000;
    /// // At one address there is one function that was called; it comes last.
    /// let frames = profile.frames(address);
    /// assert_eq!(frames.iter().filter(|frame| !frame.is_inlined()).count(), 1);
    /// assert!(frames.last().is_some_and(|frame| !frame.is_inlined()));
    /// ```
    pub const fn is_inlined(&self) -> bool {
        self.inlined
    }

    /// `file:line`, or what is known instead: the file alone, or the function. Control
    /// characters, a blank name and a long one are as [`Display`](fmt::Display) has them.
    ///
    /// ```
    /// # use heapledger::profile::{Frame, Origin};
    /// # let own = ("app::cache::insert", Some("src/cache.rs"), Some(13));
    /// # let with_lines = Frame::synthetic(own.0, own.1, own.2, Origin::User, false);
    /// # let without = Frame::synthetic("qsort", None, None, Origin::Unknown, false);
    /// assert_eq!(with_lines.location(), "src/cache.rs:13");
    /// assert_eq!(without.location(), "qsort");
    /// ```
    pub fn location(&self) -> String {
        match (&self.file, self.line) {
            (Some(file), Some(line)) => format!("{}:{line}", OneLine(file)),
            (Some(file), None) => OneLine(file).to_string(),
            _ => Name(self.name()).to_string(),
        }
    }

    /// In the order of their locations.
    pub(crate) fn by_location(&self, other: &Self) -> Ordering {
        // Most frames that are compared are equal: no texts are made of them.
        if self == other {
            return Ordering::Equal;
        }
        self.location().cmp(&other.location())
    }

    /// In an order in which no two come at once.
    pub(crate) fn by_parts(&self, other: &Self) -> Ordering {
        fn parts(frame: &Frame) -> (&str, Option<&str>, Option<u32>, bool, u8) {
            let (function, file) = (frame.function.as_str(), frame.file.as_deref());
            let origin = frame.origin as u8;
            (function, file, frame.line, frame.inlined, origin)
        }
        parts(self).cmp(&parts(other))
    }
}

impl fmt::Display for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", Name(self.name()))?;
        if self.file.is_some() {
            write!(f, " at {}", self.location())?;
        }
        Ok(())
    }
}

/// So many characters are shown of the beginning of a name that is longer than twice that, and
/// of its end. Names of generic functions have a million.
const SHOWN: usize = 400;

/// The beginning and the end of a text that is too long to be shown.
fn ends(text: &str) -> Option<(&str, &str)> {
    let (begin, _) = text.char_indices().nth(SHOWN)?;
    let (end, _) = text.char_indices().nth_back(SHOWN - 1)?;
    // Neither is there twice, and what is left out is at least one character.
    (begin < end).then(|| (text.split_at(begin).0, text.split_at(end).1))
}

/// A name, as much of it as can be read.
struct Name<'a>(&'a str);

impl fmt::Display for Name<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match ends(self.0) {
            Some((begin, end)) => write!(f, "{} ... {}", OneLine(begin), OneLine(end)),
            None => write!(f, "{}", OneLine(self.0)),
        }
    }
}

/// A name may hold anything; a line of a report is a line all the same, and the terminal takes
/// no orders from it.
struct OneLine<'a>(&'a str);

impl fmt::Display for OneLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, part) in self.0.split(char::is_control).enumerate() {
            f.write_str(if i == 0 { "" } else { " " })?;
            f.write_str(part)?;
        }
        Ok(())
    }
}

/// What source paths are shortened by.
#[derive(Debug, Default)]
pub(super) struct Paths {
    roots: Vec<PathBuf>,
}

impl Paths {
    /// The working directory, and the package's when cargo says which.
    pub(super) fn here() -> Self {
        let package = std::env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
        Self::under(package.into_iter().chain(std::env::current_dir()))
    }

    /// These, without `/`: a service is often started there, and all files lie under it.
    fn under(roots: impl Iterator<Item = PathBuf>) -> Self {
        Self {
            roots: roots.filter(|root| root.parent().is_some()).collect(),
        }
    }

    fn shorten(&self, file: &Path) -> String {
        if let Some(text) = file.to_str() {
            // `/rustc/<commit>/library/..`, the same when it is installed, and
            // `../registry/src/<index>/<crate>/..`
            let built = text.strip_prefix("/rustc/");
            let installed = text.split_once("/rustlib/src/").map(|(_, rest)| rest);
            let registry = text.split_once("/registry/src/").map(|(_, rest)| rest);
            let rest = built.or(installed).or(registry);
            if let Some((_, rest)) = rest.and_then(|rest| rest.split_once('/')) {
                return String::from(rest);
            }
        }
        self.roots
            .iter()
            .find_map(|root| file.strip_prefix(root).ok())
            .unwrap_or(file)
            .display()
            .to_string()
    }
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::{Frame, Paths};
    use crate::symbols::Origin;

    /// Bug prevented: a name from a library gives orders to the terminal that a leak report
    /// goes to, or is no line there.
    #[test]
    fn a_frame_is_shown_on_one_line_and_gives_no_orders() {
        let red = "app::\u{1b}[31mred\nname";
        let title = Some("src/\u{1b}]0;x\u{7}.rs");
        let table = [
            (red, title, Some(9), "app:: [31mred name at src/ ]0;x .rs:9"),
            (red, title, None, "app:: [31mred name at src/ ]0;x .rs"),
            (red, None, None, "app:: [31mred name"),
            ("", None, None, "an unknown function"),
            (" \t", Some("a.c"), None, "an unknown function at a.c"),
            ("é🦀", Some("é.rs"), Some(1), "é🦀 at é.rs:1"),
        ];
        for (function, file, line, text) in table {
            let frame = Frame::synthetic(function, file, line, Origin::User, false);
            assert_eq!(frame.to_string(), text);
            let place = text.rsplit(" at ").next();
            assert_eq!(Some(frame.location().as_str()), place);
            // For programs they are as they were.
            assert_eq!((frame.function(), frame.file()), (function, file));
        }
    }

    /// Bug prevented: a failing assertion prints hundreds of megabytes, as the names of generic
    /// functions have a million characters each; or the end of such a name, which is the
    /// function's own, is not shown.
    #[test]
    fn of_a_name_without_end_the_beginning_and_the_end_are_shown() {
        let name = |middle: usize| {
            let middle = "é".repeat(middle);
            format!(
                "app::{}{middle}{}::insert",
                "a".repeat(395),
                "🦀".repeat(392)
            )
        };
        let shown = |name: &str| {
            let frame = Frame::synthetic(name, None, None, Origin::User, false);
            // For programs it is as it was.
            assert_eq!(frame.function(), name);
            assert_eq!(frame.location(), frame.to_string());
            frame.to_string()
        };
        assert_eq!(shown(&name(0)), name(0));
        let (begin, end) = (format!("app::{}", "a".repeat(395)), "🦀".repeat(392));
        for middle in [1, 2, 1_000_000] {
            let text = shown(&name(middle));
            assert_eq!(text, format!("{begin} ... {end}::insert"));
        }
    }

    /// Bug prevented: a line of std's is shown as that of the program's function that it was
    /// inlined into.
    #[test]
    fn a_file_of_std_s_is_not_that_of_a_function_of_the_program_s() {
        let file = Path::new("/rustc/abc/library/alloc/src/raw_vec/mod.rs");
        let frame = |name| {
            let name = Some(String::from(name));
            Frame::new(name, Some(file), Some(7), &Paths::default())
        };
        assert_eq!(frame("app::make").to_string(), "app::make");
        assert_eq!(frame("app::make").line(), None);
        let grow = "alloc::raw_vec::finish_grow at library/alloc/src/raw_vec/mod.rs:7";
        assert_eq!(frame("alloc::raw_vec::finish_grow").to_string(), grow);
    }

    /// Bug prevented: a program's file cut short because a folder above it is
    /// called as the compiler's.
    #[test]
    fn files_are_shown_from_where_they_tell_something() {
        let paths = Paths {
            roots: vec![PathBuf::from("/home/me/app")],
        };
        for (file, shown) in [
            (
                "/rustc/abc/library/core/src/fmt/mod.rs",
                "library/core/src/fmt/mod.rs",
            ),
            (
                "/opt/x/lib/rustlib/src/rust/library/core/src/fmt/mod.rs",
                "library/core/src/fmt/mod.rs",
            ),
            (
                "/home/me/.cargo/registry/src/index/serde-1.0/src/de.rs",
                "serde-1.0/src/de.rs",
            ),
            ("/home/me/app/src/main.rs", "src/main.rs"),
            ("/home/me/app/rustc/src/main.rs", "rustc/src/main.rs"),
            ("/home/me/rustc/src/main.rs", "/home/me/rustc/src/main.rs"),
            ("./src/main.rs", "./src/main.rs"),
        ] {
            assert_eq!(paths.shorten(Path::new(file)), shown, "{file}");
        }
    }

    /// Bug prevented: files of a program that runs in `/` shown as if they lay elsewhere.
    #[test]
    fn nothing_is_shortened_by_the_root() {
        let roots = ["/", "", "/home/me/app"].map(PathBuf::from);
        let paths = Paths::under(roots.into_iter());
        for (file, shown) in [
            ("/tmp/app/src/main.rs", "/tmp/app/src/main.rs"),
            ("/home/me/app/src/main.rs", "src/main.rs"),
            ("src/main.rs", "src/main.rs"),
        ] {
            assert_eq!(paths.shorten(Path::new(file)), shown, "{file}");
        }
    }
}
