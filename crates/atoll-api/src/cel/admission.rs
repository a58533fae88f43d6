//! Expressions of admission: their variables, match conditions, and the policies.
//!
//! Objects are seen as plain JSON, as upstream sees them: numbers, texts, lists, maps. Only the
//! request and what policies declare themselves have types.

pub mod mutating;
pub mod type_check;
pub mod validating;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::rc::{Rc, Weak};

use serde_json::Value as Json;

use super::authorizer::{Asking, Authorize, Question};
use super::library::Opaque;
use super::{
    Bindings, CONDITIONS_COST_MAX, Env, EvalError, Lazy, Map, PER_CALL_COST_MAX, Program, Type,
    Value,
};
use crate::access::Access as _;

/// What has gone wrong when a budget is used up; upstream's words.
pub(super) const OUT_OF_BUDGET: &str =
    "validation failed due to running out of cost budget, no further validation rules will be run";

/// What admission of one request shows to expressions.
#[derive(Clone)]
pub struct Input<'a> {
    /// Null on a delete.
    pub object: &'a Json,
    /// Null on a create.
    pub old_object: &'a Json,
    /// `AdmissionRequest` without the objects.
    pub request: &'a Json,
    /// Null without parameters.
    pub params: &'a Json,
    /// Null for objects of the cluster.
    pub namespace: &'a Json,
    pub authorizer: Rc<dyn Authorize + 'a>,
}

/// Which variables an expression has.
#[derive(Debug, Clone, Copy, Default)]
pub struct Declared {
    pub params: bool,
    pub authorizer: bool,
    /// `Object{…}` and `JSONPatch{…}`.
    pub patches: bool,
}

/// The variables of admission.
#[must_use]
pub fn env(declared: Declared) -> Env {
    let mut env = Env::new()
        .variable("object", Type::Dyn)
        .variable("oldObject", Type::Dyn)
        .variable("request", request_type())
        .variable("namespaceObject", namespace_type());
    if declared.params {
        env.declare("params", Type::Dyn);
    }
    if declared.authorizer {
        env.declare("authorizer", Type::Opaque("kubernetes.authorization.Authorizer"));
        let check = Type::Opaque("kubernetes.authorization.ResourceCheck");
        env.declare("authorizer.requestResource", check);
    }
    if declared.patches { env.with_patches() } else { env }
}

fn request_type() -> Type {
    let kind = Type::object(
        "kubernetes.GroupVersionKind",
        [("group", Type::String), ("version", Type::String), ("kind", Type::String)],
    );
    let resource = Type::object(
        "kubernetes.GroupVersionResource",
        [("group", Type::String), ("version", Type::String), ("resource", Type::String)],
    );
    let user = Type::object(
        "kubernetes.UserInfo",
        [
            ("username", Type::String),
            ("uid", Type::String),
            ("groups", Type::list(Type::String)),
            ("extra", Type::map(Type::String, Type::list(Type::String))),
        ],
    );
    Type::object(
        "kubernetes.AdmissionRequest",
        [
            ("kind", kind.clone()),
            ("resource", resource.clone()),
            ("subResource", Type::String),
            ("requestKind", kind),
            ("requestResource", resource),
            ("requestSubResource", Type::String),
            ("name", Type::String),
            ("namespace", Type::String),
            ("operation", Type::String),
            ("userInfo", user),
            ("dryRun", Type::Bool),
            ("options", Type::Dyn),
        ],
    )
}

fn namespace_type() -> Type {
    let texts = || Type::map(Type::String, Type::String);
    let condition = Type::object(
        "kubernetes.NamespaceCondition",
        [
            ("status", Type::String),
            ("type", Type::String),
            ("lastTransitionTime", Type::Timestamp),
            ("message", Type::String),
            ("reason", Type::String),
        ],
    );
    let metadata = Type::object(
        "kubernetes.NamespaceMetadata",
        [
            ("name", Type::String),
            ("generateName", Type::String),
            ("namespace", Type::String),
            ("labels", texts()),
            ("annotations", texts()),
            ("UID", Type::String),
            ("creationTimestamp", Type::Timestamp),
            ("deletionGracePeriodSeconds", Type::Int),
            ("deletionTimestamp", Type::Timestamp),
            ("generation", Type::Int),
            ("resourceVersion", Type::String),
            ("finalizers", Type::list(Type::String)),
        ],
    );
    let finalizers = ("finalizers", Type::list(Type::String));
    let conditions = ("conditions", Type::list(condition));
    let status = Type::object("kubernetes.NamespaceStatus", [conditions, ("phase", Type::String)]);
    Type::object(
        "kubernetes.Namespace",
        [
            ("metadata", metadata),
            ("spec", Type::object("kubernetes.NamespaceSpec", [finalizers])),
            ("status", status),
        ],
    )
}

/// Compiles an expression whose value must be of one of these types.
///
/// # Errors
///
/// With upstream's text: what is wrong with it, or that its value is of another type.
pub fn compile(env: &Env, source: &str, allowed: &[Type]) -> Result<Program, String> {
    let program = env.compile(source).map_err(|error| format!("compilation failed: {error}"))?;
    let found = program.result_type();
    if allowed.is_empty() || allowed.contains(found) {
        return Ok(program);
    }
    let shown = |ty: &Type| match ty {
        Type::Null => "null_type".to_owned(),
        other => other.to_string(),
    };
    Err(match allowed {
        [one] => format!("must evaluate to {} but got {}", shown(one), shown(found)),
        several => {
            let names: Vec<String> = several.iter().map(shown).collect();
            format!("must evaluate to one of [{}] but got {}", names.join(" "), shown(found))
        }
    })
}

/// An expression and what has come of compiling it.
#[derive(Debug)]
pub(super) struct Expression {
    pub source: String,
    pub program: Result<Program, String>,
}

impl Expression {
    pub(super) fn compile(env: &Env, source: &str, allowed: &[Type]) -> Self {
        Self { source: source.to_owned(), program: compile(env, source, allowed) }
    }
}

/// `spec.variables`, each computed when it is first asked for.
#[derive(Debug, Default)]
pub(super) struct Variables(Vec<(String, Expression)>);

impl Variables {
    /// Compiles them in their order: each sees those before it. Gives the environment that has
    /// them.
    pub(super) fn compile(variables: &[Json], declared: Declared) -> (Self, Composed) {
        let mut composed = Composed { declared, types: BTreeMap::new() };
        let mut all = Vec::new();
        for variable in variables {
            let (name, source) = (variable.text("name"), variable.text("expression"));
            let expression = Expression::compile(&composed.env(declared), source, &[]);
            composed.add(name, &expression);
            all.push((name.to_owned(), expression));
        }
        (Self(all), composed)
    }
}

/// Environments with the variables of a policy.
#[derive(Debug, Clone)]
pub struct Composed {
    declared: Declared,
    types: BTreeMap<String, Type>,
}

impl Composed {
    /// Without a variable yet.
    #[must_use]
    pub fn new(declared: Declared) -> Self {
        Self { declared, types: BTreeMap::new() }
    }

    /// The variables with their types so far, and what `declared` says.
    #[must_use]
    pub fn env(&self, declared: Declared) -> Env {
        let fields = self.types.iter().map(|(name, ty)| (name.as_str(), ty.clone()));
        let variables = Type::object("kubernetes.variables", fields);
        env(declared).variable("variables", variables)
    }

    /// As [`Composed::env`], with all that the policy has.
    #[must_use]
    pub fn full(&self) -> Env {
        self.env(self.declared)
    }

    /// A variable of this name; what does not compile may be anything.
    pub(super) fn add(&mut self, name: &str, expression: &Expression) {
        let ty = expression.program.as_ref().map_or(Type::Dyn, |one| one.result_type().clone());
        self.types.insert(name.to_owned(), ty);
    }

    /// Declares a variable by what it computes.
    pub fn declare(&mut self, name: &str, program: Option<&Program>) {
        let ty = program.map_or(Type::Dyn, |one| one.result_type().clone());
        self.types.insert(name.to_owned(), ty);
    }
}

/// The variables while they are computed.
struct Computed<'a> {
    variables: &'a Variables,
    bindings: Bindings<'a>,
    known: RefCell<HashMap<String, Result<Value<'a>, EvalError>>>,
    /// What they have cost since that was last taken.
    cost: Rc<Cell<u64>>,
    own: Weak<Computed<'a>>,
}

impl<'a> Lazy<'a> for Computed<'a> {
    fn get(&self, name: &str) -> Option<Result<Value<'a>, EvalError>> {
        let (_, expression) = self.variables.0.iter().find(|(own, _)| own == name)?;
        if let Some(known) = self.known.borrow().get(name) {
            return Some(known.clone());
        }
        let value = self.compute(name, expression);
        self.known.borrow_mut().insert(name.to_owned(), value.clone());
        Some(value)
    }

    fn names(&self) -> Vec<String> {
        self.variables.0.iter().map(|(name, _)| name.clone()).collect()
    }
}

impl<'a> Computed<'a> {
    fn compute(&self, name: &str, expression: &'a Expression) -> Result<Value<'a>, EvalError> {
        let program = expression.program.as_ref().map_err(|error| {
            EvalError::Failed(format!("composited variable {name:?} fails to compile: {error}"))
        })?;
        let mut bindings = self.bindings.clone();
        if let Some(own) = self.own.upgrade() {
            bindings.set("variables", Value::Map(Map::Lazy(own)));
        }
        let done = program.evaluate(&bindings, PER_CALL_COST_MAX);
        self.cost.set(self.cost.get().saturating_add(done.cost));
        done.result.map_err(|error| {
            EvalError::Failed(format!("composited variable {name:?} fails to evaluate: {error}"))
        })
    }
}

/// Runs expressions over one input, within one budget.
pub(super) struct Runner<'a> {
    bindings: Bindings<'a>,
    variables_cost: Rc<Cell<u64>>,
}

/// Why there is no value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Failure {
    /// The expression failed; others may still run.
    Failed(String),
    /// Nothing runs any more.
    OutOfBudget,
}

impl<'a> Runner<'a> {
    pub(super) fn new(input: &Input<'a>, variables: &'a Variables) -> Self {
        let mut bindings = Bindings::default();
        bindings.set("object", Value::of_json(input.object));
        bindings.set("oldObject", Value::of_json(input.old_object));
        bindings.set("request", Value::of_json(input.request));
        bindings.set("params", Value::of_json(input.params));
        bindings.set("namespaceObject", Value::of_json(input.namespace));
        let authorizer = Asking::new(input.authorizer.clone());
        bindings.set("authorizer", Value::Opaque(Opaque::Asking(Rc::new(authorizer))));
        let about = Asking::about(input.authorizer.clone(), request_resource(input.request));
        let about = Value::Opaque(Opaque::Asking(Rc::new(about)));
        bindings.set("authorizer.requestResource", about);
        let variables_cost = Rc::new(Cell::new(0));
        let computed = Rc::new_cyclic(|own| Computed {
            variables,
            bindings: bindings.clone(),
            known: RefCell::default(),
            cost: variables_cost.clone(),
            own: own.clone(),
        });
        bindings.set("variables", Value::Map(Map::Lazy(computed)));
        Self { bindings, variables_cost }
    }

    pub(super) fn run(
        &self,
        expression: &'a Expression,
        budget: &mut u64,
    ) -> Result<Value<'a>, Failure> {
        let program = expression
            .program
            .as_ref()
            .map_err(|error| Failure::Failed(format!("compilation error: {error}")))?;
        let done = program.evaluate(&self.bindings, PER_CALL_COST_MAX);
        let cost = done.cost.saturating_add(self.variables_cost.replace(0));
        *budget = budget.checked_sub(cost).ok_or(Failure::OutOfBudget)?;
        done.result.map_err(|error| {
            let source = &expression.source;
            Failure::Failed(format!("expression '{source}' resulted in error: {error}"))
        })
    }
}

impl Failure {
    pub(super) fn text(&self) -> &str {
        match self {
            Self::Failed(text) => text,
            Self::OutOfBudget => OUT_OF_BUDGET,
        }
    }
}

fn request_resource(request: &Json) -> Question {
    let resource = &request["resource"];
    let text = |from: &Json, field: &str| from.text(field).to_owned();
    Question {
        group: text(resource, "group"),
        resource: text(resource, "resource"),
        subresource: text(request, "subResource"),
        namespace: text(request, "namespace"),
        name: text(request, "name"),
        ..Question::default()
    }
}

/// `matchConditions` of a webhook or a policy: all must hold for it to be asked at all.
#[derive(Debug, Default)]
pub struct MatchConditions {
    conditions: Vec<Expression>,
    none: Variables,
}

impl MatchConditions {
    /// Those of a webhook.
    #[must_use]
    pub fn compile(conditions: &[Json]) -> Self {
        let declared = Declared { authorizer: true, ..Declared::default() };
        Self::compile_in(&env(declared), conditions)
    }

    pub(super) fn compile_in(env: &Env, conditions: &[Json]) -> Self {
        let compile = |condition: &Json| {
            Expression::compile(env, condition.text("expression"), &[Type::Bool])
        };
        Self { conditions: conditions.iter().map(compile).collect(), none: Variables::default() }
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.conditions.is_empty()
    }

    /// Whether all hold. A condition that is false decides, also when others fail; otherwise
    /// failures are for the failure policy: with `fail` they are the error, without it nothing
    /// matches.
    ///
    /// # Errors
    ///
    /// With upstream's text, when conditions could not be evaluated.
    pub fn matches(&self, input: &Input<'_>, fail: bool) -> Result<bool, String> {
        if self.is_empty() {
            return Ok(true);
        }
        // The namespace is not shown to conditions.
        let input = Input { namespace: &Json::Null, ..input.clone() };
        self.decide(&Runner::new(&input, &self.none), fail)
    }

    pub(super) fn decide<'a>(&'a self, runner: &Runner<'a>, fail: bool) -> Result<bool, String> {
        let mut budget = CONDITIONS_COST_MAX;
        let mut errors: Vec<String> = Vec::new();
        for condition in &self.conditions {
            match runner.run(condition, &mut budget) {
                Ok(Value::Bool(false)) => return Ok(false),
                Ok(_) => {}
                Err(Failure::OutOfBudget) => {
                    return if fail { Err(OUT_OF_BUDGET.to_owned()) } else { Ok(false) };
                }
                Err(Failure::Failed(text)) => errors.push(text),
            }
        }
        errors.dedup();
        match errors.as_slice() {
            [] => Ok(true),
            _ if !fail => Ok(false),
            [one] => Err(one.clone()),
            several => Err(format!("[{}]", several.join(", "))),
        }
    }
}
