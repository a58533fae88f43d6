//! Quantities (`500m`, `1Gi`): exact arithmetic, and the one canonical text of each.

use std::{fmt, iter::Sum, ops, str::FromStr};

/// Nano-units of one unit: the smallest part that a quantity can state.
const NANO: i128 = 1_000_000_000;
/// Quantities are cut at this many units.
const UNITS_MAX: i128 = i64::MAX as i128;
/// More digits than any meaningful quantity has; beyond the cap or below a nano-unit anyway.
const DIGITS_MAX: usize = 4096;

/// Which family of suffixes a quantity was written with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Format {
    /// `12e6`
    DecimalExponent,
    /// `12Mi`
    BinarySi,
    /// `12M`, `12m`
    #[default]
    DecimalSi,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    #[error(
        "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
    )]
    Format,
    #[error("unable to parse numeric part of quantity")]
    Number,
    #[error("unable to parse quantity's suffix")]
    Suffix,
}

/// An amount, held in nano-units.
#[derive(Debug, Clone, Copy, Default)]
pub struct Quantity {
    nanos: i128,
    format: Format,
}

impl Quantity {
    #[must_use]
    pub fn new(units: i64, format: Format) -> Self {
        Self { nanos: i128::from(units) * NANO, format }
    }

    #[must_use]
    pub fn from_milli(milli: i64, format: Format) -> Self {
        Self { nanos: i128::from(milli) * (NANO / 1000), format }
    }

    /// # Errors
    ///
    /// When the text is no quantity.
    pub fn parse(text: &str) -> Result<Self, QuantityError> {
        let (number, suffix) = split(text)?;
        let (base, power, format) = suffix_power(suffix).ok_or(QuantityError::Suffix)?;
        let nanos = scale(number, base, power).ok_or(QuantityError::Number)?;
        let small = nanos != 0 && nanos.abs() < NANO;
        let format = if format == Format::BinarySi && small { Format::DecimalSi } else { format };
        Ok(Self { nanos, format })
    }

    #[must_use]
    pub fn format(&self) -> Format {
        self.format
    }

    /// Whole units, rounded up (away from zero).
    #[must_use]
    pub fn value(&self) -> i64 {
        clamp(divide_away(self.nanos, NANO))
    }

    /// Thousandths of a unit, rounded up (away from zero).
    #[must_use]
    pub fn milli(&self) -> i64 {
        clamp(divide_away(self.nanos, NANO / 1000))
    }

    #[must_use]
    pub fn nanos(&self) -> i128 {
        self.nanos
    }

    #[must_use]
    pub fn is_zero(&self) -> bool {
        self.nanos == 0
    }

    #[must_use]
    pub fn is_negative(&self) -> bool {
        self.nanos < 0
    }
}

impl FromStr for Quantity {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        Self::parse(text)
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nanos == other.nanos
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.nanos.cmp(&other.nanos)
    }
}

impl ops::Add for Quantity {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        // A sum takes the format of whichever part says something.
        let format = if self.is_zero() { other.format } else { self.format };
        Self { nanos: capped(self.nanos.saturating_add(other.nanos)), format }
    }
}

impl ops::Sub for Quantity {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        let format = if self.is_zero() { other.format } else { self.format };
        Self { nanos: capped(self.nanos.saturating_sub(other.nanos)), format }
    }
}

impl Sum for Quantity {
    fn sum<I: Iterator<Item = Self>>(quantities: I) -> Self {
        quantities.fold(Self::default(), |total, one| total + one)
    }
}

impl fmt::Display for Quantity {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nanos == 0 {
            return formatter.write_str("0");
        }
        let whole = self.nanos % NANO == 0;
        let units = self.nanos / NANO;
        if self.format == Format::BinarySi && whole && units.abs() >= 1024 {
            let (mut number, mut times) = (units, 0);
            while number % 1024 == 0 {
                number /= 1024;
                times += 1;
            }
            let suffix = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"][times];
            return write!(formatter, "{number}{suffix}");
        }
        let (mut number, mut exponent) = (self.nanos, -9);
        while number % 1000 == 0 {
            number /= 1000;
            exponent += 3;
        }
        if self.format == Format::DecimalExponent {
            return match exponent {
                0 => write!(formatter, "{number}"),
                _ => write!(formatter, "{number}e{exponent}"),
            };
        }
        let suffix = match exponent {
            -9 => "n",
            -6 => "u",
            -3 => "m",
            0 => "",
            3 => "k",
            6 => "M",
            9 => "G",
            12 => "T",
            15 => "P",
            _ => "E",
        };
        write!(formatter, "{number}{suffix}")
    }
}

fn capped(nanos: i128) -> i128 {
    nanos.clamp(-UNITS_MAX * NANO, UNITS_MAX * NANO)
}

fn clamp(number: i128) -> i64 {
    i64::try_from(number).unwrap_or(if number < 0 { i64::MIN } else { i64::MAX })
}

fn divide_away(number: i128, by: i128) -> i128 {
    number / by + (number % by).signum()
}

/// Number and suffix; the number has digits and at most one point.
fn split(text: &str) -> Result<(&str, &str), QuantityError> {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    if unsigned.is_empty() || text.len() > DIGITS_MAX {
        return Err(QuantityError::Format);
    }
    let end = unsigned.find(|one: char| !one.is_ascii_digit() && one != '.');
    let number_length = text.len() - unsigned.len() + end.unwrap_or(unsigned.len());
    let (number, suffix) = text.split_at(number_length);
    if number.matches('.').count() > 1 {
        return Err(QuantityError::Format);
    }
    let letters = suffix.trim_start_matches(|one| "eEinumkKMGTP".contains(one));
    let exponent = letters.strip_prefix(['+', '-']).unwrap_or(letters);
    if !exponent.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(QuantityError::Format);
    }
    if !number.bytes().any(|byte| byte.is_ascii_digit()) {
        return Err(QuantityError::Number);
    }
    Ok((number, suffix))
}

fn suffix_power(suffix: &str) -> Option<(u32, i32, Format)> {
    let decimal = |power| Some((10, power, Format::DecimalSi));
    let binary = |power| Some((2, power, Format::BinarySi));
    match suffix {
        "n" => decimal(-9),
        "u" => decimal(-6),
        "m" => decimal(-3),
        "" => decimal(0),
        "k" => decimal(3),
        "M" => decimal(6),
        "G" => decimal(9),
        "T" => decimal(12),
        "P" => decimal(15),
        "E" => decimal(18),
        "Ki" => binary(10),
        "Mi" => binary(20),
        "Gi" => binary(30),
        "Ti" => binary(40),
        "Pi" => binary(50),
        "Ei" => binary(60),
        exponent => {
            let power = exponent.strip_prefix(['e', 'E'])?.parse::<i32>().ok()?;
            Some((10, power, Format::DecimalExponent))
        }
    }
}

/// Digits times base^power in nano-units: rounded away from zero, cut at the largest.
fn scale(number: &str, base: u32, power: i32) -> Option<i128> {
    let negative = number.starts_with('-');
    let unsigned = number.trim_start_matches(['+', '-']);
    let (whole, fraction) = unsigned.split_once('.').unwrap_or((unsigned, ""));
    let digits: String = format!("{whole}{fraction}");
    let digits = digits.trim_start_matches('0');
    if digits.is_empty() {
        return Some(0);
    }
    // The value is `digits` × 10^shift nano-units, times a power of two.
    let decimal_power = if base == 10 { power } else { 0 };
    let shift = i64::from(decimal_power) + 9 - i64::try_from(fraction.len()).ok()?;
    let size = i64::try_from(digits.len()).ok()? + shift;
    let nanos = if size > 38 {
        i128::MAX
    } else if size < 0 && base == 10 {
        1
    } else {
        shifted(digits, shift, if base == 2 { power } else { 0 })?
    };
    let nanos = nanos.min(UNITS_MAX * NANO);
    Some(if negative { -nanos } else { nanos })
}

fn shifted(digits: &str, shift: i64, binary_power: i32) -> Option<i128> {
    let factor = 1_i128.checked_shl(u32::try_from(binary_power).ok()?)?;
    if shift >= 0 {
        let number: i128 = digits.parse().ok()?;
        let power = 10_i128.checked_pow(u32::try_from(shift).ok()?)?;
        return Some(number.saturating_mul(power).saturating_mul(factor));
    }
    // Digits that no 128 bits can hold are far below a nano-unit.
    let excess = digits.len().saturating_sub(37);
    let cut = usize::try_from(-shift).ok()?.min(excess);
    let (kept, dropped) = digits.split_at(digits.len() - cut);
    let number: i128 = if kept.is_empty() { 0 } else { kept.parse().ok()? };
    let rest = dropped.bytes().any(|digit| digit != b'0');
    let power = u32::try_from(-shift).ok()? - u32::try_from(cut).ok()?;
    let divisor = 10_i128.checked_pow(power)?;
    let (quotient, remainder) = (number / divisor, number % divisor);
    let whole = quotient.saturating_mul(factor);
    let part = remainder.checked_mul(factor).unwrap_or(i128::MAX);
    let part = divide_away(part, divisor) + i128::from(rest && part % divisor == 0);
    Some(whole.saturating_add(part))
}

#[cfg(test)]
mod tests;
