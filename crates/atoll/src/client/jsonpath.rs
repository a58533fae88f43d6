//! kubectl's JSONPath templates: `{.items[*].metadata.name}`, filters, `range`, literals.
//!
//! Not there: recursive descent, unions and steps of slices; they are refused by name.

use anyhow::{Result, bail};
use serde_json::Value;
use std::borrow::Cow;

/// A parsed template.
#[derive(Debug)]
pub struct Template(Vec<Node>);

#[derive(Debug)]
enum Node {
    Text(String),
    Path(Vec<Step>),
    Range(Vec<Step>, Vec<Node>),
}

#[derive(Debug, Clone)]
enum Step {
    Root,
    Field(String),
    Index(i64),
    Slice(Option<i64>, Option<i64>),
    All,
    Filter(Vec<Step>, Option<(String, Value)>),
}

/// Parses a template; one without braces is one path, with or without a leading dot.
pub fn parse(text: &str) -> Result<Template> {
    let whole = if text.contains('{') {
        Cow::Borrowed(text)
    } else if text.starts_with(['.', '[', '$', '@']) {
        Cow::Owned(format!("{{{text}}}"))
    } else {
        Cow::Owned(format!("{{.{text}}}"))
    };
    let mut rest: &str = &whole;
    let mut open: Vec<(Vec<Step>, Vec<Node>)> = Vec::new();
    let mut nodes = Vec::new();
    while !rest.is_empty() {
        let Some(start) = rest.find('{') else {
            nodes.push(Node::Text(rest.to_owned()));
            break;
        };
        if start > 0 {
            nodes.push(Node::Text(rest[..start].to_owned()));
        }
        let Some(length) = closing(&rest[start + 1..]) else {
            bail!("error parsing jsonpath {text}, unclosed action")
        };
        let action = rest[start + 1..start + 1 + length].trim();
        rest = &rest[start + length + 2..];
        if let Some(path) = action.strip_prefix("range ") {
            open.push((path_of(path.trim(), text)?, std::mem::take(&mut nodes)));
        } else if action == "end" {
            let Some((path, outer)) = open.pop() else {
                bail!("error parsing jsonpath {text}, not in range")
            };
            let body = std::mem::replace(&mut nodes, outer);
            nodes.push(Node::Range(path, body));
        } else if let Some(literal) = literal(action) {
            nodes.push(Node::Text(literal));
        } else {
            nodes.push(Node::Path(path_of(action, text)?));
        }
    }
    if !open.is_empty() {
        bail!("error parsing jsonpath {text}, unterminated range");
    }
    Ok(Template(nodes))
}

impl Template {
    pub fn render(&self, document: &Value) -> String {
        let mut out = String::new();
        render(&self.0, document, document, &mut out);
        out
    }

    /// The values that the template's first path leads to.
    pub fn values<'a>(&self, document: &'a Value) -> Vec<&'a Value> {
        let path = self.0.iter().find_map(|node| match node {
            Node::Path(path) => Some(path),
            _ => None,
        });
        path.map(|path| walk(path, document, document)).unwrap_or_default()
    }
}

fn render(nodes: &[Node], root: &Value, here: &Value, out: &mut String) {
    for node in nodes {
        match node {
            Node::Text(text) => out.push_str(text),
            Node::Path(path) => {
                let found = walk(path, root, here);
                out.push_str(&found.into_iter().map(shown).collect::<Vec<_>>().join(" "));
            }
            Node::Range(path, body) => {
                for item in walk(path, root, here) {
                    render(body, root, item, out);
                }
            }
        }
    }
}

/// A string bare, everything else as JSON.
pub fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

fn walk<'a>(path: &[Step], root: &'a Value, here: &'a Value) -> Vec<&'a Value> {
    let mut found = vec![here];
    for step in path {
        let mut next: Vec<&Value> = Vec::new();
        for value in found {
            advance(step, root, value, &mut next);
        }
        found = next;
    }
    found
}

fn advance<'a>(step: &Step, root: &'a Value, value: &'a Value, next: &mut Vec<&'a Value>) {
    let place = |index: i64, length: usize| -> Option<usize> {
        let length = i64::try_from(length).ok()?;
        usize::try_from(if index < 0 { index + length } else { index }).ok()
    };
    match (step, value) {
        (Step::Root, _) => next.push(root),
        (Step::Field(name), Value::Object(map)) => next.extend(map.get(name)),
        (Step::All, Value::Object(map)) => next.extend(map.values()),
        (Step::All, Value::Array(items)) => next.extend(items),
        (Step::Index(index), Value::Array(items)) => {
            next.extend(place(*index, items.len()).and_then(|index| items.get(index)));
        }
        (Step::Slice(from, to), Value::Array(items)) => {
            let from = from.and_then(|from| place(from, items.len())).unwrap_or(0);
            let to = to.and_then(|to| place(to, items.len())).unwrap_or(items.len());
            next.extend(items.iter().take(to).skip(from));
        }
        (Step::Filter(path, wanted), Value::Array(items)) => {
            next.extend(items.iter().filter(|item| {
                let found = walk(path, root, item);
                match wanted {
                    None => !found.is_empty(),
                    Some((operator, wanted)) => {
                        found.iter().any(|value| compares(value, operator, wanted))
                    }
                }
            }));
        }
        _ => {}
    }
}

fn compares(value: &Value, operator: &str, wanted: &Value) -> bool {
    let order = match (value.as_f64(), wanted.as_f64()) {
        (Some(value), Some(wanted)) => value.partial_cmp(&wanted),
        _ => shown(value).partial_cmp(&shown(wanted)),
    };
    let Some(order) = order else { return false };
    match operator {
        "==" => order.is_eq(),
        "!=" => order.is_ne(),
        "<" => order.is_lt(),
        "<=" => order.is_le(),
        ">" => order.is_gt(),
        _ => order.is_ge(),
    }
}

/// Where the brace closes that has been opened, quotes left out of account.
fn closing(text: &str) -> Option<usize> {
    let (mut quote, mut escaped) = (None, false);
    for (index, letter) in text.char_indices() {
        match (quote, letter) {
            _ if escaped => escaped = false,
            (Some(_), '\\') => escaped = true,
            (Some(open), letter) if open == letter => quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'') => quote = Some(letter),
            (None, '}') => return Some(index),
            _ => {}
        }
    }
    None
}

fn literal(action: &str) -> Option<String> {
    let quote = action.chars().next().filter(|first| matches!(first, '"' | '\''))?;
    let inner = action.strip_prefix(quote)?.strip_suffix(quote)?;
    Some(
        inner.replace("\\n", "\n").replace("\\t", "\t").replace("\\\"", "\"").replace("\\\\", "\\"),
    )
}

fn path_of(text: &str, whole: &str) -> Result<Vec<Step>> {
    let mut steps = Vec::new();
    let mut rest = text;
    if let Some(after) = rest.strip_prefix('$') {
        steps.push(Step::Root);
        rest = after;
    } else if let Some(after) = rest.strip_prefix('@') {
        rest = after;
    }
    while !rest.is_empty() {
        if rest.starts_with("..") {
            bail!("error parsing jsonpath {whole}, recursive descent (..) is not supported");
        }
        if let Some(after) = rest.strip_prefix('[') {
            let Some(length) = bracket(after) else {
                bail!("error parsing jsonpath {whole}, unterminated array")
            };
            steps.push(subscript(after[..length].trim(), whole)?);
            rest = &after[length + 1..];
            continue;
        }
        let after = rest.strip_prefix('.').unwrap_or(rest);
        let (name, left) = field(after);
        match name.as_str() {
            "" if left.starts_with('[') || left.is_empty() => {}
            "" => bail!("error parsing jsonpath {whole}, unrecognized character in action"),
            "*" => steps.push(Step::All),
            _ => steps.push(Step::Field(name)),
        }
        rest = left;
    }
    Ok(steps)
}

/// A field's name, in which `\.` is a dot, and what follows it.
fn field(text: &str) -> (String, &str) {
    let mut name = String::new();
    let mut letters = text.char_indices();
    while let Some((index, letter)) = letters.next() {
        match letter {
            '\\' => name.extend(letters.next().map(|(_, escaped)| escaped)),
            '.' | '[' => return (name, &text[index..]),
            other => name.push(other),
        }
    }
    (name, "")
}

fn bracket(text: &str) -> Option<usize> {
    let (mut depth, mut quote) = (0, None);
    for (index, letter) in text.char_indices() {
        match (quote, letter) {
            (Some(open), letter) if open == letter => quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'') => quote = Some(letter),
            (None, '[' | '(') => depth += 1,
            (None, ')') => depth -= 1,
            (None, ']') if depth == 0 => return Some(index),
            (None, ']') => depth -= 1,
            _ => {}
        }
    }
    None
}

fn subscript(text: &str, whole: &str) -> Result<Step> {
    let number = |text: &str| text.trim().parse::<i64>().ok();
    if text == "*" {
        return Ok(Step::All);
    }
    if let Some(index) = number(text) {
        return Ok(Step::Index(index));
    }
    if let Some(name) = literal(text) {
        return Ok(Step::Field(name));
    }
    if let Some(inner) = text.strip_prefix("?(").and_then(|rest| rest.strip_suffix(')')) {
        return filter(inner.trim(), whole);
    }
    if let Some((from, to)) = text.split_once(':') {
        return Ok(Step::Slice(number(from), number(to)));
    }
    bail!("error parsing jsonpath {whole}, invalid array index {text}")
}

fn filter(text: &str, whole: &str) -> Result<Step> {
    for operator in ["==", "!=", "<=", ">=", "<", ">"] {
        let Some((path, wanted)) = text.split_once(operator) else { continue };
        let wanted = wanted.trim();
        let wanted = match literal(wanted) {
            Some(text) => Value::String(text),
            None => serde_json::from_str(wanted).unwrap_or_else(|_| wanted.into()),
        };
        let path = path_of(path.trim(), whole)?;
        return Ok(Step::Filter(path, Some((operator.to_owned(), wanted))));
    }
    Ok(Step::Filter(path_of(text, whole)?, None))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn rendered(template: &str) -> String {
        let document = json!({ "items": [
            { "name": "a", "ports": [80, 443], "labels": { "x.y/z": "1" }, "ready": true },
            { "name": "b", "ports": [], "labels": {}, "ready": false },
        ], "kind": "List" });
        parse(template).unwrap().render(&document)
    }

    #[test]
    fn paths_lists_and_filters() {
        assert_eq!(rendered("{.kind}"), "List");
        assert_eq!(rendered("kind"), "List");
        assert_eq!(rendered("{.items[*].name}"), "a b");
        assert_eq!(rendered("{.items[0].ports}"), "[80,443]");
        assert_eq!(rendered("{.items[-1].name}"), "b");
        assert_eq!(rendered("{.items[0].ports[0:1]}"), "80");
        assert_eq!(rendered(r"{.items[0].labels.x\.y/z}"), "1");
        assert_eq!(rendered("{.items[0].labels['x.y/z']}"), "1");
        assert_eq!(rendered(r#"{.items[?(@.name=="b")].ready}"#), "false");
        assert_eq!(rendered("{.items[?(@.ready==true)].name}"), "a");
        assert_eq!(rendered("{.missing.field}"), "");
    }

    #[test]
    fn ranges_and_texts() {
        assert_eq!(
            rendered("{range .items[*]}{.name}{\"\\t\"}{.ready}{\"\\n\"}{end}done"),
            "a\ttrue\nb\tfalse\ndone"
        );
        assert!(parse("{.a").is_err() && parse("{end}").is_err() && parse("{..a}").is_err());
    }
}
