//! Quantities as whole numbers of nano-units, for comparing and adding, and their one spelling.

use serde_json::Value;

/// One unit.
pub(crate) const UNIT: i128 = 1_000_000_000;

/// A thousandth: what resources are counted in at the finest.
pub(crate) const MILLI: i128 = UNIT / 1000;

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

/// The one spelling of a quantity, a string or a bare number: `1000m` is `1`, `1024Mi` is `1Gi`.
/// What is finer than `finest` (in nano-units) is rounded up. `None` when it is no quantity.
#[must_use]
pub(crate) fn canonical(value: &Value, finest: i128) -> Option<String> {
    let text = match value {
        Value::String(text) => text.trim().to_owned(),
        Value::Number(number) => number.to_string(),
        _ => return None,
    };
    let amount = parse(&text)?;
    let rounded = amount.div_euclid(finest) + i128::from(amount.rem_euclid(finest) != 0);
    let amount = rounded.checked_mul(finest)?;
    let binary = text.ends_with('i');
    if binary && amount % UNIT == 0 && (amount / UNIT).abs() >= 1024 {
        return Some(with_suffix(amount / UNIT, 1024, &["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"]));
    }
    let suffixes = ["n", "u", "m", "", "k", "M", "G", "T", "P", "E"];
    let exponents = ["e-9", "e-6", "e-3", "", "e3", "e6", "e9", "e12", "e15", "e18"];
    let digits_only = text.trim_end_matches(|c: char| c.is_ascii_digit());
    let exponent = text.contains(['e', 'E'])
        && digits_only.trim_end_matches(['+', '-']).ends_with(['e', 'E'])
        && !text.ends_with('E');
    Some(with_suffix(amount, 1000, if exponent { &exponents } else { &suffixes }))
}

/// Takes out as many factors as there are suffixes for.
fn with_suffix(amount: i128, factor: i128, suffixes: &[&str]) -> String {
    if amount == 0 {
        return "0".to_owned();
    }
    let mut amount = amount;
    let mut place = 0;
    while amount % factor == 0 && place + 1 < suffixes.len() {
        amount /= factor;
        place += 1;
    }
    format!("{amount}{}", suffixes[place])
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
    fn has_one_spelling() {
        let cases = [
            ("1000m", "1"),
            ("1024Mi", "1Gi"),
            ("1.5Gi", "1536Mi"),
            ("0.5", "500m"),
            ("100m", "100m"),
            ("1500", "1500"),
            ("1000", "1k"),
            ("1e3", "1e3"),
            ("10E2", "1e3"),
            ("5E", "5E"),
            ("512Ki", "512Ki"),
            ("0.5Ki", "512"),
            ("0Mi", "0"),
            ("0.0001", "1m"),
            ("-5", "-5"),
        ];
        for (text, spelling) in cases {
            let value = Value::from(text);
            assert_eq!(canonical(&value, MILLI).as_deref(), Some(spelling), "{text}");
        }
        assert_eq!(canonical(&Value::from(2), MILLI).as_deref(), Some("2"));
        assert_eq!(canonical(&Value::from(0.25), MILLI).as_deref(), Some("250m"));
        assert_eq!(canonical(&Value::from("x"), MILLI), None);
    }

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
