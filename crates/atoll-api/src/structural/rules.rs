//! `x-kubernetes-validations`: rules in CEL over values and the values before.

use std::rc::Rc;

use serde_json::Value;

use super::{Additional, Check, Node, checks};
use crate::access::Access as _;
use crate::cel;
use crate::cel::{
    Bindings, Decl, Env, EvalError, MESSAGE_BYTES_MAX, PER_CALL_COST_MAX, Program, TOTAL_COST_MAX,
    Type,
};
use crate::field::{Error, Path};

/// One rule, compiled.
#[derive(Debug, Clone)]
pub struct Rule {
    text: String,
    message: String,
    reason: String,
    field_path: String,
    optional_old: bool,
    /// A rule over `oldSelf`.
    transition: bool,
    program: Program,
    message_program: Option<Program>,
    decl: Decl,
}

/// The variables of rules at one place.
#[must_use]
pub fn env(decl: &Decl, optional_old: bool) -> Env {
    let own = Type::of_decl(decl);
    let old = if optional_old { Type::optional(own.clone()) } else { own.clone() };
    Env::new().variable("self", own).variable("oldSelf", old)
}

impl Rule {
    /// The rules of one schema that compile; others were refused when the definition came.
    pub(super) fn all(schema: &Value, whole: bool) -> Vec<Self> {
        let rules = schema.items("x-kubernetes-validations");
        if rules.is_empty() {
            return Vec::new();
        }
        let Some(decl) = Decl::of_schema(schema, "selfType", whole) else { return Vec::new() };
        rules.iter().filter_map(|rule| Self::compile(rule, &decl)).collect()
    }

    fn compile(rule: &Value, decl: &Decl) -> Option<Self> {
        let optional_old = rule.flag("optionalOldSelf");
        let env = env(decl, optional_old);
        let program = env.compile(rule.text("rule")).ok()?;
        let expression = rule.text("messageExpression");
        let message_program = Some(expression)
            .filter(|text| !text.is_empty())
            .and_then(|text| env.compile(text).ok());
        Some(Self {
            text: rule.text("rule").trim().to_owned(),
            message: rule.text("message").trim().to_owned(),
            reason: rule.text("reason").to_owned(),
            field_path: rule.text("fieldPath").to_owned(),
            optional_old,
            transition: program.uses("oldSelf"),
            program,
            message_program,
            decl: decl.clone(),
        })
    }

    fn shown(&self) -> &str {
        if self.message.is_empty() { &self.text } else { &self.message }
    }

    fn plain_message(&self) -> String {
        if self.message.is_empty() {
            format!("failed rule: {}", self.text)
        } else {
            self.message.clone()
        }
    }
}

/// All rules that an object breaks, within the budget of one object.
#[must_use]
pub fn check(node: &Node, object: Check<'_>) -> Vec<Error> {
    let mut run = Run { errors: Vec::new(), left: TOTAL_COST_MAX, over: false };
    if any(node) {
        run.value(node, object, &Path::root());
    }
    run.errors
}

/// Whether a schema has rules anywhere.
pub(super) fn any(node: &Node) -> bool {
    let additional = match &node.additional {
        Additional::Node(node) => any(node),
        _ => false,
    };
    !node.rules.is_empty()
        || additional
        || node.properties.values().any(any)
        || node.items.as_deref().is_some_and(any)
}

struct Run {
    errors: Vec<Error>,
    left: u64,
    over: bool,
}

impl Run {
    fn value(&mut self, node: &Node, one: Check<'_>, at: &Path) {
        if one.value.is_null() {
            return;
        }
        for rule in &node.rules {
            if self.over {
                return;
            }
            self.rule(node, rule, one, at);
        }
        match one.value {
            Value::Object(map) => {
                for (name, inner) in map {
                    let (field, here) = match (node.properties.get(name), &node.additional) {
                        (Some(field), _) => (field, at.child(name)),
                        (None, Additional::Node(field)) => (&**field, at.key(name)),
                        _ => continue,
                    };
                    let old = one.old.and_then(|old| old.get(name));
                    self.value(field, Check { value: inner, old }, &here);
                }
            }
            Value::Array(items) => {
                let Some(inner) = &node.items else { return };
                for (index, item) in items.iter().enumerate() {
                    let old = one.old.and_then(|old| checks::counterpart(&node.list, old, item));
                    self.value(inner, Check { value: item, old }, &at.index(index));
                }
            }
            _ => {}
        }
    }

    fn rule(&mut self, node: &Node, rule: &Rule, one: Check<'_>, at: &Path) {
        if rule.transition && one.old.is_none() && !rule.optional_old {
            return;
        }
        // What did not change was valid, or was there before the rule.
        if !rule.transition && one.old.is_some_and(|old| old == one.value) {
            return;
        }
        let bindings = match bindings(rule, one) {
            Ok(bindings) => bindings,
            Err(error) => return self.errors.push(failure(&error, rule, node, at)),
        };
        let done = rule.program.evaluate(&bindings, PER_CALL_COST_MAX);
        if done.cost > self.left {
            self.over = true;
            let why = "validation failed due to running out of cost budget, no further validation \
                       rules will be run";
            return self.errors.push(at.invalid(type_of(node), why));
        }
        self.left -= done.cost;
        match done.result {
            Ok(value) if value.as_bool() == Some(true) => {}
            Ok(_) => {
                let message = self.message(rule, &bindings);
                self.errors.push(refusal(rule, node, &place(at, &rule.field_path), message));
            }
            Err(error) => {
                self.over |= error == EvalError::CostExceeded;
                self.errors.push(failure(&error, rule, node, at));
            }
        }
    }

    /// The message of the expression, if it makes one that can be shown.
    fn message<'a>(&mut self, rule: &'a Rule, bindings: &Bindings<'a>) -> String {
        let Some(program) = &rule.message_program else { return rule.plain_message() };
        let done = program.evaluate(bindings, PER_CALL_COST_MAX.min(self.left));
        self.left = self.left.saturating_sub(done.cost);
        let text = done.result.ok().and_then(|value| value.as_text().map(str::to_owned));
        let text = text.map(|text| text.trim().to_owned()).filter(|text| {
            !text.is_empty() && text.len() <= MESSAGE_BYTES_MAX && !text.contains('\n')
        });
        text.unwrap_or_else(|| rule.plain_message())
    }
}

fn bindings<'a>(rule: &'a Rule, one: Check<'a>) -> Result<Bindings<'a>, EvalError> {
    let mut bindings = Bindings::default();
    bindings.set("self", cel::Value::of_declared(one.value, &rule.decl)?);
    let old = one.old.filter(|old| !old.is_null());
    let old = old.map(|old| cel::Value::of_declared(old, &rule.decl)).transpose()?;
    if rule.optional_old {
        bindings.set("oldSelf", cel::Value::Optional(old.map(Rc::new)));
    } else if let Some(old) = old {
        bindings.set("oldSelf", old);
    }
    Ok(bindings)
}

fn type_of(node: &Node) -> &str {
    node.ty.as_str()
}

fn failure(error: &EvalError, rule: &Rule, node: &Node, at: &Path) -> Error {
    let text = error.to_string();
    let shown = rule.shown();
    let why = if text.starts_with("no such overload") {
        format!(
            "'{text}': call arguments did not match a supported operator, function or macro \
             signature for rule: {shown}"
        )
    } else if *error == EvalError::CostExceeded {
        format!(
            "'{text}': no further validation rules will be run due to call cost exceeds limit for \
             rule: {shown}"
        )
    } else {
        format!("{text} evaluating rule: {shown}")
    };
    at.invalid(type_of(node), why)
}

fn refusal(rule: &Rule, node: &Node, at: &Path, message: String) -> Error {
    match rule.reason.as_str() {
        "FieldValueRequired" => at.required(message),
        "FieldValueForbidden" => at.forbidden(message),
        "FieldValueDuplicate" => Error { detail: message, ..at.duplicate(type_of(node)) },
        _ => at.invalid(type_of(node), message),
    }
}

/// `.a.b['c']` below a place.
fn place(at: &Path, field_path: &str) -> Path {
    let Ok(path) = super::jsonpath::JsonPath::parse(field_path) else { return at.clone() };
    let Some(names) = path.simple() else { return at.clone() };
    names.into_iter().fold(at.clone(), |at, name| at.child(name))
}
