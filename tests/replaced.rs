//! Files that are replaced or removed while they run: a program that is deployed again, a
//! library that is built again.

#![allow(
    unsafe_code,
    reason = "opens libraries, calls into them, and sends signals"
)]

use std::fs;
use std::hint::black_box;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitCode, Stdio};
use std::thread;
use std::time::Duration;

use heapledger::{Profiler, TrackingAllocator, leaks};
use libloading::Library;
use parking_lot::Mutex;

#[path = "support/compiler.rs"]
mod compiler;
#[path = "support/folders.rs"]
mod folders;
mod support;

use folders::{folder, names_in};

#[global_allocator]
static HEAP: TrackingAllocator = TrackingAllocator::new();

/// Says to this binary that it is the program.
const PART: &str = "HEAPLEDGER_TEST_PART";

/// What a report says of a file without names.
const NOTE: &str = "was replaced or removed while it was in use";

static KEPT: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());

fn main() -> ExitCode {
    if !cfg!(all(target_os = "linux", target_arch = "x86_64")) {
        println!("left out: elsewhere files are only known by their paths");
        return ExitCode::SUCCESS;
    }
    if std::env::var_os(PART).is_some() {
        program();
        return ExitCode::SUCCESS;
    }
    support::main(cases![
        reports_on_a_signal_name_what_runs_and_not_what_was_deployed_since,
        reports_of_a_program_name_what_runs_and_not_what_was_deployed_since,
        a_program_that_comes_back_has_its_own_names,
        a_program_that_was_removed_is_mapped_by_its_path,
        a_library_that_was_built_again_has_no_names_and_a_note,
        a_library_that_was_built_again_before_it_was_asked_about_has_no_names_and_a_note,
        a_library_that_was_opened_late_and_built_again_has_no_names_and_a_note,
        a_library_without_a_build_id_is_told_from_another,
    ])
}

// --- the program

#[inline(never)]
fn planted_here() {
    for _ in 0..100 {
        KEPT.lock().push(black_box(vec![1; 1_000]));
    }
}

/// Answers each line of its input, and ends each answer with a line of its own.
fn program() {
    let profiler = std::env::var_os("HEAPLEDGER")
        .is_none()
        .then(|| Profiler::builder().every_allocation().start())
        .map(|started| started.expect("a profile"));
    planted_here();
    let mut out = std::io::stdout();
    writeln!(out, "ready\n.").expect("a reader");
    for line in std::io::stdin().lines() {
        let profile = || profiler.as_ref().expect("a profile").snapshot();
        match line.expect("a line").as_str() {
            "profile" => profile().write_text(&mut out).expect("a reader"),
            "mappings" => writeln!(out, "{}", profile().mappings[0].path).expect("a reader"),
            "leaks" => {
                let report = leaks::check(planted_here).expect_err("it leaks");
                writeln!(out, "{report}").expect("a reader");
            }
            other => panic!("{other}"),
        }
        writeln!(out, ".").expect("a reader");
    }
}

/// A copy of this binary that runs as the program.
struct Running {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Running {
    fn start(at: &Path, value: Option<&str>) -> Self {
        fs::copy(std::env::current_exe().expect("a path"), at).expect("a copy");
        let mut command = Command::new(at);
        command.env(PART, "program").env_remove("HEAPLEDGER");
        if let Some(value) = value {
            command.env("HEAPLEDGER", value);
        }
        let mut child = command
            .current_dir(at.parent().expect("a folder"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("it runs");
        let input = child.stdin.take().expect("an input");
        let output = BufReader::new(child.stdout.take().expect("an output"));
        let mut running = Self {
            child,
            input,
            output,
        };
        assert_eq!(running.answer(), "ready\n");
        running
    }

    fn answer(&mut self) -> String {
        let mut answer = String::new();
        loop {
            let before = answer.len();
            assert!(self.output.read_line(&mut answer).expect("text") > 0);
            if &answer[before..] == ".\n" {
                answer.truncate(before);
                return answer;
            }
        }
    }

    fn ask(&mut self, what: &str) -> String {
        writeln!(self.input, "{what}").expect("it reads");
        self.answer()
    }

    /// A report on the signal, which goes to this file.
    fn signal(&self, report: &Path) -> String {
        let pid = i32::try_from(self.child.id()).expect("a number");
        // SAFETY: a signal to a child of ours that has not been waited for.
        assert_eq!(unsafe { libc::kill(pid, libc::SIGUSR2) }, 0);
        while !report.exists() {
            thread::sleep(Duration::from_millis(5));
        }
        fs::read_to_string(report).expect("a report")
    }

    fn end(self) {
        let Self {
            mut child,
            input,
            mut output,
        } = self;
        drop(input);
        let mut rest = String::new();
        output.read_to_string(&mut rest).expect("text");
        assert!(child.wait().expect("it ends").success());
    }
}

/// What becomes of the program's file.
#[derive(Clone, Copy, Debug)]
enum Fate {
    Replaced,
    Removed,
    /// And another comes to its place.
    Moved,
}

const FATES: [Fate; 3] = [Fate::Replaced, Fate::Removed, Fate::Moved];

/// Another program than this one: the same code, where other functions are.
fn deploy(at: &Path, fate: Fate) {
    let mut other = fs::read(at).expect("this one");
    let (name, wrong) = (b"planted_here", b"wrongly_here");
    let mut names = 0;
    for place in 0..other.len() - name.len() {
        if other[place..].starts_with(name) {
            other[place..place + name.len()].copy_from_slice(wrong);
            names += 1;
        }
    }
    assert!(names > 0, "no name to change");
    match fate {
        Fate::Removed => return fs::remove_file(at).expect("it goes"),
        Fate::Moved => fs::rename(at, at.with_extension("old")).expect("it goes"),
        Fate::Replaced => {}
    }
    let new = at.with_extension("new");
    fs::copy(std::env::current_exe().expect("a path"), &new).expect("its rights");
    fs::write(&new, other).expect("a file");
    fs::rename(new, at).expect("it comes");
}

/// Checks that a report has the names of what runs.
#[track_caller]
fn is_right(report: &str, what: &str) {
    assert!(!report.contains("wrongly_here"), "{what}: {report}");
    assert!(report.contains("planted_here at "), "{what}: {report}");
    assert!(report.contains("tests/replaced.rs:"), "{what}: {report}");
    // It has all its names.
    assert!(!report.contains(NOTE), "{what}: {report}");
}

/// Bug prevented: after a deployment the reports of what still runs name functions and lines of
/// the new program, as it lies at the path that is remembered; and after a removal none.
fn reports_on_a_signal_name_what_runs_and_not_what_was_deployed_since() {
    for fate in FATES {
        for earlier in 0..2 {
            let what = format!("{fate:?} after {earlier} reports");
            let folder = folder("replaced-signal");
            let at = folder.join("program");
            let value = "profile,every=1,signal=USR2,file=r-{n}.txt";
            let running = Running::start(&at, Some(value));
            for n in 1..=earlier {
                is_right(&running.signal(&folder.join(format!("r-{n}.txt"))), &what);
            }
            deploy(&at, fate);
            for n in earlier + 1..=earlier + 2 {
                is_right(&running.signal(&folder.join(format!("r-{n}.txt"))), &what);
            }
            running.end();
            // The last one at exit.
            let mut names = names_in(&folder);
            names.retain(|name| name.starts_with("r-"));
            assert_eq!(names.len(), earlier + 3, "{what}: {names:?}");
            let last = folder.join(&names[earlier + 2]);
            is_right(&fs::read_to_string(last).expect("a report"), &what);
        }
    }
}

/// Bug prevented: the same in a process that reports by itself.
fn reports_of_a_program_name_what_runs_and_not_what_was_deployed_since() {
    for fate in FATES {
        for earlier in ["", "profile", "leaks"] {
            let what = format!("{fate:?} after {earlier:?}");
            let at = folder("replaced-api").join("program");
            let mut running = Running::start(&at, None);
            if !earlier.is_empty() {
                is_right(&running.ask(earlier), &what);
            }
            deploy(&at, fate);
            is_right(&running.ask("profile"), &what);
            is_right(&running.ask("leaks"), &what);
            running.end();
        }
    }
}

/// Bug prevented: a deployment is taken back, and reports name functions of the one that is gone,
/// as whoever was asked first while it was there has remembered its path for ours.
fn a_program_that_comes_back_has_its_own_names() {
    for keeps_other in [false, true] {
        for earlier in ["", "profile"] {
            let what = format!("kept {keeps_other}, after {earlier:?}");
            let at = folder("replaced-back").join("program");
            let mut running = Running::start(&at, None);
            if !earlier.is_empty() {
                is_right(&running.ask(earlier), &what);
            }
            deploy(&at, Fate::Moved);
            is_right(&running.ask("profile"), &what);
            let old = at.with_extension("old");
            if keeps_other {
                let away = at.with_extension("away");
                fs::rename(&old, &away).expect("it goes");
                fs::rename(&at, &old).expect("it goes");
                fs::rename(&away, &at).expect("it comes");
            } else {
                fs::rename(&old, &at).expect("it comes");
            }
            is_right(&running.ask("profile"), &what);
            is_right(&running.ask("leaks"), &what);
            running.end();
        }
    }
}

/// Bug prevented: readers look for a file called `program (deleted)`.
fn a_program_that_was_removed_is_mapped_by_its_path() {
    for fate in [Fate::Removed, Fate::Replaced] {
        let at = folder("replaced-mapped").join("program");
        let mut running = Running::start(&at, None);
        deploy(&at, fate);
        assert_eq!(running.ask("mappings"), format!("{}\n", at.display()));
        running.end();
    }
}

// --- libraries

extern "C" fn leak() {
    std::mem::forget(black_box(vec![0_u8; 100]));
}

/// A library with the function `enter`, which calls another of this name, which calls what it is
/// given.
fn build(library: &Path, name: &str, flag: &str) {
    let source = library.with_file_name(format!("{name}.rs"));
    let text = format!(
        "#[inline(never)]\nfn {name}(call: extern \"C\" fn()) {{\n    call();\n    \
         std::hint::black_box(call);\n}}\n\
         #[unsafe(no_mangle)]\npub extern \"C\" fn enter(call: extern \"C\" fn()) {{\n    \
         {name}(call);\n    std::hint::black_box(call);\n}}\n"
    );
    fs::write(&source, text).expect("a source file");
    let new = library.with_extension("new");
    let built = Command::new(compiler::rustc())
        .args(["--edition=2024", "--crate-type=cdylib", "-Cdebuginfo=2"])
        .arg(format!("-Clink-arg=-Wl,--build-id={flag}"))
        .arg("-o")
        .args([&new, &source])
        .status();
    assert!(built.is_ok_and(|status| status.success()), "no {name}");
    fs::rename(new, library).expect("it comes");
}

fn open(path: &Path) -> Library {
    // SAFETY: its initialisers are those of std.
    unsafe { Library::new(path) }.expect("a library")
}

fn leak_through(library: &Library) {
    // SAFETY: its type is that of the text in `build`.
    let call = unsafe { library.get::<extern "C" fn(extern "C" fn())>(b"enter") };
    call.expect("the function")(leak);
}

fn leaks_through(library: &Library) -> String {
    let report = leaks::check(|| leak_through(library)).expect_err("it leaks");
    format!("{report:#}")
}

/// The same in each format of a profile that has notes, and in a difference.
fn profiles_through(library: &Library) -> [String; 4] {
    let profiler = Profiler::builder().every_allocation().start();
    let profiler = profiler.expect("a profile");
    let before = profiler.snapshot();
    leak_through(library);
    let mut profile = profiler.finish();
    let grown = profile.diff(&before).to_string();
    let mut formats = [const { Vec::new() }; 3];
    let [text, html, pprof] = &mut formats;
    profile.write_text(text).expect("memory");
    profile.write_html(html).expect("memory");
    profile.symbolize();
    profile.write_pprof(&mut *pprof).expect("memory");
    *pprof = zune_inflate::DeflateDecoder::new(pprof)
        .decode_gzip()
        .expect("gzip");
    let [text, html, pprof] = formats.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    [text, html, pprof, grown]
}

/// Leaks through a library that was built again.
#[track_caller]
fn is_unnamed(library: &Library, path: &Path) {
    let report = leaks_through(library);
    assert!(!report.contains("other_one"), "{report}");
    let is_named = report.contains("first_one at ");
    let note = format!("note: {} {NOTE}", path.display());
    assert!(is_named != report.contains(&note), "{report}");
    // Only what lies there is without names.
    assert!(report.contains("tests/replaced.rs:"), "{report}");
    for report in profiles_through(library) {
        assert!(!report.contains("other_one"), "{report}");
        let is_named = report.contains("first_one");
        let note = format!("{} {NOTE}", path.display());
        assert!(is_named != report.contains(&note), "{report}");
    }
}

/// Bug prevented: a leak in a plugin is shown in a function of the plugin that was built since.
fn a_library_that_was_built_again_has_no_names_and_a_note() {
    let path = folder("replaced-library").join("plugin.so");
    build(&path, "first_one", "sha1");
    let library = open(&path);
    let before = leaks_through(&library);
    assert!(before.contains("first_one at "), "{before}");
    assert!(!before.contains(NOTE), "{before}");
    build(&path, "other_one", "sha1");
    // As other libraries would push it out, and reports of `HEAPLEDGER=` end.
    backtrace::clear_symbol_cache();
    is_unnamed(&library, &path);
    fs::remove_file(&path).expect("it goes");
    is_unnamed(&library, &path);
}

/// Bug prevented: the same where nothing has been asked before.
fn a_library_that_was_built_again_before_it_was_asked_about_has_no_names_and_a_note() {
    let path = folder("replaced-first").join("plugin.so");
    build(&path, "first_one", "sha1");
    let library = open(&path);
    build(&path, "other_one", "sha1");
    is_unnamed(&library, &path);
    fs::remove_file(&path).expect("it goes");
    is_unnamed(&library, &path);
}

/// Bug prevented: the same where `backtrace` does not know of the library.
fn a_library_that_was_opened_late_and_built_again_has_no_names_and_a_note() {
    let path = folder("replaced-late").join("plugin.so");
    build(&path, "first_one", "sha1");
    drop(leaks::check(|| leak()).expect_err("it leaks").to_string());
    let library = open(&path);
    let before = leaks_through(&library);
    assert!(before.contains("first_one at "), "{before}");
    build(&path, "other_one", "sha1");
    is_unnamed(&library, &path);
    fs::remove_file(&path).expect("it goes");
    is_unnamed(&library, &path);
}

/// Bug prevented: names of another library where the linker writes no build ids.
fn a_library_without_a_build_id_is_told_from_another() {
    let path = folder("replaced-no-id").join("plugin.so");
    build(&path, "first_one", "none");
    let library = open(&path);
    let before = leaks_through(&library);
    assert!(before.contains("first_one at "), "{before}");
    assert!(!before.contains(NOTE), "{before}");
    build(&path, "other_one", "none");
    backtrace::clear_symbol_cache();
    is_unnamed(&library, &path);
}
