//! Quantities as whole numbers of nano-units, for comparing and adding.

/// One unit.
pub(crate) const UNIT: i128 = 1_000_000_000;

/// Nano-units of a quantity as it stands in an object; fractions below one are rounded up.
/// `None` when the text is no quantity.
#[must_use]
pub(crate) fn parse(text: &str) -> Option<i128> {
    let (negative, rest) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let end = rest.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(rest.len());
    let (number, suffix) = rest.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() || fraction.contains('.') {
        return None;
    }
    let digits: i128 = format!("{whole}{fraction}").parse().ok()?;
    let scale = i32::try_from(fraction.len()).ok()?;
    let amount = scaled(digits, scale, suffix)?;
    Some(if negative { -amount } else { amount })
}

fn scaled(digits: i128, fraction_digits: i32, suffix: &str) -> Option<i128> {
    if let Some(bits) = binary_bits(suffix) {
        let shifted = digits.checked_mul(1_i128 << bits)?;
        return shift_decimal(shifted, 9 - fraction_digits);
    }
    let power = match suffix {
        "n" => -9,
        "u" => -6,
        "m" => -3,
        "" => 0,
        "k" => 3,
        "M" => 6,
        "G" => 9,
        "T" => 12,
        "P" => 15,
        "E" => 18,
        exponent => exponent.strip_prefix(['e', 'E'])?.parse::<i32>().ok()?,
    };
    shift_decimal(digits, power.checked_add(9)?.checked_sub(fraction_digits)?)
}

fn binary_bits(suffix: &str) -> Option<u32> {
    let prefix = suffix.strip_suffix('i')?;
    let place = ["K", "M", "G", "T", "P", "E"].iter().position(|one| *one == prefix)?;
    Some(10 * (u32::try_from(place).ok()? + 1))
}

fn shift_decimal(digits: i128, power: i32) -> Option<i128> {
    let factor = 10_i128.checked_pow(power.unsigned_abs())?;
    if power >= 0 {
        digits.checked_mul(factor)
    } else {
        Some(digits / factor + i128::from(digits % factor != 0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_every_form() {
        let cases = [
            ("1", UNIT),
            ("100m", UNIT / 10),
            ("1.5", UNIT * 3 / 2),
            ("1Ki", UNIT * 1024),
            ("1e3", UNIT * 1000),
            ("2E", UNIT * 2_000_000_000_000_000_000),
            ("-1", -UNIT),
            (".5", UNIT / 2),
            ("1n", 1),
        ];
        for (text, amount) in cases {
            assert_eq!(parse(text), Some(amount), "{text}");
        }
        for text in ["", "x", "1.2.3", "1Kb", "1 ", "."] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
