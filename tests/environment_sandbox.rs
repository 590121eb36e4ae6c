//! `HEAPLEDGER=…` where the system refuses what is granted elsewhere: each program is this test
//! binary, started again.
#![cfg(all(feature = "profile", target_os = "linux", target_arch = "x86_64"))]
#![allow(
    unsafe_code,
    reason = "sets limits and filters, closes files, and ends threads past the standard library"
)]

use std::fs::{self, File};
use std::hint::black_box;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::thread;
use std::time::Duration;

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

/// Says to the program which calls are refused to it, and with what: `NUMBER=ERRNO,…`.
const REFUSED: &str = "HEAPLEDGER_TEST_REFUSED";

// --- the programs

#[inline(never)]
fn planted_here() {
    for _ in 0..300 {
        std::mem::forget(black_box(vec![1u8; 1_000]));
    }
}

fn program(part: &str) -> ExitCode {
    // Who waits for it may be killed, and some of these go on for ever.
    // SAFETY: asks for a signal that ends the process.
    unsafe { libc::alarm(240) };
    if let Ok(refused) = std::env::var(REFUSED) {
        refuse(&refused);
    }
    match part {
        "talks" => println!("line before"),
        "has one free number" => {
            println!("line before");
            let most = libc::rlimit {
                rlim_cur: 3,
                rlim_max: 3,
            };
            // SAFETY: nobody reads standard input.
            unsafe { libc::close(0) };
            // SAFETY: the limit is there to be read.
            unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const most) };
        }
        "signals itself" => {
            // SAFETY: a signal to ourselves; there is a handler.
            unsafe { libc::raise(libc::SIGUSR2) };
        }
        "has closed its output" => {
            for number in [1, 2] {
                // SAFETY: std takes a closed one for one that takes everything.
                unsafe { libc::close(number) };
            }
            // More than one, so that there is no moment without.
            for _ in 0..4 {
                thread::spawn(|| {
                    loop {
                        println!("a worker's line");
                        eprintln!("a worker's line");
                    }
                });
            }
        }
        "goes on without its main thread" => {
            thread::spawn(|| {
                // Its file is gone from there when it has ended.
                while fs::read_link("/proc/self/exe").is_ok() {
                    thread::sleep(Duration::from_millis(1));
                }
                planted_here();
                std::process::exit(OWN_CODE.into());
            });
            // SAFETY: ends this thread alone, which nobody joins and which has lent out nothing.
            unsafe { libc::syscall(libc::SYS_exit, 0) };
        }
        other => panic!("no program {other:?}"),
    }
    planted_here();
    ExitCode::from(OWN_CODE)
}

/// Has the system refuse these calls to all threads from now on.
fn refuse(calls: &str) {
    let step = |code: u32, jf, k| libc::sock_filter {
        code: u16::try_from(code).expect("a code"),
        jt: 0,
        jf,
        k,
    };
    let answer = |what| step(libc::BPF_RET | libc::BPF_K, 0, what);
    // The number of the call comes first.
    let mut filter = vec![step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0)];
    for call in calls.split(',') {
        let (number, errno) = call.split_once('=').expect("NUMBER=ERRNO");
        let [number, errno] = [number, errno].map(|text| text.parse::<u32>().expect("a number"));
        filter.push(step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 1, number));
        filter.push(answer(libc::SECCOMP_RET_ERRNO | errno));
    }
    filter.push(answer(libc::SECCOMP_RET_ALLOW));
    let filter = libc::sock_fprog {
        len: filter.len().try_into().expect("a few"),
        filter: filter.as_mut_ptr(),
    };
    // SAFETY: only takes rights away from this process.
    let kept = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
    let (how, which) = (
        libc::SECCOMP_SET_MODE_FILTER,
        libc::SECCOMP_FILTER_FLAG_TSYNC,
    );
    // SAFETY: the program is there to be copied.
    let set = unsafe { libc::syscall(libc::SYS_seccomp, how, which, &raw const filter) };
    assert_eq!((kept, set), (0, 0), "no filter");
}

// --- what the tests need

/// The program where these calls are refused with these errors.
fn refused(part: &str, value: &str, folder: &Path, calls: &[(i64, i32)]) -> Command {
    let mut command = command(part, Some(value), folder);
    let calls: Vec<String> = calls
        .iter()
        .map(|(number, errno)| format!("{number}={errno}"))
        .collect();
    command.env(REFUSED, calls.join(","));
    command
}

/// How the program ended, and what it said on standard error.
#[track_caller]
fn run(mut command: Command) -> (Option<u8>, String) {
    let output = command.output().expect("it runs");
    (code_of(&output), said_by(&output))
}

// --- the cases

/// Bug prevented: where an open file cannot be copied, the log that standard output goes to is
/// taken for a file of nobody's, and replaced by the report.
fn a_report_to_a_log_comes_after_what_is_there_also_without_a_copy() {
    let folder = folder("sandbox-log");
    for order in ["profile,every=1,format=text", "leaks"] {
        for is_full in [false, true] {
            let path = folder.join("log");
            let mut log = File::create(&path).expect("a file");
            log.write_all(b"of old\n").expect("written");
            let value = format!("{order},file=log");
            let mut command = if is_full {
                command("has one free number", Some(&value), &folder)
            } else {
                refused("talks", &value, &folder, &[(libc::SYS_fcntl, libc::EPERM)])
            };
            command.stdout(log);
            let (code, said) = run(command);
            assert_eq!((code, said.as_str()), (Some(OWN_CODE), ""), "{order}");
            let text = fs::read_to_string(&path).expect("the log");
            let begin = "of old\nline before\n";
            assert!(text.starts_with(begin), "{order} {is_full}: {text}");
            assert!(text.len() > begin.len() + 100, "{order} {is_full}: {text}");
        }
    }
    assert_eq!(names_in(&folder), ["log"]);
}

/// Bug prevented: a program that may not sleep is aborted at its end, while it waits for the
/// report that a signal has asked for.
fn a_program_that_may_not_sleep_ends_as_it_would() {
    let folder = folder("sandbox-sleep");
    let value = "profile,every=1,signal=USR2,file=r-{n}.txt";
    let calls = [
        (libc::SYS_clock_nanosleep, libc::EPERM),
        (libc::SYS_nanosleep, libc::EPERM),
    ];
    let (code, said) = run(refused("signals itself", value, &folder, &calls));
    assert_eq!((code, said.as_str()), (Some(OWN_CODE), ""));
    assert_eq!(names_in(&folder), ["r-1.txt", "r-2.txt"]);
}

/// Bug prevented: where standard output and standard error are closed, the report's file gets
/// their numbers, and what threads print meanwhile comes into it.
fn what_a_program_prints_to_a_closed_output_is_not_in_a_report() {
    let folder = folder("sandbox-closed");
    for (order, name) in [
        ("profile,every=1", "heap.txt"),
        ("profile,every=1", "old.txt"),
        ("leaks", "heap.txt"),
    ] {
        fs::write(folder.join("old.txt"), "").expect("a file");
        let value = format!("{order},file={name}");
        let (code, _) = run(command("has closed its output", Some(&value), &folder));
        assert_eq!(code, Some(OWN_CODE));
        let text = fs::read_to_string(folder.join(name)).expect("a report");
        assert!(text.contains("planted_here"), "{value}: {text}");
        assert!(!text.contains("a worker's line"), "{value}: {text}");
    }
}

/// Bug prevented: once the main thread has ended, nobody finds the program's file where the system
/// shows that thread's, and no function has a name.
fn a_program_without_its_main_thread_has_names() {
    let folder = folder("sandbox-main");
    for value in ["profile,every=1,file=heap.txt", "leaks,file=heap.txt"] {
        let part = "goes on without its main thread";
        let (code, said) = run(command(part, Some(value), &folder));
        assert_eq!((code, said.as_str()), (Some(OWN_CODE), ""), "{value}");
        let text = fs::read_to_string(folder.join("heap.txt")).expect("a report");
        assert!(text.contains("planted_here"), "{value}: {text}");
        assert!(text.contains("environment_sandbox.rs:"), "{value}: {text}");
    }
}

/// Bug prevented: a report that was written whole is thrown away, or said not to be there, since
/// the file system has no way to wait for the disk, or no permissions.
fn what_a_file_system_cannot_do_is_no_error() {
    let folder = folder("sandbox-files");
    let path = folder.join("heap.txt");
    let value = "profile,every=1,file=heap.txt";
    let cannot = [
        libc::EPERM,
        libc::EACCES,
        libc::EINVAL,
        libc::ENOSYS,
        libc::EOPNOTSUPP,
    ];
    for call in [libc::SYS_fsync, libc::SYS_fchmod] {
        for errno in cannot {
            fs::write(&path, "old").expect("a file");
            let (code, said) = run(refused("talks", value, &folder, &[(call, errno)]));
            assert_eq!((code, said.as_str()), (Some(OWN_CODE), ""), "{call}");
            let text = fs::read_to_string(&path).expect("a report");
            assert!(text.starts_with("heap profile"), "{call} {errno}: {text}");
        }
    }
    // What a disk has not taken is.
    for errno in [libc::EIO, libc::ENOSPC, libc::EDQUOT] {
        fs::write(&path, "old").expect("a file");
        let calls = [(libc::SYS_fsync, errno)];
        let (code, said) = run(refused("talks", value, &folder, &calls));
        assert_eq!(code, Some(OWN_CODE));
        assert!(said.contains("cannot write"), "{said}");
        assert_eq!(fs::read_to_string(&path).expect("the old one"), "old");
    }
    assert_eq!(names_in(&folder), ["heap.txt"]);
}

/// Bug prevented: a program whose table of segments a tool has moved behind the rest is taken for
/// a shared library, and its reports are refused.
fn a_program_whose_segments_were_moved_is_a_program() {
    let folder = folder("sandbox-moved");
    let path = folder.join("program");
    let own = std::env::current_exe().expect("a path");
    let program = with_moved_headers(fs::read(own).expect("this one"));
    fs::write(&path, program).expect("a program");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("ours");
    let mut moved = Command::new(&path);
    moved.env(PART, "talks").current_dir(&folder);
    moved.env("HEAPLEDGER", "profile,every=1,file=heap.txt");
    assert_eq!(run(moved), (Some(OWN_CODE), String::new()));
    let text = fs::read_to_string(folder.join("heap.txt")).expect("a report");
    assert!(text.contains("planted_here"), "{text}");
    fs::remove_file(&path).expect("ours");
}

/// The program with its table of segments at its end, in a segment of its own.
fn with_moved_headers(mut elf: Vec<u8>) -> Vec<u8> {
    const SIZE: usize = 56;
    const PAGE: usize = 4096;
    let word =
        |elf: &[u8], at: usize| u64::from_le_bytes(elf[at..at + 8].try_into().expect("eight"));
    let size = |number: u64| usize::try_from(number).expect("it fits");
    let first = size(word(&elf, 32));
    let count = usize::from(u16::from_le_bytes([elf[56], elf[57]]));
    let mut headers: Vec<[u8; SIZE]> = (0..count)
        .map(|n| {
            elf[first + n * SIZE..][..SIZE]
                .try_into()
                .expect("a header")
        })
        .collect();
    let kind = |header: &[u8; SIZE]| u32::from_le_bytes(header[..4].try_into().expect("four"));
    // Of what is loaded, which is in order of its place.
    let last = headers
        .iter()
        .rposition(|header| kind(header) == libc::PT_LOAD);
    let last = last.expect("code");
    let end = size(word(&headers[last], 16) + word(&headers[last], 40)).next_multiple_of(PAGE);
    let offset = elf.len().next_multiple_of(PAGE);
    let of_kind = |kind: u32, align: usize| {
        let mut header = [0; SIZE];
        header[..4].copy_from_slice(&kind.to_le_bytes());
        header[4..8].copy_from_slice(&libc::PF_R.to_le_bytes());
        for (at, value) in [
            (8, offset),
            (16, end),
            (24, end),
            (32, count * SIZE),
            (40, count * SIZE),
            (48, align),
        ] {
            header[at..at + 8].copy_from_slice(&value.to_le_bytes());
        }
        header
    };
    for header in &mut headers {
        if kind(header) == libc::PT_PHDR {
            *header = of_kind(libc::PT_PHDR, 8);
        }
    }
    headers.insert(last + 1, of_kind(libc::PT_LOAD, PAGE));
    // In the place of one that only says that the stack is no code.
    headers.retain(|header| kind(header) != libc::PT_GNU_STACK);
    assert_eq!(headers.len(), count);
    elf.resize(offset, 0);
    elf.extend(headers.as_flattened());
    elf[32..40].copy_from_slice(&offset.to_le_bytes());
    elf
}

fn main() -> ExitCode {
    if let Ok(part) = std::env::var(PART) {
        return program(&part);
    }
    support::main(cases![
        a_report_to_a_log_comes_after_what_is_there_also_without_a_copy,
        a_program_that_may_not_sleep_ends_as_it_would,
        what_a_program_prints_to_a_closed_output_is_not_in_a_report,
        a_program_without_its_main_thread_has_names,
        what_a_file_system_cannot_do_is_no_error,
        a_program_whose_segments_were_moved_is_a_program,
    ])
}
