//! Roles of people, of the platform's parts and of nodes, and who has them.

use super::{BindingRow, EVENTS, READ, READ_WRITE, RoleRow, Row, WRITE, Who};

/// The rules of the node authorizer, and of the role `system:node`.
pub(super) const NODE: &[Row] = &[
    Row::On("create", "authentication.k8s.io", "tokenreviews"),
    Row::On("create", "authorization.k8s.io", "localsubjectaccessreviews subjectaccessreviews"),
    Row::On(READ, "-", "services"),
    Row::On("create get list watch", "-", "nodes"),
    Row::On("patch update", "-", "nodes/status"),
    Row::On("patch update", "-", "nodes"),
    EVENTS,
    Row::On(READ, "-", "pods"),
    Row::On("create delete", "-", "pods"),
    Row::On("patch update", "-", "pods/status"),
    Row::On("create", "-", "pods/eviction"),
    Row::On(READ, "-", "configmaps secrets"),
    Row::On("get", "-", "persistentvolumeclaims persistentvolumes"),
    Row::On("get", "-", "endpoints"),
    Row::On("create get list watch", "certificates.k8s.io", "certificatesigningrequests"),
    Row::On("create delete get patch update", "coordination.k8s.io", "leases"),
    Row::On("get", "storage.k8s.io", "volumeattachments"),
    Row::On("create", "-", "serviceaccounts/token"),
    Row::On("get patch update", "-", "persistentvolumeclaims/status"),
    Row::On(READ, "storage.k8s.io", "csidrivers"),
    Row::On("create delete get patch update", "storage.k8s.io", "csinodes"),
    Row::On(READ, "node.k8s.io", "runtimeclasses"),
];

const APPS: &str = "daemonsets deployments deployments/rollback deployments/scale replicasets \
                    replicasets/scale statefulsets statefulsets/scale";
const EXTENSIONS: &str = "daemonsets deployments deployments/rollback deployments/scale ingresses \
                          networkpolicies replicasets replicasets/scale \
                          replicationcontrollers/scale";

const EDIT: &[Row] = &[
    Row::On(READ, "-", "pods/attach pods/exec pods/portforward pods/proxy secrets services/proxy"),
    Row::On("impersonate", "-", "serviceaccounts"),
    Row::On(WRITE, "-", "pods pods/attach pods/exec pods/portforward pods/proxy"),
    Row::On("create", "-", "pods/eviction"),
    Row::On(
        WRITE,
        "-",
        "configmaps events persistentvolumeclaims replicationcontrollers \
         replicationcontrollers/scale secrets serviceaccounts services services/proxy",
    ),
    Row::On("create", "-", "serviceaccounts/token"),
    Row::On(WRITE, "apps", APPS),
    Row::On(WRITE, "autoscaling", "horizontalpodautoscalers"),
    Row::On(WRITE, "batch", "cronjobs jobs"),
    Row::On(WRITE, "extensions", EXTENSIONS),
    Row::On(WRITE, "policy", "poddisruptionbudgets"),
    Row::On(WRITE, "networking.k8s.io", "ingresses networkpolicies"),
    Row::On(READ_WRITE, "coordination.k8s.io", "leases"),
];

const VIEW: &[Row] = &[
    Row::On(
        READ,
        "-",
        "configmaps endpoints persistentvolumeclaims persistentvolumeclaims/status pods \
         replicationcontrollers replicationcontrollers/scale serviceaccounts services \
         services/status",
    ),
    Row::On(
        READ,
        "-",
        "bindings events limitranges namespaces/status pods/log pods/status \
         replicationcontrollers/status resourcequotas resourcequotas/status",
    ),
    Row::On(READ, "-", "namespaces"),
    Row::On(READ, "discovery.k8s.io", "endpointslices"),
    Row::On(
        READ,
        "apps",
        "controllerrevisions daemonsets daemonsets/status deployments deployments/scale \
         deployments/status replicasets replicasets/scale replicasets/status statefulsets \
         statefulsets/scale statefulsets/status",
    ),
    Row::On(READ, "autoscaling", "horizontalpodautoscalers horizontalpodautoscalers/status"),
    Row::On(READ, "batch", "cronjobs cronjobs/status jobs jobs/status"),
    Row::On(
        READ,
        "extensions",
        "daemonsets daemonsets/status deployments deployments/scale deployments/status ingresses \
         ingresses/status networkpolicies replicasets replicasets/scale replicasets/status \
         replicationcontrollers/scale",
    ),
    Row::On(READ, "policy", "poddisruptionbudgets poddisruptionbudgets/status"),
    Row::On(READ, "networking.k8s.io", "ingresses ingresses/status networkpolicies"),
];

const CONTROLLER_MANAGER: &[Row] = &[
    EVENTS,
    Row::On("create", "coordination.k8s.io", "leases"),
    Row::Named("get update", "coordination.k8s.io", "leases", "kube-controller-manager"),
    Row::On("create", "-", "secrets serviceaccounts"),
    Row::On("delete", "-", "secrets"),
    Row::On("get", "-", "configmaps namespaces secrets serviceaccounts"),
    Row::On("update", "-", "secrets serviceaccounts"),
    Row::On("create", "authentication.k8s.io", "tokenreviews"),
    Row::On("create", "authorization.k8s.io", "subjectaccessreviews"),
    Row::On("list watch", "*", "*"),
    Row::On("create", "-", "serviceaccounts/token"),
];

const SCHEDULER: &[Row] = &[
    EVENTS,
    Row::On("create", "coordination.k8s.io", "leases"),
    Row::Named("get update", "coordination.k8s.io", "leases", "kube-scheduler"),
    Row::On(READ, "-", "nodes"),
    Row::On("delete get list watch", "-", "pods"),
    Row::On("create", "-", "bindings pods/binding"),
    Row::On("patch update", "-", "pods/status"),
    Row::On(READ, "-", "replicationcontrollers services"),
    Row::On(READ, "apps extensions", "replicasets"),
    Row::On(READ, "apps", "statefulsets"),
    Row::On(READ, "policy", "poddisruptionbudgets"),
    Row::On(READ, "-", "persistentvolumeclaims persistentvolumes"),
    Row::On("create", "authentication.k8s.io", "tokenreviews"),
    Row::On("create", "authorization.k8s.io", "subjectaccessreviews"),
    Row::On(READ, "storage.k8s.io", "csinodes"),
    Row::On(READ, "-", "namespaces"),
    Row::On(READ, "storage.k8s.io", "csidrivers"),
    Row::On(READ, "storage.k8s.io", "csistoragecapacities"),
];

const PUBLIC_PATHS: &str = "/healthz /livez /readyz /version /version/";
const DISCOVERY_PATHS: &str = "/api /api/* /apis /apis/* /healthz /livez /openapi /openapi/* \
                               /readyz /version /version/";

pub(super) const ROLES: &[RoleRow] = &[
    RoleRow::new("cluster-admin", &[Row::On("*", "*", "*"), Row::Path("*", "*")]),
    RoleRow { name: "admin", gathered_into: "", gathers: "admin", rules: &[] },
    RoleRow { name: "edit", gathered_into: "admin", gathers: "edit", rules: &[] },
    RoleRow { name: "view", gathered_into: "edit", gathers: "view", rules: &[] },
    RoleRow {
        name: "system:aggregate-to-admin",
        gathered_into: "admin",
        gathers: "",
        rules: &[
            Row::On("create", "authorization.k8s.io", "localsubjectaccessreviews"),
            Row::On(READ_WRITE, "rbac.authorization.k8s.io", "rolebindings roles"),
        ],
    },
    RoleRow { name: "system:aggregate-to-edit", gathered_into: "edit", gathers: "", rules: EDIT },
    RoleRow { name: "system:aggregate-to-view", gathered_into: "view", gathers: "", rules: VIEW },
    // What metrics-server brings where metrics are not the server's own.
    RoleRow {
        name: "system:aggregated-metrics-reader",
        gathered_into: "view edit admin",
        gathers: "",
        rules: &[Row::On(READ, "metrics.k8s.io", "nodes pods")],
    },
    RoleRow::new(
        "system:auth-delegator",
        &[
            Row::On("create", "authentication.k8s.io", "tokenreviews"),
            Row::On("create", "authorization.k8s.io", "subjectaccessreviews"),
        ],
    ),
    RoleRow::new(
        "system:basic-user",
        &[
            Row::On(
                "create",
                "authorization.k8s.io",
                "selfsubjectaccessreviews selfsubjectrulesreviews",
            ),
            Row::On("create", "authentication.k8s.io", "selfsubjectreviews"),
        ],
    ),
    RoleRow::new(
        "system:certificates.k8s.io:certificatesigningrequests:nodeclient",
        &[Row::On("create", "certificates.k8s.io", "certificatesigningrequests/nodeclient")],
    ),
    RoleRow::new(
        "system:certificates.k8s.io:certificatesigningrequests:selfnodeclient",
        &[Row::On("create", "certificates.k8s.io", "certificatesigningrequests/selfnodeclient")],
    ),
    RoleRow::new(
        "system:certificates.k8s.io:kube-apiserver-client-approver",
        &[Row::Named(
            "approve",
            "certificates.k8s.io",
            "signers",
            "kubernetes.io/kube-apiserver-client",
        )],
    ),
    RoleRow::new(
        "system:certificates.k8s.io:kube-apiserver-client-kubelet-approver",
        &[Row::Named(
            "approve",
            "certificates.k8s.io",
            "signers",
            "kubernetes.io/kube-apiserver-client-kubelet",
        )],
    ),
    RoleRow::new(
        "system:certificates.k8s.io:kubelet-serving-approver",
        &[Row::Named("approve", "certificates.k8s.io", "signers", "kubernetes.io/kubelet-serving")],
    ),
    RoleRow::new(
        "system:certificates.k8s.io:legacy-unknown-approver",
        &[Row::Named("approve", "certificates.k8s.io", "signers", "kubernetes.io/legacy-unknown")],
    ),
    RoleRow::new("system:discovery", &[Row::Path("get", DISCOVERY_PATHS)]),
    RoleRow::new("system:kube-aggregator", &[Row::On(READ, "-", "endpoints services")]),
    RoleRow::new("system:kube-controller-manager", CONTROLLER_MANAGER),
    RoleRow::new(
        "system:kube-dns",
        &[
            Row::On("list watch", "-", "endpoints services"),
            Row::On("list watch", "discovery.k8s.io", "endpointslices"),
        ],
    ),
    RoleRow::new("system:kube-scheduler", SCHEDULER),
    RoleRow::new(
        "system:kubelet-api-admin",
        &[
            Row::On(READ, "-", "nodes"),
            Row::On("proxy", "-", "nodes"),
            Row::On("*", "-", "nodes/log nodes/metrics nodes/proxy nodes/stats"),
        ],
    ),
    RoleRow::new(
        "system:monitoring",
        &[Row::Path(
            "get",
            "/healthz /healthz/* /livez /livez/* /metrics /metrics/slis /readyz /readyz/*",
        )],
    ),
    RoleRow::new("system:node", NODE),
    RoleRow::new(
        "system:node-bootstrapper",
        &[Row::On("create get list watch", "certificates.k8s.io", "certificatesigningrequests")],
    ),
    RoleRow::new(
        "system:node-problem-detector",
        &[Row::On("get", "-", "nodes"), Row::On("patch", "-", "nodes/status"), EVENTS],
    ),
    RoleRow::new(
        "system:node-proxier",
        &[
            Row::On("list watch", "-", "endpoints services"),
            Row::On(READ, "-", "nodes"),
            EVENTS,
            Row::On("list watch", "discovery.k8s.io", "endpointslices"),
        ],
    ),
    RoleRow::new(
        "system:persistent-volume-provisioner",
        &[
            Row::On("create delete get list watch", "-", "persistentvolumes"),
            Row::On("get list update watch", "-", "persistentvolumeclaims"),
            Row::On(READ, "storage.k8s.io", "storageclasses"),
            Row::On("watch", "-", "events"),
            EVENTS,
        ],
    ),
    RoleRow::new("system:public-info-viewer", &[Row::Path("get", PUBLIC_PATHS)]),
    RoleRow::new(
        "system:service-account-issuer-discovery",
        &[Row::Path("get", "/.well-known/openid-configuration /openid/v1/jwks")],
    ),
    RoleRow::new(
        "system:volume-scheduler",
        &[
            Row::On("get list patch update watch", "-", "persistentvolumes"),
            Row::On(READ, "storage.k8s.io", "storageclasses"),
            Row::On("get list patch update watch", "-", "persistentvolumeclaims"),
        ],
    ),
    // Ours: the heartbeats of nodes. The handler holds each to its own name.
    RoleRow::new("atoll:node-ping", &[Row::Path("post", "/atoll/v1/nodes/*")]),
    // Ours: names in the cluster's DNS stand and fall with their namespace.
    RoleRow::new("atoll:node-dns", &[Row::On("list watch", "-", "namespaces")]),
];

pub(super) const BINDINGS: &[BindingRow<'static>] = &[
    to("cluster-admin", &[Who::Group("system:masters")]),
    to("system:monitoring", &[Who::Group("system:monitoring")]),
    to("system:discovery", &[Who::Group("system:authenticated")]),
    to("system:basic-user", &[Who::Group("system:authenticated")]),
    to(
        "system:public-info-viewer",
        &[Who::Group("system:authenticated"), Who::Group("system:unauthenticated")],
    ),
    to("system:node-proxier", &[Who::User("system:kube-proxy")]),
    to("system:kube-controller-manager", &[Who::User("system:kube-controller-manager")]),
    to("system:kube-dns", &[Who::ServiceAccount("kube-dns")]),
    to("system:kube-scheduler", &[Who::User("system:kube-scheduler")]),
    to("system:volume-scheduler", &[Who::User("system:kube-scheduler")]),
    // Nobody: nodes are authorized one by one. The binding stands for administrators who
    // know it from upstream.
    to("system:node", &[]),
    to("system:service-account-issuer-discovery", &[Who::Group("system:serviceaccounts")]),
    // Ours. A node's agent routes Services and pods by itself, so that it needs what
    // upstream gives to kube-proxy; and it renews its own certificate.
    to("atoll:node-ping", &[Who::Group("system:nodes")]),
    to("atoll:node-dns", &[Who::Group("system:nodes")]),
    BindingRow {
        name: "atoll:node-proxier",
        role: "system:node-proxier",
        subjects: &[Who::Group("system:nodes")],
    },
    BindingRow {
        name: "atoll:node-certificate-renewal",
        role: "system:certificates.k8s.io:certificatesigningrequests:selfnodeclient",
        subjects: &[Who::Group("system:nodes")],
    },
];

const fn to(role: &'static str, subjects: &'static [Who]) -> BindingRow<'static> {
    BindingRow { name: role, role, subjects }
}
