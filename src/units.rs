//! Numbers as people like to read them: grouped digits, binary units.

use core::fmt;

/// Writes `n` with a comma between each three digits: `1,234,567`.
pub(crate) struct Grouped(pub(crate) u64);

impl fmt::Display for Grouped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // 20 digits of u64::MAX and 6 commas.
        let mut text = [0u8; 26];
        let mut at = text.len();
        let mut rest = self.0;
        let mut digits = 0;
        loop {
            if digits > 0 && digits % 3 == 0 {
                at -= 1;
                text[at] = b',';
            }
            at -= 1;
            // A remainder of ten fits a byte.
            text[at] = b'0' + u8::try_from(rest % 10).unwrap_or(0);
            digits += 1;
            rest /= 10;
            if rest == 0 {
                break;
            }
        }
        f.pad_integral(true, "", core::str::from_utf8(&text[at..]).unwrap_or(""))
    }
}

/// Writes a signed number with its sign always shown: `+1,024`, `-16`, `0`.
pub(crate) struct Signed(pub(crate) i64);

impl fmt::Display for Signed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = match self.0 {
            0 => "",
            n if n < 0 => "-",
            _ => "+",
        };
        f.pad_integral(
            true,
            "",
            &format!("{sign}{}", Grouped(self.0.unsigned_abs())),
        )
    }
}

/// Writes a number of bytes in the unit that leaves one to four digits before
/// the point: `960 B`, `1.5 KiB`, `2.30 GiB`.
pub(crate) struct Bytes(pub(crate) u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
        if self.0 < 1024 {
            return write!(f, "{} B", self.0);
        }
        #[expect(
            clippy::cast_precision_loss,
            reason = "two decimals are printed; a double holds fifteen digits"
        )]
        let mut value = self.0 as f64 / 1024.0;
        let mut unit = 1;
        // What would be printed as 1024.00 is one of the next.
        while value >= 1023.995 && unit + 1 < UNITS.len() {
            value /= 1024.0;
            unit += 1;
        }
        write!(f, "{value:.2} {}", UNITS[unit])
    }
}

/// Writes ` ± 512 B`: the standard error of a number of bytes, the next whole number. Nothing
/// where there is none to speak of: a block that no sample misses, since it is so large, has an
/// error of a small part of a byte.
#[cfg(feature = "profile")]
pub(crate) struct BytesError(pub(crate) f64);

#[cfg(feature = "profile")]
impl fmt::Display for BytesError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 >= 0.5 {
            write!(f, " ± {}", Bytes(whole(self.0)))?;
        }
        Ok(())
    }
}

/// Writes ` ± 35`: the same of a number of blocks, of which there may be few. So it has a decimal
/// below 10, and is not shown where that would be 0.0.
#[cfg(feature = "profile")]
pub(crate) struct BlocksError(pub(crate) f64);

#[cfg(feature = "profile")]
impl fmt::Display for BlocksError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tenths = (self.0 * 10.0).round();
        match tenths {
            1.0..100.0 => write!(f, " ± {:.1}", tenths / 10.0),
            100.0.. => write!(f, " ± {}", Grouped(whole(self.0))),
            _ => Ok(()),
        }
    }
}

/// The next whole number: what is there is not shown as nothing.
#[cfg(feature = "profile")]
pub(crate) fn whole(value: f64) -> u64 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a cast ends at the ends of the range"
    )]
    let whole = value.ceil() as u64;
    whole
}

/// `block` or `blocks`, and so on.
pub(crate) fn plural(n: u64, one: &'static str, many: &'static str) -> &'static str {
    if n == 1 { one } else { many }
}

#[cfg(test)]
mod tests {
    use super::{Bytes, Grouped, Signed};

    #[test]
    fn digits_are_grouped_by_three() {
        let table = [
            (0, "0"),
            (7, "7"),
            (999, "999"),
            (1000, "1,000"),
            (1_234_567, "1,234,567"),
            (u64::MAX, "18,446,744,073,709,551,615"),
        ];
        for (n, text) in table {
            assert_eq!(Grouped(n).to_string(), text);
        }
        assert_eq!(format!("{:>8}", Grouped(1000)), "   1,000");
    }

    #[test]
    fn signs_are_always_shown_but_on_zero() {
        assert_eq!(Signed(0).to_string(), "0");
        assert_eq!(Signed(2048).to_string(), "+2,048");
        assert_eq!(Signed(-16).to_string(), "-16");
        assert_eq!(Signed(i64::MIN).to_string(), "-9,223,372,036,854,775,808");
    }

    #[test]
    fn bytes_change_unit_at_each_power_of_1024() {
        let table = [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.00 KiB"),
            (1536, "1.50 KiB"),
            ((1 << 20) - 6, "1023.99 KiB"),
            ((1 << 20) - 5, "1.00 MiB"),
            (1 << 20, "1.00 MiB"),
            (u64::MAX, "16.00 EiB"),
        ];
        for (n, text) in table {
            assert_eq!(Bytes(n).to_string(), text);
        }
    }
}
