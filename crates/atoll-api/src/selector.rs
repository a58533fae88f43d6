//! Label and field selectors: which objects a list, a Service or a Deployment means.

mod fields;
mod lexer;
mod parser;

use serde_json::Value;

use crate::access::Access as _;
use crate::field::Path;
use crate::names;

pub use fields::FieldSelector;

/// Requirements that an object's labels must all meet; none at all matches everything.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LabelSelector {
    pub requirements: Vec<Requirement>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Requirement {
    pub key: String,
    pub operator: Operator,
    pub values: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operator {
    In,
    NotIn,
    Exists,
    DoesNotExist,
    GreaterThan,
    LessThan,
}

/// The text is upstream's; it begins with `unable to parse requirement: ` where upstream's does.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SelectorError(pub(crate) String);

impl LabelSelector {
    /// Parses `a=b,c!=d,e in (f,g),h,!i,j>1`.
    ///
    /// # Errors
    ///
    /// With upstream's text, when the selector is malformed or a key or value out of rule.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        let mut requirements = parser::parse(text)?;
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(Self { requirements })
    }

    /// From a `metav1.LabelSelector`; an empty one matches everything, an absent or null one
    /// (`None`) matches nothing, which is for the caller to say.
    ///
    /// # Errors
    ///
    /// When an operator is unknown or a value out of rule.
    pub fn from_object(selector: &Value) -> Result<Self, SelectorError> {
        let mut requirements = Vec::new();
        for (key, value) in selector.fields("matchLabels").into_iter().flatten() {
            let values = vec![value.as_str().unwrap_or("").to_owned()];
            requirements.push(Requirement::new(key, Operator::In, values)?);
        }
        for expression in selector.items("matchExpressions") {
            let operator = match expression.text("operator") {
                "In" => Operator::In,
                "NotIn" => Operator::NotIn,
                "Exists" => Operator::Exists,
                "DoesNotExist" => Operator::DoesNotExist,
                other => {
                    return Err(SelectorError(format!(
                        "{other:?} is not a valid label selector operator"
                    )));
                }
            };
            let values = expression.items("values").iter().filter_map(Value::as_str);
            let values = values.map(str::to_owned).collect();
            requirements.push(Requirement::new(expression.text("key"), operator, values)?);
        }
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(Self { requirements })
    }

    /// From a plain map of labels, as a Service or ReplicationController has.
    #[must_use]
    pub fn from_map(labels: &Value) -> Self {
        let labels = labels.as_object().into_iter().flatten();
        let requirements = labels.map(|(key, value)| Requirement {
            key: key.clone(),
            operator: Operator::In,
            values: vec![value.as_str().unwrap_or("").to_owned()],
        });
        Self { requirements: requirements.collect() }
    }

    /// Asks for each label by name.
    pub fn matches<'l>(&self, label: impl Fn(&str) -> Option<&'l str>) -> bool {
        self.requirements.iter().all(|one| one.matches(label(&one.key)))
    }

    /// Looks the labels up in `metadata.labels`.
    #[must_use]
    pub fn matches_object(&self, object: &Value) -> bool {
        let labels = object.get("metadata").and_then(|metadata| metadata.get("labels"));
        self.matches(|key| labels?.get(key)?.as_str())
    }
}

impl Requirement {
    /// # Errors
    ///
    /// When key, values, or their number break the rules.
    pub fn new(key: &str, operator: Operator, values: Vec<String>) -> Result<Self, SelectorError> {
        let mut errors = Vec::new();
        let at = Path::new("key");
        errors.extend(names::qualified_name(key).into_iter().map(|text| at.invalid(key, text)));
        let at = Path::new("values");
        match operator {
            Operator::In | Operator::NotIn if values.is_empty() => {
                let shown: Vec<Value> = Vec::new();
                errors.push(
                    at.invalid(shown, "for 'in', 'notin' operators, values set can't be empty"),
                );
            }
            Operator::Exists | Operator::DoesNotExist if !values.is_empty() => {
                let shown: Vec<Value> = values.iter().cloned().map(Value::from).collect();
                errors.push(
                    at.invalid(shown, "values set must be empty for exists and does not exist"),
                );
            }
            Operator::GreaterThan | Operator::LessThan => {
                for (index, value) in values.iter().enumerate() {
                    if value.parse::<i64>().is_err() {
                        let text = "for 'Gt', 'Lt' operators, the value must be an integer";
                        errors.push(at.index(index).invalid(value.as_str(), text));
                    }
                }
            }
            _ => {}
        }
        for (index, value) in values.iter().enumerate() {
            let at = at.index(index).key(key);
            let texts = names::label_value(value);
            errors.extend(texts.into_iter().map(|text| at.invalid(value.as_str(), text)));
        }
        match errors.first() {
            None => Ok(Self { key: key.to_owned(), operator, values }),
            Some(_) => Err(SelectorError(crate::field::aggregate(&errors).unwrap_or_default())),
        }
    }

    fn matches(&self, label: Option<&str>) -> bool {
        let named = || label.is_some_and(|label| self.values.iter().any(|one| one == label));
        let compared = |wanted: std::cmp::Ordering| {
            let numbers = label.and_then(|one| one.parse::<i64>().ok());
            let bound = self.values.first().and_then(|one| one.parse::<i64>().ok());
            numbers.zip(bound).is_some_and(|(label, bound)| label.cmp(&bound) == wanted)
        };
        match self.operator {
            Operator::In => named(),
            Operator::NotIn => !named(),
            Operator::Exists => label.is_some(),
            Operator::DoesNotExist => label.is_none(),
            Operator::GreaterThan => compared(std::cmp::Ordering::Greater),
            Operator::LessThan => compared(std::cmp::Ordering::Less),
        }
    }
}

#[cfg(test)]
mod tests;
