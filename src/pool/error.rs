//! What can go wrong with a pool.

use core::error::Error;
use core::fmt;

/// What a [`Manager`](crate::pool::Manager)'s own error becomes.
pub(crate) type Cause = Box<dyn Error + Send + Sync>;

/// Why a pool gave no object.
///
/// Opaque, so that reasons can be added; ask it with the predicates. `Debug`
/// has the words of `Display` and of all causes, as it is what a failing
/// `unwrap` shows; `{:#?}` has the fields.
///
/// ```
/// use heapledger::pool::BoundedPool;
///
/// let pool = BoundedPool::<String>::new(1);
/// pool.close();
/// let error = pool.acquire().unwrap_err();
/// assert!(error.is_closed());
/// assert_eq!(error.to_string(), "the pool is closed");
/// ```
pub struct PoolError {
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    ZeroCapacity,
    Closed,
    Timeout,
    Create(Cause),
    LostInFork,
    WaitLostInFork,
}

impl PoolError {
    #[cold]
    pub(crate) const fn zero_capacity() -> Self {
        Self {
            kind: Kind::ZeroCapacity,
        }
    }

    #[cold]
    pub(crate) const fn closed() -> Self {
        Self { kind: Kind::Closed }
    }

    #[cold]
    pub(crate) const fn timeout() -> Self {
        Self {
            kind: Kind::Timeout,
        }
    }

    #[cold]
    pub(crate) const fn create(cause: Cause) -> Self {
        Self {
            kind: Kind::Create(cause),
        }
    }

    #[cold]
    pub(crate) const fn lost_in_fork() -> Self {
        Self {
            kind: Kind::LostInFork,
        }
    }

    #[cold]
    pub(crate) const fn wait_lost_in_fork() -> Self {
        Self {
            kind: Kind::WaitLostInFork,
        }
    }

    /// Whether a bounded pool was to be built for no objects at all.
    ///
    /// ```
    /// use heapledger::pool::{BoundedPool, Defaults};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let connections: usize = "0".parse()?; // as somebody has configured it
    /// let pool = BoundedPool::builder(connections).build(Defaults::<String>::new());
    /// assert!(pool.is_err_and(|error| error.is_zero_capacity()));
    /// # Ok(())
    /// # }
    /// ```
    pub const fn is_zero_capacity(&self) -> bool {
        matches!(self.kind, Kind::ZeroCapacity)
    }

    /// Whether the pool was closed, before the call or while it waited.
    ///
    /// ```
    /// let pool = heapledger::pool::BoundedPool::<String>::new(1);
    /// let text = pool.acquire().unwrap();
    /// std::thread::scope(|s| {
    ///     let waiting = s.spawn(|| pool.acquire().is_err_and(|error| error.is_closed()));
    ///     pool.close();
    ///     assert!(waiting.join().unwrap());
    /// });
    /// # drop(text);
    /// ```
    pub const fn is_closed(&self) -> bool {
        matches!(self.kind, Kind::Closed)
    }

    /// Whether the time was over before an object came back.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// let pool = heapledger::pool::BoundedPool::<String>::new(1);
    /// let text = pool.acquire().unwrap();
    /// let status = match pool.acquire_timeout(Duration::from_millis(1)) {
    ///     Ok(_) => 200,
    ///     Err(error) if error.is_timeout() => 503, // busy: come again later
    ///     Err(_) => 500,
    /// };
    /// assert_eq!(status, 503);
    /// # drop(text);
    /// ```
    pub const fn is_timeout(&self) -> bool {
        matches!(self.kind, Kind::Timeout)
    }

    /// Whether the manager failed to create an object. Its own error is the
    /// [`source`](Error::source).
    ///
    /// ```
    /// use std::error::Error;
    /// use std::fs::File;
    /// use std::io;
    ///
    /// use heapledger::pool::{Pool, TryFromFn};
    ///
    /// let pool = Pool::with_manager(TryFromFn::new(|| File::open("/does/not/exist")));
    /// let error = pool.try_acquire().unwrap_err();
    /// assert!(error.is_create());
    /// let cause = error.source().unwrap().downcast_ref::<io::Error>().unwrap();
    /// assert_eq!(cause.kind(), io::ErrorKind::NotFound);
    /// ```
    pub const fn is_create(&self) -> bool {
        matches!(self.kind, Kind::Create(_))
    }

    /// Whether this process is a fork of one in which another thread was just
    /// then inside the pool: that thread does not exist here, so what it was
    /// doing is never finished and the pool cannot be used.
    ///
    /// Also of an [`AcquireAsync`](crate::pool::AcquireAsync) that waited at the fork
    /// and is polled in the child: its place in the queue is lost there, and a new one
    /// gets an object as long as the pool is not lost as well.
    ///
    /// ```
    /// use heapledger::pool::BoundedPool;
    ///
    /// let mut pool = BoundedPool::<String>::new(2);
    /// pool.close();
    /// // In a child of `fork`: a pool that is lost is replaced, one that is closed stays so.
    /// if pool.prewarm(1).is_err_and(|error| error.is_lost_in_fork()) {
    ///     pool = BoundedPool::new(2);
    /// }
    /// assert!(pool.acquire().unwrap_err().is_closed());
    /// ```
    pub const fn is_lost_in_fork(&self) -> bool {
        matches!(self.kind, Kind::LostInFork | Kind::WaitLostInFork)
    }

    /// Its words and those of all causes, for where nobody asks for its `source`.
    pub(crate) const fn with_causes(&self) -> WithCauses<'_> {
        WithCauses(self)
    }
}

/// From [`PoolError::with_causes`].
pub(crate) struct WithCauses<'a>(&'a PoolError);

impl fmt::Display for WithCauses<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

impl fmt::Display for PoolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.kind {
            Kind::ZeroCapacity => {
                "a bounded pool of capacity 0 could never give an object; use at least 1"
            }
            Kind::Closed => "the pool is closed",
            Kind::Timeout => "no object of the pool came back in time",
            Kind::Create(_) => "the pool's manager failed to create an object",
            Kind::LostInFork => {
                "another thread was inside the pool when this process was forked, so the pool \
                 cannot be used here"
            }
            Kind::WaitLostInFork => {
                "the wait began before this process was forked and ends here; acquire again"
            }
        })
    }
}

impl fmt::Debug for PoolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if f.alternate() {
            return f
                .debug_struct("PoolError")
                .field("kind", &self.kind)
                .finish();
        }
        write!(f, "PoolError({})", self.with_causes())
    }
}

impl Error for PoolError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match &self.kind {
            Kind::Create(cause) => Some(&**cause),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use core::error::Error;

    use super::PoolError;

    /// Bug prevented: a failing `unwrap` or `main` shows a kind's name where the
    /// words are, and not what the manager said.
    #[test]
    fn what_unwrap_shows_has_the_words_and_the_cause() {
        let closed = PoolError::closed();
        assert_eq!(format!("{closed:?}"), "PoolError(the pool is closed)");
        let outer = PoolError::create(Box::new(PoolError::create("no route".into())));
        let failed = "the pool's manager failed to create an object";
        assert_eq!(
            format!("{outer:?}"),
            format!("PoolError({failed}: {failed}: no route)")
        );
        let fields = format!("{outer:#?}");
        assert!(
            fields.starts_with("PoolError {\n    kind: Create("),
            "{fields}"
        );
    }

    #[test]
    fn each_kind_answers_to_its_own_predicate_only_and_only_a_failed_create_has_a_source() {
        let kinds = [
            PoolError::zero_capacity(),
            PoolError::closed(),
            PoolError::timeout(),
            PoolError::create("no route".into()),
            PoolError::lost_in_fork(),
        ];
        assert!(PoolError::wait_lost_in_fork().is_lost_in_fork());
        for (i, error) in kinds.iter().enumerate() {
            let answers = [
                error.is_zero_capacity(),
                error.is_closed(),
                error.is_timeout(),
                error.is_create(),
                error.is_lost_in_fork(),
            ];
            assert_eq!(answers, core::array::from_fn(|j| i == j), "{error}");
            let source = error.source().map(ToString::to_string);
            assert_eq!(source, error.is_create().then(|| "no route".to_owned()));
        }
    }
}
