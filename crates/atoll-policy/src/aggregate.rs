//! ClusterRoles that gather the rules of others by their labels.

use std::collections::HashMap;

use serde_json::Value;

/// `aggregationRule.clusterRoleSelectors`: a role that matches any of them is gathered.
#[derive(Debug, Clone)]
pub struct Selectors(Vec<Selector>);

#[derive(Debug, Clone)]
struct Selector(Vec<Requirement>);

#[derive(Debug, Clone)]
struct Requirement {
    key: String,
    operator: Operator,
    values: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operator {
    In,
    NotIn,
    Exists,
    DoesNotExist,
}

impl Selectors {
    /// Reads the aggregationRule; `None` when there is none, or an empty one.
    #[must_use]
    pub fn of(role: &Value) -> Option<Self> {
        let list = role["aggregationRule"]["clusterRoleSelectors"].as_array()?;
        let selectors: Vec<Selector> = list.iter().map(Selector::from_value).collect();
        (!selectors.is_empty()).then_some(Self(selectors))
    }

    #[must_use]
    pub fn match_labels(&self, labels: &HashMap<String, String>) -> bool {
        self.0.iter().any(|selector| selector.matches(labels))
    }
}

/// The labels of an object.
#[must_use]
pub fn labels(object: &Value) -> HashMap<String, String> {
    object["metadata"]["labels"].as_object().map_or_else(HashMap::new, |map| {
        map.iter()
            .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
            .collect()
    })
}

impl Selector {
    fn from_value(value: &Value) -> Self {
        let mut requirements = Vec::new();
        for (key, wanted) in value["matchLabels"].as_object().into_iter().flatten() {
            requirements.push(Requirement {
                key: key.clone(),
                operator: Operator::In,
                values: wanted.as_str().map(str::to_owned).into_iter().collect(),
            });
        }
        for expression in value["matchExpressions"].as_array().into_iter().flatten() {
            let values = expression["values"].as_array().into_iter().flatten();
            requirements.push(Requirement {
                key: expression["key"].as_str().unwrap_or_default().to_owned(),
                operator: match expression["operator"].as_str() {
                    Some("NotIn") => Operator::NotIn,
                    Some("Exists") => Operator::Exists,
                    Some("DoesNotExist") => Operator::DoesNotExist,
                    // Validation lets no other through; an `In` without values matches nothing.
                    _ => Operator::In,
                },
                values: values.filter_map(Value::as_str).map(str::to_owned).collect(),
            });
        }
        Self(requirements)
    }

    fn matches(&self, labels: &HashMap<String, String>) -> bool {
        self.0.iter().all(|requirement| {
            let found = labels.get(&requirement.key);
            let listed = found.is_some_and(|value| requirement.values.contains(value));
            match requirement.operator {
                Operator::In => listed,
                Operator::NotIn => !listed,
                Operator::Exists => found.is_some(),
                Operator::DoesNotExist => found.is_none(),
            }
        })
    }
}
