//! From addresses to names, files and lines.
//!
//! Only from a normal context, when a report is wanted: the first look-up reads
//! the debug information of the whole program. It goes through the `backtrace`
//! crate, which gives inlined functions their own frames.
//!
//! Addresses are return addresses, as a capture gives them; `backtrace` itself
//! steps back into the call.

mod frame;
mod trim;

use std::collections::HashMap;
use std::sync::Arc;

pub use frame::{Frame, FrameKind, Stack};

/// Names that were looked up, one list of frames for each address.
///
/// Give it all the addresses of a report first ([`look_up`](Self::look_up)):
/// debug information is kept for a few files at a time only, and a walk from
/// stack to stack would read the same again and again.
#[derive(Debug, Default)]
pub struct Symbols {
    known: HashMap<u64, Arc<[Frame]>>,
}

impl Symbols {
    /// Nothing looked up yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Looks up what is not known yet, file by file.
    pub fn look_up(&mut self, addresses: impl IntoIterator<Item = u64>) {
        let mut missing: Vec<u64> = addresses
            .into_iter()
            .filter(|address| !self.known.contains_key(address))
            .collect();
        missing.sort_unstable();
        missing.dedup();
        self.known.reserve(missing.len());
        for address in missing {
            self.known.insert(address, resolve(address));
        }
    }

    /// The frames of one address: the innermost inlined function first, the
    /// function that it all was inlined into last. At least one.
    pub fn frames(&mut self, address: u64) -> &[Frame] {
        self.known
            .entry(address)
            .or_insert_with(|| resolve(address))
    }

    /// The stack of these return addresses, the innermost first.
    pub fn stack(&mut self, addresses: &[u64]) -> Stack {
        let mut frames = Vec::with_capacity(addresses.len());
        for &address in addresses {
            frames.extend_from_slice(self.frames(address));
        }
        let shown = trim::shown(&frames);
        Stack::new(frames, shown)
    }
}

impl Drop for Symbols {
    fn drop(&mut self) {
        // Tens of megabytes for a large program; the next report reads them again.
        backtrace::clear_symbol_cache();
    }
}

fn resolve(address: u64) -> Arc<[Frame]> {
    let mut frames = Vec::new();
    let pointer = usize::try_from(address).unwrap_or(0);
    let pointer = core::ptr::without_provenance_mut(pointer);
    backtrace::resolve(pointer, |symbol| {
        // In the short form: without the hash that tells equal names apart.
        let function = symbol.name().map(|name| format!("{name:#}"));
        let file = symbol.filename().map(|file| file.display().to_string());
        frames.push(Frame::new(address, function, file, symbol.lineno()));
    });
    if frames.is_empty() {
        frames.push(Frame::new(address, None, None, None));
    }
    // All but the outermost function of an address were inlined into it.
    let inlined = frames.len() - 1;
    for frame in frames.iter_mut().take(inlined) {
        frame.is_inlined = true;
    }
    frames.into()
}

#[cfg(test)]
mod tests {
    use super::{FrameKind, Symbols};

    /// A return address in here, and the line of the call.
    #[inline(never)]
    fn somewhere() -> (u64, u32) {
        let mut address = 0;
        let line = line!() + 1;
        backtrace::trace(|frame| {
            let mut is_here = false;
            backtrace::resolve_frame(frame, |symbol| {
                is_here |= symbol
                    .name()
                    .is_some_and(|name| name.to_string().contains("somewhere"));
            });
            if is_here {
                address = frame.ip().addr() as u64;
            }
            !is_here
        });
        (address, line)
    }

    /// Bug prevented: the line after the call, because nobody stepped back, or
    /// the line before it, because two did.
    #[test]
    fn a_return_address_names_the_line_of_its_call() {
        let (address, line) = somewhere();
        let mut symbols = Symbols::new();
        let frame = symbols
            .frames(address)
            .last()
            .expect("at least one")
            .clone();
        assert!(
            frame.function.contains("symbols::tests::somewhere"),
            "{frame:?}"
        );
        assert!(!frame.function.contains("::h"), "{frame:?}");
        assert_eq!(frame.line, Some(line));
        assert_eq!(frame.kind, FrameKind::User);
        assert!(!frame.is_inlined);
    }

    #[test]
    fn an_address_without_a_name_is_shown_as_itself() {
        let mut symbols = Symbols::new();
        let [frame] = symbols.frames(0x1234) else {
            panic!("one frame");
        };
        assert_eq!(frame.function, "0x1234");
        assert_eq!((&frame.file, frame.line), (&None, None));
        assert_eq!(frame.kind, FrameKind::Runtime);
    }

    #[test]
    fn what_was_looked_up_at_once_is_what_is_found_one_by_one() {
        let (address, _) = somewhere();
        let (mut at_once, mut single) = (Symbols::new(), Symbols::new());
        at_once.look_up([address, 0x1234, address]);
        assert_eq!(at_once.known.len(), 2);
        assert_eq!(at_once.frames(address), single.frames(address));
    }
}
