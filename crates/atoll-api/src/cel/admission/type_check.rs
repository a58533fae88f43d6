//! Checks a policy's expressions against the kinds that it names: warnings in its status.

use serde_json::{Value as Json, json};

use super::{Composed, Declared, compile};
use crate::access::Access as _;
use crate::cel::Type;

/// Kinds that one policy is checked against. Upstream's number.
pub const KINDS_MAX: usize = 10;

/// A kind with its type, as whoever knows all kinds has found it.
#[derive(Debug, Clone)]
pub struct Known {
    /// `apps/v1, Kind=Deployment`.
    pub shown: String,
    pub ty: Type,
}

/// A group, a version and a resource that a rule names in full.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Named {
    pub group: String,
    pub version: String,
    pub resource: String,
}

/// The resources that `spec.matchConstraints` names without wildcards, at most [`KINDS_MAX`].
#[must_use]
pub fn named(spec: &Json) -> Vec<Named> {
    let mut all = Vec::new();
    for rule in spec["matchConstraints"].items("resourceRules") {
        let texts = |field: &str| {
            let mut list: Vec<&str> = rule.items(field).iter().filter_map(Json::as_str).collect();
            list.sort_unstable();
            list
        };
        let (groups, versions) = (texts("apiGroups"), texts("apiVersions"));
        if groups.iter().chain(&versions).any(|one| one.contains('*')) {
            continue;
        }
        let resources = texts("resources");
        let resources = resources.iter().filter(|one| !one.contains(['*', '/']));
        for resource in resources {
            for group in &groups {
                for version in &versions {
                    all.push(Named {
                        group: (*group).to_owned(),
                        version: (*version).to_owned(),
                        resource: (*resource).to_owned(),
                    });
                }
            }
        }
    }
    all.sort();
    all.dedup();
    all.truncate(KINDS_MAX);
    all
}

/// `status.typeChecking.expressionWarnings`: what is wrong with the expressions of `spec`, for
/// each kind. `params` is the type of the parameters when it is known.
#[must_use]
pub fn warnings(spec: &Json, kinds: &[Known], params: Option<&Type>) -> Vec<Json> {
    let mut warnings = Vec::new();
    for (index, validation) in spec.items("validations").iter().enumerate() {
        for field in ["expression", "messageExpression"] {
            let source = validation.text(field);
            if source.is_empty() {
                continue;
            }
            let texts: Vec<String> =
                kinds.iter().filter_map(|kind| check(spec, kind, params, source)).collect();
            if !texts.is_empty() {
                warnings.push(json!({
                    "fieldRef": format!("spec.validations[{index}].{field}"),
                    "warning": texts.join("\n"),
                }));
            }
        }
    }
    warnings
}

fn check(spec: &Json, kind: &Known, params: Option<&Type>, source: &str) -> Option<String> {
    let declared = Declared { params: spec.has("paramKind"), authorizer: true, patches: false };
    let mut composed = Composed::new(declared);
    let env = |composed: &Composed| {
        let mut env = composed
            .full()
            .variable("object", kind.ty.clone())
            .variable("oldObject", kind.ty.clone());
        if let Some(params) = params.filter(|_| declared.params) {
            env.declare("params", params.clone());
        }
        env
    };
    for variable in spec.items("variables") {
        let compiled = compile(&env(&composed), variable.text("expression"), &[]);
        composed.declare(variable.text("name"), compiled.as_ref().ok());
    }
    let error = compile(&env(&composed), source, &[]).err()?;
    Some(format!("{}: {error}\n", kind.shown))
}
