//! The JSONPath of printer columns, selectable fields and scale: fields, indices, wildcards and
//! filters that compare one field.

use serde_json::Value;

/// Steps of one path, at most.
const STEPS_MAX: usize = 64;

/// A parsed path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JsonPath(Vec<Step>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Field(String),
    Index(i64),
    All,
    Filter(Filter),
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Filter {
    path: Vec<String>,
    /// Empty: the field is there.
    operator: String,
    value: Value,
}

/// Why a text is no path.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    #[error("unrecognized character in action: {0:?}")]
    Unexpected(char),
    #[error("unterminated {0}")]
    Unterminated(&'static str),
    #[error("invalid array index {0}")]
    Index(String),
    #[error("unrecognized filter {0}")]
    Filter(String),
    #[error("a path of more than {STEPS_MAX} steps")]
    TooLong,
}

impl JsonPath {
    /// Parses `.spec.a[0]['b.c'][*][?(@.type=="Ready")].status`.
    ///
    /// # Errors
    ///
    /// When the text is no path of this form.
    pub fn parse(text: &str) -> Result<Self, PathError> {
        let mut rest = text.trim().trim_start_matches('$');
        let mut steps = Vec::new();
        while let Some(first) = rest.chars().next() {
            if steps.len() >= STEPS_MAX {
                return Err(PathError::TooLong);
            }
            rest = match first {
                '.' => field(rest.get(1..).unwrap_or(""), &mut steps),
                '[' => bracket(rest.get(1..).unwrap_or(""), &mut steps)?,
                other if steps.is_empty() && is_name(other) => field(rest, &mut steps),
                other => return Err(PathError::Unexpected(other)),
            };
        }
        Ok(Self(steps))
    }

    /// The names of a path that has nothing but fields.
    #[must_use]
    pub fn simple(&self) -> Option<Vec<&str>> {
        let names = self.0.iter().map(|step| match step {
            Step::Field(name) => Some(name.as_str()),
            _ => None,
        });
        names.collect()
    }

    /// The first value that the path leads to.
    #[must_use]
    pub fn first<'a>(&self, value: &'a Value) -> Option<&'a Value> {
        walk(&self.0, value)
    }
}

fn is_name(letter: char) -> bool {
    letter.is_alphanumeric() || matches!(letter, '_' | '-' | '/' | '\\' | ':' | '%')
}

fn field<'t>(text: &'t str, steps: &mut Vec<Step>) -> &'t str {
    let mut name = String::new();
    let mut end = text.len();
    let mut letters = text.char_indices();
    while let Some((at, letter)) = letters.next() {
        match letter {
            // An escaped letter belongs to the name: `.metadata.labels.a\.b`.
            '\\' => match letters.next() {
                Some((_, escaped)) => name.push(escaped),
                None => name.push(letter),
            },
            '.' | '[' => {
                end = at;
                break;
            }
            _ => name.push(letter),
        }
    }
    match name.as_str() {
        "" => {}
        "*" => steps.push(Step::All),
        _ => steps.push(Step::Field(name)),
    }
    text.get(end..).unwrap_or("")
}

fn bracket<'t>(text: &'t str, steps: &mut Vec<Step>) -> Result<&'t str, PathError> {
    for quote in ['\'', '"'] {
        if let Some(inner) = text.strip_prefix(quote) {
            let end = inner.find(quote).ok_or(PathError::Unterminated("quoted string"))?;
            let (name, rest) = inner.split_at(end);
            steps.push(Step::Field(name.to_owned()));
            return rest
                .get(1..)
                .and_then(|rest| rest.strip_prefix(']'))
                .ok_or(PathError::Unterminated("array"));
        }
    }
    if let Some(inner) = text.strip_prefix("?(") {
        let end = inner.find(")]").ok_or(PathError::Unterminated("filter"))?;
        let (filter, rest) = inner.split_at(end);
        steps.push(Step::Filter(Filter::parse(filter)?));
        return Ok(rest.get(2..).unwrap_or(""));
    }
    let (index, rest) = text.split_once(']').ok_or(PathError::Unterminated("array"))?;
    steps.push(match index.trim() {
        "*" | "" | ":" => Step::All,
        index => {
            Step::Index(index.parse().map_err(|_no_number| PathError::Index(index.to_owned()))?)
        }
    });
    Ok(rest)
}

impl Filter {
    fn parse(text: &str) -> Result<Self, PathError> {
        let bad = || PathError::Filter(text.to_owned());
        let operators = ["==", "!=", "<=", ">=", "<", ">"];
        let found =
            operators.iter().find_map(|one| text.split_once(one).map(|(a, b)| (*one, a, b)));
        let (operator, left, right) = found.unwrap_or(("", text, ""));
        let path = left.trim().strip_prefix('@').ok_or_else(bad)?;
        let path = path.split('.').filter(|name| !name.is_empty()).map(str::to_owned).collect();
        let right = right.trim();
        let value = match right.strip_prefix(['"', '\'']) {
            Some(quoted) => Value::from(quoted.trim_end_matches(['"', '\''])),
            None if operator.is_empty() => Value::Null,
            None => serde_json::from_str(right).map_err(|_no_json| bad())?,
        };
        Ok(Self { path, operator: operator.to_owned(), value })
    }

    fn holds(&self, item: &Value) -> bool {
        let found = self.path.iter().try_fold(item, |value, name| value.get(name));
        let Some(found) = found else { return false };
        let numbers = || Some((found.as_f64()?, self.value.as_f64()?));
        match self.operator.as_str() {
            "" => true,
            "==" => *found == self.value,
            "!=" => *found != self.value,
            "<" => numbers().is_some_and(|(one, other)| one < other),
            "<=" => numbers().is_some_and(|(one, other)| one <= other),
            ">" => numbers().is_some_and(|(one, other)| one > other),
            _ => numbers().is_some_and(|(one, other)| one >= other),
        }
    }
}

fn walk<'a>(steps: &[Step], value: &'a Value) -> Option<&'a Value> {
    let Some((step, rest)) = steps.split_first() else { return Some(value) };
    match step {
        Step::Field(name) => walk(rest, value.get(name)?),
        Step::Index(index) => {
            let items = value.as_array()?;
            let length = i64::try_from(items.len()).ok()?;
            let at = if *index < 0 { length + index } else { *index };
            walk(rest, items.get(usize::try_from(at).ok()?)?)
        }
        Step::All => match value {
            Value::Array(items) => items.iter().find_map(|item| walk(rest, item)),
            Value::Object(map) => map.values().find_map(|item| walk(rest, item)),
            _ => None,
        },
        Step::Filter(filter) => {
            let items = value.as_array()?.iter();
            items.filter(|item| filter.holds(item)).find_map(|item| walk(rest, item))
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn paths_lead_to_the_first_value() {
        let object = json!({
            "spec": {"a": [1, 2, 3], "b.c": true},
            "status": {"conditions": [
                {"type": "Synced", "status": "False"}, {"type": "Ready", "status": "True"}]},
        });
        let cases = [
            (".spec.a[1]", json!(2)),
            (".spec.a[-1]", json!(3)),
            (".spec.a[*]", json!(1)),
            (".spec['b.c']", json!(true)),
            (".spec.b\\.c", json!(true)),
            ("$.spec.a[0]", json!(1)),
            (".status.conditions[?(@.type==\"Ready\")].status", json!("True")),
            (".status.conditions[?(@.type=='Synced')].status", json!("False")),
        ];
        for (path, expected) in cases {
            assert_eq!(JsonPath::parse(path).unwrap().first(&object), Some(&expected), "{path}");
        }
        assert_eq!(JsonPath::parse(".spec.x.y").unwrap().first(&object), None);
    }

    #[test]
    fn what_is_no_path_is_refused() {
        for path in [".a[", ".a['b", ".a[x]", ".a[?(b)]", "}"] {
            assert!(JsonPath::parse(path).is_err(), "{path}");
        }
        assert_eq!(JsonPath::parse(".a.b").unwrap().simple(), Some(vec!["a", "b"]));
        assert_eq!(JsonPath::parse(".a[0]").unwrap().simple(), None);
    }
}
