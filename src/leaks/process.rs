//! A leak check of the whole process, from some point in `main` to its end.

use std::fs::File;
use std::io::{self, Write};
use std::path::{self, Path, PathBuf};

use crate::error::Error;
use crate::leaks::check::{Check, Scene};
use crate::leaks::report::LeakReport;
use crate::leaks::stream::{self, Stream};
use crate::leaks::way_out::{self, NoReport};
use crate::record::{self, Everyone, Owner};

/// The settings of a leak check of the whole process.
///
/// It sees what all threads allocate from its start on, whether or not they
/// know of it, and reports what is still alive when its guard is dropped: as
/// the first thing in `main`, it reports at the end of `main`. (Within a
/// [`Check`] that began before it, blocks are that check's alone; what one
/// leaves alive that began later is alive here, too.)
///
/// ```
/// # #[global_allocator]
/// # static HEAP: heapledger::TrackingAllocator = heapledger::TrackingAllocator::new();
/// use heapledger::leaks::Process;
///
/// # fn main() -> Result<(), heapledger::Error> {
/// let _leaks = Process::new().exit_code(23).start()?;
/// drop(vec![1, 2, 3]); // the program
/// # Ok(())
/// # }
/// ```
///
/// Reported is every block that is still alive, also what is kept on purpose to
/// the end: leave it out with [`suppress`](Self::suppress) or
/// [`allow_bytes`](Self::allow_bytes), or start the check after it was made.
/// What std itself keeps (the buffers of the standard streams, a thread's list
/// of thread locals) is told apart, in [`LeakReport::runtime`].
///
/// The guard reports when it is dropped, and [`std::process::exit`] drops nothing: a
/// program that ends by it is not checked, and its exit code stays its own. So it is when
/// the process aborts or is killed. Give the code back from `main` as an
/// [`ExitCode`](std::process::ExitCode), drop the guard before such a call, or run the program
/// with `HEAPLEDGER=leaks` in its environment, which needs no guard and reports within `exit`
/// (Linux).
///
/// Recording makes every allocation of the program slower, several times in the
/// worst case, and costs some 30 bytes for each block that is alive.
#[derive(Clone, Debug, Default)]
pub struct Process {
    check: Check,
    /// `None` is standard error.
    file: Option<PathBuf>,
    exit_code: Option<u8>,
}

impl Process {
    /// A check that allows nothing and reports to standard error.
    ///
    /// ```
    /// # #[global_allocator]
    /// # static HEAP: heapledger::TrackingAllocator = heapledger::TrackingAllocator::new();
    /// use heapledger::leaks::Process;
    ///
    /// let leaks = Process::new().start()?;
    /// // A thread that was told nothing of it.
    /// let thread = std::thread::spawn(|| std::mem::forget(std::hint::black_box(vec![0u8; 100])));
    /// thread.join().unwrap();
    /// assert_eq!(leaks.finish().unwrap_err().bytes(), 100);
    /// # Ok::<(), heapledger::Error>(())
    /// ```
    pub fn new() -> Self {
        Self::default()
    }

    /// Reports to standard error, as it does if not told otherwise. Nothing is
    /// written when there are no leaks.
    ///
    /// ```
    /// # #[global_allocator]
    /// # static HEAP: heapledger::TrackingAllocator = heapledger::TrackingAllocator::new();
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # if std::env::args().len() == 1 {
    /// #     let mut program = std::process::Command::new(std::env::current_exe()?);
    /// #     let program = program.arg("again").output()?;
    /// #     let said = String::from_utf8(program.stderr)?;
    /// #     assert!(said.starts_with("heapledger: 1 block leaked, 100 bytes, at 1 site\n"));
    /// #     return Ok(());
    /// # }
    /// use heapledger::leaks::Process;
    ///
    /// let leaks = Process::new().to_file("leaks.txt");
    /// // In a terminal, after all:
    /// let _leaks = leaks.to_stderr().start()?;
    /// std::mem::forget(std::hint::black_box(vec![0u8; 100]));
    /// // At the end: `heapledger: 1 block leaked, 100 bytes, at 1 site`, and where.
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn to_stderr(mut self) -> Self {
        self.file = None;
        self
    }

    /// Reports to a file, which is overwritten at the end, and empty when there
    /// are no leaks. If it cannot be written, standard error says so, and has
    /// the report. A path without a root begins where the program is when the
    /// check is [started](Self::start), wherever it goes later.
    ///
    /// Where the path leads to standard output or standard error (`/dev/stdout`, or
    /// the log that they go to), the report is added there: nothing is overwritten. It waits
    /// for who reads them; where they are non-blocking, five seconds for one who takes nothing.
    ///
    /// ```
    /// # #[global_allocator]
    /// # static HEAP: heapledger::TrackingAllocator = heapledger::TrackingAllocator::new();
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let path = std::env::temp_dir().join(format!("heapledger-{}.txt", std::process::id()));
    /// use heapledger::leaks::Process;
    ///
    /// let leaks = Process::new().to_file(&path).start()?;
    /// std::mem::forget(std::hint::black_box(vec![0u8; 100]));
    /// drop(leaks);
    /// let report = std::fs::read_to_string(&path)?;
    /// assert!(report.starts_with("1 block leaked, 100 bytes, at 1 site\n"));
    /// # std::fs::remove_file(&path)?;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn to_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.file = Some(path.into());
        self
    }

    /// Ends the process with this code when the guard is dropped and there are
    /// leaks, or when there may be, as no memory was left to look for them. With 0
    /// the process ends as it would without: a program that fails does not succeed because
    /// it leaks.
    ///
    /// Standard output is flushed before, unless another thread keeps its lock for
    /// seconds or there is no memory; what else should happen at the end of the process (destructors in
    /// `main` that come after the guard's, `atexit` handlers) does not.
    ///
    /// ```
    /// # #[global_allocator]
    /// # static HEAP: heapledger::TrackingAllocator = heapledger::TrackingAllocator::new();
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # if std::env::args().len() == 1 {
    /// #     let mut program = std::process::Command::new(std::env::current_exe()?);
    /// #     let program = program.arg("again").output()?;
    /// #     assert_eq!(program.status.code(), Some(23));
    /// #     return Ok(());
    /// # }
    /// use heapledger::leaks::Process;
    ///
    /// let _leaks = Process::new().exit_code(23).start()?;
    /// std::mem::forget(std::hint::black_box(vec![0u8; 100]));
    /// // At the end of `main` the process ends with code 23, and would with 0 without the leak.
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn exit_code(mut self, code: u8) -> Self {
        // Who asks for success where there are leaks does not ask for it where all went wrong.
        self.exit_code = Some(code).filter(|&code| code != 0);
        self
    }

    /// Tolerates up to `blocks` leaked blocks, as [`Check::allow_blocks`].
    ///
    /// ```
    /// # #[global_allocator]
    /// # static HEAP: heapledger::TrackingAllocator = heapledger::TrackingAllocator::new();
    /// use heapledger::leaks::Process;
    ///
    /// let leaks = Process::new().allow_blocks(1).start()?;
    /// let table: &'static [u8] = std::hint::black_box(vec![0u8; 5_000]).leak(); // for good
    /// assert!(leaks.finish().is_ok());
    /// # std::hint::black_box(table);
    /// # Ok::<(), heapledger::Error>(())
    /// ```
    #[must_use]
    pub fn allow_blocks(mut self, blocks: u64) -> Self {
        self.check = self.check.allow_blocks(blocks);
        self
    }

    /// Tolerates up to `bytes` leaked bytes, as [`Check::allow_bytes`].
    ///
    /// ```
    /// # #[global_allocator]
    /// # static HEAP: heapledger::TrackingAllocator = heapledger::TrackingAllocator::new();
    /// use heapledger::leaks::Process;
    ///
    /// let leaks = Process::new().allow_bytes(1_000).start()?;
    /// let table: &'static [u8] = std::hint::black_box(vec![0u8; 5_000]).leak();
    /// assert_eq!(leaks.finish().unwrap_err().bytes(), 5_000); // not 4,000
    /// # std::hint::black_box(table);
    /// # Ok::<(), heapledger::Error>(())
    /// ```
    #[must_use]
    pub fn allow_bytes(mut self, bytes: u64) -> Self {
        self.check = self.check.allow_bytes(bytes);
        self
    }

    /// Does not count blocks with a function in their stack whose name matches
    /// `pattern`, as [`Check::suppress`]: `*` alone matches every name, and an empty
    /// pattern none.
    ///
    /// ```
    /// # #[global_allocator]
    /// # static HEAP: heapledger::TrackingAllocator = heapledger::TrackingAllocator::new();
    /// use heapledger::leaks::Process;
    /// use std::sync::OnceLock;
    ///
    /// fn load_names() -> &'static [u8] {
    ///     static NAMES: OnceLock<Vec<u8>> = OnceLock::new();
    ///     NAMES.get_or_init(|| std::hint::black_box(vec![0u8; 100])) // kept to the end
    /// }
    /// let leaks = Process::new().suppress("load_names").start()?;
    /// assert_eq!(load_names().len(), 100);
    /// assert!(leaks.finish().is_ok());
    /// # Ok::<(), heapledger::Error>(())
    /// ```
    #[must_use]
    pub fn suppress(mut self, pattern: &str) -> Self {
        self.check = self.check.suppress(pattern);
        self
    }

    /// Starts the check.
    ///
    /// # Errors
    /// [`Error::is_already_profiling`] when there is such a check already, or a
    /// [`Profiler`](crate::Profiler); [`Error::is_not_installed`],
    /// [`Error::is_no_memory`], [`Error::is_thread_ending`], [`Error::is_busy`].
    ///
    /// ```
    /// # #[global_allocator]
    /// # static HEAP: heapledger::TrackingAllocator = heapledger::TrackingAllocator::new();
    /// use heapledger::leaks::Process;
    ///
    /// let old = std::hint::black_box(vec![0u8; 100]);
    /// let leaks = Process::new().start()?;
    /// assert!(Process::new().start().unwrap_err().is_already_profiling()); // one at a time
    /// assert!(leaks.finish().is_ok()); // what is older does not count
    /// # drop(old);
    /// # Ok::<(), heapledger::Error>(())
    /// ```
    pub fn start(mut self) -> Result<ProcessGuard, Error> {
        // Before the recording begins, as a path is a block that is kept to its end. Where there is
        // no such folder, the path stays as it is, and the report's own error tells.
        if let Some(path) = &self.file
            && let Ok(path) = path::absolute(path)
        {
            self.file = Some(path);
        }
        Ok(ProcessGuard {
            everyone: Some(Everyone::start()?),
            owner: Owner::here(),
            settings: self,
        })
    }
}

/// A leak check of the whole process under way; from [`Process::start`].
///
/// Dropping it ends the check and reports. While a panic unwinds through it,
/// there is no verdict, and standard error says so: what a panic leaves behind
/// is not what the program leaks.
///
/// Nor is there one in a child that `fork` has made, which ends with a code of its own:
/// it has all blocks that its parent had, and the file is the parent's. Standard
/// error says so there, too.
///
/// It may be kept and dropped anywhere: in `main`, on another thread, in a
/// thread local. In a `static` it is never dropped, and so never reports, unless
/// somebody takes it out.
///
/// ```
/// # #[global_allocator]
/// # static HEAP: heapledger::TrackingAllocator = heapledger::TrackingAllocator::new();
/// use heapledger::leaks::{Process, ProcessGuard};
/// use std::cell::Cell;
///
/// thread_local! {
///     static LEAKS: Cell<Option<ProcessGuard>> = const { Cell::new(None) };
/// }
/// LEAKS.set(Some(Process::new().start()?));
/// drop(std::hint::black_box(vec![1, 2, 3])); // the program
/// assert_eq!(LEAKS.take().map(ProcessGuard::finish), Some(Ok(())));
/// # Ok::<(), heapledger::Error>(())
/// ```
#[derive(Debug)]
#[must_use = "the check ends when this is dropped"]
pub struct ProcessGuard {
    settings: Process,
    /// `None` when it is over.
    everyone: Option<Everyone>,
    /// Who began it; another process is its child.
    owner: Owner,
}

impl ProcessGuard {
    /// Ends the check and gives its verdict instead of reporting it. The
    /// process goes on in any case. In a forked child that is a verdict on what its
    /// parent had, too.
    ///
    /// # Errors
    /// The report, when more is alive than allowed, or when blocks could not be
    /// recorded.
    ///
    /// ```
    /// # #[global_allocator]
    /// # static HEAP: heapledger::TrackingAllocator = heapledger::TrackingAllocator::new();
    /// use heapledger::leaks::Process;
    ///
    /// let leaks = Process::new().exit_code(23).start()?;
    /// std::mem::forget(std::hint::black_box(vec![0u8; 100]));
    /// let report = leaks.finish().unwrap_err(); // no report on standard error, and no exit
    /// assert_eq!((report.blocks(), report.bytes()), (1, 100));
    /// # Ok::<(), heapledger::Error>(())
    /// ```
    pub fn finish(mut self) -> Result<(), LeakReport> {
        self.everyone
            .take()
            .map_or(Ok(()), |everyone| self.settings.judge(everyone))
    }

    /// Reports as dropping it does, but leaves it to the caller to end the
    /// process with the code that this gives.
    // Elsewhere nobody asks for it.
    #[cfg(target_os = "linux")]
    pub(crate) fn report(mut self) -> Option<u8> {
        self.conclude()
    }

    fn conclude(&mut self) -> Option<u8> {
        way_out::undisturbed(|| self.speak())
    }

    fn speak(&mut self) -> Option<u8> {
        let everyone = self.everyone.take()?;
        if std::thread::panicking() {
            drop(everyone);
            say("the program panics, so nobody has looked for leaks");
            return None;
        }
        if !self.owner.is_here() {
            drop(everyone);
            say("a forked child has all that its parent had, so nobody has looked for leaks");
            return None;
        }
        // First: what we allocate from now on is nobody's leak, even on a thread that is ending
        // and cannot be quiet.
        everyone.leave();
        let settings = &self.settings;
        let refused =
            record::quietly(|| NoReport::for_want_of_memory("nobody has looked for leaks"));
        if let Some(why) = refused {
            everyone.abandon();
            settings.say_nothing_is_known(&why);
            // There may be leaks: a check that could not look must not pass.
            return settings.exit_code;
        }
        let verdict = settings.judge(everyone);
        record::quietly(|| settings.report(verdict.as_ref().err()));
        verdict.err().and(settings.exit_code)
    }
}

impl Drop for ProcessGuard {
    fn drop(&mut self) {
        if let Some(code) = self.conclude() {
            record::quietly(|| way_out::end(code));
        }
    }
}

impl Process {
    fn judge(&self, everyone: Everyone) -> Result<(), LeakReport> {
        // As above.
        everyone.leave();
        self.check.conclude(Scene::Process(everyone))
    }

    /// Without memory: the file must not look as if there were no leaks.
    fn say_nothing_is_known(&self, why: &NoReport) {
        if let Some(path) = &self.file {
            // Nor is there any for an error that would say more.
            drop(write_to(path, why.bare()));
        }
        way_out::say(why.line());
    }

    fn report(&self, leaks: Option<&LeakReport>) {
        let text = leaks.map_or(String::new(), |report| format!("{report}\n"));
        if let Some(path) = &self.file {
            match write_to(path, &text) {
                Ok(()) => return,
                Err(error) => say(&format!(
                    "cannot write the leak report to {}: {error}",
                    path.display()
                )),
            }
        }
        if !text.is_empty() {
            say(text.trim_end());
        }
    }
}

/// Writes over what is there, but for files that are open already: they are added to.
fn write_to(path: &Path, text: &str) -> io::Result<()> {
    match Stream::at(path) {
        Some(_) if text.is_empty() => Ok(()),
        Some(stream) => {
            way_out::flush_unless_kept();
            stream?.write_all(text.as_bytes())
        }
        None => stream::opened(|| File::create(path))?.write_all(text.as_bytes()),
    }
}

fn say(text: &str) {
    way_out::say(&format!("heapledger: {text}\n"));
}
