//! Object trees as YAML, in the layout that Kubernetes' tools write.

use serde_json::{Map, Value};

use super::yaml_scalar::is_plain_string;

/// Block style, keys sorted, lists at the indentation of their key.
#[must_use]
pub fn to_yaml(value: &Value) -> String {
    let mut out = String::new();
    match value {
        Value::Object(map) if !map.is_empty() => write_map(map, 0, &mut out),
        Value::Array(items) if !items.is_empty() => write_list(items, 0, &mut out),
        other => {
            write_inline(other, 0, &mut out);
            out.push('\n');
        }
    }
    out
}

fn write_map(map: &Map<String, Value>, indent: usize, out: &mut String) {
    let mut keys: Vec<&String> = map.keys().collect();
    keys.sort();
    for (index, key) in keys.into_iter().enumerate() {
        // The first key of a list's item stands behind its dash.
        if index > 0 || !out.ends_with("- ") {
            push_indent(indent, out);
        }
        write_string(key, indent, out);
        out.push(':');
        write_value(&map[key], indent, out);
    }
}

fn write_value(value: &Value, indent: usize, out: &mut String) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            out.push('\n');
            write_map(map, indent + 2, out);
        }
        Value::Array(items) if !items.is_empty() => {
            out.push('\n');
            write_list(items, indent, out);
        }
        other => {
            out.push(' ');
            write_inline(other, indent, out);
            out.push('\n');
        }
    }
}

fn write_list(items: &[Value], indent: usize, out: &mut String) {
    for (index, item) in items.iter().enumerate() {
        if index > 0 || !out.ends_with("- ") {
            push_indent(indent, out);
        }
        out.push_str("- ");
        match item {
            Value::Object(map) if !map.is_empty() => write_map(map, indent + 2, out),
            Value::Array(inner) if !inner.is_empty() => write_list(inner, indent + 2, out),
            other => {
                write_inline(other, indent, out);
                out.push('\n');
            }
        }
    }
}

fn write_inline(value: &Value, indent: usize, out: &mut String) {
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(flag) => out.push_str(if *flag { "true" } else { "false" }),
        Value::Number(number) => out.push_str(&number.to_string()),
        Value::String(text) if is_block(text) => write_block(text, indent, out),
        Value::String(text) => write_string(text, indent, out),
        Value::Array(_) => out.push_str("[]"),
        Value::Object(_) => out.push_str("{}"),
    }
}

/// Texts of several lines are legible as blocks, unless white space would be lost.
fn is_block(text: &str) -> bool {
    let printable = text.chars().all(|one| one == '\n' || !one.is_control());
    text.trim_end_matches('\n').contains('\n')
        && printable
        && !text.starts_with([' ', '\n'])
        && !text.contains('\u{feff}')
}

fn write_block(text: &str, indent: usize, out: &mut String) {
    let body = text.trim_end_matches('\n');
    out.push_str(match text.len() - body.len() {
        0 => "|-",
        1 => "|",
        _ => "|+",
    });
    let lines = text.strip_suffix('\n').unwrap_or(text).split('\n');
    for line in lines {
        out.push('\n');
        if !line.is_empty() {
            push_indent(indent + 2, out);
            out.push_str(line);
        }
    }
}

fn write_string(text: &str, _indent: usize, out: &mut String) {
    if is_plain(text) {
        out.push_str(text);
    } else if text.chars().any(|one| one.is_control() || one == '\u{feff}') {
        out.push_str(&Value::from(text).to_string());
    } else if (is_plain_string(text) && !reads_otherwise(text)) || text.contains('"') {
        out.push('\'');
        out.push_str(&text.replace('\'', "''"));
        out.push('\'');
    } else {
        out.push_str(&Value::from(text).to_string());
    }
}

fn is_plain(text: &str) -> bool {
    let Some(first) = text.chars().next() else { return false };
    let starts_badly = "-?:,[]{}#&*!|>'\"%@`".contains(first)
        && !(matches!(first, '-' | '?' | ':')
            && text.len() > 1
            && !text[1..].starts_with([' ', '-']));
    !starts_badly
        && is_plain_string(text)
        && !reads_otherwise(text)
        && text != "<<"
        && !text.starts_with(' ')
        && !text.ends_with([' ', ':'])
        && !text.contains(": ")
        && !text.contains(" #")
        && !text.chars().any(|one| one.is_control() || one == '\u{feff}')
        // Either would end the document when it stands at the start of a line.
        && !text.starts_with("---")
        && !text.starts_with("...")
}

/// Whether other readers of YAML 1.1 take a plain scalar for a time or a number to the base of
/// 60, which Kubernetes' own converter leaves alone: it quotes both.
fn reads_otherwise(text: &str) -> bool {
    is_date(text) || is_sexagesimal(text)
}

/// `2026-01-31`, alone or with a time after it.
fn is_date(text: &str) -> bool {
    let mut parts = text.splitn(3, '-');
    let (Some(year), Some(month), Some(rest)) = (parts.next(), parts.next(), parts.next()) else {
        return false;
    };
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let day = rest.split(['T', 't', ' ']).next().unwrap_or("");
    let short = |text: &str| matches!(text.len(), 1 | 2) && digits(text);
    let time = rest.get(day.len() + 1..).unwrap_or("");
    year.len() == 4
        && digits(year)
        && short(month)
        && short(day)
        && (rest.len() == day.len() || time.starts_with(|first: char| first.is_ascii_digit()))
}

/// `12:30:45`.
fn is_sexagesimal(text: &str) -> bool {
    let text = text.strip_prefix(['-', '+']).unwrap_or(text);
    let mut parts = text.split(':');
    let first = parts.next().unwrap_or("");
    let whole = |part: &str| {
        !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit() || byte == b'_')
    };
    let minutes = |part: &str| {
        let part = part.split('.').next().unwrap_or("");
        part.len() <= 2 && whole(part) && part.parse().is_ok_and(|number: u8| number < 60)
    };
    text.contains(':') && whole(first) && parts.all(minutes)
}

fn push_indent(indent: usize, out: &mut String) {
    out.extend(std::iter::repeat_n(' ', indent));
}
