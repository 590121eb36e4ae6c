//! What several formats say in the same words.

use core::fmt;
use core::time::Duration;

use crate::profile::{Amount, HeapProfile, Mode, Names};
use crate::units::{BlocksError, Bytes, BytesError, Grouped, plural};

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
        write!(
            f,
            "{}{} in {}{} {}",
            Bytes(amount.bytes),
            BytesError(amount.bytes_error),
            Grouped(amount.blocks),
            BlocksError(amount.blocks_error),
            plural(amount.blocks, "block", "blocks"),
        )
    }
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

    /// Bug prevented: a large block, which no sample misses, reads `1 ± 1 block`.
    #[test]
    fn an_error_is_shown_as_finely_as_it_tells_something() {
        let table = [
            (7.2e-5, 700.0, "9.54 MiB ± 700 B in 1 block"),
            (0.049, 0.49, "9.54 MiB in 1 block"),
            (0.05, 0.5, "9.54 MiB ± 1 B in 1 ± 0.1 block"),
            (0.72, 5.2, "9.54 MiB ± 6 B in 1 ± 0.7 block"),
            (1.0, 1.0, "9.54 MiB ± 1 B in 1 ± 1.0 block"),
            (9.94, 1.0, "9.54 MiB ± 1 B in 1 ± 9.9 block"),
            (9.96, 1.0, "9.54 MiB ± 1 B in 1 ± 10 block"),
            (10.2, 1.0, "9.54 MiB ± 1 B in 1 ± 11 block"),
            (f64::NAN, f64::NAN, "9.54 MiB in 1 block"),
            (
                f64::INFINITY,
                f64::INFINITY,
                "9.54 MiB ± 16.00 EiB in 1 ± 18,446,744,073,709,551,615 block",
            ),
        ];
        for (blocks_error, bytes_error, text) in table {
            let amount = Amount::estimate(1, 10_000_000, blocks_error, bytes_error);
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
