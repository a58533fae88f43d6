//! Verdicts, word for word.

use serde_json::{Value, json};

use super::{Level, Policy, Standard};

const RESTRICTED: Standard = Standard { level: Level::Restricted, minor: None };
const BASELINE: Standard = Standard { level: Level::Baseline, minor: None };

fn verdict(standard: Standard, spec: &Value) -> String {
    standard.verdict(&json!({}), spec).unwrap_or_default()
}

fn good() -> Value {
    json!({
        "securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [{"name": "c", "securityContext": {
            "allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]},
        }}],
    })
}

#[test]
fn a_plain_pod_is_baseline_and_not_restricted() {
    let plain = json!({"containers": [{"name": "c"}]});
    assert_eq!(verdict(BASELINE, &plain), "");
    assert_eq!(
        verdict(RESTRICTED, &plain),
        "PodSecurity \"restricted:latest\": allowPrivilegeEscalation != false (container \"c\" must set \
         securityContext.allowPrivilegeEscalation=false), unrestricted capabilities (container \"c\" must \
         set securityContext.capabilities.drop=[\"ALL\"]), runAsNonRoot != true (pod or container \"c\" \
         must set securityContext.runAsNonRoot=true), seccompProfile (pod or container \"c\" must set \
         securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\")"
    );
    assert_eq!(verdict(RESTRICTED, &good()), "");
}

#[test]
fn ways_out_of_a_pod_are_not_baseline() {
    for (change, expected) in [
        (
            json!({"hostNetwork": true, "hostPID": true}),
            "host namespaces (hostNetwork=true, hostPID=true)",
        ),
        (
            json!({"volumes": [{"name": "v", "hostPath": {"path": "/"}}]}),
            "hostPath volumes (volume \"v\")",
        ),
        (
            json!({"containers": [{"name": "a", "ports": [{"hostPort": 80}]}, {"name": "b", "ports": [{"hostPort": 81}]}]}),
            "hostPort (containers \"a\", \"b\" use hostPorts 80, 81)",
        ),
        (
            json!({"containers": [{"name": "a", "securityContext": {"privileged": true}}]}),
            "privileged (container \"a\" must not set securityContext.privileged=true)",
        ),
        (
            json!({"initContainers": [{"name": "i", "securityContext": {"capabilities": {"add": ["NET_RAW", "KILL"]}}}]}),
            "non-default capabilities (container \"i\" must not include \"NET_RAW\" in securityContext.capabilities.add)",
        ),
        (
            json!({"securityContext": {"sysctls": [{"name": "kernel.msgmax"}]}}),
            "forbidden sysctls (kernel.msgmax)",
        ),
        (
            json!({"containers": [{"name": "a", "securityContext": {"procMount": "Unmasked"}}]}),
            "procMount (container \"a\" must not set securityContext.procMount to \"Unmasked\")",
        ),
        (
            json!({"securityContext": {"seLinuxOptions": {"type": "x", "user": "u"}}}),
            "seLinuxOptions (pod set forbidden securityContext.seLinuxOptions: type \"x\"; user may not be set)",
        ),
        (
            json!({"securityContext": {"seccompProfile": {"type": "Unconfined"}}}),
            "seccompProfile (pod must not set securityContext.seccompProfile.type to \"Unconfined\")",
        ),
        (
            json!({"securityContext": {"appArmorProfile": {"type": "Unconfined"}}}),
            "forbidden AppArmor profile (pod must not set AppArmor profile type to \"Unconfined\")",
        ),
        (
            json!({"containers": [{"name": "a", "livenessProbe": {"httpGet": {"host": "h"}}}]}),
            "probe or lifecycle host (container \"a\" uses probe or lifecycle host \"h\")",
        ),
    ] {
        assert_eq!(
            verdict(BASELINE, &change),
            format!("PodSecurity \"baseline:latest\": {expected}")
        );
    }
}

#[test]
fn versions_have_their_own_checks() {
    let at = |level, minor| Standard { level, minor: Some(minor) };
    let mut root = good();
    root["securityContext"]["runAsUser"] = json!(0);
    assert_eq!(verdict(at(Level::Restricted, 22), &root), "");
    assert_eq!(
        verdict(at(Level::Restricted, 23), &root),
        "PodSecurity \"restricted:v1.23\": runAsUser=0 (pod must not set runAsUser=0)"
    );
    root["hostUsers"] = json!(false);
    assert_eq!(verdict(at(Level::Restricted, 35), &root), "");
    let sysctl = json!({"securityContext": {"sysctls": [{"name": "net.ipv4.tcp_rmem"}]}});
    assert_ne!(verdict(at(Level::Baseline, 31), &sysctl), "");
    assert_eq!(verdict(at(Level::Baseline, 32), &sysctl), "");
    let mut windows = json!({"os": {"name": "windows"}, "containers": [{"name": "c"}]});
    windows["securityContext"] = json!({"runAsNonRoot": true});
    assert_eq!(verdict(at(Level::Restricted, 25), &windows), "");
    assert_ne!(verdict(at(Level::Restricted, 24), &windows), "");
}

#[test]
fn labels_say_which_standard_counts() {
    let (policy, bad) = Policy::of_labels(&json!({
        "pod-security.kubernetes.io/enforce": "baseline",
        "pod-security.kubernetes.io/enforce-version": "v1.25",
        "pod-security.kubernetes.io/warn": "strict",
        "pod-security.kubernetes.io/warn-version": "v1.025",
    }));
    assert_eq!(policy.enforce.to_string(), "baseline:v1.25");
    assert_eq!(policy.audit.to_string(), "privileged:latest");
    assert_eq!(policy.warn.to_string(), "privileged:latest");
    let labels: Vec<&str> = bad.iter().map(|one| one.label.as_str()).collect();
    assert_eq!(
        labels,
        ["pod-security.kubernetes.io/warn", "pod-security.kubernetes.io/warn-version"]
    );
    assert!(Policy::of_labels(&json!({})).0.is_open());
    let (policy, _) =
        Policy::of_labels(&json!({"pod-security.kubernetes.io/enforce": "restricted"}));
    assert_eq!(policy.warn, policy.enforce, "who enforces is warned");
    let (policy, bad) = Policy::of_labels(&json!({"pod-security.kubernetes.io/enforce": "none"}));
    assert_eq!((policy.enforce.level, bad.len()), (Level::Restricted, 1));
}
