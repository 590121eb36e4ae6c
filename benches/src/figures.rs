//! From many measurements to one figure, and from figures to a table.

use std::time::Duration;

/// The middle of a set of figures, and the quarters on both sides of it.
#[derive(Clone, Copy, Debug)]
pub struct Spread {
    /// None lies below.
    pub least: f64,
    /// A quarter lies below.
    pub low: f64,
    /// Half lies below.
    pub median: f64,
    /// Three quarters lie below.
    pub high: f64,
}

impl Spread {
    /// Of `figures`, which must not be empty.
    pub fn of(figures: impl IntoIterator<Item = f64>) -> Self {
        let mut sorted: Vec<f64> = figures.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        let last = sorted.len() - 1;
        let at = |quarters: usize| {
            // Between two figures, their mean.
            let (down, up) = (last * quarters / 4, (last * quarters).div_ceil(4));
            f64::midpoint(sorted[down], sorted[up])
        };
        Self {
            least: sorted[0],
            low: at(1),
            median: at(2),
            high: at(3),
        }
    }
}

/// Nanoseconds for each of `operations`.
#[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
pub fn nanos_each(elapsed: Duration, operations: u64) -> f64 {
    elapsed.as_secs_f64() * 1e9 / operations as f64
}

/// The median of the differences `a - b`, pair by pair.
pub fn difference(a: &[f64], b: &[f64]) -> f64 {
    Spread::of(a.iter().zip(b).map(|(a, b)| a - b)).median
}

/// The spread of the ratios `a / b`, pair by pair.
pub fn ratio(a: &[f64], b: &[f64]) -> Spread {
    Spread::of(a.iter().zip(b).map(|(a, b)| a / b))
}

/// A Markdown table: the first column to the left, the others to the right.
pub fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.chain([head[column].chars().count()]).max()
    };
    let widths: Vec<usize> = (0..head.len()).filter_map(width).collect();
    let line = |cells: &[String]| {
        let mut text = String::from("|");
        for (at, (cell, &width)) in cells.iter().zip(&widths).enumerate() {
            let padded = if at == 0 {
                format!(" {cell:<width$} |")
            } else {
                format!(" {cell:>width$} |")
            };
            text.push_str(&padded);
        }
        text.push('\n');
        text
    };
    let head: Vec<String> = head.iter().map(ToString::to_string).collect();
    let mut text = line(&head);
    text.push('|');
    for (at, width) in widths.iter().enumerate() {
        let colon = if at == 0 { '-' } else { ':' };
        text.push_str(&"-".repeat(width + 1));
        text.push(colon);
        text.push('|');
    }
    text.push('\n');
    text.extend(rows.iter().map(|row| line(row)));
    text
}

/// A row of the table of goals: what is asked, what was found, whether it is met.
pub fn goal(asked: &str, found: f64, at_most: f64, digits: usize) -> Vec<String> {
    let verdict = if found <= at_most { "yes" } else { "**no**" };
    vec![
        asked.to_owned(),
        format!("{at_most:.digits$}"),
        format!("{found:.digits$}"),
        verdict.to_owned(),
    ]
}

/// The head of the table of goals.
pub const GOALS: [&str; 4] = ["goal", "at most", "found", "met"];

#[cfg(test)]
mod tests {
    use super::*;

    // Off by one in the middle would shift every figure that is published.
    #[test]
    fn the_median_and_the_quarters_are_where_they_should_be() {
        let odd = Spread::of([5.0, 1.0, 3.0, 2.0, 4.0]);
        assert_eq!(
            format!("{odd:?}"),
            "Spread { least: 1.0, low: 2.0, median: 3.0, high: 4.0 }"
        );
        let even = Spread::of([4.0, 1.0, 2.0, 3.0]);
        assert_eq!(format!("{}", even.median), "2.5");
    }

    #[test]
    fn a_table_lines_up() {
        let rows = [vec![String::from("long name"), String::from("1.0")]];
        let expected = "| a         |   b |\n|-----------|----:|\n| long name | 1.0 |\n";
        assert_eq!(table(&["a", "b"], &rows), expected);
    }
}
