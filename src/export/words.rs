//! What several formats say in the same words.

use core::fmt;
use core::time::Duration;

use crate::profile::{Amount, HeapProfile, Mode, Names};
use crate::units::{Bytes, Grouped, plural};

/// `every allocation was recorded`, or what stands for it.
pub(super) fn mode(profile: &HeapProfile) -> String {
    match profile.mode {
        Mode::EveryAllocation => String::from("every allocation was recorded"),
        Mode::Sampled { interval_bytes } => format!(
            "estimates from one sample in {} on average",
            Bytes(interval_bytes)
        ),
    }
}

/// What a reader must know: where the figures come from and what is missing.
pub(super) fn notes(profile: &HeapProfile) -> Vec<String> {
    let mut notes = vec![format!("heapledger: {}", mode(profile))];
    notes.extend(missing(profile, profile.names.as_deref()));
    notes
}

/// What could not be recorded or named, a sentence for each kind.
pub(super) fn missing(profile: &HeapProfile, names: Option<&Names>) -> Vec<String> {
    let lost = profile.incomplete;
    let count = |n, one, many| format!("{} {}", Grouped(n), plural(n, one, many));
    let mut notes = Vec::new();
    if lost.blocks > 0 {
        notes.push(format!(
            "incomplete: {} could not be recorded",
            count(lost.blocks, "block", "blocks")
        ));
    }
    if lost.frames > 0 {
        notes.push(format!(
            "incomplete: {} could not be kept",
            count(lost.frames, "frame", "frames")
        ));
    }
    if lost.cut_stacks > 0 {
        notes.push(format!(
            "{} could not be followed to {} thread's beginning",
            count(lost.cut_stacks, "stack", "stacks"),
            plural(lost.cut_stacks, "its", "their"),
        ));
    }
    notes.extend(names.into_iter().flat_map(Names::notes));
    notes
}

/// `1.50 MiB in 12 blocks`, with the standard errors of an estimate.
pub(super) struct Sum<'a>(pub(super) &'a Amount);

impl fmt::Display for Sum<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let amount = self.0;
        write!(f, "{}", Bytes(amount.bytes))?;
        if amount.bytes_error > 0.0 {
            write!(f, " ± {}", Bytes(whole(amount.bytes_error)))?;
        }
        write!(f, " in {}", Grouped(amount.blocks))?;
        if amount.blocks_error > 0.0 {
            write!(f, " ± {}", Grouped(whole(amount.blocks_error)))?;
        }
        write!(f, " {}", plural(amount.blocks, "block", "blocks"))
    }
}

/// The next whole number: an error is not made smaller by rounding.
pub(super) fn whole(error: f64) -> u64 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a cast ends at the ends of the range"
    )]
    let whole = error.ceil() as u64;
    whole
}

/// `12.3 %`; nothing of nothing is 0 %.
pub(super) fn percent(part: u64, of: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "one decimal is printed")]
    let share = if of == 0 {
        0.0
    } else {
        part as f64 * 100.0 / of as f64
    };
    format!("{share:.1} %")
}

/// `1.234 s`, or `2 h 3 min 4 s` when it is longer than a minute.
pub(super) fn span(time: Duration) -> String {
    let seconds = time.as_secs();
    let (hours, minutes, rest) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    match (hours, minutes) {
        (0, 0) => format!("{:.3} s", time.as_secs_f64()),
        (0, _) => format!("{minutes} min {rest} s"),
        _ => format!("{} h {minutes} min {rest} s", Grouped(hours)),
    }
}

#[cfg(test)]
mod tests {
    use core::time::Duration;

    use super::{Sum, percent, span};
    use crate::profile::Amount;

    #[test]
    fn estimates_show_their_errors_and_exact_figures_none() {
        let table = [
            (Amount::exact(1, 960), "960 B in 1 block"),
            (Amount::exact(12_345, 1536), "1.50 KiB in 12,345 blocks"),
            (
                Amount::estimate(1_200, 2048, 34.2, 512.0),
                "2.00 KiB ± 512 B in 1,200 ± 35 blocks",
            ),
        ];
        for (amount, text) in table {
            assert_eq!(Sum(&amount).to_string(), text);
        }
    }

    #[test]
    fn times_and_shares_read_well() {
        assert_eq!(span(Duration::from_millis(59_999)), "59.999 s");
        assert_eq!(span(Duration::from_secs(61)), "1 min 1 s");
        assert_eq!(span(Duration::from_secs(7384)), "2 h 3 min 4 s");
        assert_eq!(percent(1, 8), "12.5 %");
        assert_eq!(percent(0, 0), "0.0 %");
    }
}
