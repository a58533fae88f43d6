//! Canonical texts as apimachinery prints them.

use super::{Format, Quantity, QuantityError};

fn canonical(text: &str) -> String {
    Quantity::parse(text).map_or_else(|error| format!("{error:?}"), |one| one.to_string())
}

#[test]
fn prints_the_canonical_text() {
    let table = [
        ("0", "0"),
        ("0Ki", "0"),
        ("1000m", "1"),
        ("0.5", "500m"),
        (".5Mi", "512Ki"),
        ("1024Mi", "1Gi"),
        ("1.5Gi", "1536Mi"),
        ("1023", "1023"),
        ("512Ki", "512Ki"),
        ("0.5Ki", "512"),
        ("0.001Ki", "1024m"),
        ("1Mi", "1Mi"),
        ("100e3", "100e3"),
        ("1e3", "1e3"),
        ("12E6", "12e6"),
        ("1000k", "1M"),
        ("1.5", "1500m"),
        ("-5", "-5"),
        ("-0.25", "-250m"),
        ("1n", "1n"),
        ("0.1n", "1n"),
        ("-0.1n", "-1n"),
        ("0.0000000001", "1n"),
        ("9Ei", "9223372036854775807"),
        ("8Ei", "9223372036854775807"),
        ("7Ei", "7Ei"),
        ("10E", "9223372036854775807"),
        ("1E", "1E"),
        ("100000000000000000000", "9223372036854775807"),
        ("+1", "1"),
        ("1.", "1"),
        ("001", "1"),
        ("0.1Ki", "102400m"),
        ("2048", "2048"),
        ("1e-3", "1e-3"),
        ("1e-12", "1e-9"),
    ];
    for (text, expected) in table {
        assert_eq!(canonical(text), expected, "{text}");
    }
}

#[test]
fn refuses_what_is_no_quantity() {
    for text in ["", "abc", "1.2.3", "1 Gi", "1Gib", "--1", "1e", "m", "."] {
        assert!(Quantity::parse(text).is_err(), "{text}");
    }
    assert_eq!(Quantity::parse("1KK"), Err(QuantityError::Suffix));
}

#[test]
fn rounds_up() {
    let amount = Quantity::parse("1001m").unwrap();
    assert_eq!((amount.value(), amount.milli()), (2, 1001));
    assert_eq!(Quantity::parse("-1001m").unwrap().value(), -2);
    assert_eq!(Quantity::parse("100u").unwrap().milli(), 1);
}

#[test]
fn adds_in_the_format_of_the_first() {
    let sum = Quantity::parse("512Mi").unwrap() + Quantity::parse("512Mi").unwrap();
    assert_eq!(sum.to_string(), "1Gi");
    assert_eq!((Quantity::default() + sum).format(), Format::BinarySi);
}

proptest::proptest! {
    #[test]
    fn canonical_text_is_a_fixed_point(text in "[+-]?[0-9]{1,25}(\\.[0-9]{0,25})?(n|u|m|k|M|G|Ki|Mi|Gi|Ei|e[0-9]|E-[0-9])?") {
        if let Ok(one) = Quantity::parse(&text) {
            let again = Quantity::parse(&one.to_string());
            proptest::prop_assert_eq!(again.map(|one| one.to_string()), Ok(one.to_string()));
        }
    }

    #[test]
    fn any_text_is_taken_or_refused(text in ".*") {
        Quantity::parse(&text).ok();
    }
}
