//! Where the reports of `HEAPLEDGER=…` go, and what they leave alone: each program is
//! this test binary, started again.
#![cfg(all(feature = "profile", target_os = "linux"))]
#![allow(
    unsafe_code,
    reason = "sends a signal, which no safe function of the standard library does"
)]

use std::fs::{self, File};
use std::hint::black_box;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Output, Stdio};
use std::time::Duration;

use heapledger::Profiler;
use heapledger::leaks::Process;
use heapledger::profile::{Format, Value};

#[path = "support/folders.rs"]
mod folders;
#[path = "support/programs.rs"]
mod programs;
mod support;

use folders::{folder, names_in};
use programs::{PART, code_of, command, said_by};

#[global_allocator]
static HEAP: heapledger::TrackingAllocator = heapledger::TrackingAllocator::new();

/// What each program ends with.
const OWN_CODE: u8 = 7;

// --- the programs

#[inline(never)]
fn planted_here() {
    for _ in 0..300 {
        std::mem::forget(black_box(vec![1u8; 1_000]));
    }
}

/// Leaks at so many places that a pipe cannot hold the report.
#[inline(never)]
fn planted_at_many_places(turns: u32, depth: u32) {
    if depth == 0 {
        std::mem::forget(black_box(vec![1u8; 8]));
    } else if turns & 1 == 0 {
        turns_left(turns >> 1, depth - 1);
    } else {
        turns_right(turns >> 1, depth - 1);
    }
    black_box(());
}

// Two functions that do the same would be one in a release.
#[inline(never)]
fn turns_left(turns: u32, depth: u32) {
    planted_at_many_places(turns, depth);
    black_box("left");
}

#[inline(never)]
fn turns_right(turns: u32, depth: u32) {
    planted_at_many_places(turns, depth);
    black_box("right");
}

#[inline(never)]
fn gone_at_the_end() {
    drop(black_box(vec![2u8; 70_000]));
}

fn program(part: &str) -> ExitCode {
    match part {
        "talks" => {
            println!("line before");
            planted_here();
            gone_at_the_end();
            eprintln!("err line");
            print!("line after");
        }
        "has much to tell" => {
            for turns in 0..1 << 8 {
                planted_at_many_places(turns, 8);
            }
            print!("that was all");
        }
        "says how often it has slept" => {
            let status = fs::read_to_string("/proc/self/status").expect("Linux");
            let sleeps = status
                .lines()
                .find_map(|line| line.strip_prefix("voluntary_ctxt"));
            print!(
                "{}",
                sleeps
                    .and_then(|line| line.split_whitespace().last())
                    .expect("a number")
            );
        }
        "forks" => {
            planted_here();
            // SAFETY: there is no other thread.
            let child = unsafe { libc::fork() };
            if child == 0 {
                std::process::exit(OWN_CODE.into());
            }
            let mut status = 0;
            // SAFETY: the child is ours, and `status` a place for the answer.
            unsafe { libc::waitpid(child, &raw mut status, 0) };
        }
        "saves" => saves(),
        "checks" => {
            print!("before ");
            let leaks = Process::new().to_file("/dev/stdout").start();
            planted_here();
            drop(leaks.expect("the only one"));
            print!("after");
        }
        "keeps its output" => {
            // As who asks something in a line, and waits for the answer.
            let mut out = std::io::stdout().lock();
            write!(out, "unfinished").expect("a buffer");
            // SAFETY: a signal to ourselves; there is a handler.
            unsafe { libc::raise(libc::SIGUSR2) };
            let mut answer = String::new();
            std::io::stdin().read_line(&mut answer).expect("an answer");
        }
        other => panic!("no program {other:?}"),
    }
    ExitCode::from(OWN_CODE)
}

/// Through the API, in each format, with a line of its own around.
fn saves() {
    let profiler = Profiler::builder().every_allocation().start();
    let profiler = profiler.expect("the only one");
    planted_here();
    let profile = profiler.finish();
    let formats = [
        Format::Text,
        Format::Dhat,
        Format::Pprof,
        Format::Folded(Value::LiveBytes),
        Format::Html,
    ];
    for format in formats {
        for path in ["/dev/stdout", "/proc/self/fd/1", "/dev/stderr"] {
            print!("[{path} ");
            profile.save(path, format).expect("it is open");
            print!("]");
        }
    }
}

// --- what the tests need

/// How the program ended, what it said on standard error, and the rest.
#[track_caller]
fn run(mut command: Command) -> (Option<u8>, String, Output) {
    let output = command.output().expect("it runs");
    (code_of(&output), said_by(&output), output)
}

/// A log that has had something in it before, open to go on.
fn log(folder: &Path) -> (PathBuf, File) {
    let path = folder.join("log");
    let mut file = File::create(&path).expect("a file");
    file.write_all(b"of old\n").expect("written");
    (path, file)
}

// --- the cases

/// Bug prevented: the log that standard output or standard error goes to is replaced by the
/// report, or begins anew with it, and all that the program has said is gone.
fn a_report_to_a_log_comes_after_what_is_there() {
    let folder = folder("environment-files-log");
    for (order, has) in [
        ("profile,every=1,format=text", "heap profile"),
        ("leaks", "300 blocks leaked"),
    ] {
        for name in ["/dev/stdout", "/dev/fd/1", "log"] {
            let (path, file) = log(&folder);
            let mut command = command("talks", Some(&format!("{order},file={name}")), &folder);
            command.stdout(file);
            let (code, said, _) = run(command);
            assert_eq!((code, said.as_str()), (Some(OWN_CODE), "err line\n"));
            let text = fs::read_to_string(&path).expect("the log");
            let begin = "of old\nline before\nline after";
            assert!(text.starts_with(begin), "{order} {name}: {text}");
            assert!(text[begin.len()..].starts_with(has), "{name}: {text}");
            assert!(text.contains("planted_here"), "{name}: {text}");
        }
        for name in ["/dev/stderr", "/proc/self/fd/2", "log"] {
            let (path, file) = log(&folder);
            let mut command = command("talks", Some(&format!("{order},file={name}")), &folder);
            command.stderr(file);
            let (code, _, output) = run(command);
            assert_eq!(code, Some(OWN_CODE));
            assert_eq!(output.stdout, b"line before\nline after");
            let text = fs::read_to_string(&path).expect("the log");
            let begin = "of old\nerr line\n";
            assert!(text.starts_with(begin), "{order} {name}: {text}");
            assert!(text[begin.len()..].starts_with(has), "{name}: {text}");
        }
    }
    assert_eq!(names_in(&folder), ["log"]);
}

/// Bug prevented: the report of a forked child goes to a new file in `/dev`.
fn a_forked_childs_report_to_a_log_comes_there_too() {
    let folder = folder("environment-files-forked");
    for name in ["/dev/stdout", "log"] {
        let (path, file) = log(&folder);
        let value = format!("profile,every=1,format=text,file={name}");
        let mut command = command("forks", Some(&value), &folder);
        command.stdout(file);
        let (code, said, _) = run(command);
        assert_eq!((code, said.as_str()), (Some(OWN_CODE), ""));
        let text = fs::read_to_string(&path).expect("the log");
        assert_eq!(text.matches("heap profile").count(), 2, "{name}: {text}");
    }
    assert_eq!(names_in(&folder), ["log"]);
    let devices = names_in(Path::new("/dev"));
    assert!(!devices.iter().any(|name| name.starts_with("stdout-")));
}

/// Bug prevented: the same by a call of the program's own.
fn what_a_program_saves_to_its_output_comes_in_its_place() {
    let folder = folder("environment-files-api");
    let (path, file) = log(&folder);
    let errors = folder.join("errors");
    let mut saves = command("saves", None, &folder);
    saves.stdout(file);
    saves.stderr(File::create(&errors).expect("a file"));
    let (code, ..) = run(saves);
    let text = fs::read(&path).expect("the log");
    let text = String::from_utf8_lossy(&text);
    assert_eq!(code, Some(OWN_CODE), "{text}");
    assert!(
        text.starts_with("of old\n[/dev/stdout heap profile"),
        "{text}"
    );
    assert!(text.contains("][/proc/self/fd/1 heap profile"), "{text}");
    assert!(text.contains("[/dev/stdout {\"dhatFileVersion"), "{text}");
    assert!(text.contains("[/dev/stdout <!doctype html>"), "{text}");
    assert!(
        text.contains("[/dev/stderr ][/dev/stdout {\"dhat"),
        "{text}"
    );
    assert!(text.ends_with("[/dev/stderr ]"), "{text}");
    let errors = fs::read(errors).expect("a file");
    let errors = String::from_utf8_lossy(&errors);
    assert!(errors.starts_with("heap profile"), "{errors}");
    assert!(errors.contains("{\"dhatFileVersion"), "{errors}");

    let (path, file) = log(&folder);
    let mut checks = command("checks", None, &folder);
    checks.stdout(file);
    let (code, said, _) = run(checks);
    assert_eq!((code, said.as_str()), (Some(OWN_CODE), ""));
    let text = fs::read_to_string(&path).expect("the log");
    assert!(
        text.starts_with("of old\nbefore 300 blocks leaked"),
        "{text}"
    );
    assert!(text.ends_with("\nafter"), "{text}");
}

/// Bug prevented: a report to standard output waits for a thread that keeps it for ever, and with
/// it the program's end.
fn a_report_does_not_wait_for_who_keeps_standard_output() {
    let folder = folder("environment-files-kept");
    let value = "profile,every=1,signal=USR2,at=signal,format=text,file=/dev/stdout";
    let mut child = command("keeps its output", Some(value), &folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("it runs");
    let mut output = child.stdout.take().expect("an output");
    let mut begin = [0; 12];
    output.read_exact(&mut begin).expect("the report");
    assert_eq!(&begin, b"heap profile");
    let mut input = child.stdin.take().expect("an input");
    input.write_all(b"go on\n").expect("it reads");
    let mut rest = String::new();
    output.read_to_string(&mut rest).expect("text");
    assert!(rest.contains("unfinished"), "{rest}");
    let ended = child.wait().expect("it ends");
    assert_eq!(ended.code(), Some(OWN_CODE.into()));
}

/// Bug prevented: where nobody waits for standard error's reader, as in programs that Node and
/// tokio start, a report ends in the middle of a line once the pipe is full.
fn a_report_waits_for_who_reads_standard_error_late() {
    let folder = folder("environment-files-late");
    for file in ["", ",file=/dev/stderr"] {
        let (mut reader, writer) = std::io::pipe().expect("a pipe");
        // SAFETY: a pipe of ours, and flags.
        let failed = unsafe { libc::fcntl(writer.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK) };
        assert_eq!(failed, 0);
        let value = format!("leaks,exit=23{file}");
        let mut child = command("has much to tell", Some(&value), &folder)
            .stdout(Stdio::piped())
            .stderr(writer)
            .spawn()
            .expect("it runs");
        // The program is at its end then. Where it gives up, it does so at once.
        let mut output = child.stdout.take().expect("an output");
        output.read_exact(&mut [0; 12]).expect("the last words");
        std::thread::sleep(Duration::from_millis(500));
        let mut said = String::new();
        reader.read_to_string(&mut said).expect("text");
        assert_eq!(child.wait().expect("it ends").code(), Some(23), "{said}");
        let end = said.get(said.len().saturating_sub(100)..);
        assert!(said.len() > 1 << 16, "{}: {end:?}", said.len());
        assert!(said.contains("256 blocks leaked, 2,048 bytes, at 256 sites"));
        assert_eq!(said.matches(", born at ").count(), 256, "{file}: {end:?}");
        assert!(said.ends_with('\n'), "{file}: {end:?}");
    }
}

/// Bug prevented: nobody reads a full standard error, and a word about a wrong setting keeps
/// the program from its `main`.
fn a_wrong_setting_waits_for_no_reader() {
    let folder = folder("environment-files-full");
    let (reader, mut writer) = std::io::pipe().expect("a pipe");
    // SAFETY: a pipe of ours, and flags.
    let failed = unsafe { libc::fcntl(writer.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK) };
    assert_eq!(failed, 0);
    while writer.write(&[b'.'; 4_096]).is_ok() {}
    for value in [
        "bogus",
        "profile,every=1,at=signal,signal=USR2,file=no/such/file",
    ] {
        let output = command("says how often it has slept", Some(value), &folder)
            .stderr(writer.try_clone().expect("a number"))
            .output()
            .expect("it runs");
        assert_eq!(output.status.code(), Some(OWN_CODE.into()), "{value}");
        // Who waits looks every millisecond.
        let sleeps: u32 = String::from_utf8_lossy(&output.stdout)
            .parse()
            .expect("a number");
        assert!(sleeps < 1_000, "{value}: {sleeps}");
    }
    drop(reader);
}

/// Bug prevented: a program runs for a day, and only then says that its report has no place.
fn a_file_without_a_folder_is_told_before_the_program_runs() {
    let folder = folder("environment-files-none");
    for value in [
        "profile,every=1,file=no/such/{pid}.html",
        "leaks,file=no/such/{pid}.txt",
    ] {
        let (code, said, output) = run(command("talks", Some(value), &folder));
        assert_eq!(code, Some(OWN_CODE), "{said}");
        assert_eq!(output.stdout, b"line before\nline after");
        let lines: Vec<_> = said.lines().collect();
        let name = value.split_once("file=").expect("a file").1;
        let begin = format!("heapledger: HEAPLEDGER: file={name}: there is no folder ");
        assert!(lines[0].starts_with(&begin), "{said}");
        let place = folder.join("no/such");
        let rest = format!(
            "{}: make it before the report, or name another file",
            place.display()
        );
        assert!(lines[0].ends_with(&rest), "{said}");
        assert_eq!(lines[1], "err line", "{said}");
        // As it always was.
        assert!(lines[2].contains("cannot write "), "{said}");
        assert!(lines[2].contains("No such file or directory"), "{said}");
    }
}

/// Bug prevented: a file that can be written is given up, as its folder cannot be; and where
/// nothing can be, that is told when it is too late.
fn where_the_folder_may_not_be_written_an_old_file_is_written_over() {
    let folder = std::env::temp_dir().join(format!("heapledger-locked-{}", std::process::id()));
    fs::create_dir(&folder).expect("a folder");
    let program = folder.join("program");
    fs::copy(std::env::current_exe().expect("a path"), &program).expect("a copy");
    let file = folder.join("old.txt");
    fs::write(&file, "the old one, ".repeat(10_000)).expect("a file");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o666)).expect("ours");
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o555)).expect("ours");
    // SAFETY: takes nothing and touches nothing.
    let is_root = unsafe { libc::geteuid() } == 0;
    let run = |value: &str| {
        let mut command = Command::new(&program);
        command.env(PART, "talks").env("HEAPLEDGER", value);
        command.current_dir(&folder);
        if is_root {
            // For root no folder is locked.
            command.uid(65_534).gid(65_534);
        }
        run(command)
    };
    let written = run("profile,every=1,file=old.txt");
    let text = fs::read_to_string(&file).expect("a file");
    let leaks = run("leaks,file=old.txt");
    let leaks_text = fs::read_to_string(&file).expect("a file");
    let refused = run("profile,every=1,file=new.txt");
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).expect("ours");
    let names = names_in(&folder);
    fs::remove_dir_all(&folder).expect("it goes");

    assert_eq!(
        (written.0, written.1.as_str()),
        (Some(OWN_CODE), "err line\n")
    );
    assert!(text.starts_with("heap profile"), "{text}");
    assert!(!text.contains("the old one"), "{text}");
    assert_eq!((leaks.0, leaks.1.as_str()), (Some(OWN_CODE), "err line\n"));
    assert!(leaks_text.starts_with("300 blocks leaked"), "{leaks_text}");
    let said = refused.1;
    let lines: Vec<_> = said.lines().collect();
    assert!(
        lines[0].contains("may not be written: allow it before the report"),
        "{said}"
    );
    assert_eq!(lines[1], "err line", "{said}");
    assert!(lines[2].contains("Permission denied"), "{said}");
    assert_eq!(names, ["old.txt", "program"]);
}

/// Bug prevented: a file that is a mount of its own, as in a container, is no place for a report.
fn a_file_that_is_mounted_alone_is_written_over() {
    let folder = folder("environment-files-mount");
    for name in ["outside", "inside.txt"] {
        fs::write(folder.join(name), "the old one").expect("a file");
    }
    let script = "mount --bind outside inside.txt || exit 99; exec \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", script, "sh"]);
    command.arg(std::env::current_exe().expect("a path"));
    command.env(PART, "talks").current_dir(&folder);
    command.env("HEAPLEDGER", "profile,every=1,file=inside.txt");
    match command.output() {
        Ok(output) if output.status.code() == Some(OWN_CODE.into()) => {
            assert_eq!(String::from_utf8_lossy(&output.stderr), "err line\n");
        }
        other => {
            println!("skipped: nothing may be mounted here: {other:?}");
            return;
        }
    }
    let text = fs::read_to_string(folder.join("outside")).expect("a file");
    assert!(text.starts_with("heap profile"), "{text}");
    assert_eq!(names_in(&folder), ["inside.txt", "outside"]);
}

/// Bug prevented: folded stacks at exit show what is alive there and nothing else can be asked
/// for; and names are always looked up.
fn figures_and_names_are_as_asked_for() {
    let folder = folder("environment-files-values");
    let stacks = |value: &str| {
        let value = format!("profile,every=1,file=a.folded{value}");
        let (code, said, _) = run(command("talks", Some(&value), &folder));
        assert_eq!((code, said.as_str()), (Some(OWN_CODE), "err line\n"));
        fs::read_to_string(folder.join("a.folded")).expect("a report")
    };
    assert!(!stacks("").contains("gone_at_the_end"));
    let total = stacks(",value=total");
    let line = total.lines().find(|line| line.contains("gone_at_the_end"));
    assert!(line.is_some_and(|line| line.ends_with(" 70000")), "{total}");
    let blocks = stacks(",value=total-blocks");
    let line = blocks.lines().find(|line| line.contains("gone_at_the_end"));
    assert!(line.is_some_and(|line| line.ends_with(" 1")), "{blocks}");

    for (names, has_names) in [("yes", true), ("no", false)] {
        let value = format!("profile,every=1,names={names},file=a.pb.gz");
        let (code, said, _) = run(command("talks", Some(&value), &folder));
        assert_eq!((code, said.as_str()), (Some(OWN_CODE), "err line\n"));
        let gzip = fs::read(folder.join("a.pb.gz")).expect("a report");
        let mut gzip = zune_inflate::DeflateDecoder::new(&gzip);
        let pprof = gzip.decode_gzip().expect("gzip");
        let pprof = String::from_utf8_lossy(&pprof);
        assert_eq!(pprof.contains("planted_here"), has_names, "{pprof}");
        // What names are looked up in later.
        assert!(pprof.contains("environment_files-"), "{pprof}");
    }
}

fn main() -> ExitCode {
    if let Ok(part) = std::env::var(PART) {
        return program(&part);
    }
    support::main(cases![
        a_report_to_a_log_comes_after_what_is_there,
        a_forked_childs_report_to_a_log_comes_there_too,
        what_a_program_saves_to_its_output_comes_in_its_place,
        a_report_does_not_wait_for_who_keeps_standard_output,
        a_report_waits_for_who_reads_standard_error_late,
        a_wrong_setting_waits_for_no_reader,
        a_file_without_a_folder_is_told_before_the_program_runs,
        where_the_folder_may_not_be_written_an_old_file_is_written_over,
        a_file_that_is_mounted_alone_is_written_over,
        figures_and_names_are_as_asked_for,
    ])
}
