//! The expressions of policies: each is compiled where it stands.

use serde_json::Value;

use super::super::faults;
use crate::access::Access as _;
use crate::cel::admission::mutating::{json_patches, object};
use crate::cel::admission::{Composed, Declared, compile, env};
use crate::cel::escape::RESERVED;
use crate::cel::{Env, Type};
use crate::field::{Error, Path};
use crate::names;

const CONDITIONS_MAX: usize = 64;

/// What expressions of one policy see: the variables grow as they are checked.
pub(super) struct Checker {
    declared: Declared,
    composed: Composed,
}

impl Checker {
    pub(super) fn new(spec: &Value) -> Self {
        let declared = Declared { params: spec.has("paramKind"), authorizer: true, patches: false };
        Self { declared, composed: Composed::new(declared) }
    }

    fn check(env: &Env, at: &Path, source: &str, allowed: &[Type], errors: &mut Vec<Error>) {
        if let Err(text) = compile(env, source, allowed) {
            errors.push(at.invalid(source, text));
        }
    }

    pub(super) fn conditions(&self, at: &Path, conditions: &[Value], errors: &mut Vec<Error>) {
        if conditions.len() > CONDITIONS_MAX {
            errors.push(at.too_many(conditions.len(), CONDITIONS_MAX));
        }
        // Conditions are upstream checked without the policy's variables.
        let env = env(self.declared);
        let mut seen: Vec<&str> = Vec::new();
        for (index, condition) in conditions.iter().enumerate() {
            let at = at.index(index);
            let (name, source) = (condition.text("name"), condition.text("expression").trim());
            if source.is_empty() {
                errors.push(at.child("expression").required(""));
            } else {
                Self::check(&env, &at.child("expression"), source, &[Type::Bool], errors);
            }
            if name.is_empty() {
                errors.push(at.child("name").required(""));
                continue;
            }
            faults(&at.child("name"), name, names::qualified_name(name), errors);
            if seen.contains(&name) {
                errors.push(at.child("name").duplicate(name));
            }
            seen.push(name);
        }
    }

    pub(super) fn variable(&mut self, at: &Path, variable: &Value, errors: &mut Vec<Error>) {
        let (name, source) = (variable.text("name"), variable.text("expression"));
        if name.trim().is_empty() {
            errors.push(at.child("name").required("name is not specified"));
        } else if !is_identifier(name) {
            errors.push(at.child("name").invalid(name, "name is not a valid CEL identifier"));
        }
        if source.trim().is_empty() {
            errors.push(at.child("expression").required("expression is not specified"));
            return;
        }
        match compile(&self.composed.full(), source, &[]) {
            Ok(program) => self.composed.declare(name, Some(&program)),
            Err(text) => {
                errors.push(at.child("expression").invalid(source, text));
                self.composed.declare(name, None);
            }
        }
    }

    pub(super) fn validation(&self, at: &Path, validation: &Value, errors: &mut Vec<Error>) {
        let source = validation.text("expression");
        if source.trim().is_empty() {
            errors.push(at.child("expression").required("expression is not specified"));
        } else {
            let env = self.composed.full();
            Self::check(&env, &at.child("expression"), source, &[Type::Bool], errors);
        }
        let source = validation.text("messageExpression");
        let at = at.child("messageExpression");
        if !source.is_empty() && source.trim().is_empty() {
            errors.push(at.invalid(source, "must be non-empty if specified"));
        } else if !source.is_empty() {
            let env = self.composed.env(Declared { authorizer: false, ..self.declared });
            Self::check(&env, &at, source, &[Type::String], errors);
        }
    }

    pub(super) fn annotation(&self, at: &Path, annotation: &Value, errors: &mut Vec<Error>) {
        let source = annotation.text("valueExpression").trim();
        if source.is_empty() {
            errors.push(at.required("valueExpression is not specified"));
            return;
        }
        Self::check(&self.composed.full(), at, source, &[Type::String, Type::Null], errors);
    }

    pub(super) fn mutation(&self, at: &Path, kind: &str, patch: &Value, errors: &mut Vec<Error>) {
        let source = patch.text("expression");
        let at = at.child("expression");
        if source.trim().is_empty() {
            errors.push(at.required("expression is not specified"));
            return;
        }
        let env = self.composed.env(Declared { patches: true, ..self.declared });
        let wanted = if kind == "JSONPatch" { json_patches() } else { object() };
        Self::check(&env, &at, source, &[wanted], errors);
    }
}

fn is_identifier(name: &str) -> bool {
    let fits = |one: char| one.is_ascii_alphanumeric() || one == '_';
    name.chars().all(fits)
        && !name.starts_with(|one: char| one.is_ascii_digit())
        && !RESERVED.contains(&name)
}
