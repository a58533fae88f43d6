//! How long a signing request stays: renewals make new ones for ever, and nobody reads
//! the old ones. The times are those of kube-controller-manager's cleaner.

use jiff::Timestamp;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use std::time::Duration;

/// An answered request is kept for its sender to read the answer.
const ANSWERED: Duration = Duration::from_secs(60 * 60);
/// One that waits for a person or for a signer.
const WAITING: Duration = Duration::from_secs(24 * 60 * 60);

/// Zero when the request is to be removed.
pub(super) fn kept_for(request: &CertificateSigningRequest, now: Timestamp) -> Duration {
    let status = request.status.as_ref();
    let conditions = || status.into_iter().flat_map(|status| status.conditions.iter().flatten());
    let is_issued = status.is_some_and(|status| {
        status.certificate.as_ref().is_some_and(|certificate| !certificate.0.is_empty())
    });
    let answered = conditions().filter(|one| match one.type_.as_str() {
        "Denied" | "Failed" => true,
        "Approved" => is_issued,
        _ => false,
    });
    let answered_at = answered.filter_map(|one| one.last_update_time.as_ref()).map(|at| at.0).min();
    let created_at = request.metadata.creation_timestamp.as_ref().map(|at| at.0);
    let (since, time) = match (answered_at, created_at) {
        (Some(at), _) => (at, ANSWERED),
        (None, Some(at)) => (at, WAITING),
        (None, None) => return WAITING,
    };
    let age = now.duration_since(since);
    let age = if age.is_negative() { Duration::ZERO } else { age.unsigned_abs() };
    time.saturating_sub(age)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn kept(status: Value) -> u64 {
        let request = json!({
            "metadata": { "name": "r", "creationTimestamp": "2026-01-01T00:00:00Z" },
            "spec": { "request": "", "signerName": "s" },
            "status": status,
        });
        let request = serde_json::from_value(request).unwrap();
        kept_for(&request, "2026-01-01T02:00:00Z".parse().unwrap()).as_secs() / 60
    }

    fn said(kind: &str) -> Value {
        json!([{ "type": kind, "status": "True", "lastUpdateTime": "2026-01-01T01:30:00Z" }])
    }

    #[test]
    fn an_answer_stays_an_hour_and_a_question_a_day() {
        assert_eq!(kept(json!({})), 22 * 60);
        assert_eq!(kept(json!({ "conditions": said("Approved") })), 22 * 60);
        assert_eq!(kept(json!({ "conditions": said("Approved"), "certificate": "YQ==" })), 30);
        assert_eq!(kept(json!({ "conditions": said("Denied") })), 30);
    }
}
