//! Roles of the controllers that run here, each for the ServiceAccount of its name.
//!
//! They are upstream's, with `patch` beside every `update`: our controllers patch.

use super::{EVENTS, READ, RoleRow, Row};

pub(super) const ROLES: &[RoleRow] = &[
    RoleRow::new(
        "system:controller:certificate-controller",
        &[
            Row::On("delete get list watch", "certificates.k8s.io", "certificatesigningrequests"),
            Row::On(
                "patch update",
                "certificates.k8s.io",
                "certificatesigningrequests/approval certificatesigningrequests/status",
            ),
            // Upstream leaves serving certificates to an administrator. Here the controller
            // compares the names with the Node's own addresses and approves.
            Row::Named(
                "approve",
                "certificates.k8s.io",
                "signers",
                "kubernetes.io/kube-apiserver-client-kubelet kubernetes.io/kubelet-serving",
            ),
            Row::Named(
                "sign",
                "certificates.k8s.io",
                "signers",
                "kubernetes.io/kube-apiserver-client kubernetes.io/kube-apiserver-client-kubelet \
                 kubernetes.io/kubelet-serving kubernetes.io/legacy-unknown",
            ),
            Row::On("create", "authorization.k8s.io", "subjectaccessreviews"),
            EVENTS,
        ],
    ),
    RoleRow::new(
        "system:controller:clusterrole-aggregation-controller",
        &[Row::On(
            "escalate get list patch update watch",
            "rbac.authorization.k8s.io",
            "clusterroles",
        )],
    ),
    RoleRow::new(
        "system:controller:cronjob-controller",
        &[
            Row::On("get list patch update watch", "batch", "cronjobs"),
            Row::On("create delete get list patch update watch", "batch", "jobs"),
            Row::On("patch update", "batch", "cronjobs/status"),
            Row::On("patch update", "batch", "cronjobs/finalizers"),
            Row::On("delete list", "-", "pods"),
            EVENTS,
        ],
    ),
    RoleRow::new(
        "system:controller:daemon-set-controller",
        &[
            Row::On("get list patch update watch", "apps extensions", "daemonsets"),
            Row::On("patch update", "apps extensions", "daemonsets/status"),
            Row::On("patch update", "apps extensions", "daemonsets/finalizers"),
            Row::On("list watch", "-", "nodes"),
            Row::On("create delete list patch watch", "-", "pods"),
            Row::On("create", "-", "pods/binding"),
            Row::On("create delete get list patch update watch", "apps", "controllerrevisions"),
            EVENTS,
        ],
    ),
    RoleRow::new(
        "system:controller:deployment-controller",
        &[
            Row::On("get list patch update watch", "apps extensions", "deployments"),
            Row::On("patch update", "apps extensions", "deployments/status"),
            Row::On("patch update", "apps extensions", "deployments/finalizers"),
            Row::On("create delete get list patch update watch", "apps extensions", "replicasets"),
            Row::On("get list patch update watch", "-", "pods"),
            EVENTS,
        ],
    ),
    RoleRow::new(
        "system:controller:disruption-controller",
        &[
            Row::On(READ, "apps extensions", "deployments"),
            Row::On(READ, "apps extensions", "replicasets"),
            Row::On(READ, "-", "replicationcontrollers"),
            Row::On(READ, "policy", "poddisruptionbudgets"),
            Row::On(READ, "apps", "statefulsets"),
            Row::On("patch update", "policy", "poddisruptionbudgets/status"),
            Row::On("patch update", "-", "pods/status"),
            Row::On("get", "*", "*/scale"),
            EVENTS,
        ],
    ),
    RoleRow::new(
        "system:controller:endpoint-controller",
        &[
            Row::On(READ, "-", "pods services"),
            Row::On("create delete get list patch update watch", "-", "endpoints"),
            Row::On("create", "-", "endpoints/restricted"),
            EVENTS,
        ],
    ),
    RoleRow::new(
        "system:controller:endpointslice-controller",
        &[
            Row::On(READ, "-", "nodes pods services"),
            Row::On("patch update", "-", "services/finalizers"),
            Row::On(
                "create delete get list patch update watch",
                "discovery.k8s.io",
                "endpointslices",
            ),
            EVENTS,
        ],
    ),
    RoleRow::new(
        "system:controller:endpointslicemirroring-controller",
        &[
            Row::On(READ, "-", "endpoints services"),
            Row::On("patch update", "-", "services/finalizers"),
            Row::On("patch update", "-", "endpoints/finalizers"),
            Row::On(
                "create delete get list patch update watch",
                "discovery.k8s.io",
                "endpointslices",
            ),
            Row::On("create", "discovery.k8s.io", "endpointslices/restricted"),
            EVENTS,
        ],
    ),
    RoleRow::new(
        "system:controller:ephemeral-volume-controller",
        &[
            Row::On("patch update", "-", "pods/finalizers"),
            Row::On(READ, "-", "pods"),
            Row::On("create get list watch", "-", "persistentvolumeclaims"),
            EVENTS,
        ],
    ),
    RoleRow::new(
        "system:controller:generic-garbage-collector",
        &[Row::On("delete get list patch update watch", "*", "*"), EVENTS],
    ),
    // Our own: it makes and removes the volumes that are folders of nodes.
    RoleRow::new(
        "system:controller:local-volume-provisioner",
        &[
            Row::On("create delete get list patch watch", "-", "persistentvolumes"),
            Row::On(READ, "-", "nodes persistentvolumeclaims"),
            Row::On(READ, "storage.k8s.io", "storageclasses"),
            EVENTS,
        ],
    ),
    RoleRow::new(
        "system:controller:job-controller",
        &[
            Row::On("get list patch update watch", "batch", "jobs"),
            Row::On("patch update", "batch", "jobs/status"),
            Row::On("patch update", "batch", "jobs/finalizers"),
            Row::On("create delete list patch watch", "-", "pods"),
            EVENTS,
        ],
    ),
    RoleRow::new(
        "system:controller:namespace-controller",
        &[
            Row::On("delete get list watch", "-", "namespaces"),
            Row::On("patch update", "-", "namespaces/finalize namespaces/status"),
            Row::On("delete deletecollection get list watch", "*", "*"),
        ],
    ),
    RoleRow::new(
        "system:controller:node-controller",
        &[
            Row::On("delete get list patch update watch", "-", "nodes"),
            Row::On("patch update", "-", "nodes/status"),
            Row::On("patch update", "-", "pods/status"),
            Row::On("delete get list watch", "-", "pods"),
            // Leases age by the watcher's own clock.
            Row::On(READ, "coordination.k8s.io", "leases"),
            EVENTS,
        ],
    ),
    RoleRow::new(
        "system:controller:persistent-volume-binder",
        &[
            Row::On("create delete get list patch update watch", "-", "persistentvolumes"),
            Row::On("patch update", "-", "persistentvolumes/status"),
            Row::On("get list patch update watch", "-", "persistentvolumeclaims"),
            Row::On("patch update", "-", "persistentvolumeclaims/status"),
            Row::On(READ, "storage.k8s.io", "storageclasses"),
            Row::On(READ, "-", "nodes pods"),
            EVENTS,
        ],
    ),
    RoleRow::new(
        "system:controller:pod-garbage-collector",
        &[
            Row::On("delete list watch", "-", "pods"),
            Row::On(READ, "-", "nodes"),
            Row::On("patch", "-", "pods/status"),
        ],
    ),
    RoleRow::new(
        "system:controller:pvc-protection-controller",
        &[
            Row::On("get list patch update watch", "-", "persistentvolumeclaims persistentvolumes"),
            Row::On(READ, "-", "pods"),
            EVENTS,
        ],
    ),
    RoleRow::new(
        "system:controller:replicaset-controller",
        &[
            Row::On("get list patch update watch", "apps extensions", "replicasets"),
            Row::On("patch update", "apps extensions", "replicasets/status"),
            Row::On("patch update", "apps extensions", "replicasets/finalizers"),
            Row::On("create delete list patch watch", "-", "pods"),
            EVENTS,
        ],
    ),
    RoleRow::new(
        "system:controller:replication-controller",
        &[
            Row::On("get list patch update watch", "-", "replicationcontrollers"),
            Row::On("patch update", "-", "replicationcontrollers/status"),
            Row::On("patch update", "-", "replicationcontrollers/finalizers"),
            Row::On("create delete list patch watch", "-", "pods"),
            EVENTS,
        ],
    ),
    RoleRow::new(
        "system:controller:resourcequota-controller",
        &[
            Row::On("list watch", "*", "*"),
            Row::On("get patch update", "-", "resourcequotas"),
            Row::On("patch update", "-", "resourcequotas/status"),
            EVENTS,
        ],
    ),
    RoleRow::new(
        "system:controller:root-ca-cert-publisher",
        &[Row::On("create patch update", "-", "configmaps"), EVENTS],
    ),
    RoleRow::new(
        "system:controller:service-account-controller",
        &[Row::On("create", "-", "serviceaccounts"), EVENTS],
    ),
    RoleRow::new(
        "system:controller:service-cidrs-controller",
        &[
            Row::On("get list patch update watch", "networking.k8s.io", "servicecidrs"),
            Row::On(
                "patch update",
                "networking.k8s.io",
                "servicecidrs/finalizers servicecidrs/status",
            ),
            Row::On(READ, "networking.k8s.io", "ipaddresses"),
            EVENTS,
        ],
    ),
    RoleRow::new(
        "system:controller:ttl-after-finished-controller",
        &[Row::On("delete get list watch", "batch", "jobs"), EVENTS],
    ),
    RoleRow::new(
        "system:controller:statefulset-controller",
        &[
            Row::On("get list watch", "-", "pods"),
            Row::On("get list patch update watch", "apps", "statefulsets"),
            Row::On("patch update", "apps", "statefulsets/status"),
            Row::On("patch update", "apps", "statefulsets/finalizers"),
            Row::On("create delete get patch update", "-", "pods"),
            Row::On("create delete get list patch update watch", "apps", "controllerrevisions"),
            Row::On("create delete get patch update", "-", "persistentvolumeclaims"),
            EVENTS,
        ],
    ),
];
