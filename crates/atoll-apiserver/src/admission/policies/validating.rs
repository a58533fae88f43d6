//! The plugin `ValidatingAdmissionPolicy`.

use atoll_api::cel::admission::validating::{Outcome, Policy};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use serde_json::{Value, json};

use super::super::matching::{self, Matched};
use super::super::{AdmissionRequest, notes::Notes};
use super::input::{Shown, namespace, new_object};
use super::kept::{Binding, Hook};
use super::params;
use crate::core::Core;
use crate::status::Status;

/// Failures that one annotation lists. Upstream's number.
const FAILURES_MAX: usize = 50;
/// Bytes of an annotation that a policy makes. Upstream's number.
const ANNOTATION_BYTES_MAX: usize = 10 * 1024;

/// Asks every policy whose bindings match the request; refuses by the first that denies.
pub(crate) fn validate<'a>(
    core: &'a Core,
    request: &'a AdmissionRequest<'a>,
    object: &'a Value,
) -> BoxFuture<'a, Result<(), Status>> {
    async move {
        if matching::is_exempt(request.row) {
            return Ok(());
        }
        let mut verdict = Verdict::default();
        for hook in core.policies.validating.current().iter() {
            ask(core, request, object, hook, &mut verdict).await?;
        }
        verdict.publish(request.notes);
        match verdict.denials.into_iter().next() {
            None => Ok(()),
            Some(denial) => Err(denial.into_status(request)),
        }
    }
    .boxed()
}

/// What all policies together say.
#[derive(Default)]
struct Verdict {
    denials: Vec<Denial>,
    /// For the audit.
    failures: Vec<Value>,
    annotations: Vec<(String, String)>,
}

struct Denial {
    policy: String,
    /// None when the policy itself cannot be asked.
    binding: Option<String>,
    message: String,
    reason: String,
}

async fn ask(
    core: &Core,
    request: &AdmissionRequest<'_>,
    object: &Value,
    hook: &Hook<Policy>,
    verdict: &mut Verdict,
) -> Result<(), Status> {
    let new = new_object(request, object);
    let matched = match &hook.criteria {
        Ok(criteria) => criteria.matches(core, request, new).await.map_err(|why| why.to_string()),
        Err(why) => Err(why.clone()),
    };
    let matched = match matched {
        Ok(Some(matched)) => matched,
        Ok(None) => return Ok(()),
        Err(why) => {
            verdict.misconfigured(hook, None, &why);
            return Ok(());
        }
    };
    if let Err(why) = params::check(core, hook) {
        verdict.misconfigured(hook, None, &why);
        return Ok(());
    }
    for binding in &hook.bindings {
        match binding_matches(core, request, new, binding).await {
            Ok(true) => {}
            Ok(false) => continue,
            Err(why) => {
                verdict.misconfigured(hook, Some(binding), &why);
                continue;
            }
        }
        let params = match params::collect(core, request, hook, binding).await {
            Ok(params) => params,
            Err(why) => {
                verdict.misconfigured(hook, Some(binding), &why);
                continue;
            }
        };
        let namespace = namespace(core, request).await?;
        let asked = Asked { core, request, matched: &matched, object };
        for outcome in asked.judge(&hook.policy, namespace, &params) {
            verdict.take(request.notes, hook, binding, outcome);
        }
    }
    Ok(())
}

/// Whether a binding adds nothing that excludes the request.
pub(super) async fn binding_matches(
    core: &Core,
    request: &AdmissionRequest<'_>,
    object: Option<&Value>,
    binding: &Binding,
) -> Result<bool, String> {
    match &binding.criteria {
        None => Ok(true),
        Some(Err(why)) => Err(why.clone()),
        Some(Ok(criteria)) => {
            let found = criteria.matches(core, request, object).await;
            found.map(|found| found.is_some()).map_err(|why| why.to_string())
        }
    }
}

/// A policy and what it is asked about. Nothing waits in here: values stay on their thread.
struct Asked<'a> {
    core: &'a Core,
    request: &'a AdmissionRequest<'a>,
    matched: &'a Matched,
    object: &'a Value,
}

impl Asked<'_> {
    fn judge(&self, policy: &Policy, namespace: Value, params: &[Value]) -> Vec<Outcome> {
        let shown = Shown::new(self.request, self.matched, self.object, namespace);
        params
            .iter()
            .map(|param| policy.validate(&shown.input(self.core, self.request, param)))
            .collect()
    }
}

impl Verdict {
    /// The policy or binding cannot be used: what then happens is its failure policy's to say.
    fn misconfigured(&mut self, hook: &Hook<Policy>, binding: Option<&Binding>, why: &str) {
        if !hook.policy.fails() {
            return;
        }
        let what = if binding.is_some() { "binding" } else { "policy" };
        self.denials.push(Denial {
            policy: hook.name.clone(),
            binding: binding.map(|binding| binding.name.clone()),
            message: format!("failed to configure {what}: {why}"),
            reason: String::new(),
        });
    }

    fn take(&mut self, notes: &Notes, hook: &Hook<Policy>, binding: &Binding, outcome: Outcome) {
        let denial = |message: String, reason: String| Denial {
            policy: hook.name.clone(),
            binding: Some(binding.name.clone()),
            message,
            reason,
        };
        for refusal in outcome.refusals {
            for action in &binding.actions {
                match action.as_str() {
                    "Deny" => self
                        .denials
                        .push(denial(refusal.message.clone(), refusal.reason.clone())),
                    "Warn" => notes.warn(format!(
                        "Validation failed for ValidatingAdmissionPolicy '{}' with binding '{}': {}",
                        hook.name, binding.name, refusal.message
                    )),
                    _ => self.failures.push(json!({
                        "message": refusal.message,
                        "policy": hook.name,
                        "binding": binding.name,
                        "expressionIndex": refusal.index,
                        "validationActions": binding.actions,
                    })),
                }
            }
        }
        for error in outcome.annotation_errors {
            self.denials.push(denial(error, "Invalid".to_owned()));
        }
        for (key, mut value) in outcome.annotations {
            let mut end = value.len().min(ANNOTATION_BYTES_MAX);
            while !value.is_char_boundary(end) {
                end -= 1;
            }
            value.truncate(end);
            self.annotate(format!("{}/{key}", hook.name), value);
        }
    }

    /// Values of one key from several bindings stand beside each other, the same one once.
    fn annotate(&mut self, key: String, value: String) {
        match self.annotations.iter_mut().find(|(own, _)| *own == key) {
            Some((_, before)) if before.split(", ").any(|one| one == value) => {}
            Some((_, before)) => {
                before.push_str(", ");
                before.push_str(&value);
            }
            None => self.annotations.push((key, value)),
        }
    }

    fn publish(&mut self, notes: &Notes) {
        for (key, value) in self.annotations.drain(..) {
            notes.annotate(&key, &value);
        }
        if !self.failures.is_empty() {
            self.failures.truncate(FAILURES_MAX);
            let failures = json!(self.failures).to_string();
            notes.annotate("validation.policy.admission.k8s.io/validation_failure", &failures);
        }
    }
}

impl Denial {
    fn into_status(self, request: &AdmissionRequest<'_>) -> Status {
        let bound = self.binding.map(|name| format!(" with binding '{name}'")).unwrap_or_default();
        let message = format!(
            "ValidatingAdmissionPolicy '{}'{bound} denied request: {}",
            self.policy, self.message
        );
        Status::denied_by_policy(request.row, request.name, &message, &self.reason)
    }
}
