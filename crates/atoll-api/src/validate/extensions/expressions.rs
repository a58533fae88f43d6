//! `x-kubernetes-validations`: rules that compile, and whose worst case is affordable.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::access::Access as _;
use crate::cel::estimate::{RULE_COST_MAX, SCHEMA_COST_MAX};
use crate::cel::{Decl, Type};
use crate::field::{Error, Path};
use crate::structural::jsonpath::JsonPath;
use crate::structural::rules;

const REASONS: [&str; 4] =
    ["FieldValueInvalid", "FieldValueForbidden", "FieldValueRequired", "FieldValueDuplicate"];
/// Bytes of a static message.
const MESSAGE_BYTES_MAX: usize = 2048;

/// All that is wrong with the rules of one schema.
pub(super) fn check(at: &Path, schema: &Value, errors: &mut Vec<Error>) {
    let mut walk = Walk { errors, cost: 0 };
    walk.schema(at, schema, &Place { root: true, times: 1, lost: None });
}

/// What all rules of all versions cost together.
pub(super) fn total(versions: &[Value], errors: &mut Vec<Error>) {
    let mut ignored = Vec::new();
    let at = Path::root();
    for (index, version) in versions.iter().enumerate() {
        let mut walk = Walk { errors: &mut ignored, cost: 0 };
        let schema = &version["schema"]["openAPIV3Schema"];
        walk.schema(&at, schema, &Place { root: true, times: 1, lost: None });
        if walk.cost > SCHEMA_COST_MAX {
            let at = Path::new("spec").child("versions").index(index);
            let at = at.child("schema").child("openAPIV3Schema");
            let name =
                "x-kubernetes-validations estimated rule cost total for entire OpenAPIv3 schema";
            errors.push(at.forbidden(too_dear(name, walk.cost, SCHEMA_COST_MAX)));
        }
    }
}

/// Where a schema stands in the object.
struct Place {
    root: bool,
    /// How often a value of this place may occur.
    times: u64,
    /// The list or map within which a value cannot be known again.
    lost: Option<String>,
}

struct Walk<'e> {
    errors: &'e mut Vec<Error>,
    cost: u64,
}

impl Walk<'_> {
    fn schema(&mut self, at: &Path, schema: &Value, place: &Place) {
        let given = schema.items("x-kubernetes-validations");
        if !given.is_empty() {
            self.rules(&at.child("x-kubernetes-validations"), schema, given, place);
        }
        let within = |lost: Option<String>, times: u64| Place { root: false, times, lost };
        for (name, field) in schema.fields("properties").into_iter().flatten() {
            let inner = within(place.lost.clone(), place.times);
            self.schema(&at.child("properties").key(name), field, &inner);
        }
        let sized = |word: &str| {
            let decl = Decl::of_schema(schema, "selfType", place.root);
            let size = schema.int(word).and_then(|size| u64::try_from(size).ok());
            let size = size.or_else(|| decl.and_then(|decl| decl.size_max));
            place.times.saturating_mul(size.unwrap_or(1).max(1))
        };
        if schema["additionalProperties"].is_object() {
            let inner = within(place.lost.clone(), sized("maxProperties"));
            self.schema(&at.child("additionalProperties"), &schema["additionalProperties"], &inner);
        }
        if schema["items"].is_object() {
            let known = schema.text("x-kubernetes-list-type") == "map";
            let lost = place.lost.clone().or((!known).then(|| at.as_str().to_owned()));
            self.schema(&at.child("items"), &schema["items"], &within(lost, sized("maxItems")));
        }
    }

    fn rules(&mut self, at: &Path, schema: &Value, given: &[Value], place: &Place) {
        let Some(decl) = Decl::of_schema(schema, "selfType", place.root) else {
            let why = "x-kubernetes-validations cannot be used on a schema without a type";
            self.errors.push(at.forbidden(why));
            return;
        };
        for (index, rule) in given.iter().enumerate() {
            self.rule(&at.index(index), rule, &decl, place, schema);
        }
    }

    fn rule(&mut self, at: &Path, rule: &Value, decl: &Decl, place: &Place, schema: &Value) {
        self.words(at, rule, schema);
        let text = rule.text("rule");
        if text.trim().is_empty() {
            self.errors.push(at.child("rule").required("rule is not specified"));
            return;
        }
        let env = rules::env(decl, rule.flag("optionalOldSelf"));
        let program = match env.compile(text) {
            Ok(program) => program,
            Err(error) => {
                let why = format!("compilation failed: {error}");
                self.errors.push(at.child("rule").invalid(rule.clone(), why));
                return;
            }
        };
        if !matches!(program.result_type(), Type::Bool | Type::Dyn) {
            let why = "cel expression must evaluate to a bool";
            self.errors.push(at.child("rule").invalid(rule.clone(), why));
        }
        if program.uses("oldSelf")
            && let Some(lost) = &place.lost
        {
            let why = format!(
                "oldSelf cannot be used on the uncorrelatable portion of the schema within {lost}"
            );
            self.errors.push(at.child("rule").invalid(text, why));
        }
        let decls = BTreeMap::from([("self".to_owned(), decl), ("oldSelf".to_owned(), decl)]);
        let cost = program.estimate(&decls).max.saturating_mul(place.times);
        self.cost = self.cost.saturating_add(cost);
        if cost > RULE_COST_MAX {
            let why = too_dear("estimated rule cost", cost, RULE_COST_MAX);
            self.errors.push(at.child("rule").forbidden(why));
        }
        let message = rule.text("messageExpression");
        if message.is_empty() {
            return;
        }
        match env.compile(message) {
            Ok(program) if *program.result_type() == Type::String => {}
            Ok(_) => {
                let why = "messageExpression must evaluate to a string";
                self.errors.push(at.child("messageExpression").invalid(rule.clone(), why));
            }
            Err(error) => {
                let why = format!("messageExpression compilation failed: {error}");
                self.errors.push(at.child("messageExpression").invalid(rule.clone(), why));
            }
        }
    }

    /// Message, reason and path of a rule.
    fn words(&mut self, at: &Path, rule: &Value, schema: &Value) {
        let message = rule.text("message");
        if rule.has("message") && message.trim().is_empty() {
            let why = "message must be non-empty if specified";
            self.errors.push(at.child("message").invalid(message, why));
        } else if message.trim().contains('\n') {
            let why = "message must not contain line breaks";
            self.errors.push(at.child("message").invalid(message, why));
        } else if message.len() > MESSAGE_BYTES_MAX {
            self.errors.push(at.child("message").too_long(MESSAGE_BYTES_MAX));
        } else if message.trim().is_empty() && rule.text("rule").trim().contains('\n') {
            let why = "message must be specified if rule contains line breaks";
            self.errors.push(at.child("message").required(why));
        }
        let expression = rule.text("messageExpression");
        if rule.has("messageExpression") && expression.trim().is_empty() {
            let why = "must be non-empty if specified";
            self.errors.push(at.child("messageExpression").required(why));
        }
        let reason = rule.text("reason");
        if !reason.is_empty() && !REASONS.contains(&reason) {
            self.errors.push(at.child("reason").not_supported(reason, &REASONS));
        }
        let path = rule.text("fieldPath");
        if rule.has("fieldPath") && !leads(path, schema) {
            let why =
                format!("fieldPath must be a valid path: {path:?} does not refer to a valid field");
            self.errors.push(at.child("fieldPath").invalid(path, why));
        }
    }
}

/// Whether a path names a field of the schema.
fn leads(path: &str, schema: &Value) -> bool {
    let Ok(parsed) = JsonPath::parse(path) else { return false };
    let Some(names) = parsed.simple().filter(|names| !names.is_empty()) else { return false };
    let found = names.iter().try_fold(schema, |schema, name| {
        schema["properties"]
            .get(name)
            .or_else(|| Some(&schema["additionalProperties"]).filter(|more| more.is_object()))
    });
    path.starts_with(['.', '[']) && found.is_some()
}

#[allow(clippy::cast_precision_loss, reason = "shown with one digit")]
fn too_dear(name: &str, cost: u64, cost_max: u64) -> String {
    let times = cost as f64 / cost_max as f64;
    let factor = if times > 100.0 {
        "more than 100x".to_owned()
    } else if times < 1.5 {
        format!("{times:.6}x")
    } else {
        format!("{times:.1}x")
    };
    format!(
        "{name} exceeds budget by factor of {factor} (try simplifying the rule, or adding maxItems, \
         maxProperties, and maxLength where arrays, maps, and strings are declared)"
    )
}
