//! `HEAPLEDGER=…`: an installed program profiles itself, without a rebuild.
//!
//! ```sh
//! HEAPLEDGER=profile ./server                              # heap-4711.html when it ends
//! HEAPLEDGER=profile,signal=USR2,file=heap-{n}.pb.gz ./server &
//! kill -USR2 $!                                            # heap-1.pb.gz now, and it goes on
//! HEAPLEDGER=profile,every=allocation,file=a.txt,file=a.folded,value=peak ./tool
//! HEAPLEDGER=leaks,exit=23 ./tool                          # what is alive at its end
//! ```
//!
//! The program must have been built with the feature `profile` and have a
//! [`TrackingAllocator`](crate::TrackingAllocator) as its global allocator;
//! nothing is to be called. Linux only: elsewhere the variable is not looked
//! at. A program that runs without the variable has looked for it, counted its
//! libraries and asked where its file lies, once before `main`, and that is all.
//!
//! # Settings
//!
//! `HEAPLEDGER` is `profile`, `leaks` or `off`, then settings, all divided by
//! commas. An empty value is `off`.
//!
//! | `profile` | what it says | if it is not there |
//! |---|---|---|
//! | `every=512k` | one sample in so many bytes on average, with `k`, `m` or `g`; `1` or `allocation` records every allocation | `512k` |
//! | `file=NAME` | where a report goes; several make several reports | `heap-{pid}.html`, or with a signal `heap-{pid}-{n}.html` |
//! | `format=html` | `html`, `text`, `dhat`, `pprof` or `folded`; without a file also several | by the ending of the file: `.html`, `.txt`, `.json`, `.pb.gz` or `.pb`, `.folded` |
//! | `value=live` | the one figure of folded stacks: `live`, `peak` or `total` bytes, or `live-blocks`, `peak-blocks` or `total-blocks`; the other formats have all of them | `live`, of which little is left when the program ends |
//! | `names=yes` | `yes`, or `no`: pprof files with addresses, mappings and build ids, whose names are looked up later, as [`write_pprof`](crate::HeapProfile::write_pprof) says; for pprof only | `yes` |
//! | `at=exit` | `exit`: when the program ends, signal or not; `signal`: only on the signal | `exit` |
//! | `signal=USR2` | also whenever this signal comes: `HUP`, `USR1` or `USR2` | no signal |
//!
//! | `leaks` | what it says | if it is not there |
//! |---|---|---|
//! | `suppress=PATTERN` | leaves out blocks with such a function in their stack, as [`suppress`](crate::leaks::Check::suppress); several are accepted | nothing is left out |
//! | `exit=23` | the exit code when there are leaks, or no memory to look for them, 1 to 255; 0 is the program's own | the program's own |
//! | `file=NAME` | where the report goes, empty when there are no leaks | standard error |
//!
//! In a file's name `{pid}` is the number of the process, `{n}` that of the
//! report in the process, from 1. A name without `{n}` is written over by the
//! process's next report. A name without a leading `/` begins where the program
//! was started, wherever it goes later. There is no way to write a comma, nor `%p` at
//! the end of a word, which others have for the number of the process and is refused.
//!
//! A report replaces the file of its name, whole or not at all, as
//! [`save`](crate::HeapProfile::save) does. Where the folder cannot be written, or the
//! file is a mount of its own, the old file is written over, and who reads it
//! meanwhile has half a report; that of `leaks` always is. A name that leads to
//! standard output or standard error (`/dev/stdout`, `/dev/fd/2`, the log that they go
//! to) replaces nothing: the report is added after what the program has written. A
//! line that is not ended comes before it, unless a thread keeps standard output
//! for more than a second. A report waits for who reads them, but not for ever where they are
//! non-blocking: five seconds for one who takes nothing. A forked child writes to a device, a
//! pipe or an open file under the same name, and to another file under its own number.
//!
//! A setting that is wrong is told in one line on standard error, and the program then
//! runs as if nothing had been set. A file that cannot be written is told at the
//! end, and where that is plain before (there is no such folder, or it may not be
//! written) also at the start. The program ends as it would in any case.
//!
//! # What to know
//!
//! - The report at the end is written by `exit`: when `main` returns, also by a
//!   panic that unwinds, and by [`std::process::exit`]. There is none when the
//!   process is killed or aborts, which is what a panic does with
//!   `panic = "abort"`, and none after `_exit`.
//! - On the signal a thread of ours writes the report; its name is `heapledger`,
//!   it blocks all signals and sleeps in between. There is no such thread unless
//!   a signal is set. Reports are written one after the other, and those that were
//!   asked for when the program ends are waited for, up to a minute for one that
//!   does not come to its end. A program that takes the
//!   signal for itself later has taken it.
//! - All names are looked up, also for pprof unless `names=no`, which costs some tens of
//!   milliseconds and megabytes with the first report. None of what reports
//!   allocate is profiled.
//! - Before a report, a block of 64 MiB, twice the size of the program's file, and what the
//!   report's blocks and stacks take at most (with `leaks` 100 bytes for each block that
//!   is alive) is asked for and given back, as a report that ran out of memory would abort
//!   the program. The report's own counters are of before that; those of reports after the
//!   first one, and what the program asks for itself, show it as their peak. Where it is
//!   refused, a line on standard error says so instead, and nothing else happens; only with
//!   `exit=` the process ends with that code, since nobody has looked.
//! - There is one profile or leak check of the whole process at a time: one that
//!   the program starts itself gets an error while the variable is set. Checks of
//!   closures are not touched by it.
//! - `leaks` finds all that is alive when the program ends, also what statics
//!   keep: see [`leaks::Process`](crate::leaks::Process). An exit code comes in the
//!   place of the program's own: what else happens at the end happens with it, too
//!   (but with another C library than glibc, exit handlers that were there before
//!   the program's own are not called then).
//! - A program that is started by this one inherits the variable, and does the
//!   same when it is built so; `{pid}` keeps the reports apart.
//! - A child of `fork` that ends by `exit` writes a report of its own. Where the
//!   name has no `{pid}` its number is put before the ending, so that it never
//!   writes over its parent's; one that has its parent's own number, in a pid
//!   namespace, is `{pid}-fork1` there. It has no thread for the signal, and says so.
//!   It gives no verdict on leaks, as it has all that its parent had.
//! - Set-user-id programs, and all that gain rights by being started, do not
//!   heed the variable, and say so: it would let others write files.
//! - A shared library with a heapledger of its own does not heed it either, and
//!   says so: it is for the program.

mod check;
#[expect(
    unsafe_code,
    reason = "runs before `main` and at exit, and handles a signal"
)]
mod door;
mod names;
#[expect(unsafe_code, reason = "asks the system what may be written")]
mod reach;
mod settings;
mod work;

/// The variable.
const VARIABLE: &str = "HEAPLEDGER";
