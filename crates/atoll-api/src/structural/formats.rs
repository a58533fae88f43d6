//! The formats of strings that are checked, as upstream's `strfmt` does.

use std::sync::LazyLock;

use base64::Engine as _;
use jiff::Timestamp;
use regex::Regex;

/// Whether a text is of a format; `None` for formats that nobody checks.
#[must_use]
pub fn holds(format: &str, text: &str) -> Option<bool> {
    let holds = match normal(format).as_str() {
        "datetime" => text.parse::<Timestamp>().is_ok() && text.contains(['T', 't']),
        "date" => DATE.is_match(text) && text.parse::<jiff::civil::Date>().is_ok(),
        "duration" => duration(text),
        "byte" => base64::engine::general_purpose::STANDARD.decode(text).is_ok(),
        "ipv4" => text.parse::<std::net::Ipv4Addr>().is_ok(),
        "ipv6" => text.parse::<std::net::Ipv6Addr>().is_ok(),
        "cidr" => cidr(text),
        "mac" => MAC.is_match(text),
        "hostname" => text.len() <= 255 && HOSTNAME.is_match(text),
        "email" => EMAIL.is_match(text),
        "uri" => URI.is_match(text),
        "uuid" => UUID.is_match(text),
        "uuid3" => UUID.is_match(text) && text.as_bytes().get(14) == Some(&b'3'),
        "uuid4" => UUID.is_match(text) && text.as_bytes().get(14) == Some(&b'4'),
        "uuid5" => UUID.is_match(text) && text.as_bytes().get(14) == Some(&b'5'),
        "hexcolor" => HEX_COLOR.is_match(text),
        "rgbcolor" => RGB_COLOR.is_match(text),
        "creditcard" => CARD.is_match(text) && luhn(text),
        "ssn" => SSN.is_match(text),
        "isbn" => isbn(text, 10) || isbn(text, 13),
        "isbn10" => isbn(text, 10),
        "isbn13" => isbn(text, 13),
        "bsonobjectid" => text.len() == 24 && text.bytes().all(|byte| byte.is_ascii_hexdigit()),
        "k8sshortname" => crate::names::dns1123_label(text).is_empty(),
        "k8slongname" => crate::names::dns1123_subdomain(text).is_empty(),
        _ => return None,
    };
    Some(holds)
}

/// Formats that a schema may name: those that are checked, and those that only say something.
#[must_use]
pub fn is_known(format: &str) -> bool {
    let plain = ["int32", "int64", "float", "double", "password", "binary", "intorstring"];
    let known = normal(format);
    plain.contains(&known.as_str()) || holds(format, "").is_some()
}

fn normal(format: &str) -> String {
    format.chars().filter(|letter| *letter != '-' && *letter != '_').collect()
}

macro_rules! expressions {
    ($($name:ident = $text:literal;)*) => {
        $(
            #[allow(clippy::expect_used, reason = "a constant expression, compiled by the tests")]
            static $name: LazyLock<Regex> = LazyLock::new(|| {
                Regex::new($text).expect("a constant expression is one")
            });
        )*

        #[cfg(test)]
        fn all() -> Vec<&'static Regex> {
            vec![$(&$name),*]
        }
    };
}

expressions! {
    DATE = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$";
    MAC = r"^([0-9A-Fa-f]{2}[:-]){5}[0-9A-Fa-f]{2}$|^([0-9A-Fa-f]{4}\.){2}[0-9A-Fa-f]{4}$";
    HOSTNAME = r"^([a-zA-Z0-9_]([a-zA-Z0-9_-]{0,61}[a-zA-Z0-9])?)(\.[a-zA-Z0-9_]([a-zA-Z0-9_-]{0,61}[a-zA-Z0-9])?)*$";
    EMAIL = r#"^[^@\s<>()"]+@[^@\s<>()"]+$"#;
    URI = r"^([a-zA-Z][a-zA-Z0-9+.-]*:\S+|/\S*)$";
    UUID = r"^(?i)[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}$";
    HEX_COLOR = r"^#?([0-9a-fA-F]{3}|[0-9a-fA-F]{6})$";
    RGB_COLOR = r"^rgb\(\s*(0|[1-9]\d?|1\d\d?|2[0-4]\d|25[0-5])\s*,\s*(0|[1-9]\d?|1\d\d?|2[0-4]\d|25[0-5])\s*,\s*(0|[1-9]\d?|1\d\d?|2[0-4]\d|25[0-5])\s*\)$";
    CARD = r"^[0-9 -]{13,23}$";
    SSN = r"^\d{3}[- ]?\d{2}[- ]?\d{4}$";
    LONG_DURATION = r"^(\s*-?\d+(\.\d+)?\s*(ns|us|µs|ms|s|m|h|d|w|nanoseconds?|microseconds?|milliseconds?|seconds?|minutes?|hours?|days?|weeks?))+$";
}

/// Go's durations (`1h30m`), and those of Scala that upstream takes too (`3 days`).
fn duration(text: &str) -> bool {
    text == "0" || LONG_DURATION.is_match(text)
}

fn cidr(text: &str) -> bool {
    let Some((address, bits)) = text.split_once('/') else { return false };
    let Ok(address) = address.parse::<std::net::IpAddr>() else { return false };
    let max = if address.is_ipv4() { 32 } else { 128 };
    bits.parse::<u8>().is_ok_and(|bits| bits <= max)
}

fn digits(text: &str) -> impl DoubleEndedIterator<Item = u32> + '_ {
    text.chars().filter_map(|letter| letter.to_digit(10))
}

fn luhn(text: &str) -> bool {
    let sum: u32 = digits(text)
        .rev()
        .enumerate()
        .map(|(at, digit)| match (at % 2, digit * 2) {
            (0, _) => digit,
            (_, double) if double > 9 => double - 9,
            (_, double) => double,
        })
        .sum();
    sum.is_multiple_of(10)
}

fn isbn(text: &str, length: usize) -> bool {
    let plain: Vec<char> = text.chars().filter(|letter| *letter != '-' && *letter != ' ').collect();
    if plain.len() != length {
        return false;
    }
    let mut sum = 0;
    for (at, letter) in (0_u32..).zip(&plain) {
        let digit = match letter.to_digit(10) {
            Some(digit) => digit,
            None if length == 10 && at == 9 && *letter == 'X' => 10,
            None => return false,
        };
        sum += if length == 10 { (10 - at) * digit } else { digit * (1 + 2 * (at % 2)) };
    }
    sum % (if length == 10 { 11 } else { 10 }) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_checked() {
        assert!(!all().is_empty());
        let cases = [
            ("date-time", "2020-01-01T00:00:00Z", true),
            ("date-time", "yesterday", false),
            ("date", "2020-02-30", false),
            ("ipv4", "1.2.3.4", true),
            ("ipv6", "1.2.3.4", false),
            ("cidr", "10.0.0.0/8", true),
            ("cidr", "10.0.0.0/33", false),
            ("uuid", "a987fbc9-4bed-3078-cf07-9141ba07c9f3", true),
            ("byte", "?", false),
            ("duration", "1h30m", true),
            ("duration", "soon", false),
            ("isbn10", "3836221195", true),
            ("isbn13", "9783836221191", true),
            ("creditcard", "4012888888881881", true),
            ("hexcolor", "#ff00zz", false),
            ("email", "a@b.c", true),
        ];
        for (format, text, expected) in cases {
            assert_eq!(holds(format, text), Some(expected), "{format} {text}");
        }
        assert_eq!(holds("int32", "x"), None);
        assert!(is_known("int-or-string") && !is_known("colour"));
    }
}
