//! Lengths of time as Go writes them.

const NANOS: i128 = 1_000_000_000;

/// `1h30m`, `-1.5s`, `100ms`: what Go's `time.ParseDuration` takes, in nanoseconds.
///
/// # Errors
///
/// Go's own words, when it is none.
pub fn parse_duration(text: &str) -> Result<i64, String> {
    let bad = |why: &str| format!("time: {why} {}", crate::field::quote(text));
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err(bad("invalid duration"));
    }
    let mut total: i128 = 0;
    while !rest.is_empty() {
        // A second point ends it, and is no unit.
        let mut points = 0;
        let end = rest.find(|one: char| {
            points += usize::from(one == '.');
            !(one.is_ascii_digit() || one == '.' && points == 1)
        });
        let number = rest.get(..end.unwrap_or(rest.len())).unwrap_or("");
        if !number.contains(|one: char| one.is_ascii_digit()) {
            return Err(bad("invalid duration"));
        }
        rest = rest.get(number.len()..).unwrap_or("");
        let end = rest.find(|one: char| one.is_ascii_digit() || one == '.');
        let unit = rest.get(..end.unwrap_or(rest.len())).unwrap_or("");
        rest = rest.get(unit.len()..).unwrap_or("");
        if unit.is_empty() {
            return Err(bad("missing unit in duration"));
        }
        let Some(scale) = unit_nanos(unit) else {
            let why = format!("unknown unit {} in duration", crate::field::quote(unit));
            return Err(bad(&why));
        };
        let amount = scaled(number, scale).ok_or_else(|| bad("invalid duration"))?;
        total += amount;
        if total > i128::from(i64::MAX) + i128::from(negative) {
            return Err(bad("invalid duration"));
        }
    }
    let total = if negative { -total } else { total };
    i64::try_from(total).ok().ok_or_else(|| bad("invalid duration"))
}

fn unit_nanos(unit: &str) -> Option<i128> {
    Some(match unit {
        "ns" => 1,
        "us" | "µs" | "μs" => 1_000,
        "ms" => 1_000_000,
        "s" => NANOS,
        "m" => 60 * NANOS,
        "h" => 3600 * NANOS,
        _ => return None,
    })
}

/// A decimal number of units, cut to nanoseconds.
fn scaled(number: &str, scale: i128) -> Option<i128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let units: i128 = if whole.is_empty() { 0 } else { whole.parse::<u64>().ok()?.into() };
    // More digits than these are less than a nanosecond of an hour.
    let digits: String = fraction.chars().take(18).collect();
    let part: i128 = if digits.is_empty() { 0 } else { digits.parse::<u64>().ok()?.into() };
    let power = u32::try_from(digits.len()).ok()?;
    Some(units * scale + part * scale / 10_i128.pow(power))
}

#[cfg(test)]
mod tests {
    use super::parse_duration;

    #[test]
    fn durations_are_gos() {
        for (text, nanos) in [
            ("0", 0),
            ("1h30m", 5_400_000_000_000),
            ("-1.5s", -1_500_000_000),
            ("+100ms", 100_000_000),
            (".5us", 500),
        ] {
            assert_eq!(parse_duration(text), Ok(nanos), "{text}");
        }
        for (text, why) in [
            ("", "time: invalid duration \"\""),
            ("5", "time: missing unit in duration \"5\""),
            ("1.2.3s", "time: missing unit in duration \"1.2.3s\""),
            (
                "0.1234567890123456789.5s",
                "time: missing unit in duration \"0.1234567890123456789.5s\"",
            ),
            ("5d", "time: unknown unit \"d\" in duration \"5d\""),
            ("invalid", "time: invalid duration \"invalid\""),
            ("9999999h", "time: invalid duration \"9999999h\""),
        ] {
            assert_eq!(parse_duration(text), Err(why.to_owned()), "{text}");
        }
    }
}
