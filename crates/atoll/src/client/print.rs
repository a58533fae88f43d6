//! JSON and YAML as kubectl prints them: keys in order, strings in the shortest style that
//! reads back as a string, long lines folded.

use serde_json::{Map, Value, ser::PrettyFormatter};
use std::{cmp::Ordering, collections::BTreeMap};

/// Columns after which a line is folded at the next blank.
const WIDTH: usize = 80;

/// Four blanks a level, as kubectl's.
pub fn json(value: &Value) -> String {
    let mut bytes = Vec::new();
    let formatter = PrettyFormatter::with_indent(b"    ");
    let mut serializer = serde_json::Serializer::with_formatter(&mut bytes, formatter);
    if serde::Serialize::serialize(&sorted(value), &mut serializer).is_err() {
        return value.to_string();
    }
    let mut text = String::from_utf8_lossy(&bytes).into_owned();
    // Go escapes what a browser could take for markup.
    for (plain, escaped) in [('<', "\\u003c"), ('>', "\\u003e"), ('&', "\\u0026")] {
        text = text.replace(plain, escaped);
    }
    text.push('\n');
    text
}

fn sorted(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let ordered: BTreeMap<&String, &Value> = map.iter().collect();
            let pairs = ordered.into_iter().map(|(key, value)| (key.clone(), sorted(value)));
            Value::Object(pairs.collect())
        }
        Value::Array(items) => Value::Array(items.iter().map(sorted).collect()),
        other => other.clone(),
    }
}

pub fn yaml(value: &Value) -> String {
    let mut writer = Writer { out: String::new(), column: 0 };
    match value {
        Value::Object(map) if !map.is_empty() => writer.map(map, 0),
        Value::Array(items) if !items.is_empty() => writer.list(items, 0),
        other => {
            writer.scalar(other, 0);
            writer.newline(0);
        }
    }
    writer.out
}

struct Writer {
    out: String,
    column: usize,
}

impl Writer {
    fn push(&mut self, text: &str) {
        self.out.push_str(text);
        self.column += text.chars().count();
    }

    fn newline(&mut self, indent: usize) {
        self.out.push('\n');
        self.out.extend(std::iter::repeat_n(' ', indent));
        self.column = indent;
    }

    /// Begins a line of its own, unless the dash of a list's item stands before.
    fn begin(&mut self, indent: usize) {
        if self.column == 0 {
            self.out.extend(std::iter::repeat_n(' ', indent));
            self.column = indent;
        }
    }

    fn map(&mut self, map: &Map<String, Value>, indent: usize) {
        let mut pairs: Vec<_> = map.iter().collect();
        pairs.sort_by(|left, right| natural(left.0, right.0));
        for (key, value) in pairs {
            self.begin(indent);
            self.string(key, indent, true);
            self.push(":");
            match value {
                Value::Object(inner) if !inner.is_empty() => {
                    self.newline(0);
                    self.map(inner, indent + 2);
                }
                Value::Array(items) if !items.is_empty() => {
                    self.newline(0);
                    self.list(items, indent);
                }
                other => {
                    self.push(" ");
                    self.scalar(other, indent);
                    self.newline(0);
                }
            }
        }
    }

    fn list(&mut self, items: &[Value], indent: usize) {
        for item in items {
            self.begin(indent);
            self.push("- ");
            match item {
                Value::Object(inner) if !inner.is_empty() => self.map(inner, indent + 2),
                Value::Array(inner) if !inner.is_empty() => self.list(inner, indent + 2),
                other => {
                    self.scalar(other, indent);
                    self.newline(0);
                }
            }
        }
    }

    fn scalar(&mut self, value: &Value, indent: usize) {
        match value {
            Value::Null => self.push("null"),
            Value::String(text) => self.string(text, indent, false),
            Value::Object(_) => self.push("{}"),
            Value::Array(_) => self.push("[]"),
            other => self.push(&other.to_string()),
        }
    }

    fn string(&mut self, text: &str, indent: usize, is_key: bool) {
        match style(text, is_key) {
            Style::Plain => self.fold(text, indent, is_key),
            Style::Single => {
                self.push("'");
                self.fold(&text.replace('\'', "''"), indent, is_key);
                self.push("'");
            }
            Style::Double => self.double(text, indent, is_key),
            Style::Literal => self.literal(text, indent),
        }
    }

    /// Breaks at the first single blank after the width.
    fn fold(&mut self, text: &str, indent: usize, is_key: bool) {
        let letters: Vec<char> = text.chars().collect();
        let mut last_was_blank = false;
        for (index, letter) in letters.iter().enumerate() {
            let is_blank = *letter == ' ';
            let inner = index > 0 && index + 1 < letters.len();
            let next_is_blank = letters.get(index + 1) == Some(&' ');
            if is_blank
                && !is_key
                && inner
                && !last_was_blank
                && !next_is_blank
                && self.column > WIDTH
            {
                self.newline(indent + 2);
            } else {
                self.push(letter.encode_utf8(&mut [0; 4]));
            }
            last_was_blank = is_blank;
        }
    }

    fn double(&mut self, text: &str, indent: usize, is_key: bool) {
        self.push("\"");
        let letters: Vec<char> = text.chars().collect();
        let mut last_was_blank = false;
        for (index, letter) in letters.iter().enumerate() {
            let inner = index > 0 && index + 1 < letters.len();
            if *letter == ' ' && !is_key && inner && !last_was_blank && self.column > WIDTH {
                self.newline(indent + 2);
                if letters.get(index + 1) == Some(&' ') {
                    self.push("\\");
                }
                last_was_blank = true;
                continue;
            }
            last_was_blank = *letter == ' ';
            self.push(&escaped(*letter));
        }
        self.push("\"");
    }

    fn literal(&mut self, text: &str, indent: usize) {
        self.push("|");
        if text.starts_with([' ', '\n']) {
            self.push("2");
        }
        if !text.ends_with('\n') {
            self.push("-");
        } else if text == "\n" || text.ends_with("\n\n") {
            self.push("+");
        }
        let body = text.strip_suffix('\n').unwrap_or(text);
        for line in body.split('\n') {
            self.newline(if line.is_empty() { 0 } else { indent + 2 });
            self.push(line);
        }
    }
}

fn escaped(letter: char) -> String {
    match letter {
        '"' => "\\\"".into(),
        '\\' => "\\\\".into(),
        '\n' => "\\n".into(),
        '\r' => "\\r".into(),
        '\t' => "\\t".into(),
        '\0' => "\\0".into(),
        '\u{7}' => "\\a".into(),
        '\u{8}' => "\\b".into(),
        '\u{b}' => "\\v".into(),
        '\u{c}' => "\\f".into(),
        '\u{1b}' => "\\e".into(),
        other if is_printable(other) => other.to_string(),
        other => match u32::from(other) {
            code @ 0..=0xff => format!("\\x{code:02X}"),
            code @ 0x100..=0xffff => format!("\\u{code:04X}"),
            code => format!("\\U{code:08X}"),
        },
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Style {
    Plain,
    Single,
    Double,
    Literal,
}

fn style(text: &str, is_key: bool) -> Style {
    let has_break = text.contains('\n');
    let is_special = text.chars().any(|letter| letter != '\n' && !is_printable(letter));
    let blank_then_break = text.contains(" \n");
    if is_special || blank_then_break {
        return Style::Double;
    }
    if has_break {
        // The last character decides whether a block can hold it.
        return if is_key || text.ends_with(' ') { Style::Double } else { Style::Literal };
    }
    if reads_as_other(text) {
        return Style::Double;
    }
    if text.starts_with(' ') || text.ends_with(' ') || has_indicator(text) {
        return Style::Single;
    }
    Style::Plain
}

fn is_printable(letter: char) -> bool {
    match u32::from(letter) {
        0xfeff => false,
        0x20..=0x7e | 0x85 | 0xa0..=0xd7ff | 0xe000..=0xfffd | 0x1_0000..=0x10_ffff => true,
        _ => false,
    }
}

/// What would be taken for structure if it stood bare.
fn has_indicator(text: &str) -> bool {
    if text.starts_with("---") || text.starts_with("...") {
        return true;
    }
    let letters: Vec<char> = text.chars().collect();
    letters.iter().enumerate().any(|(index, letter)| {
        let next_is_blank = letters.get(index + 1).is_none_or(|next| *next == ' ');
        match (index, letter) {
            (
                0,
                '#' | ',' | '[' | ']' | '{' | '}' | '&' | '*' | '!' | '|' | '>' | '\'' | '"' | '%'
                | '@' | '`',
            ) => true,
            (0, '-' | '?') | (_, ':') => next_is_blank,
            (_, '#') => letters[index - 1] == ' ',
            _ => false,
        }
    })
}

/// What YAML 1.1 reads as a number, a truth, nothing or a time.
fn reads_as_other(text: &str) -> bool {
    const WORDS: &[&str] = &[
        "", "~", "null", "Null", "NULL", "y", "Y", "yes", "Yes", "YES", "n", "N", "no", "No", "NO",
        "true", "True", "TRUE", "false", "False", "FALSE", "on", "On", "ON", "off", "Off", "OFF",
        ".nan", ".NaN", ".NAN", ".inf", ".Inf", ".INF", "+.inf", "+.Inf", "+.INF", "-.inf",
        "-.Inf", "-.INF", "<<", "=",
    ];
    if WORDS.contains(&text) {
        return true;
    }
    text.starts_with(|first: char| first.is_ascii_digit() || "+-.".contains(first))
        && (is_integer(text) || is_float(text) || is_sexagesimal(text) || is_time(text))
}

fn is_integer(text: &str) -> bool {
    let bare = text.replace('_', "");
    let digits = bare.strip_prefix(['+', '-']).unwrap_or(&bare);
    let (base, digits) = match digits.get(..2).map(str::to_ascii_lowercase).as_deref() {
        Some("0x") => (16, &digits[2..]),
        Some("0b") => (2, &digits[2..]),
        Some("0o") => (8, &digits[2..]),
        _ if digits.len() > 1 && digits.starts_with('0') => (8, &digits[1..]),
        _ => (10, digits),
    };
    !digits.is_empty() && digits.chars().all(|digit| digit.is_digit(base))
}

fn is_float(text: &str) -> bool {
    let bare = text.replace('_', "");
    let unsigned = bare.strip_prefix(['+', '-']).unwrap_or(&bare);
    let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (unsigned, None),
    };
    let digits = |part: &str| part.chars().all(|digit| digit.is_ascii_digit());
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let is_number = digits(whole) && digits(fraction) && !(whole.is_empty() && fraction.is_empty());
    let exponent_fits = exponent.is_none_or(|exponent| {
        let exponent = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
        !exponent.is_empty() && digits(exponent)
    });
    is_number && exponent_fits
}

/// `1:30` was ninety once.
fn is_sexagesimal(text: &str) -> bool {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let mut parts = unsigned.split(':');
    let first = parts.next().unwrap_or_default();
    let rest: Vec<&str> = parts.collect();
    let is_part = |part: &&str| {
        let whole = part.split_once('.').map_or(*part, |(whole, _)| whole);
        matches!(whole.len(), 1 | 2)
            && whole.chars().all(|digit| digit.is_ascii_digit())
            && (whole.len() == 1 || whole < "60")
    };
    first.starts_with(|digit: char| digit.is_ascii_digit())
        && first.chars().all(|digit| digit.is_ascii_digit() || digit == '_')
        && !rest.is_empty()
        && rest.iter().all(is_part)
}

fn is_time(text: &str) -> bool {
    let is_year = text.len() >= 8
        && text.bytes().take(4).all(|byte| byte.is_ascii_digit())
        && text.as_bytes()[4] == b'-';
    is_year
        && (text.parse::<jiff::Timestamp>().is_ok()
            || (text.len() <= 10 && text.parse::<jiff::civil::Date>().is_ok()))
}

/// Numbers within keys compare by value, and letters come after everything else.
fn natural(left: &str, right: &str) -> Ordering {
    let (left, right): (Vec<char>, Vec<char>) = (left.chars().collect(), right.chars().collect());
    let mut digits = false;
    for index in 0..left.len().min(right.len()) {
        let (one, other) = (left[index], right[index]);
        if one == other {
            digits = one.is_ascii_digit();
            continue;
        }
        match (one.is_alphabetic(), other.is_alphabetic()) {
            (true, true) => return one.cmp(&other),
            (true, false) => return if digits { Ordering::Less } else { Ordering::Greater },
            (false, true) => return if digits { Ordering::Greater } else { Ordering::Less },
            (false, false) => {}
        }
        let number = |letters: &[char]| -> (usize, u64) {
            let run: String =
                letters[index..].iter().take_while(|digit| digit.is_ascii_digit()).collect();
            (run.len(), run.parse().unwrap_or(0))
        };
        let (one_number, other_number) = (number(&left), number(&right));
        return one_number
            .1
            .cmp(&other_number.1)
            .then(one_number.0.cmp(&other_number.0))
            .then(one.cmp(&other));
    }
    left.len().cmp(&right.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn strings_keep_being_strings() {
        let document = json!({ "a": "1", "b": "yes", "c": "2026-01-01T00:00:00Z", "d": "10.0.0.1",
            "e": "a: b", "f": "x\ny\n", "g": "", "h": "- x", "i": "0/3 nodes", "j": "1e3", "k": "#x",
            "l": " x", "m": "tab\there", "n": "a\n  b", "o": "1:30", "p": "*" });
        let expected = "a: \"1\"\nb: \"yes\"\nc: \"2026-01-01T00:00:00Z\"\nd: 10.0.0.1\ne: 'a: b'\nf: |\n  x\n  y\ng: \"\"\nh: '- x'\ni: 0/3 nodes\nj: \"1e3\"\nk: '#x'\nl: ' x'\nm: \"tab\\there\"\n\"n\": |-\n  a\n    b\no: \"1:30\"\np: '*'\n";
        assert_eq!(yaml(&document), expected);
    }

    #[test]
    fn long_lines_are_folded_and_lists_not_indented() {
        let text = "0/3 nodes are available: 3 Insufficient cpu. preemption: 0/3 nodes are available: 3 Preemption is not helpful for scheduling.";
        let document = json!({ "conditions": [{ "message": text }] });
        assert_eq!(
            yaml(&document),
            "conditions:\n- message: '0/3 nodes are available: 3 Insufficient cpu. preemption: 0/3 nodes are\n    available: 3 Preemption is not helpful for scheduling.'\n"
        );
    }

    #[test]
    fn keys_are_in_natural_order() {
        let document = json!({ "a10": 1, "a2": 2, "b": {}, "Z": [], "_": null });
        assert_eq!(yaml(&document), "_: null\nZ: []\na2: 2\na10: 1\nb: {}\n");
        assert_eq!(
            json(&json!({ "b": "<", "a": 1 })),
            "{\n    \"a\": 1,\n    \"b\": \"\\u003c\"\n}\n"
        );
    }
}
