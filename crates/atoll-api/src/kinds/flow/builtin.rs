//! The flow schemas and priority levels that every cluster begins with, as upstream has them.

use serde_json::{Value, json};

/// One object that the server makes.
#[derive(Debug, Clone)]
pub struct FlowObject {
    pub kind: &'static str,
    pub resource: &'static str,
    pub name: &'static str,
    pub spec: Value,
    /// It is made again whenever it is missing, and its spec is fixed.
    pub mandatory: bool,
}

/// All of them, priority levels first.
#[must_use]
pub fn builtin() -> Vec<FlowObject> {
    let mut all = levels();
    all.extend(schemas());
    all
}

/// The spec that a mandatory object must have.
pub(crate) fn mandatory_spec(kind: &str, name: &str) -> Option<Value> {
    let all = builtin();
    let found = all.into_iter().find(|one| one.mandatory && one.kind == kind && one.name == name);
    found.map(|one| one.spec)
}

fn levels() -> Vec<FlowObject> {
    let mut all = vec![
        level(
            "exempt",
            true,
            json!({
                "type": "Exempt",
                "exempt": {"nominalConcurrencyShares": 0, "lendablePercent": 0},
            }),
        ),
        level(
            "catch-all",
            true,
            json!({
                "type": "Limited",
                "limited": {
                    "nominalConcurrencyShares": 5,
                    "lendablePercent": 0,
                    "limitResponse": {"type": "Reject"},
                },
            }),
        ),
    ];
    let queued = [
        ("system", 30, 33, 64, 6),
        ("node-high", 40, 25, 64, 6),
        ("leader-election", 10, 0, 16, 4),
        ("workload-high", 40, 50, 128, 6),
        ("workload-low", 100, 90, 128, 6),
        ("global-default", 20, 50, 128, 6),
    ];
    all.extend(queued.map(|(name, shares, lendable, queues, hand)| {
        level(
            name,
            false,
            json!({
                "type": "Limited",
                "limited": {
                    "nominalConcurrencyShares": shares,
                    "lendablePercent": lendable,
                    "limitResponse": {
                        "type": "Queue",
                        "queuing": {"queues": queues, "handSize": hand, "queueLengthLimit": 50},
                    },
                },
            }),
        )
    }));
    all
}

fn level(name: &'static str, mandatory: bool, spec: Value) -> FlowObject {
    let kind = "PriorityLevelConfiguration";
    FlowObject { kind, resource: "prioritylevelconfigurations", name, spec, mandatory }
}

fn schemas() -> Vec<FlowObject> {
    let everyone = || groups(&["system:unauthenticated", "system:authenticated"]);
    let nodes = || groups(&["system:nodes"]);
    let user = |name: &str| vec![json!({"kind": "User", "user": {"name": name}})];
    let system_accounts = || {
        vec![json!({
            "kind": "ServiceAccount",
            "serviceAccount": {"name": "*", "namespace": "kube-system"},
        })]
    };
    let leases = |verbs: &[&str]| resources(verbs, &["coordination.k8s.io"], &["leases"], false);
    let mut electors = user("system:kube-controller-manager");
    electors.extend(user("system:kube-scheduler"));
    electors.extend(system_accounts());
    let node_objects = resources(&["*"], &[""], &["nodes", "nodes/status"], true);
    let probes = json!({
        "subjects": everyone(),
        "nonResourceRules": [{
            "verbs": ["get"],
            "nonResourceURLs": ["/healthz", "/readyz", "/livez"],
        }],
    });
    let by_user = Some("ByUser");
    let by_namespace = Some("ByNamespace");
    let election = rules(electors, vec![leases(&["get", "create", "update"])]);
    let node_high = rules(nodes(), vec![node_objects, leases(&["*"])]);
    vec![
        schema("exempt", "exempt", 1, None, all(groups(&["system:masters"])), true),
        schema("catch-all", "catch-all", 10_000, by_user, all(everyone()), true),
        schema("probes", "exempt", 2, None, probes, false),
        schema("system-leader-election", "leader-election", 100, by_user, election, false),
        schema("system-node-high", "node-high", 400, by_user, node_high, false),
        schema("system-nodes", "system", 500, by_user, all(nodes()), false),
        schema(
            "kube-controller-manager",
            "workload-high",
            800,
            by_namespace,
            all(user("system:kube-controller-manager")),
            false,
        ),
        schema(
            "kube-scheduler",
            "workload-high",
            800,
            by_namespace,
            all(user("system:kube-scheduler")),
            false,
        ),
        schema(
            "kube-system-service-accounts",
            "workload-high",
            900,
            by_namespace,
            all(system_accounts()),
            false,
        ),
        schema(
            "service-accounts",
            "workload-low",
            9000,
            by_user,
            all(groups(&["system:serviceaccounts"])),
            false,
        ),
        schema("global-default", "global-default", 9900, by_user, all(everyone()), false),
    ]
}

fn schema(
    name: &'static str,
    level: &str,
    precedence: i64,
    distinguisher: Option<&str>,
    rules: Value,
    mandatory: bool,
) -> FlowObject {
    let mut spec = json!({
        "priorityLevelConfiguration": {"name": level},
        "matchingPrecedence": precedence,
        "rules": [rules],
    });
    if let Some(method) = distinguisher {
        spec["distinguisherMethod"] = json!({"type": method});
    }
    FlowObject { kind: "FlowSchema", resource: "flowschemas", name, spec, mandatory }
}

fn groups(names: &[&str]) -> Vec<Value> {
    names.iter().map(|name| json!({"kind": "Group", "group": {"name": name}})).collect()
}

fn rules(subjects: Vec<Value>, resource_rules: Vec<Value>) -> Value {
    json!({"subjects": subjects, "resourceRules": resource_rules})
}

/// Whatever these subjects ask for.
fn all(subjects: Vec<Value>) -> Value {
    let mut rules = rules(subjects, vec![resources(&["*"], &["*"], &["*"], true)]);
    rules["nonResourceRules"] = json!([{"verbs": ["*"], "nonResourceURLs": ["*"]}]);
    rules
}

fn resources(verbs: &[&str], groups: &[&str], resources: &[&str], cluster_scope: bool) -> Value {
    let mut rule = json!({
        "verbs": verbs, "apiGroups": groups, "resources": resources, "namespaces": ["*"],
    });
    if cluster_scope {
        rule["clusterScope"] = json!(true);
    }
    rule
}
