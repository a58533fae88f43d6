//! Admission policies in CEL, as a client meets them.

use std::time::Duration;

use serde_json::{Value, json};

use crate::client::{Api, config_map};

const POLICIES: &str = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies";
const BINDINGS: &str = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings";
const MUTATING: &str = "/apis/admissionregistration.k8s.io/v1/mutatingadmissionpolicies";
const MUTATING_BINDINGS: &str =
    "/apis/admissionregistration.k8s.io/v1/mutatingadmissionpolicybindings";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";
const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn policy(name: &str, spec: Value) -> Value {
    let mut policy = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": name},
        "spec": {"matchConstraints": {"resourceRules": [rule("apps", "deployments")]}},
    });
    merge(&mut policy["spec"], spec);
    policy
}

fn rule(group: &str, resource: &str) -> Value {
    json!({"apiGroups": [group], "apiVersions": ["v1"], "operations": ["CREATE", "UPDATE"],
           "resources": [resource]})
}

fn merge(into: &mut Value, from: Value) {
    for (key, value) in from.as_object().unwrap() {
        into[key] = value.clone();
    }
}

fn binding(name: &str, policy: &str, spec: Value) -> Value {
    let mut binding = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": {"name": name},
        "spec": {"policyName": policy, "validationActions": ["Deny"]},
    });
    merge(&mut binding["spec"], spec);
    binding
}

fn deployment(name: &str, replicas: i64) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {"containers": [{"name": "c", "image": "i"}]},
            },
        },
    })
}

/// A write is seen by the policies when the cache has it, within moments of its answer.
async fn settle(api: &Api) {
    api.get(CONFIG_MAPS).await.ok();
}

async fn install(api: &Api, policy: &Value, binding: &Value) {
    api.create(POLICIES, policy).await.ok();
    api.create(BINDINGS, binding).await.ok();
    settle(api).await;
}

#[tokio::test]
async fn a_policy_limits_replicas_from_the_moment_it_is_bound() {
    let api = Api::start().await;
    let limit =
        policy("limit", json!({"validations": [{"expression": "object.spec.replicas <= 5"}]}));
    api.create(POLICIES, &limit).await.ok();
    settle(&api).await;
    api.create(DEPLOYMENTS, &deployment("before", 7)).await.ok();
    api.create(BINDINGS, &binding("all", "limit", json!({}))).await.ok();
    settle(&api).await;
    let message = "deployments.apps \"web\" is forbidden: ValidatingAdmissionPolicy 'limit' with binding \
                   'all' denied request: failed expression: object.spec.replicas <= 5";
    let refused = api.create(DEPLOYMENTS, &deployment("web", 7)).await.fails(422, message);
    assert_eq!(refused["reason"], "Invalid");
    assert_eq!(refused["details"]["name"], "web");
    assert!(refused["details"]["causes"][0]["message"].as_str().unwrap().starts_with("Validating"));
    api.create(DEPLOYMENTS, &deployment("web", 5)).await.ok();
    let path = format!("{DEPLOYMENTS}/web");
    assert_eq!(api.merge(&path, &json!({"spec": {"replicas": 6}})).await.code, 422);
    let dry = format!("{DEPLOYMENTS}?dryRun=All");
    assert_eq!(api.create(&dry, &deployment("dry", 9)).await.code, 422);
    // A changed policy counts at once, one without its binding not at all.
    let patch = json!({"spec": {"validations": [{"expression": "object.spec.replicas <= 8"}]}});
    api.merge(&format!("{POLICIES}/limit"), &patch).await.ok();
    settle(&api).await;
    api.merge(&path, &json!({"spec": {"replicas": 6}})).await.ok();
    api.delete(&format!("{BINDINGS}/all")).await.ok();
    settle(&api).await;
    api.merge(&path, &json!({"spec": {"replicas": 60}})).await.ok();
    api.shutdown().await;
}

#[tokio::test]
async fn messages_reasons_and_actions_are_the_policys() {
    let api = Api::start().await;
    let spec = json!({
        "variables": [
            {"name": "wanted", "expression": "object.spec.replicas"},
            {"name": "over", "expression": "variables.wanted - 2"},
        ],
        "validations": [{
            "expression": "variables.over <= 0",
            "messageExpression": "'%d too many in %s for %s'.format([dyn(variables.over), \
                                  namespaceObject.metadata.name, request.userInfo.username])",
            "reason": "Forbidden",
        }],
    });
    install(&api, &policy("p", spec), &binding("b", "p", json!({}))).await;
    let message = "deployments.apps \"a\" is forbidden: ValidatingAdmissionPolicy 'p' with binding 'b' \
                   denied request: 1 too many in default for admin";
    let refused = api.create(DEPLOYMENTS, &deployment("a", 3)).await.fails(403, message);
    assert_eq!(refused["reason"], "Forbidden");
    let warn = json!({"spec": {"validationActions": ["Warn", "Audit"]}});
    api.merge(&format!("{BINDINGS}/b"), &warn).await.ok();
    settle(&api).await;
    let created = api.create(DEPLOYMENTS, &deployment("a", 3)).await;
    assert_eq!(
        created.warnings(),
        [
            "299 - \"Validation failed for ValidatingAdmissionPolicy 'p' with binding 'b': 1 too many in \
          default for admin\""
        ]
    );
    created.ok();
    api.shutdown().await;
}

#[tokio::test]
async fn parameters_come_from_objects() {
    let api = Api::start().await;
    let spec = json!({
        "paramKind": {"apiVersion": "v1", "kind": "ConfigMap"},
        "validations": [{"expression": "params == null || object.spec.replicas <= int(params.data.max)"}],
    });
    let param = json!({"paramRef": {"name": "limits", "namespace": "default"}});
    install(&api, &policy("p", spec), &binding("b", "p", param)).await;
    let denied = "deployments.apps \"a\" is forbidden: ValidatingAdmissionPolicy 'p' with binding 'b' \
                  denied request: failed to configure binding: no params found for policy binding with \
                  `Deny` parameterNotFoundAction";
    api.create(DEPLOYMENTS, &deployment("a", 1)).await.fails(422, denied);
    let mut limits = config_map("limits");
    limits["metadata"]["labels"] = json!({"kind": "limits"});
    limits["data"] = json!({"max": "3"});
    api.create(CONFIG_MAPS, &limits).await.ok();
    api.create(DEPLOYMENTS, &deployment("a", 3)).await.ok();
    assert_eq!(api.create(DEPLOYMENTS, &deployment("b", 4)).await.code, 422);
    // By selector every one of them counts.
    let selector = json!({"spec": {"paramRef": {
        "name": null, "selector": {"matchLabels": {"kind": "limits"}}, "parameterNotFoundAction": "Allow",
    }}});
    api.merge(&format!("{BINDINGS}/b"), &selector).await.ok();
    limits["metadata"]["name"] = json!("stricter");
    limits["data"] = json!({"max": "2"});
    api.create(CONFIG_MAPS, &limits).await.ok();
    settle(&api).await;
    assert_eq!(api.create(DEPLOYMENTS, &deployment("c", 3)).await.code, 422);
    api.create(DEPLOYMENTS, &deployment("c", 2)).await.ok();
    let none = json!({"spec": {"paramRef": {"selector": {"matchLabels": {"kind": "other"}}}}});
    api.merge(&format!("{BINDINGS}/b"), &none).await.ok();
    settle(&api).await;
    api.create(DEPLOYMENTS, &deployment("d", 9)).await.ok();
    api.shutdown().await;
}

#[tokio::test]
async fn what_is_matched_is_what_is_asked() {
    let api = Api::start().await;
    let constraints = json!({
        "resourceRules": [{"apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"],
                           "operations": ["CREATE", "DELETE"]}],
        "excludeResourceRules": [{"apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"],
                                  "operations": ["*"], "resourceNames": ["spared"]}],
        "namespaceSelector": {"matchLabels": {"guarded": "yes"}},
    });
    let spec = json!({
        "matchConstraints": constraints,
        "matchConditions": [{"name": "mine", "expression": "request.userInfo.username == 'admin'"}],
        "validations": [{"expression": "request.operation == 'DELETE' ? has(oldObject.data.a) && object == null : \
                                        has(object.data.b)"}],
    });
    install(&api, &policy("p", spec), &binding("b", "p", json!({}))).await;
    api.create(CONFIG_MAPS, &config_map("free")).await.ok();
    api.merge("/api/v1/namespaces/default", &json!({"metadata": {"labels": {"guarded": "yes"}}}))
        .await
        .ok();
    settle(&api).await;
    assert_eq!(api.create(CONFIG_MAPS, &config_map("x")).await.code, 422);
    api.create(CONFIG_MAPS, &config_map("spared")).await.ok();
    api.delete(&format!("{CONFIG_MAPS}/free")).await.ok();
    let mut other = config_map("y");
    other["data"] = json!({"b": "1"});
    api.create(CONFIG_MAPS, &other).await.ok();
    assert_eq!(api.delete(&format!("{CONFIG_MAPS}/y")).await.code, 422);
    // The object selector of a binding narrows what the policy matches.
    let narrow =
        json!({"spec": {"matchResources": {"objectSelector": {"matchLabels": {"k": "v"}}}}});
    api.merge(&format!("{BINDINGS}/b"), &narrow).await.ok();
    settle(&api).await;
    api.delete(&format!("{CONFIG_MAPS}/y")).await.ok();
    api.shutdown().await;
}

#[tokio::test]
async fn what_goes_wrong_is_the_failure_policys() {
    let api = Api::start().await;
    let spec = json!({"validations": [{"expression": "object.spec.nope == 1"}]});
    install(&api, &policy("p", spec), &binding("b", "p", json!({}))).await;
    let message = "deployments.apps \"a\" is forbidden: ValidatingAdmissionPolicy 'p' with binding 'b' \
                   denied request: expression 'object.spec.nope == 1' resulted in error: no such key: nope";
    api.create(DEPLOYMENTS, &deployment("a", 1)).await.fails(422, message);
    api.merge(&format!("{POLICIES}/p"), &json!({"spec": {"failurePolicy": "Ignore"}})).await.ok();
    settle(&api).await;
    api.create(DEPLOYMENTS, &deployment("a", 1)).await.ok();
    let unknown = json!({"spec": {"failurePolicy": "Fail",
                                  "paramKind": {"apiVersion": "rules.example.com/v1", "kind": "Limit"}}});
    api.merge(&format!("{POLICIES}/p"), &unknown).await.ok();
    settle(&api).await;
    let message = "deployments.apps \"b\" is forbidden: ValidatingAdmissionPolicy 'p' denied request: \
                   failed to configure policy: failed to find resource referenced by paramKind: \
                   'rules.example.com/v1, Kind=Limit'";
    api.create(DEPLOYMENTS, &deployment("b", 1)).await.fails(422, message);
    api.shutdown().await;
}

#[tokio::test]
async fn equivalent_resources_are_shown_in_the_version_that_is_named() {
    let api = Api::start().await;
    let mut constraint = rule("autoscaling", "horizontalpodautoscalers");
    constraint["apiVersions"] = json!(["v2"]);
    let spec = json!({
        "matchConstraints": {"resourceRules": [constraint]},
        "validations": [{
            "expression": "!has(object.spec.targetCPUUtilizationPercentage) && \
                           request.requestKind.version == 'v1' && request.kind.version == 'v2' && \
                           object.spec.metrics[0].resource.target.averageUtilization < 50",
        }],
    });
    install(&api, &policy("p", spec), &binding("b", "p", json!({}))).await;
    let scaler = |percent: i64| {
        json!({
            "metadata": {"name": "s"},
            "spec": {"maxReplicas": 3, "targetCPUUtilizationPercentage": percent,
                     "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"}},
        })
    };
    let path = "/apis/autoscaling/v1/namespaces/default/horizontalpodautoscalers";
    assert_eq!(api.create(path, &scaler(60)).await.code, 422);
    api.create(path, &scaler(40)).await.ok();
    api.shutdown().await;
}

#[tokio::test]
async fn the_status_says_what_the_types_say() {
    let api = Api::start().await;
    let spec = json!({"validations": [{"expression": "object.spec.foo == 1"}, {"expression": "object.spec.replicas > 1"}]});
    api.create(POLICIES, &policy("p", spec)).await.ok();
    let mut status = Value::Null;
    for _ in 0..100 {
        status = api.get(&format!("{POLICIES}/p")).await.ok()["status"].take();
        if status["observedGeneration"] == 1 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let warnings = status["typeChecking"]["expressionWarnings"].as_array().unwrap();
    assert_eq!(warnings.len(), 1);
    assert_eq!(warnings[0]["fieldRef"], "spec.validations[0].expression");
    assert_eq!(
        warnings[0]["warning"],
        "apps/v1, Kind=Deployment: compilation failed: ERROR: <input>:1:12: undefined field 'foo'\n | \
         object.spec.foo == 1\n | ...........^\n"
    );
    api.shutdown().await;
}

fn mutating(name: &str, mutations: Value) -> Value {
    json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingAdmissionPolicy",
        "metadata": {"name": name},
        "spec": {
            "matchConstraints": {"resourceRules": [rule("apps", "deployments")]},
            "reinvocationPolicy": "IfNeeded",
            "mutations": mutations,
        },
    })
}

async fn mutate(api: &Api, name: &str, mutations: Value) {
    api.create(MUTATING, &mutating(name, mutations)).await.ok();
    let binding = json!({"metadata": {"name": name}, "spec": {"policyName": name}});
    api.create(MUTATING_BINDINGS, &binding).await.ok();
    settle(api).await;
}

fn apply(expression: &str) -> Value {
    json!([{"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": expression}}])
}

#[tokio::test]
async fn configurations_are_merged_as_an_apply_would() {
    let api = Api::start().await;
    let sidecar = "Object{spec: Object.spec{template: Object.spec.template{spec: \
                   Object.spec.template.spec{containers: [Object.spec.template.spec.containers{\
                   name: 'sidecar', image: 'proxy:1'}]}}}, metadata: Object.metadata{labels: \
                   {'injected': object.metadata.name}, annotations: {'a.io/by': \
                   'policy'}}}";
    mutate(&api, "m", apply(sidecar)).await;
    let made = api.create(DEPLOYMENTS, &deployment("a", 1)).await.ok();
    let containers = made["spec"]["template"]["spec"]["containers"].as_array().unwrap();
    let names: Vec<&str> = containers.iter().map(|one| one["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["c", "sidecar"]);
    assert_eq!(containers[1]["imagePullPolicy"], "IfNotPresent");
    assert_eq!(made["metadata"]["labels"], json!({"app": "a", "injected": "a"}));
    assert_eq!(made["metadata"]["annotations"], json!({"a.io/by": "policy"}));
    api.shutdown().await;
}

#[tokio::test]
async fn patches_change_what_they_name() {
    let api = Api::start().await;
    let patch = "[JSONPatch{op: 'test', path: '/spec/replicas', value: 1}, JSONPatch{op: 'replace', path: \
                 '/spec/replicas', value: 2}, JSONPatch{op: 'add', path: '/metadata/labels/' + \
                 jsonpatch.escapeKey('a.io/b'), value: 'c'}]";
    mutate(&api, "m", json!([{"patchType": "JSONPatch", "jsonPatch": {"expression": patch}}]))
        .await;
    let made = api.create(DEPLOYMENTS, &deployment("a", 1)).await.ok();
    assert_eq!(made["spec"]["replicas"], 2);
    assert_eq!(made["metadata"]["labels"]["a.io/b"], "c");
    // A test that does not hold leaves the object alone.
    let same = api.create(DEPLOYMENTS, &deployment("b", 5)).await.ok();
    assert_eq!(same["spec"]["replicas"], 5);
    api.shutdown().await;
}

#[tokio::test]
async fn policies_see_what_later_ones_changed() {
    let api = Api::start().await;
    let copy = "has(object.metadata.labels.late) ? Object{metadata: Object.metadata{labels: {'seen': \
                'yes'}}} : Object{}";
    mutate(&api, "a-first", apply(copy)).await;
    mutate(&api, "b-second", apply("Object{metadata: Object.metadata{labels: {'late': 'yes'}}}"))
        .await;
    let made = api.create(DEPLOYMENTS, &deployment("a", 1)).await.ok();
    assert_eq!(made["metadata"]["labels"], json!({"app": "a", "late": "yes", "seen": "yes"}));
    api.shutdown().await;
}

#[tokio::test]
async fn mutations_that_fail_refuse() {
    let api = Api::start().await;
    mutate(&api, "m", apply("Object{spec: Object.spec{template: Object.spec.template{spec: \
        Object.spec.template.spec{containers: [Object.spec.template.spec.containers{name: 'c', args: \
        ['x']}]}}}}")).await;
    let refused = api.create(DEPLOYMENTS, &deployment("a", 1)).await;
    let message = "policy 'm' with binding 'm' denied request: error applying patch: invalid \
                   ApplyConfiguration: may not mutate atomic arrays, maps or structs: \
                   .spec.template.spec.containers[0].args";
    assert_eq!(refused.fails(403, message)["reason"], "Invalid");
    api.shutdown().await;
}

#[tokio::test]
async fn namespaces_say_how_much_their_pods_may_ask_for() {
    let api = Api::start().await;
    let labels = |enforce: &str, warn: &str| {
        json!({"metadata": {"labels": {
            "pod-security.kubernetes.io/enforce": enforce, "pod-security.kubernetes.io/warn": warn,
        }}})
    };
    let path = "/api/v1/namespaces/default";
    let bad = api.merge(path, &labels("tight", "baseline")).await;
    let message = "Namespace \"default\" is invalid: \
                   metadata.labels[pod-security.kubernetes.io/enforce]: Invalid value: \"tight\": must be \
                   one of privileged, baseline, restricted";
    bad.fails(422, message);
    api.merge(path, &labels("baseline", "restricted")).await.ok();
    settle(&api).await;
    let pod = |network: bool| {
        json!({
            "metadata": {"name": "p"},
            "spec": {"hostNetwork": network, "containers": [{"name": "c", "image": "i"}]},
        })
    };
    let pods = "/api/v1/namespaces/default/pods";
    let message = "pods \"p\" is forbidden: violates PodSecurity \"baseline:latest\": host namespaces \
                   (hostNetwork=true)";
    api.create(pods, &pod(true)).await.fails(403, message);
    let made = api.create(pods, &pod(false)).await;
    let warnings = made.warnings();
    assert_eq!(warnings.len(), 1);
    let start = "299 - \"would violate PodSecurity \\\"restricted:latest\\\": \
                 allowPrivilegeEscalation != false (container \\\"c\\\" must set \
                 securityContext.allowPrivilegeEscalation=false), unrestricted capabilities";
    assert!(warnings[0].starts_with(start), "{}", warnings[0]);
    made.ok();
    // A workload is only warned of.
    let made = api.create(DEPLOYMENTS, &deployment("a", 1)).await;
    assert_eq!(made.warnings().len(), 1);
    made.ok();
    api.shutdown().await;
}
