//! MutatingAdmissionPolicy: what it makes of an object.

use serde_json::Value as Json;

use super::{Declared, Expression, Input, MatchConditions, Runner, Variables};
use crate::access::Access as _;
use crate::apply;
use crate::cel::{Fields, ObjectType, TOTAL_COST_MAX, Type, Value};
use crate::patch;
use crate::schema::Definition;

/// A policy, compiled. What does not compile fails when it is asked.
#[derive(Debug)]
pub struct Policy {
    fail: bool,
    conditions: MatchConditions,
    variables: Variables,
    mutations: Vec<Mutation>,
}

#[derive(Debug)]
enum Mutation {
    Apply(Expression),
    JsonPatch(Expression),
}

impl Policy {
    /// From the `spec` of the object.
    #[must_use]
    pub fn compile(spec: &Json) -> Self {
        let declared = Declared { params: spec.has("paramKind"), authorizer: true, patches: false };
        let (variables, composed) = Variables::compile(spec.items("variables"), declared);
        let patching = composed.env(Declared { patches: true, ..declared });
        let mutation = |one: &Json| match one.text("patchType") {
            "JSONPatch" => {
                let source = one["jsonPatch"].text("expression");
                Mutation::JsonPatch(Expression::compile(&patching, source, &[json_patches()]))
            }
            _ => {
                let source = one["applyConfiguration"].text("expression");
                Mutation::Apply(Expression::compile(&patching, source, &[object()]))
            }
        };
        Self {
            fail: spec.text("failurePolicy") != "Ignore",
            conditions: MatchConditions::compile_in(
                &composed.full(),
                spec.items("matchConditions"),
            ),
            mutations: spec.items("mutations").iter().map(mutation).collect(),
            variables,
        }
    }

    /// Whether what goes wrong with the policy itself refuses requests.
    #[must_use]
    pub fn fails(&self) -> bool {
        self.fail
    }

    /// Whether the policy wants to change the object of this request.
    ///
    /// # Errors
    ///
    /// When its conditions could not be evaluated and its failure policy is to fail.
    pub fn matches(&self, input: &Input<'_>) -> Result<bool, String> {
        if self.conditions.is_empty() {
            return Ok(true);
        }
        let input = Input { namespace: &Json::Null, ..input.clone() };
        self.conditions.decide(&Runner::new(&input, &self.variables), self.fail)
    }

    /// How many changes it makes, one after the other.
    #[must_use]
    pub fn mutations(&self) -> usize {
        self.mutations.len()
    }

    /// The object after one of the mutations. Variables are computed anew for each, over the
    /// object as the one before left it.
    ///
    /// # Errors
    ///
    /// With upstream's text.
    pub fn mutate(
        &self,
        index: usize,
        input: &Input<'_>,
        schema: &Definition,
    ) -> Result<Json, String> {
        let runner = Runner::new(input, &self.variables);
        let mut budget = TOTAL_COST_MAX;
        match self.mutations.get(index) {
            Some(Mutation::Apply(expression)) => {
                if let Err(error) = &expression.program {
                    return Err(error.clone());
                }
                let made = runner.run(expression, &mut budget);
                let made = made.map_err(|failure| failure.text().to_owned())?;
                apply_configuration(input.object, &made, schema)
            }
            Some(Mutation::JsonPatch(expression)) => {
                if let Err(error) = &expression.program {
                    return Err(error.clone());
                }
                let made = runner.run(expression, &mut budget);
                json_patch(input.object, &made.map_err(|failure| failure.text().to_owned())?)
            }
            None => Ok(input.object.clone()),
        }
    }
}

/// What an `applyConfiguration` gives.
#[must_use]
pub fn object() -> Type {
    Type::Object(ObjectType { name: "Object".to_owned(), fields: Fields::Open }.into())
}

/// What a `jsonPatch` gives.
#[must_use]
pub fn json_patches() -> Type {
    Type::list(Type::object("JSONPatch", []))
}

fn apply_configuration(
    object: &Json,
    made: &Value<'_>,
    schema: &Definition,
) -> Result<Json, String> {
    check_names(made, "Object").map_err(|why| format!("type mismatch: {why}"))?;
    let mut config = made.to_json().map_err(|error| error.to_string())?;
    for field in ["apiVersion", "kind"] {
        config[field] = object[field].clone();
    }
    apply::check(schema, &config).map_err(|error| {
        format!("error applying patch: failed to convert patch object to typed object: {error}")
    })?;
    let atomic = apply::atomics(schema, &config);
    if !atomic.is_empty() {
        return Err(format!(
            "error applying patch: invalid ApplyConfiguration: may not mutate atomic arrays, maps or \
             structs: {}",
            atomic.join(", ")
        ));
    }
    let mut merged = object.clone();
    apply::merge_into(schema, &mut merged, &config);
    Ok(merged)
}

/// Objects within an `Object` are named by their place: `Object.spec.template`.
fn check_names(value: &Value<'_>, place: &str) -> Result<(), String> {
    match value {
        Value::Struct(made) => {
            if made.name.as_ref() != place {
                return Err(format!(
                    "unexpected type name {:?}, expected {place:?}, which matches field name path \
                     from root Object type",
                    made.name
                ));
            }
            for (name, field) in &made.fields {
                check_names(field, &format!("{place}.{name}"))?;
            }
            Ok(())
        }
        Value::List(list) => {
            let items = list.to_vec().map_err(|error| error.to_string())?;
            items.iter().try_for_each(|item| check_names(item, place))
        }
        Value::Optional(Some(inner)) => check_names(inner, place),
        _ => Ok(()),
    }
}

fn json_patch(object: &Json, made: &Value<'_>) -> Result<Json, String> {
    let Value::List(list) = made else {
        return Err("type mismatch: JSONPatchType.expression should evaluate to array".to_owned());
    };
    let mut operations = Vec::new();
    for item in list.to_vec().map_err(|error| error.to_string())? {
        if let Value::Struct(made) = &item {
            let value = made.fields.iter().find(|(name, _)| name.as_ref() == "value");
            if let Some((_, inner @ Value::Struct(of))) = value {
                check_names(inner, &of.name).map_err(|why| format!("type mismatch: {why}"))?;
            }
        }
        let operation = item.to_json().map_err(|error| {
            format!("JSONPath valueExpression evaluated to a type that could not marshal to JSON: {error}")
        })?;
        operations.push(operation);
    }
    let mut patched = object.clone();
    match patch::json(&mut patched, &Json::Array(operations)) {
        Ok(()) => Ok(patched),
        // A test that does not hold means that the patch is not to be applied.
        Err(error) if error.is_failed_test() => Ok(object.clone()),
        Err(error) => Err(format!("JSON Patch: {error}")),
    }
}
