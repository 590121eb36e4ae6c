//! The profile that the variable has asked for, and its reports.

use core::mem;
use core::time::Duration;
use std::fs;
use std::path::{Path, PathBuf};

use once_cell::sync::OnceCell;

use crate::environment::names::Name;
use crate::environment::settings::{Order, Report, Signal, Wanted, parse};
use crate::environment::{VARIABLE, check, reach};
use crate::leaks::stream::Stream;
use crate::leaks::way_out::{self, NoReport};
use crate::profile::{Counted, Profiler};
use crate::record::{self, Owner};
use crate::sync::{AtomicU64, Mutex, MutexGuard, Ordering};

static RUNNING: OnceCell<Running> = OnceCell::new();

/// How long the end of the process waits for a report that is under way.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// A profile under way, to the end of the process.
struct Running {
    profiler: Profiler,
    reports: Vec<Report>,
    /// Whether names are looked up.
    names: bool,
    /// The process that began it; another is its child.
    owner: Owner,
    at_exit: bool,
    reported: AtomicU64,
    /// Held while a report is written: one of them may be the last, at exit, and that keeps it.
    writing: Mutex<()>,
}

/// What is still to be arranged once the profile runs, besides the end.
pub(super) struct Moments {
    pub(super) signal: Option<Signal>,
}

/// Says a line to the person who has set the variable: there is nobody else
/// who could be told, as no code has called us. Before the program runs.
pub(super) fn tell(what: &str) {
    say(what, way_out::say_at_once);
}

/// The same for a report that there is not.
fn tell_instead(what: &str) {
    say(what, way_out::say);
}

fn say(what: &str, how: impl FnOnce(&str)) {
    record::quietly(|| {
        let line = format!("heapledger: {what}\n");
        way_out::undisturbed(|| how(&line));
    });
}

/// Does what the variable's value says; nothing more is to be arranged when
/// that is nothing, or cannot be done.
///
/// Quietly but for what starts a recording: the first one learns which frames are the
/// allocator's own by having itself recorded, and allocates nothing else once it is under way.
pub(super) fn begin(value: &str) -> Option<Moments> {
    let begun = match record::quietly(|| parse(value)) {
        Ok(Order::Nothing) => return None,
        Ok(Order::Profile(wanted)) => start(wanted),
        Ok(Order::Leaks(wanted)) => check::start(wanted).map(|()| Moments { signal: None }),
        Err(wrong) => Err(wrong),
    };
    begun
        .map_err(|why| {
            let value = value.escape_debug();
            record::quietly(|| tell(&format!("{VARIABLE}={value} does nothing: {why}")));
        })
        .ok()
}

/// Where the program was started.
pub(super) fn here() -> PathBuf {
    std::env::current_dir().unwrap_or_default()
}

fn start(wanted: Wanted) -> Result<Moments, String> {
    let reports = record::quietly(|| {
        let folder = here();
        let bound = |report: Report| Report {
            name: report.name.from(&folder),
            ..report
        };
        let reports: Vec<Report> = wanted.reports.into_iter().map(bound).collect();
        for report in &reports {
            warn(&report.name, true);
        }
        reports
    });
    let profiler = Profiler::builder()
        .sample_every(wanted.every)
        .start()
        .map_err(|error| error.to_string())?;
    let running = Running {
        profiler,
        reports,
        names: wanted.names,
        owner: Owner::here(),
        at_exit: wanted.at_exit,
        reported: AtomicU64::new(0),
        writing: Mutex::new(()),
    };
    // Only `start` fills it, and it runs once.
    drop(RUNNING.set(running));
    Ok(Moments {
        signal: wanted.signal,
    })
}

/// Whether a report there is added to what others write: a stream, a device, a pipe.
fn is_shared(path: &Path) -> bool {
    Stream::is_at(path) || fs::metadata(path).is_ok_and(|there| !there.is_file())
}

/// Says at once what a report will not get over at the end, when it is too late.
pub(super) fn warn(name: &Name, is_replaced: bool) {
    let path = name.path(&std::process::id().to_string(), 1, false);
    if let Some(why) = reach::trouble(&path, is_replaced) {
        tell(&format!("{VARIABLE}: file={}: {why}", name.text()));
    }
}

/// Writes the reports.
pub(super) fn report() {
    if let Some(running) = RUNNING.get() {
        record::quietly(|| drop(running.report_alone()));
    }
}

/// The same at the end of the process, if that is wanted then. One that is under way is waited
/// for, and none begins behind it.
pub(super) fn last_report() {
    if let Some(running) = RUNNING.get() {
        record::quietly(|| {
            mem::forget(if running.at_exit {
                running.report_alone()
            } else {
                running.alone()
            });
        });
    }
}

impl Running {
    /// Waits until nobody writes a report, which may allocate; not for ever, as one may wait for
    /// somebody to read it. `None` then, and in a child, where the lock may be held by a thread
    /// that is not there, and no other writes.
    fn alone(&self) -> Option<MutexGuard<'_, ()>> {
        let is_here = self.owner.is_here();
        is_here.then(|| self.writing.try_lock_for(PATIENCE))?
    }

    /// Writes the reports, and gives what keeps others from it.
    fn report_alone(&self) -> Option<MutexGuard<'_, ()>> {
        let alone = self.alone();
        if alone.is_none() && self.owner.is_here() {
            tell_instead("no report of the heap: the one before does not come to its end");
            return None;
        }
        way_out::undisturbed(|| self.report_or_say_why_not());
        alone
    }

    fn report_or_say_why_not(&self) {
        // It takes no memory, but it may wait.
        record::notice_libraries();
        // First: what is asked for next would be the program's peak, and its last thread's work.
        let counted = Counted::now();
        match NoReport::for_want_of_memory("no report of the heap") {
            Some(why) => way_out::say(why.line()),
            None => self.report(counted),
        }
    }

    fn report(&self, counted: Counted) {
        let forked = !self.owner.is_here();
        let number = self.owner.number_here();
        let n = self.reported.fetch_add(1, Ordering::Relaxed) + 1;
        let mut profile = self.profiler.snapshot_with(counted);
        if self.names {
            // It is now or never: who reads it later has not the process.
            profile.symbolize();
        }
        for Report { name, format } in &self.reports {
            // What is no file of its own is the child's as well as its parent's.
            let plain = name.path(&number, n, false);
            let path = if forked && !is_shared(&plain) {
                name.path(&number, n, true)
            } else {
                plain
            };
            if let Err(error) = profile.save_unattended(&path, *format) {
                tell_instead(&error.to_string());
            }
        }
        // It goes on, perhaps for weeks.
        record::forget_symbols();
    }
}
