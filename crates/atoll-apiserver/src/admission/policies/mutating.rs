//! The plugin `MutatingAdmissionPolicy`.

use atoll_api::cel::admission::mutating::Policy;
use atoll_api::schema::{self, Definition};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use serde_json::Value;

use super::super::matching::{self, Matched};
use super::super::{AdmissionRequest, Operation};
use super::input::{Shown, namespace};
use super::kept::{Binding, Hook};
use super::params;
use super::validating::binding_matches;
use crate::core::Core;
use crate::status::Status;

const PLUGIN: &str = "MutatingAdmissionPolicy";

/// Lets every policy whose bindings match the request change its object, one after the other.
pub(crate) fn mutate<'a>(
    core: &'a Core,
    request: &'a AdmissionRequest<'a>,
    object: &'a mut Value,
) -> BoxFuture<'a, Result<(), Status>> {
    async move {
        // A delete has nothing that could change.
        let due = request.reinvocation.is_none_or(|round| round.is_due(PLUGIN, object));
        if matching::is_exempt(request.row) || request.operation == Operation::Delete || !due {
            return Ok(());
        }
        let mut errors = Vec::new();
        for hook in core.policies.mutating.current().iter() {
            for invocation in invocations(core, request, object, hook, &mut errors).await {
                run(core, request, object, &invocation, &mut errors).await?;
            }
        }
        if let Some(round) = request.reinvocation {
            round.done(PLUGIN, object);
        }
        refuse(request, &errors)
    }
    .boxed()
}

/// One policy with one binding and one parameter.
struct Invocation<'h> {
    hook: &'h Hook<Policy>,
    binding: &'h Binding,
    matched: Matched,
    param: Value,
}

/// Something that went wrong with a policy that is to fail then.
struct Failed {
    message: String,
    /// Empty: the reason of a refusal.
    reason: &'static str,
}

impl Failed {
    fn new(hook: &Hook<Policy>, binding: Option<&Binding>, why: &str) -> Self {
        let message = match binding {
            Some(binding) => {
                format!(
                    "policy '{}' with binding '{}' denied request: {why}",
                    hook.name, binding.name
                )
            }
            None => format!("policy {:?} denied request: {why}", hook.name),
        };
        Self { message, reason: "" }
    }

    fn invalid(invocation: &Invocation<'_>, why: &str) -> Self {
        let failed = Self::new(invocation.hook, Some(invocation.binding), why);
        Self { reason: "Invalid", ..failed }
    }
}

async fn invocations<'h>(
    core: &Core,
    request: &AdmissionRequest<'_>,
    object: &Value,
    hook: &'h Hook<Policy>,
    errors: &mut Vec<Failed>,
) -> Vec<Invocation<'h>> {
    let mut found = Vec::new();
    let mut fail = |binding: Option<&Binding>, what: &str, why: &str| {
        if hook.policy.fails() {
            let why = format!("failed to configure {what}: {why}");
            errors.push(Failed::new(hook, binding, &why));
        }
    };
    let matched = match &hook.criteria {
        Ok(criteria) => {
            criteria.matches(core, request, Some(object)).await.map_err(|why| why.to_string())
        }
        Err(why) => Err(why.clone()),
    };
    let matched = match matched.and_then(|found| params::check(core, hook).map(|()| found)) {
        Ok(Some(matched)) => matched,
        Ok(None) => return found,
        Err(why) => {
            fail(None, "policy", &why);
            return found;
        }
    };
    for binding in &hook.bindings {
        let params = match binding_matches(core, request, Some(object), binding).await {
            Ok(true) => params::collect(core, request, hook, binding).await,
            Ok(false) => continue,
            Err(why) => Err(why),
        };
        match params {
            Ok(params) => found.extend(params.into_iter().map(|param| Invocation {
                hook,
                binding,
                matched: matched.clone(),
                param,
            })),
            Err(why) => fail(Some(binding), "binding", &why),
        }
    }
    found
}

async fn run(
    core: &Core,
    request: &AdmissionRequest<'_>,
    object: &mut Value,
    invocation: &Invocation<'_>,
    errors: &mut Vec<Failed>,
) -> Result<(), Status> {
    let id = invocation.id();
    if request.reinvocation.is_some_and(|round| !round.runs(PLUGIN, &id)) {
        return Ok(());
    }
    let namespace = namespace(core, request).await?;
    let before = object.clone();
    let mut failed = Vec::new();
    let ran = invocation.apply(core, request, object, &namespace, &mut failed)?;
    let fails = invocation.hook.policy.fails();
    errors.extend(failed.into_iter().filter(|_| fails));
    if let Some(round) = request.reinvocation.filter(|_| ran) {
        round.ran(PLUGIN, &id, invocation.hook.reinvoked, *object != before);
    }
    Ok(())
}

impl Invocation<'_> {
    fn id(&self) -> String {
        let metadata = &self.param["metadata"];
        let text = |field: &str| metadata.get(field).and_then(Value::as_str).unwrap_or("");
        let (namespace, name) = (text("namespace"), text("name"));
        format!("{}/{}/{namespace}/{name}", self.hook.name, self.binding.name)
    }

    /// Runs the mutations in their order, each on what the one before made; false when the
    /// policy does not want to. Nothing waits in here.
    fn apply(
        &self,
        core: &Core,
        request: &AdmissionRequest<'_>,
        object: &mut Value,
        namespace: &Value,
        failed: &mut Vec<Failed>,
    ) -> Result<bool, Status> {
        let shown = Shown::new(request, &self.matched, object, namespace.clone());
        match self.hook.policy.matches(&shown.input(core, request, &self.param)) {
            Ok(true) => {}
            Ok(false) => return Ok(false),
            Err(why) => {
                failed.push(Failed::invalid(self, &why));
                return Ok(false);
            }
        }
        let row = self.matched.row(request);
        let Some(definition) = row.schema() else {
            let kind = &self.matched.kind;
            return Err(Status::unavailable(format!(
                "Resource kind {}, Kind={} not found. There can be a delay between when \
                 CustomResourceDefinitions are created and when they are available.",
                kind.api_version(),
                kind.kind
            )));
        };
        for index in 0..self.hook.policy.mutations() {
            let made = {
                let shown = Shown::new(request, &self.matched, object, namespace.clone());
                let input = shown.input(core, request, &self.param);
                self.hook.policy.mutate(index, &input, definition)
            };
            match made {
                Ok(mut changed) => {
                    complete(definition, &mut changed)?;
                    row.default(&mut changed);
                    self.matched.take_back(request, &mut changed);
                    *object = changed;
                }
                Err(why) => failed.push(Failed::invalid(self, &why)),
            }
        }
        Ok(true)
    }
}

/// A patch may have put anything anywhere.
fn complete(definition: &Definition, object: &mut Value) -> Result<(), Status> {
    let unknown = schema::prune_and_check(definition, object).map_err(Status::internal)?;
    match unknown.first() {
        None => Ok(()),
        Some(field) => {
            Err(Status::internal(format!("strict decoding error: unknown field {field:?}")))
        }
    }
}

/// The first failure is the message, all are causes.
fn refuse(request: &AdmissionRequest<'_>, errors: &[Failed]) -> Result<(), Status> {
    let Some(first) = errors.first() else { return Ok(()) };
    let causes: Vec<&str> = errors.iter().map(|failed| failed.message.as_str()).collect();
    Err(Status::policy_failed(request.row, request.name, &causes, first.reason))
}
