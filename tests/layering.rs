//! The house has storeys, and what stands on one may use only what is below.
//!
//! ```text
//!   environment
//!   export   metrics
//!   assertions   leaks   profile
//!   scope   allocator
//!   reading   record
//!   installed
//!   ledger   unwind   symbols
//!   arena                       pool (an annex on sync alone)
//!   sync                        ──┘
//!   stats   histogram   error
//!   units   unpolled
//! ```
//!
//! `lib.rs` is the front page and names them all. Tests inside `src/` are not
//! part of the house: a file is cut at its test module.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// The storeys from the ground up. What stands beside each other may not use
/// each other either.
const STOREYS: &[&[&str]] = &[
    &["units", "unpolled"],
    &["stats", "histogram", "error"],
    &["sync"],
    &["arena"],
    &["ledger", "unwind", "symbols"],
    &["installed"],
    &["reading", "record"],
    &["scope", "allocator"],
    &["assertions", "leaks", "profile"],
    &["export", "metrics"],
    &["environment"],
];

/// What stands apart, and all that it may use.
const ANNEXES: &[(&str, &[&str])] = &[("pool", &["sync"])];

/// More lines than this and a file holds more than one idea.
const LONGEST: usize = 600;

/// One source file: its path under `src/`, and its text.
type File = (String, String);

fn rank(module: &str) -> Option<usize> {
    STOREYS.iter().position(|storey| storey.contains(&module))
}

fn annex(module: &str) -> Option<&'static [&'static str]> {
    ANNEXES
        .iter()
        .find(|(name, _)| *name == module)
        .map(|(_, may)| *may)
}

/// The top-level module that a file belongs to, and how deep in it.
fn place(path: &str) -> (&str, usize) {
    let path = path.strip_suffix(".rs").unwrap_or(path);
    let path = path.strip_suffix("/mod").unwrap_or(path);
    let mut parts = path.split('/');
    (parts.next().unwrap_or(""), parts.count())
}

/// The text with comments and literals blanked out, line by line as it was.
fn code_of(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut code = String::with_capacity(text.len());
    let mut at = 0;
    let blank = |code: &mut String, from: usize, to: usize| {
        let gone = &text[from..to];
        code.extend(gone.chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
        to
    };
    while at < bytes.len() {
        let rest = &text[at..];
        let after_name = code.ends_with(|c: char| c.is_alphanumeric() || c == '_');
        let end = if rest.starts_with("//") {
            at + rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            at + block_comment(rest)
        } else if let Some(length) = raw_string(rest).filter(|_| !after_name) {
            at + length
        } else if rest.starts_with('"') {
            at + quoted(rest, '"')
        } else if rest.starts_with('\'') && is_char(rest) {
            at + quoted(rest, '\'')
        } else {
            let c = rest.chars().next().expect("not at the end");
            code.push(c);
            at += c.len_utf8();
            continue;
        };
        at = blank(&mut code, at, end);
    }
    code
}

/// The length of the block comment that `rest` begins with; they nest.
fn block_comment(rest: &str) -> usize {
    let (mut depth, mut at) = (0usize, 0);
    while at < rest.len() {
        if rest[at..].starts_with("/*") {
            depth += 1;
            at += 2;
        } else if rest[at..].starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += rest[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    rest.len()
}

/// The length of the raw string that `rest` begins with, if it does.
fn raw_string(rest: &str) -> Option<usize> {
    let body = rest.strip_prefix('b').unwrap_or(rest);
    let body = body.strip_prefix('r')?;
    let hashes = body.len() - body.trim_start_matches('#').len();
    let inside = body[hashes..].strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(hashes));
    let begin = rest.len() - inside.len();
    Some(begin + inside.find(&end).map_or(inside.len(), |i| i + end.len()))
}

/// The length of the literal between `quote`s that `rest` begins with.
fn quoted(rest: &str, quote: char) -> usize {
    let mut escaped = false;
    for (i, c) in rest.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == quote => return i + c.len_utf8(),
            _ => {}
        }
    }
    rest.len()
}

/// Whether the quote begins a character and not a lifetime.
fn is_char(rest: &str) -> bool {
    let mut chars = rest.chars().skip(1);
    let first = chars.next();
    first == Some('\\') || chars.next() == Some('\'')
}

/// Whether the line is the attribute of a test module.
fn is_for_tests(line: &str) -> bool {
    line.starts_with("#[cfg(test)]") || line.starts_with("#[cfg(all(test,")
}

/// The code of a file without its test module, the names of the test modules
/// that are files of their own, and a complaint if something is hidden behind
/// the test module.
fn without_tests(path: &str, text: &str, faults: &mut Vec<String>) -> (String, Vec<String>) {
    let code = code_of(text);
    let lines: Vec<&str> = code.lines().collect();
    let mut in_files = Vec::new();
    for (i, line) in lines.iter().enumerate() {
        if !is_for_tests(line) {
            continue;
        }
        let item = lines[i + 1..].iter().find(|l| !l.starts_with("#["));
        let Some(name) = item.and_then(|l| l.strip_prefix("mod ")) else {
            continue;
        };
        if let Some(file) = name.trim_end().strip_suffix(';') {
            in_files.push(file.to_owned());
        } else {
            let mut behind = lines[i..].iter().skip_while(|l| **l != "}").skip(1);
            if behind.any(|l| !l.trim().is_empty()) {
                faults.push(format!("{path}: there is code behind the test module"));
            }
            return (lines[..i].join("\n"), in_files);
        }
    }
    (code, in_files)
}

/// The names that follow `crate::`, also in braces, with their line numbers.
fn crate_paths(code: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (i, _) in code.match_indices("crate") {
        let before = code[..i].chars().next_back();
        let is_word = before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == '$');
        let after = code[i + "crate".len()..].trim_start();
        let Some(path) = after.strip_prefix("::").filter(|_| !is_word) else {
            continue;
        };
        let line = code[..i].lines().count();
        let path = path.trim_start();
        if let Some(group) = path.strip_prefix('{') {
            let mut depth = 0;
            let mut fresh = true;
            for (j, c) in group.char_indices() {
                match c {
                    '{' => depth += 1,
                    '}' if depth == 0 => break,
                    '}' => depth -= 1,
                    ',' if depth == 0 => fresh = true,
                    c if fresh && !c.is_whitespace() => {
                        found.push((line, name_at(&group[j..])));
                        fresh = false;
                    }
                    _ => {}
                }
            }
        } else {
            found.push((line, name_at(path)));
        }
    }
    found
}

/// The name, or the one character, that `text` begins with.
fn name_at(text: &str) -> String {
    let name: String = text
        .chars()
        .take_while(|c| c.is_alphanumeric() || *c == '_')
        .collect();
    if name.is_empty() {
        text.chars().take(1).collect()
    } else {
        name
    }
}

/// The most `super`s in a row, and the line they are on.
fn supers(code: &str) -> (usize, usize) {
    code.match_indices("super")
        .map(|(i, _)| {
            let path: String = code[i..]
                .chars()
                .take_while(|c| c.is_alphanumeric() || matches!(c, '_' | ':' | ' ' | '\n'))
                .filter(|c| !c.is_whitespace())
                .collect();
            let n = path.split("::").take_while(|part| *part == "super").count();
            // `pub(super)` goes no further up than the module that it stands in.
            let n = if path == "super" { 0 } else { n };
            (n, code[..i].lines().count())
        })
        .max()
        .unwrap_or((0, 0))
}

/// All that is wrong with the house.
fn faults(files: &[File]) -> Vec<String> {
    let mut faults = Vec::new();
    let mut for_tests = BTreeSet::new();
    let mut codes = Vec::new();
    for (path, text) in files {
        let lines = text.lines().count();
        if lines > LONGEST {
            faults.push(format!("{path}: {lines} lines, more than {LONGEST}"));
        }
        let (code, in_files) = without_tests(path, text, &mut faults);
        let folder = path.strip_suffix("mod.rs").map_or_else(
            || format!("{}/", path.trim_end_matches(".rs")),
            str::to_owned,
        );
        let folder = if path == "lib.rs" { "" } else { &folder };
        for name in in_files {
            for_tests.insert(format!("{folder}{name}.rs"));
            for_tests.insert(format!("{folder}{name}/mod.rs"));
        }
        codes.push((path.as_str(), code));
    }
    for (path, code) in &codes {
        if *path == "lib.rs" || for_tests.contains(*path) {
            continue;
        }
        let (module, depth) = place(path);
        let own = rank(module);
        if own.is_none() && annex(module).is_none() {
            faults.push(format!("{path}: `{module}` has no storey; give it one"));
            continue;
        }
        for (line, used) in crate_paths(code) {
            let may = used == module
                || match annex(module) {
                    Some(may) => may.contains(&used.as_str()),
                    None => rank(&used).is_some_and(|used| Some(used) < own),
                };
            if !may {
                faults.push(format!("{path}:{line}: `{module}` may not use `{used}`"));
            }
        }
        let (ups, line) = supers(code);
        if ups > depth {
            faults.push(format!("{path}:{line}: `super` leads out of `{module}`"));
        }
        if code.contains("heapledger::") {
            faults.push(format!("{path}: names the crate from inside"));
        }
    }
    faults
}

/// Every source file under `folder`.
fn read(folder: &Path, prefix: &str, files: &mut Vec<File>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().and_then(|n| n.to_str()).expect("a name");
        if path.is_dir() {
            read(&path, &format!("{prefix}{name}/"), files);
        } else if path.extension().is_some_and(|e| e == "rs") {
            let text = fs::read_to_string(&path).expect("text");
            files.push((format!("{prefix}{name}"), text));
        }
    }
}

fn house() -> Vec<File> {
    let mut files = Vec::new();
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    read(&src, "", &mut files);
    assert!(files.len() > 15, "the house is somewhere else");
    files
}

#[test]
fn arrows_point_down_only_and_no_file_is_too_long() {
    let faults = faults(&house());
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// Bug prevented: a checker that finds nothing because it looks at nothing.
#[test]
fn the_checker_sees_the_arrows_that_are_there() {
    let mut arrows = BTreeSet::new();
    for (path, text) in &house() {
        let (code, _) = without_tests(path, text, &mut Vec::new());
        let (module, _) = place(path);
        for (_, used) in crate_paths(&code) {
            if used != module {
                arrows.insert((module.to_owned(), used));
            }
        }
    }
    for (from, to) in [
        ("stats", "units"),
        ("arena", "sync"),
        ("ledger", "arena"),
        ("ledger", "stats"),
        ("scope", "reading"),
        ("allocator", "ledger"),
        ("assertions", "scope"),
    ] {
        assert!(
            arrows.contains(&(from.to_owned(), to.to_owned())),
            "{from} uses {to}, but the checker does not see it: {arrows:?}"
        );
    }
}

/// The real house with one file added or, if it is there, lengthened.
fn with(path: &str, text: &str) -> Vec<String> {
    let mut files = house();
    match files.iter_mut().find(|(p, _)| p == path) {
        // In front, because what is behind the test module is cut off.
        Some((_, old)) => old.insert_str(0, text),
        None => files.push((path.to_owned(), text.to_owned())),
    }
    faults(&files)
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn planted_faults_are_found() {
    let long = "// a line\n".repeat(601);
    let table = [
        (
            "stats.rs",
            "use crate::ledger::Slot;\n",
            "`stats` may not use `ledger`",
        ),
        (
            "stats.rs",
            "use crate::error::Error;\n",
            "`stats` may not use `error`",
        ),
        (
            "ledger/slot.rs",
            "use crate::scope;\n",
            "`ledger` may not use `scope`",
        ),
        (
            "ledger/slot.rs",
            "type A = crate::reading::B;\n",
            "`ledger` may not use `reading`",
        ),
        (
            "arena.rs",
            "use crate::{sync::A, ledger::{B, C}};\n",
            "`arena` may not use `ledger`",
        ),
        (
            "arena.rs",
            "use crate::\n    ledger::B;\n",
            "`arena` may not use `ledger`",
        ),
        (
            "sync.rs",
            "use crate::Stats;\n",
            "`sync` may not use `Stats`",
        ),
        ("sync.rs", "use crate::*;\n", "`sync` may not use `*`"),
        (
            "sync.rs",
            "pub(in crate::ledger) fn f() {}\n",
            "`sync` may not use `ledger`",
        ),
        (
            "scope/mod.rs",
            "use crate::allocator::A;\n",
            "`scope` may not use `allocator`",
        ),
        (
            "allocator.rs",
            "use crate::scope::A;\n",
            "`allocator` may not use `scope`",
        ),
        (
            "pool.rs",
            "use crate::error::Error;\n",
            "`pool` may not use `error`",
        ),
        (
            "pool/depot.rs",
            "use crate::ledger;\n",
            "`pool` may not use `ledger`",
        ),
        (
            "error.rs",
            "use crate::pool;\n",
            "`error` may not use `pool`",
        ),
        (
            "error.rs",
            "use super::ledger;\n",
            "`super` leads out of `error`",
        ),
        (
            "scope/mod.rs",
            "use super::ledger;\n",
            "`super` leads out of `scope`",
        ),
        (
            "scope/carried.rs",
            "use super::super::ledger;\n",
            "`super` leads out of `scope`",
        ),
        (
            "units.rs",
            "use heapledger::Stats;\n",
            "names the crate from inside",
        ),
        ("attic.rs", "pub fn f() {}\n", "`attic` has no storey"),
        ("attic/mod.rs", "pub fn f() {}\n", "`attic` has no storey"),
        ("units.rs", &long, "lines, more than 600"),
        (
            "pool.rs",
            "#[cfg(test)]\nmod tests {\n}\nuse crate::ledger;\n",
            "there is code behind the test module",
        ),
    ];
    for (path, text, fault) in table {
        let found = with(path, text);
        assert!(
            found
                .iter()
                .any(|f| f.starts_with(path) && f.contains(fault)),
            "planted in {path}: {text}\nexpected: {fault}\nfound: {found:?}"
        );
    }
}

#[test]
fn what_is_allowed_is_not_a_fault() {
    let table = [
        (
            "ledger/slot.rs",
            "use crate::sync::A;\nuse crate::ledger::peak::B;\n",
        ),
        (
            "ledger/slot.rs",
            "use super::peak::B;\npub(super) fn f() {}\n",
        ),
        (
            "pool.rs",
            "use crate::sync::{A, B};\nuse crate::pool::depot;\n",
        ),
        (
            "units.rs",
            "//! See [`crate::ledger`].\n/* crate::scope /* super::x */ */\n",
        ),
        (
            "units.rs",
            "const A: &str = \"crate::scope heapledger::\";\n",
        ),
        (
            "units.rs",
            "const A: &str = r#\"crate::scope \"super::x\" \"#;\n",
        ),
        (
            "units.rs",
            "const A: char = '\"';\nfn f<'a>(_: &'a u8) {}\n",
        ),
        (
            "assertions.rs",
            "macro_rules! m { () => { $crate::__private::f() } }\n",
        ),
        (
            "pool.rs",
            "fn f() {}\n#[cfg(test)]\nmod tests {\n    use crate::ledger;\n    use super::f;\n}\n",
        ),
    ];
    for (path, text) in table {
        let found = with(path, text);
        assert!(found.is_empty(), "in {path}: {text}\nfound: {found:?}");
    }
    // A test module in a file of its own is no part of the house either.
    let mut files = house();
    let parent = "#[cfg(test)]\nmod tests;\nfn f() {}\n".to_owned();
    files.push(("pool/mod.rs".to_owned(), parent));
    files.push((
        "pool/tests.rs".to_owned(),
        "use crate::ledger;\n".to_owned(),
    ));
    assert_eq!(faults(&files), Vec::<String>::new());
}
