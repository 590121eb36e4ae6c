//! A recording of all threads, for a leak check of the whole process.

use core::mem;

use crate::error::Error;
use crate::installed;
use crate::record::everywhere;
use crate::record::hooks::Lost;
use crate::record::recording::Recording;
use crate::record::survivor::Survivor;
use crate::record::turn::Turn;

/// A recording that all threads are in. One at a time, and not beside a
/// profile. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct Everyone {
    recording: Option<Recording>,
    /// Given back last.
    _turn: Turn,
}

impl Everyone {
    /// Starts a recording of what all threads allocate from now on.
    pub(crate) fn start() -> Result<Self, Error> {
        installed::require()?;
        let turn = Turn::take().ok_or_else(Error::already_profiling)?;
        let everyone = Self {
            recording: Some(Recording::start_apart()?),
            _turn: turn,
        };
        if let Some(recording) = &everyone.recording {
            everywhere::enter(recording)?;
        }
        Ok(everyone)
    }

    /// What no thread records any more from now on may still be freed.
    pub(crate) fn leave(&self) {
        if let Some(recording) = &self.recording {
            everywhere::leave(recording);
        }
    }

    /// What is alive now of what was recorded.
    pub(crate) fn survivors(&self) -> Vec<Survivor> {
        self.recording
            .as_ref()
            .map_or(Vec::new(), Recording::survivors)
    }

    /// Leaves the recording as it is, as to end it takes memory, and gives the place back.
    ///
    /// No thread is in it any more, and nobody asks for its blocks: others' numbers are not
    /// its. Frees go on being looked up.
    pub(crate) fn abandon(mut self) {
        self.leave();
        mem::forget(self.recording.take());
    }

    /// Ends the recording and gives what is still alive, with what was lost.
    pub(crate) fn finish(mut self) -> (Vec<Survivor>, Lost) {
        self.leave();
        self.recording
            .take()
            .map_or_else(Default::default, Recording::finish)
    }
}

impl Drop for Everyone {
    fn drop(&mut self) {
        self.leave();
        drop(self.recording.take());
    }
}
