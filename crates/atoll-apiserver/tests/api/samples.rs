//! A small object of every kind that the kind's rules allow.

use atoll_api::kinds::ResourceInfo;
use atoll_identity::{Leaf, new_request};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::SignedDuration;
use serde_json::{Value, json};

/// An object to create; its name differs from kind to kind only where rules ask for that.
pub(crate) fn sample(row: &ResourceInfo) -> Value {
    let mut object = match &*row.group {
        "" => core(row),
        "apps" => apps(row),
        "batch" | "autoscaling" | "policy" => work(row),
        "admissionregistration.k8s.io" => admission(row),
        "networking.k8s.io" | "discovery.k8s.io" => networking(row),
        "storage.k8s.io" => storage(row),
        "resource.k8s.io" => devices(row),
        _ => others(row),
    };
    object["apiVersion"] = json!(row.api_version());
    object["kind"] = json!(row.kind);
    name(row, &mut object, 0);
    object
}

/// The same object under another name.
pub(crate) fn numbered(row: &ResourceInfo, index: usize) -> Value {
    let mut object = sample(row);
    name(row, &mut object, index + 1);
    object
}

fn name(row: &ResourceInfo, object: &mut Value, index: usize) {
    let name = match &*row.kind {
        "IPAddress" => format!("10.99.0.{}", index + 1),
        "APIService" => {
            object["spec"]["version"] = json!(format!("v{}", index + 1));
            format!("v{}.matrix.example", index + 1)
        }
        "CustomResourceDefinition" => {
            let plural = format!("matrix{index}");
            object["spec"]["names"] = json!({"plural": plural, "kind": format!("Matrix{index}")});
            format!("{plural}.example.com")
        }
        // Two groups may share a store.
        _ if row.group.is_empty() => format!("m{index}"),
        _ => format!("m-{}{index}", row.group.split('.').next().unwrap_or("")),
    };
    object["metadata"]["name"] = json!(name);
}

fn template(restart: &str) -> Value {
    json!({
        "metadata": {"labels": {"app": "x"}},
        "spec": {"restartPolicy": restart, "containers": [{"name": "c", "image": "i"}]},
    })
}

fn selector() -> Value {
    json!({"matchLabels": {"app": "x"}})
}

fn core(row: &ResourceInfo) -> Value {
    match &*row.kind {
        "Pod" => json!({"spec": {"containers": [{"name": "c", "image": "i"}]}}),
        "PodTemplate" => json!({"template": template("Always")}),
        "ReplicationController" => {
            json!({"spec": {"selector": {"app": "x"}, "template": template("Always")}})
        }
        "Service" => json!({"spec": {"ports": [{"port": 80}]}}),
        "Event" => json!({
            "involvedObject": {"namespace": "default", "kind": "Pod", "name": "p"},
            "reason": "R", "message": "m", "type": "Normal",
        }),
        "LimitRange" => json!({"spec": {"limits": [{"type": "Container", "max": {"cpu": "64"}}]}}),
        "ResourceQuota" => json!({"spec": {"hard": {"count/widgets.example.com": "1k"}}}),
        "PersistentVolume" => json!({"spec": {
            "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"],
            "hostPath": {"path": "/x"},
        }}),
        "PersistentVolumeClaim" => json!({"spec": {
            "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}},
        }}),
        _ => json!({}),
    }
}

fn apps(row: &ResourceInfo) -> Value {
    match &*row.kind {
        "ControllerRevision" => json!({"revision": 1, "data": {"a": 1}}),
        "StatefulSet" => json!({"spec": {
            "serviceName": "x", "selector": selector(), "template": template("Always"),
        }}),
        _ => json!({"spec": {"selector": selector(), "template": template("Always")}}),
    }
}

fn work(row: &ResourceInfo) -> Value {
    let job = json!({"template": template("Never")});
    match &*row.kind {
        "Job" => json!({"spec": job}),
        "CronJob" => json!({"spec": {"schedule": "* * * * *", "jobTemplate": {"spec": job}}}),
        "HorizontalPodAutoscaler" => json!({"spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "x"},
            "maxReplicas": 3,
        }}),
        _ => json!({"spec": {"minAvailable": 1, "selector": selector()}}),
    }
}

fn admission(row: &ResourceInfo) -> Value {
    // Of a group that nobody has, so that the other kinds live undisturbed.
    let rules = json!({"resourceRules": [{
        "apiGroups": ["matrix.example"], "apiVersions": ["v1"], "operations": ["CREATE"],
        "resources": ["widgets"],
    }]});
    match &*row.kind {
        "MutatingAdmissionPolicy" => json!({"spec": {
            "matchConstraints": rules, "reinvocationPolicy": "Never",
            "mutations": [{
                "patchType": "ApplyConfiguration", "applyConfiguration": {"expression": "Object{}"},
            }],
        }}),
        "ValidatingAdmissionPolicy" => json!({"spec": {
            "matchConstraints": rules, "validations": [{"expression": "true"}],
        }}),
        "MutatingAdmissionPolicyBinding" => json!({"spec": {"policyName": "none.example"}}),
        "ValidatingAdmissionPolicyBinding" => json!({"spec": {
            "policyName": "none.example", "validationActions": ["Deny"],
        }}),
        _ => json!({"webhooks": []}),
    }
}

fn networking(row: &ResourceInfo) -> Value {
    match &*row.kind {
        "Ingress" => json!({"spec": {"defaultBackend": {
            "service": {"name": "x", "port": {"number": 80}},
        }}}),
        "IngressClass" => json!({"spec": {"controller": "example.com/x"}}),
        "IPAddress" => json!({"spec": {"parentRef": {
            "resource": "services", "namespace": "default", "name": "x",
        }}}),
        "ServiceCIDR" => json!({"spec": {"cidrs": ["10.99.0.0/24"]}}),
        "EndpointSlice" => json!({"addressType": "IPv4", "endpoints": []}),
        _ => json!({"spec": {"podSelector": {}}}),
    }
}

fn storage(row: &ResourceInfo) -> Value {
    match &*row.kind {
        "StorageClass" => json!({"provisioner": "example.com/x"}),
        "CSINode" => json!({"spec": {"drivers": []}}),
        "CSIStorageCapacity" => json!({"storageClassName": "x"}),
        "VolumeAttachment" => json!({"spec": {
            "attacher": "example.com", "nodeName": "n", "source": {"persistentVolumeName": "x"},
        }}),
        "VolumeAttributesClass" => json!({"driverName": "example.com", "parameters": {"a": "b"}}),
        _ => json!({"spec": {}}),
    }
}

fn devices(row: &ResourceInfo) -> Value {
    let claim = json!({"devices": {"requests": [{
        "name": "a", "exactly": {"deviceClassName": "x"},
    }]}});
    match &*row.kind {
        "ResourceClaim" => json!({"spec": claim}),
        "ResourceClaimTemplate" => json!({"spec": {"spec": claim}}),
        "ResourceSlice" => json!({"spec": {
            "driver": "example.com", "nodeName": "n", "devices": [],
            "pool": {"name": "p", "generation": 1, "resourceSliceCount": 1},
        }}),
        _ => json!({"spec": {}}),
    }
}

fn others(row: &ResourceInfo) -> Value {
    match &*row.kind {
        "Event" => json!({
            "regarding": {"namespace": "default", "kind": "Pod", "name": "p"},
            "eventTime": "2026-01-01T00:00:00.000000Z", "type": "Normal", "reason": "R",
            "action": "A", "reportingController": "c", "reportingInstance": "i",
        }),
        "PriorityClass" => json!({"value": 5}),
        "CertificateSigningRequest" => {
            let leaf = Leaf::client("matrix", &[], SignedDuration::from_hours(1));
            let request = STANDARD.encode(new_request(&leaf).unwrap().0);
            json!({"spec": {"request": request, "signerName": "example.com/matrix",
                "usages": ["digital signature", "client auth"]}})
        }
        "Role" | "ClusterRole" => json!({"rules": []}),
        "RoleBinding" | "ClusterRoleBinding" => json!({
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "x"},
        }),
        "RuntimeClass" => json!({"handler": "crun"}),
        "APIService" => json!({"spec": {
            "group": "matrix.example", "groupPriorityMinimum": 1000, "versionPriority": 10,
            "insecureSkipTLSVerify": true, "service": {"namespace": "default", "name": "none"},
        }}),
        "CustomResourceDefinition" => json!({"spec": {
            "group": "example.com", "scope": "Namespaced",
            "versions": [{"name": "v1", "served": true, "storage": true,
                "schema": {"openAPIV3Schema": {"type": "object"}}}],
        }}),
        "FlowSchema" => json!({"spec": {"priorityLevelConfiguration": {"name": "global-default"}}}),
        "PriorityLevelConfiguration" => json!({"spec": {
            "type": "Limited",
            "limited": {"nominalConcurrencyShares": 1, "limitResponse": {"type": "Reject"}},
        }}),
        _ => json!({}),
    }
}
