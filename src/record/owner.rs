//! Which process has begun something, and which are its children.

use crate::record::fork;

/// A process, so that its children are told from it.
///
/// By two things. A child in a pid namespace of its own may have the same number,
/// and one that was made past the C library's `fork` is not counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Owner {
    pid: u32,
    forks: u64,
}

impl Owner {
    /// The calling process. May be called in a signal handler.
    pub(crate) fn here() -> Self {
        Self {
            pid: std::process::id(),
            forks: fork::epoch(),
        }
    }

    /// Whether that is the calling process.
    pub(crate) fn is_here(self) -> bool {
        self == Self::here()
    }

    /// The number of the calling process, which is this one or its child, as its
    /// files have it: another than this one's.
    #[cfg(target_os = "linux")]
    pub(crate) fn number_here(self) -> String {
        let here = Self::here();
        if here.pid == self.pid && here != self {
            format!("{}-fork{}", here.pid, here.forks.wrapping_sub(self.forks))
        } else {
            here.pid.to_string()
        }
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::Owner;

    /// Bug prevented: a child with its parent's number writes to its parent's files.
    #[test]
    fn a_child_never_has_its_parents_number() {
        let here = Owner::here();
        assert!(here.is_here());
        assert_eq!(here.number_here(), std::process::id().to_string());
        let parent = Owner {
            forks: here.forks.wrapping_sub(2),
            ..here
        };
        assert!(!parent.is_here());
        assert_eq!(parent.number_here(), format!("{}-fork2", here.pid));
        let parent = Owner {
            pid: here.pid + 1,
            ..here
        };
        assert!(!parent.is_here());
        assert_eq!(parent.number_here(), here.pid.to_string());
    }
}
