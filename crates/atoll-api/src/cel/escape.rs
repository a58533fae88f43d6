//! Names of properties as CEL can write them: `a-b` is `a__dash__b`.

/// Words that are no identifiers in CEL, and those that upstream treats like them.
pub(crate) const RESERVED: &[&str] = &[
    "true",
    "false",
    "null",
    "in",
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "package",
    "namespace",
    "return",
    "var",
    "void",
    "while",
];

const SEQUENCES: &[(&str, &str)] =
    &[("__", "underscores"), (".", "dot"), ("-", "dash"), ("/", "slash")];

/// The identifier for a property; `None` when CEL cannot name it.
#[must_use]
pub fn escape(name: &str) -> Option<String> {
    let first = name.chars().next()?;
    if first.is_ascii_digit() {
        return None;
    }
    if RESERVED.contains(&name) {
        return Some(format!("__{name}__"));
    }
    let mut out = String::with_capacity(name.len());
    let mut rest = name;
    while let Some(one) = rest.chars().next() {
        if let Some((sequence, word)) = SEQUENCES.iter().find(|(seq, _)| rest.starts_with(seq)) {
            out.push_str("__");
            out.push_str(word);
            out.push_str("__");
            rest = rest.get(sequence.len()..).unwrap_or("");
            continue;
        }
        if !one.is_ascii_alphanumeric() && one != '_' {
            return None;
        }
        out.push(one);
        rest = rest.get(1..).unwrap_or("");
    }
    Some(out)
}

/// The property that an identifier names; `None` when an escape is no known one.
#[must_use]
pub fn unescape(name: &str) -> Option<String> {
    let mut out = String::with_capacity(name.len());
    let mut rest = name;
    while let Some(at) = rest.find("__") {
        let inner = rest.get(at + 2..).unwrap_or("");
        let Some(end) = inner.find("__").filter(|end| *end > 0) else { break };
        let word = inner.get(..end).unwrap_or("");
        if word.contains('_') {
            break;
        }
        out.push_str(rest.get(..at).unwrap_or(""));
        match SEQUENCES.iter().find(|(_, name)| *name == word) {
            Some((sequence, _)) => out.push_str(sequence),
            None if RESERVED.contains(&word) => out.push_str(word),
            None => return None,
        }
        rest = inner.get(end + 2..).unwrap_or("");
    }
    out.push_str(rest);
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_go_there_and_back() {
        for (plain, escaped) in [
            ("a", "a"),
            ("a_b", "a_b"),
            ("a__b", "a__underscores__b"),
            ("a.b-c/d", "a__dot__b__dash__c__slash__d"),
            ("namespace", "__namespace__"),
            ("int", "int"),
        ] {
            assert_eq!(escape(plain).as_deref(), Some(escaped));
            assert_eq!(unescape(escaped).as_deref(), Some(plain));
        }
        for none in ["", "1a", "a b", "ä", "$ref"] {
            assert_eq!(escape(none), None, "{none}");
        }
        assert_eq!(unescape("a__huh__b"), None);
    }
}
