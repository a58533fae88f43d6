//! What servers outside of the API server say to it, and what its operator hands it.

use super::texts;
use crate::Target;

pub(super) const TARGETS: &[Target] = &[
    Target {
        name: "admission_answer",
        run: atoll_apiserver::fuzz::admission_answer,
        seeds: admission_answers,
    },
    Target { name: "proxied_page", run: atoll_apiserver::fuzz::proxied_page, seeds: proxied_pages },
    Target { name: "audit_policy", run: audit_policy, seeds: audit_policies },
];

fn admission_answers() -> Vec<Vec<u8>> {
    texts(&[
        r#"{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v1","response":{"uid":"u","allowed":true,"patchType":"JSONPatch","patch":"W3sib3AiOiJhZGQiLCJwYXRoIjoiL2EiLCJ2YWx1ZSI6MX1d","warnings":["w"],"auditAnnotations":{"a":"b"}}}"#,
        r#"{"response":{"allowed":false,"status":{"code":403,"message":"no","details":{"causes":[{}]}}}}"#,
        r#"{"response":{"uid":"u","patch":"!"}}"#,
        "null",
    ])
}

fn proxied_pages() -> Vec<Vec<u8>> {
    texts(&[
        "<!DOCTYPE html><!-- c --><a id=1 href='/x' title=\"<b>\">t</a><img src=/y longdesc = /z/>",
        "<script src=/s>'</b><a href=/x>'</script ><textarea></textarea><body background=\"/b\">",
        "<a href",
    ])
}

fn audit_policy(input: &[u8]) {
    if let Ok(text) = std::str::from_utf8(input) {
        atoll_apiserver::fuzz::audit_policy(text);
    }
}

fn audit_policies() -> Vec<Vec<u8>> {
    texts(&[
        "apiVersion: audit.k8s.io/v1\nkind: Policy\nrules:\n- level: Metadata\n  users: [a]\n  \
         resources: [{group: '', resources: [pods/log, '*']}]\n  omitStages: [RequestReceived]\n",
        "apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{level: None, nonResourceURLs: [/a*]}]",
        "rules: &a [*a]\n? {b: c}\n: d",
        "[",
    ])
}
