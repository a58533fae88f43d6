//! One webhook asked about one request.

use atoll_api::field::quote;
use bytes::Bytes;
use serde_json::Value;

use super::super::AdmissionRequest;
use super::super::matching::Matched;
use super::conditions;
use super::configured::Webhook;
use super::review::{self, Shown, Verdict};
use crate::core::Core;
use crate::status::Status;

/// Why there is no verdict.
pub(super) enum Failure {
    /// It could not be asked: what comes of that is for its failure policy.
    Calling(String),
    /// The request fails whatever the policy.
    Request(Status),
}

impl Webhook {
    /// Whether it wants to see the request, and as what.
    pub(super) async fn wants(
        &self,
        core: &Core,
        request: &AdmissionRequest<'_>,
        object: Option<&Value>,
    ) -> Result<Option<Matched>, Status> {
        let criteria = self.criteria.as_ref().map_err(Status::internal)?;
        let matched = criteria.matches(core, request, object).await?;
        let Some(matched) = matched else { return Ok(None) };
        let (conditions, fails) = (&self.conditions, !self.ignores_failure);
        let held = conditions::hold(conditions, core, request, &matched, object, fails)?;
        Ok(held.then_some(matched))
    }

    /// Asks, and reports warnings and annotations.
    pub(super) async fn ask(
        &self,
        core: &Core,
        request: &AdmissionRequest<'_>,
        matched: &Matched,
        shown: &Shown<'_>,
        mutating: bool,
    ) -> Result<Verdict, Failure> {
        if request.dry_run && !self.takes_dry_run {
            return Err(Failure::Request(Status::bad_request(format!(
                "admission webhook {} does not support dry run",
                quote(&self.name)
            ))));
        }
        let Some(version) = self.review else {
            let text = "could not create admission objects: webhook does not accept known \
                        AdmissionReview versions (v1, v1beta1)";
            return Err(Failure::Calling(text.to_owned()));
        };
        let target = self
            .target
            .as_ref()
            .map_err(|problem| Failure::Calling(format!("could not get REST client: {problem}")))?;
        let uid = uuid::Uuid::new_v4().to_string();
        let body = review::write(version, &uid, request, matched, shown);
        let body = Bytes::from(body.map_err(Failure::Request)?);
        let answer = core.hooks.post(target, body, self.timeout).await;
        let answer =
            answer.map_err(|error| Failure::Calling(format!("failed to call webhook: {error}")))?;
        let verdict = review::read(&answer, version, &uid, mutating)
            .map_err(|error| Failure::Calling(error.to_string()))?;
        for (key, value) in &verdict.annotations {
            request.notes.annotate(&format!("{}/{key}", self.name), value);
        }
        for warning in &verdict.warnings {
            request.notes.warn(warning.clone());
        }
        if verdict.allowed {
            return Ok(verdict);
        }
        Err(Failure::Request(Status::denied_by_webhook(&self.name, &verdict.status)))
    }

    /// What a failure means to the request: nothing where the policy ignores it.
    pub(super) fn judge(&self, failure: Failure, annotate: impl FnOnce()) -> Result<(), Status> {
        let text = match failure {
            Failure::Request(status) => return Err(status),
            Failure::Calling(text) => text,
        };
        let text = format!("failed calling webhook {}: {text}", quote(&self.name));
        if self.ignores_failure {
            tracing::warn!(webhook = self.name, %text, "going on without a webhook");
            annotate();
            return Ok(());
        }
        Err(Status::internal(text))
    }
}
