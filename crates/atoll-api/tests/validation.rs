//! What is refused, and in which words.

#![allow(clippy::unwrap_used, reason = "helpers of tests count as tests")]

use atoll_api::field;
use atoll_api::kinds::{self, ResourceInfo};
use serde_json::{Value, json};

fn row(group: &str, kind: &str) -> &'static ResourceInfo {
    kinds::find_kind(group, "v1", kind).unwrap()
}

fn texts(errors: &[field::Error]) -> Vec<String> {
    errors.iter().map(ToString::to_string).collect()
}

/// The object as it is after defaulting.
fn defaulted(row: &ResourceInfo, mut object: Value) -> Value {
    object["apiVersion"] = json!(row.api_version());
    object["kind"] = json!(row.kind);
    if row.namespaced() {
        object["metadata"]["namespace"] = json!("default");
    }
    if let Some(default) = row.hooks.default {
        default(&mut object);
    }
    object
}

fn create(row: &ResourceInfo, object: Value) -> Vec<String> {
    let mut object = defaulted(row, object);
    row.prepare_create(&mut object);
    texts(&row.validate_create(&object))
}

fn update(row: &ResourceInfo, new: Value, old: Value) -> Vec<String> {
    let mut old = defaulted(row, old);
    row.prepare_create(&mut old);
    old["metadata"]["resourceVersion"] = json!("1");
    let mut new = defaulted(row, new);
    new["metadata"]["resourceVersion"] = json!("1");
    row.prepare_update(&mut new, &old);
    texts(&row.validate_update(&new, &old))
}

fn pod(change: impl FnOnce(&mut Value)) -> Value {
    let mut pod = json!({
        "metadata": {"name": "p"},
        "spec": {"containers": [{"name": "c", "image": "i"}], "serviceAccountName": "default"},
    });
    change(&mut pod);
    pod
}

fn deployment() -> Value {
    json!({
        "metadata": {"name": "web"},
        "spec": {
            "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{"name": "c", "image": "i"}]},
            },
        },
    })
}

#[test]
fn names_follow_their_rules() {
    let errors = create(row("", "ConfigMap"), json!({"metadata": {"name": "A_b"}}));
    assert_eq!(errors.len(), 1);
    assert!(errors[0].starts_with(
        "metadata.name: Invalid value: \"A_b\": a lowercase RFC 1123 subdomain must consist of"
    ));
    let errors = create(row("", "ConfigMap"), json!({"metadata": {}}));
    assert_eq!(errors, ["metadata.name: Required value: name or generateName is required"]);
    let errors = create(
        row("", "Service"),
        json!({"metadata": {"name": "1a"},
        "spec": {"ports": [{"port": 80}]}}),
    );
    assert!(errors[0].contains("a DNS-1035 label must consist of"), "{errors:?}");
    let errors = create(
        row("rbac.authorization.k8s.io", "ClusterRole"),
        json!({"metadata": {"name": "a/b"}}),
    );
    assert_eq!(errors, ["metadata.name: Invalid value: \"a/b\": may not contain '/'"]);
}

#[test]
fn metadata_keeps_what_must_not_change() {
    let old = json!({"metadata": {"name": "a", "uid": "1"}});
    let mut new = json!({"metadata": {"name": "b", "uid": "2", "resourceVersion": "1"}});
    new["metadata"]["namespace"] = json!("default");
    let mut was = old;
    was["metadata"]["namespace"] = json!("default");
    let errors = texts(&row("", "ConfigMap").validate_update(&new, &was));
    assert_eq!(
        errors,
        [
            "metadata.name: Invalid value: \"b\": field is immutable",
            "metadata.uid: Invalid value: \"2\": field is immutable",
        ]
    );
}

#[test]
fn a_pod_needs_its_containers_whole() {
    let errors = create(row("", "Pod"), pod(|pod| pod["spec"]["containers"] = json!([])));
    assert_eq!(errors, ["spec.containers: Required value"]);
    let errors = create(
        row("", "Pod"),
        pod(|pod| {
            pod["spec"]["containers"] = json!([
                {"name": "C", "image": "", "ports": [{"containerPort": 99999, "name": "a--b"}]},
                {"name": "d", "image": "i", "volumeMounts": [{"name": "v", "mountPath": "/v"}]},
                {"name": "d", "image": "i", "imagePullPolicy": "Sometimes"},
            ]);
        }),
    );
    let expected = [
        "spec.containers[0].image: Required value",
        "spec.containers[0].ports[0].name: Invalid value: \"a--b\": must not contain consecutive hyphens",
        "spec.containers[0].ports[0].containerPort: Invalid value: 99999: must be between 1 and 65535, inclusive",
        "spec.containers[1].volumeMounts[0].name: Not found: \"v\"",
        "spec.containers[2].imagePullPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \"IfNotPresent\", \"Never\"",
        "spec.containers[2].name: Duplicate value: \"d\"",
    ];
    assert!(errors[0].starts_with("spec.containers[0].name: Invalid value: \"C\": a lowercase"));
    assert_eq!(errors[1..], expected);
}

#[test]
fn resources_must_add_up() {
    let errors = create(
        row("", "Pod"),
        pod(|pod| {
            pod["spec"]["containers"][0]["resources"] = json!({
                "requests": {"cpu": "2", "foo": "1", "memory": "-1"}, "limits": {"cpu": "1"},
            });
        }),
    );
    let at = "spec.containers[0].resources";
    assert_eq!(
        errors,
        [
            format!(
                "{at}.requests: Invalid value: \"2\": must be less than or equal to cpu limit of 1"
            ),
            format!(
                "{at}.requests[foo]: Invalid value: \"foo\": must be a standard resource type or fully qualified"
            ),
            format!(
                "{at}.requests[foo]: Invalid value: \"foo\": must be a standard resource for containers"
            ),
            format!(
                "{at}.requests[memory]: Invalid value: \"-1\": must be greater than or equal to 0"
            ),
        ]
    );
}

#[test]
fn probes_have_one_handler() {
    let errors = create(
        row("", "Pod"),
        pod(|pod| {
            pod["spec"]["containers"][0]["livenessProbe"] = json!({"successThreshold": 2, "exec": {"command": ["x"]}, "tcpSocket": {"port": 1}});
            pod["spec"]["containers"][0]["readinessProbe"] = json!({});
        }),
    );
    let at = "spec.containers[0]";
    assert_eq!(
        errors,
        [
            format!(
                "{at}.livenessProbe.tcpSocket: Forbidden: may not specify more than 1 handler type"
            ),
            format!("{at}.livenessProbe.successThreshold: Invalid value: 2: must be 1"),
            format!("{at}.readinessProbe: Required value: must specify a handler type"),
        ]
    );
}

#[test]
fn volumes_stay_inside() {
    let errors = create(
        row("", "Pod"),
        pod(|pod| {
            pod["spec"]["volumes"] = json!([
                {"name": "a", "configMap": {"name": "x", "items": [{"key": "k", "path": "../x"}]}},
                {"name": "b", "emptyDir": {}, "hostPath": {"path": "/"}},
                {"name": "c", "hostPath": {"path": "/a/../b", "type": "Pipe"}},
            ]);
        }),
    );
    assert_eq!(
        errors,
        [
            "spec.volumes[0].configMap.items[0].path: Invalid value: \"../x\": must not contain '..'",
            "spec.volumes[1].hostPath: Forbidden: may not specify more than 1 volume type",
            "spec.volumes[2].hostPath.path: Invalid value: \"/a/../b\": must not contain '..'",
            "spec.volumes[2].hostPath.type: Unsupported value: \"Pipe\": supported values: \"\", \"BlockDevice\", \"CharDevice\", \"Directory\", \"DirectoryOrCreate\", \"File\", \"FileOrCreate\", \"Socket\"",
        ]
    );
}

#[test]
fn a_pod_changes_only_in_few_fields() {
    let pods = row("", "Pod");
    let image = pod(|pod| pod["spec"]["containers"][0]["image"] = json!("i:2"));
    // The pull policy is defaulted from the tag, so the client repeats what is there.
    let keep = |mut pod: Value| {
        pod["spec"]["containers"][0]["imagePullPolicy"] = json!("Always");
        pod
    };
    assert_eq!(update(pods, keep(image), keep(pod(|_| {}))), [""; 0]);
    let moved = pod(|pod| pod["spec"]["nodeName"] = json!("node-2"));
    let errors = update(pods, moved, pod(|_| {}));
    assert_eq!(errors.len(), 1);
    assert!(errors[0].starts_with(
        "spec: Forbidden: pod updates may not change fields other than \
         `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,\
         `spec.tolerations` (only additions to existing tolerations),\
         `spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously \
         negative)\n"
    ));
    assert!(errors[0].contains("spec.nodeName"));
}

#[test]
fn a_deployment_selects_its_own_pods() {
    let mut wrong = deployment();
    wrong["spec"]["template"]["metadata"]["labels"] = json!({"app": "other"});
    let deployments = row("apps", "Deployment");
    assert_eq!(
        create(deployments, wrong),
        ["spec.template.metadata.labels: Invalid value: {\"app\":\"other\"}: `selector` does not \
          match template `labels`"]
    );
    let mut changed = deployment();
    changed["spec"]["selector"] = json!({"matchLabels": {"app": "web", "x": "y"}});
    changed["spec"]["template"]["metadata"]["labels"] = json!({"app": "web", "x": "y"});
    assert_eq!(
        update(deployments, changed, deployment()),
        [
            "spec.selector: Invalid value: {\"matchLabels\":{\"app\":\"web\",\"x\":\"y\"}}: field is \
          immutable"
        ]
    );
}

#[test]
fn a_rolling_update_must_be_able_to_move() {
    let mut stuck = deployment();
    stuck["spec"]["strategy"] = json!({"rollingUpdate": {"maxSurge": 0, "maxUnavailable": "0%"}});
    stuck["spec"]["replicas"] = json!(-1);
    assert_eq!(
        create(row("apps", "Deployment"), stuck),
        [
            "spec.replicas: Invalid value: -1: must be greater than or equal to 0",
            "spec.strategy.rollingUpdate.maxUnavailable: Invalid value: \"0%\": may not be 0 when \
             `maxSurge` is 0",
        ]
    );
}

#[test]
fn services_are_checked_by_type() {
    let services = row("", "Service");
    let service = |spec: Value| json!({"metadata": {"name": "s"}, "spec": spec});
    assert_eq!(create(services, service(json!({}))), ["spec.ports: Required value"]);
    let two = json!({"ports": [{"port": 80, "name": "a"}, {"port": 80}], "type": "Nope"});
    let errors = create(services, service(two));
    assert_eq!(errors[0], "spec.ports[1].name: Required value");
    assert_eq!(
        errors[1],
        "spec.type: Unsupported value: \"Nope\": supported values: \"ClusterIP\", \
         \"ExternalName\", \"LoadBalancer\", \"NodePort\""
    );
    let ip = json!({"ports": [{"port": 80}], "clusterIP": "10.0.0.300"});
    assert_eq!(
        create(services, service(ip)),
        ["spec.clusterIPs[0]: Invalid value: \"10.0.0.300\": must be a valid IP address, (e.g. \
          10.9.8.7 or 2001:db8::ffff)"]
    );
}

#[test]
fn a_cluster_ip_stays() {
    let services = row("", "Service");
    let service = |ip: &str| json!({"metadata": {"name": "s"}, "spec": {"ports": [{"port": 80}], "clusterIP": ip}});
    assert_eq!(
        update(services, service("10.0.0.2"), service("10.0.0.1")),
        ["spec.clusterIPs[0]: Invalid value: [\"10.0.0.2\"]: may not change once set"]
    );
    let without = json!({"metadata": {"name": "s"}, "spec": {"ports": [{"port": 80}]}});
    assert_eq!(update(services, without, service("10.0.0.1")), [""; 0]);
}

#[test]
fn immutable_data_stays() {
    let with = |text: &str, immutable: bool| json!({"metadata": {"name": "c"}, "data": {"a": text}, "immutable": immutable});
    assert_eq!(
        update(row("", "ConfigMap"), with("2", false), with("1", true)),
        [
            "immutable: Forbidden: field is immutable when `immutable` is set",
            "data: Forbidden: field is immutable when `immutable` is set",
        ]
    );
    let errors = create(
        row("", "Secret"),
        json!({"metadata": {"name": "s"}, "type": "kubernetes.io/tls", "stringData": {"a b": "x"}}),
    );
    assert!(errors[0].starts_with("data[a b]: Invalid value: \"a b\": a valid config key must"));
    assert_eq!(errors[1..], ["data[tls.crt]: Required value", "data[tls.key]: Required value"]);
}

#[test]
fn a_binding_keeps_its_role() {
    let bindings = row("rbac.authorization.k8s.io", "RoleBinding");
    let binding = |name: &str| {
        json!({"metadata": {"name": "b"}, "roleRef": {"kind": "Role", "name": name},
               "subjects": [{"kind": "User", "name": "u"}]})
    };
    assert_eq!(
        update(bindings, binding("x"), binding("y")),
        ["roleRef: Invalid value: {\"APIGroup\":\"rbac.authorization.k8s.io\",\"Kind\":\"Role\",\
          \"Name\":\"x\"}: cannot change roleRef"]
    );
}

#[test]
fn a_status_update_leaves_the_spec() {
    let deployments = row("apps", "Deployment");
    let mut old = defaulted(deployments, deployment());
    deployments.prepare_create(&mut old);
    let mut new = old.clone();
    new["spec"]["replicas"] = json!(9);
    new["status"] = json!({"replicas": 1});
    new["metadata"]["labels"] = json!({"a": "b"});
    deployments.prepare_status_update(&mut new, &old);
    assert_eq!(new["spec"], old["spec"]);
    assert_eq!(new["status"]["replicas"], 1);
    assert!(new["metadata"].get("labels").is_none());
    assert_eq!(new["metadata"]["generation"], 1);
}

#[test]
fn generation_moves_with_the_spec() {
    let deployments = row("apps", "Deployment");
    let mut old = defaulted(deployments, deployment());
    deployments.prepare_create(&mut old);
    let mut new = old.clone();
    new["status"] = json!({"replicas": 5});
    deployments.prepare_update(&mut new, &old);
    assert_eq!((&new["metadata"]["generation"], &new["status"]), (&json!(1), &json!({})));
    new["spec"]["replicas"] = json!(2);
    deployments.prepare_update(&mut new, &old);
    assert_eq!(new["metadata"]["generation"], 2);
}

#[test]
fn a_pod_without_a_node_goes_at_once() {
    let grace = row("", "Pod").hooks.graceful_delete.unwrap();
    assert_eq!(grace(&pod(|_| {}), None), Some(0));
    let placed = pod(|pod| pod["spec"]["nodeName"] = json!("node-1"));
    assert_eq!(grace(&placed, None), Some(30));
    assert_eq!(grace(&placed, Some(5)), Some(5));
    assert_eq!(grace(&placed, Some(-1)), Some(1));
}

#[test]
fn numbers_are_amounts_too() {
    let pods = row("", "Pod");
    let made = defaulted(
        pods,
        pod(|pod| {
            pod["spec"]["containers"][0]["resources"] =
                json!({"limits": {"cpu": 1, "memory": "1024Mi"}});
        }),
    );
    let resources = &made["spec"]["containers"][0]["resources"];
    let amounts = json!({"cpu": "1", "memory": "1Gi"});
    assert_eq!(resources, &json!({"limits": amounts, "requests": amounts}));
    assert_eq!(kinds::pod::qos::class(&made), "Guaranteed");
}
