//! Sizes and counts as people write and read them.
//!
//! A size is a whole number and a unit: none or `B`, `K`/`KiB`, `M`/`MiB`, `G`/`GiB`, `T`/`TiB`, in
//! any case, all of them powers of 1024. `KB` and `MB` are refused: half of the world means 1000.

use std::str::FromStr;

/// A number of bytes from the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size(pub u64);

const UNITS: [(&str, &str, u64); 5] = [
    ("", "b", 1),
    ("k", "kib", 1 << 10),
    ("m", "mib", 1 << 20),
    ("g", "gib", 1 << 30),
    ("t", "tib", 1 << 40),
];

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Size, String> {
        let digits_len = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (digits, unit) = text.split_at(digits_len);
        let unit = unit.trim_start().to_ascii_lowercase();
        let number: u64 = digits.parse().map_err(|_| "expected a size such as 4KiB".to_string())?;
        let factor = UNITS
            .iter()
            .find(|(short, long, _)| unit == *short || unit == *long)
            .map(|(_, _, factor)| *factor)
            .ok_or_else(|| format!("unknown unit '{unit}': use B, KiB, MiB, GiB or TiB"))?;
        number.checked_mul(factor).map(Size).ok_or_else(|| "the size is too large".to_string())
    }
}

impl std::fmt::Display for Size {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (name, factor) =
            [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)]
                .into_iter()
                .find(|(_, factor)| self.0 >= *factor)
                .unwrap_or(("B", 1_u64));
        if self.0.is_multiple_of(factor) {
            write!(f, "{} {name}", self.0 / factor)
        } else {
            write!(f, "{:.1} {name}", self.0 as f64 / factor as f64)
        }
    }
}

/// Writes a number with thousands set apart: `124 300`.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_parse_in_every_spelling() {
        for (text, bytes) in [
            ("0", 0),
            ("512", 512),
            ("512B", 512),
            ("4KiB", 4096),
            ("4k", 4096),
            ("64K", 65_536),
            ("64 kib", 65_536),
            ("1MiB", 1 << 20),
            ("2g", 2 << 30),
            ("1TiB", 1 << 40),
        ] {
            assert_eq!(text.parse(), Ok(Size(bytes)), "{text}");
        }
    }

    #[test]
    fn what_is_no_size_is_refused() {
        for text in ["", "KiB", "4KB", "-1", "1.5M", "4 4", "20000000000000000000", "99999999TiB"] {
            assert!(text.parse::<Size>().is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_print_in_the_largest_whole_unit() {
        for (bytes, text) in
            [(0, "0 B"), (1023, "1023 B"), (4096, "4 KiB"), (1536, "1.5 KiB"), (1 << 30, "1 GiB")]
        {
            assert_eq!(Size(bytes).to_string(), text);
        }
    }

    #[test]
    fn thousands_are_set_apart() {
        for (number, text) in [(0, "0"), (999, "999"), (1000, "1 000"), (1_234_567, "1 234 567")] {
            assert_eq!(grouped(number), text);
        }
    }
}
