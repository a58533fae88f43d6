//! Quantities as they stand in objects, read and spelled for defaults and validation.

use serde_json::Value;

use crate::quantity::Quantity;

/// One unit, in nano-units.
pub(crate) const UNIT: i128 = 1_000_000_000;
/// A thousandth: what resources are counted in at the finest.
const MILLI: i128 = UNIT / 1000;

/// Nano-units of a quantity; `None` when the text is none.
#[must_use]
pub(crate) fn parse(text: &str) -> Option<i128> {
    Quantity::parse(text).ok().map(|quantity| quantity.nanos())
}

/// The one spelling of a quantity, a string or a bare number; `None` when it is no quantity.
#[must_use]
pub(crate) fn canonical(value: &Value) -> Option<String> {
    read(value).map(|quantity| quantity.to_string())
}

/// The same for an amount of a resource, which is rounded up to thousandths.
#[must_use]
pub(crate) fn resource(value: &Value) -> Option<String> {
    let quantity = read(value)?;
    let rounded = if quantity.nanos() % MILLI == 0 {
        quantity
    } else {
        Quantity::from_milli(quantity.milli(), quantity.format())
    };
    Some(rounded.to_string())
}

fn read(value: &Value) -> Option<Quantity> {
    match value {
        Value::String(text) => Quantity::parse(text.trim()).ok(),
        Value::Number(number) => Quantity::parse(&number.to_string()).ok(),
        _ => None,
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
            ("1000", "1k"),
            ("10E2", "1e3"),
            ("0Mi", "0"),
            ("0.0001", "1m"),
            ("-5", "-5"),
        ];
        for (text, spelling) in cases {
            assert_eq!(resource(&Value::from(text)).as_deref(), Some(spelling), "{text}");
        }
        assert_eq!(resource(&Value::from(2)).as_deref(), Some("2"));
        assert_eq!(resource(&Value::from(0.25)).as_deref(), Some("250m"));
        assert_eq!(resource(&Value::from("x")), None);
    }
}
