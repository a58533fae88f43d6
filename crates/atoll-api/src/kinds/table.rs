//! The rows of Kubernetes v1.36, in the order of its discovery.
//!
//! A row that is not served is known by name only: its kind's behaviour is not there yet.

use super::builder::*;
use super::*;

const ALL: &[&str] = &["all"];
const API_EXTENSIONS: &[&str] = &["api-extensions"];

pub(super) static BUILTIN: &[ResourceInfo] = &[
    row!(Namespaced, "io.k8s.api.core", "", "v1", "bindings", "Binding", "binding")
        .virtual_only()
        .served(),
    row!(Cluster, "io.k8s.api.core", "", "v1", "componentstatuses", "ComponentStatus", "componentstatus")
        .short(&["cs"])
        .verbs(&["get", "list"])
        .hooks(plain::COMPONENT_STATUS_HOOKS)
        .deprecated("v1 ComponentStatus is deprecated in v1.19+")
        .served(),
    row!(Namespaced, "io.k8s.api.core", "", "v1", "configmaps", "ConfigMap", "configmap")
        .short(&["cm"])
        .hooks(config::CONFIG_MAP_HOOKS)
        .served(),
    row!(Namespaced, "io.k8s.api.core", "", "v1", "endpoints", "Endpoints", "endpoints")
        .short(&["ep"])
        .hooks(endpoints::HOOKS)
        .deprecated(endpoints::DEPRECATED)
        .served(),
    row!(Namespaced, "io.k8s.api.core", "", "v1", "events", "Event", "event")
        .short(&["ev"])
        .hooks(event::CORE_HOOKS)
        .served(),
    row!(Namespaced, "io.k8s.api.core", "", "v1", "limitranges", "LimitRange", "limitrange")
        .short(&["limits"])
        .hooks(quota::LIMIT_RANGE_HOOKS)
        .served(),
    row!(Cluster, "io.k8s.api.core", "", "v1", "namespaces", "Namespace", "namespace")
        .short(&["ns"])
        .verbs(&["create", "delete", "get", "list", "patch", "update", "watch"])
        .parts(const { &[part("finalize", "Namespace", UPDATE).updates(namespace::FINALIZE).served(), status("Namespace").served()] })
        .hooks(namespace::HOOKS)
        .names(names::label_rule)
        .served(),
    row!(Cluster, "io.k8s.api.core", "", "v1", "nodes", "Node", "node")
        .short(&["no"])
        .parts(const { &[part("proxy", "NodeProxyOptions", PROXY).served(), status("Node").served()] })
        .hooks(node::HOOKS)
        .served(),
    row!(Namespaced, "io.k8s.api.core", "", "v1", "persistentvolumeclaims", "PersistentVolumeClaim", "persistentvolumeclaim")
        .short(&["pvc"])
        .parts(const { &[status("PersistentVolumeClaim").served()] })
        .hooks(storage::CLAIM_HOOKS)
        .served(),
    row!(Cluster, "io.k8s.api.core", "", "v1", "persistentvolumes", "PersistentVolume", "persistentvolume")
        .short(&["pv"])
        .parts(const { &[status("PersistentVolume").served()] })
        .hooks(storage::VOLUME_HOOKS)
        .served(),
    row!(Namespaced, "io.k8s.api.core", "", "v1", "pods", "Pod", "pod")
        .short(&["po"])
        .categories(ALL)
        .parts(const { &[part("attach", "PodAttachOptions", CREATE_GET).served(), part("binding", "Binding", CREATE).served(), part("ephemeralcontainers", "Pod", GET_PATCH_UPDATE).updates(pod::EPHEMERAL_CONTAINERS).served(), foreign("eviction", "Eviction", "policy", "v1", CREATE).served(), part("exec", "PodExecOptions", CREATE_GET).served(), part("log", "Pod", GET).served(), part("portforward", "PodPortForwardOptions", CREATE_GET).served(), part("proxy", "PodProxyOptions", PROXY).served(), part("resize", "Pod", GET_PATCH_UPDATE).updates(pod::RESIZE).served(), status("Pod").served()] })
        .hooks(pod::HOOKS)
        .served(),
    row!(Namespaced, "io.k8s.api.core", "", "v1", "podtemplates", "PodTemplate", "podtemplate")
        .hooks(replication::POD_TEMPLATE_HOOKS)
        .served(),
    row!(Namespaced, "io.k8s.api.core", "", "v1", "replicationcontrollers", "ReplicationController", "replicationcontroller")
        .short(&["rc"])
        .categories(ALL)
        .parts(const { &[SCALE.served(), status("ReplicationController").served()] })
        .hooks(replication::REPLICATION_CONTROLLER_HOOKS)
        .served(),
    row!(Namespaced, "io.k8s.api.core", "", "v1", "resourcequotas", "ResourceQuota", "resourcequota")
        .short(&["quota"])
        .parts(const { &[status("ResourceQuota").served()] })
        .hooks(quota::RESOURCE_QUOTA_HOOKS)
        .served(),
    row!(Namespaced, "io.k8s.api.core", "", "v1", "secrets", "Secret", "secret")
        .hooks(config::SECRET_HOOKS)
        .served(),
    row!(Namespaced, "io.k8s.api.core", "", "v1", "serviceaccounts", "ServiceAccount", "serviceaccount")
        .short(&["sa"])
        .parts(const { &[foreign("token", "TokenRequest", "authentication.k8s.io", "v1", CREATE).served()] })
        .hooks(service_account::HOOKS)
        .served(),
    row!(Namespaced, "io.k8s.api.core", "", "v1", "services", "Service", "service")
        .short(&["svc"])
        .categories(ALL)
        .parts(const { &[part("proxy", "ServiceProxyOptions", PROXY).served(), status("Service").served()] })
        .hooks(service::HOOKS)
        .names(names::label_1035_rule)
        .served(),
    row!(Cluster, "io.k8s.kube-aggregator.pkg.apis.apiregistration", "apiregistration.k8s.io", "v1", "apiservices", "APIService", "apiservice")
        .categories(API_EXTENSIONS)
        .parts(const { &[status("APIService").served()] })
        .names(names::path_segment_rule)
        .hooks(aggregation::API_SERVICE_HOOKS)
        .served(),
    row!(Namespaced, "io.k8s.api.apps", "apps", "v1", "controllerrevisions", "ControllerRevision", "controllerrevision")
        .hooks(plain::CONTROLLER_REVISION_HOOKS)
        .served(),
    row!(Namespaced, "io.k8s.api.apps", "apps", "v1", "daemonsets", "DaemonSet", "daemonset")
        .short(&["ds"])
        .categories(ALL)
        .parts(const { &[status("DaemonSet").served()] })
        .hooks(stateful::DAEMON_SET_HOOKS)
        .served(),
    row!(Namespaced, "io.k8s.api.apps", "apps", "v1", "deployments", "Deployment", "deployment")
        .short(&["deploy"])
        .categories(ALL)
        .parts(const { &[SCALE.served(), status("Deployment").served()] })
        .hooks(workload::DEPLOYMENT_HOOKS)
        .served(),
    row!(Namespaced, "io.k8s.api.apps", "apps", "v1", "replicasets", "ReplicaSet", "replicaset")
        .short(&["rs"])
        .categories(ALL)
        .parts(const { &[SCALE.served(), status("ReplicaSet").served()] })
        .hooks(workload::REPLICA_SET_HOOKS)
        .served(),
    row!(Namespaced, "io.k8s.api.apps", "apps", "v1", "statefulsets", "StatefulSet", "statefulset")
        .short(&["sts"])
        .categories(ALL)
        .parts(const { &[SCALE.served(), status("StatefulSet").served()] })
        .names(names::label_rule)
        .hooks(stateful::STATEFUL_SET_HOOKS)
        .served(),
    row!(Namespaced, "io.k8s.api.events", "events.k8s.io", "v1", "events", "Event", "event")
        .short(&["ev"])
        .hooks(event::HOOKS)
        .stored(event::STORAGE)
        .served(),
    row!(Cluster, "io.k8s.api.authentication", "authentication.k8s.io", "v1", "selfsubjectreviews", "SelfSubjectReview", "selfsubjectreview")
        .hooks(review::HOOKS)
        .virtual_only()
        .served(),
    row!(Cluster, "io.k8s.api.authentication", "authentication.k8s.io", "v1", "tokenreviews", "TokenReview", "tokenreview")
        .hooks(review::TOKEN_REVIEW_HOOKS)
        .virtual_only()
        .served(),
    row!(Namespaced, "io.k8s.api.authorization", "authorization.k8s.io", "v1", "localsubjectaccessreviews", "LocalSubjectAccessReview", "localsubjectaccessreview")
        .hooks(review::LOCAL_ACCESS_HOOKS)
        .virtual_only()
        .served(),
    row!(Cluster, "io.k8s.api.authorization", "authorization.k8s.io", "v1", "selfsubjectaccessreviews", "SelfSubjectAccessReview", "selfsubjectaccessreview")
        .hooks(review::SELF_ACCESS_HOOKS)
        .virtual_only()
        .served(),
    row!(Cluster, "io.k8s.api.authorization", "authorization.k8s.io", "v1", "selfsubjectrulesreviews", "SelfSubjectRulesReview", "selfsubjectrulesreview")
        .hooks(review::RULES_HOOKS)
        .virtual_only()
        .served(),
    row!(Cluster, "io.k8s.api.authorization", "authorization.k8s.io", "v1", "subjectaccessreviews", "SubjectAccessReview", "subjectaccessreview")
        .hooks(review::ACCESS_HOOKS)
        .virtual_only()
        .served(),
    row!(Namespaced, "io.k8s.api.autoscaling", "autoscaling", "v2", "horizontalpodautoscalers", "HorizontalPodAutoscaler", "horizontalpodautoscaler")
        .short(&["hpa"])
        .categories(ALL)
        .parts(const { &[status("HorizontalPodAutoscaler").served()] })
        .hooks(autoscaling::AUTOSCALER_HOOKS)
        .served(),
    row!(Namespaced, "io.k8s.api.autoscaling", "autoscaling", "v1", "horizontalpodautoscalers", "HorizontalPodAutoscaler", "horizontalpodautoscaler")
        .short(&["hpa"])
        .categories(ALL)
        .parts(const { &[status("HorizontalPodAutoscaler").served()] })
        .hooks(autoscaling::AUTOSCALER_V1_HOOKS)
        .stored(autoscaling::V1_STORAGE)
        .served(),
    row!(Namespaced, "io.k8s.api.batch", "batch", "v1", "cronjobs", "CronJob", "cronjob")
        .short(&["cj"])
        .categories(ALL)
        .parts(const { &[status("CronJob").served()] })
        .hooks(batch::CRON_JOB_HOOKS)
        .served(),
    row!(Namespaced, "io.k8s.api.batch", "batch", "v1", "jobs", "Job", "job")
        .categories(ALL)
        .parts(const { &[status("Job").served()] })
        .hooks(batch::JOB_HOOKS)
        .served(),
    row!(Cluster, "io.k8s.api.certificates", "certificates.k8s.io", "v1", "certificatesigningrequests", "CertificateSigningRequest", "certificatesigningrequest")
        .short(&["csr"])
        .parts(const { &[part("approval", "CertificateSigningRequest", GET_PATCH_UPDATE).updates(csr::APPROVAL).served(), status("CertificateSigningRequest").served()] })
        .hooks(csr::HOOKS)
        .served(),
    row!(Cluster, "io.k8s.api.networking", "networking.k8s.io", "v1", "ingressclasses", "IngressClass", "ingressclass")
        .hooks(networking::INGRESS_CLASS_HOOKS)
        .served(),
    row!(Namespaced, "io.k8s.api.networking", "networking.k8s.io", "v1", "ingresses", "Ingress", "ingress")
        .short(&["ing"])
        .parts(const { &[status("Ingress").served()] })
        .hooks(networking::INGRESS_HOOKS)
        .served(),
    row!(Cluster, "io.k8s.api.networking", "networking.k8s.io", "v1", "ipaddresses", "IPAddress", "ipaddress")
        .short(&["ip"])
        .hooks(networking::IP_ADDRESS_HOOKS)
        .names(validate::addresses::ip_name)
        .served(),
    row!(Namespaced, "io.k8s.api.networking", "networking.k8s.io", "v1", "networkpolicies", "NetworkPolicy", "networkpolicy")
        .short(&["netpol"])
        .hooks(networking::NETWORK_POLICY_HOOKS)
        .served(),
    row!(Cluster, "io.k8s.api.networking", "networking.k8s.io", "v1", "servicecidrs", "ServiceCIDR", "servicecidr")
        .parts(const { &[status("ServiceCIDR").served()] })
        .hooks(networking::SERVICE_CIDR_HOOKS)
        .served(),
    row!(Namespaced, "io.k8s.api.policy", "policy", "v1", "poddisruptionbudgets", "PodDisruptionBudget", "poddisruptionbudget")
        .short(&["pdb"])
        .parts(const { &[status("PodDisruptionBudget").served()] })
        .hooks(disruption::DISRUPTION_BUDGET_HOOKS)
        .served(),
    row!(Cluster, "io.k8s.api.rbac", "rbac.authorization.k8s.io", "v1", "clusterrolebindings", "ClusterRoleBinding", "clusterrolebinding")
        .hooks(rbac::CLUSTER_ROLE_BINDING_HOOKS)
        .names(names::path_segment_rule)
        .served(),
    row!(Cluster, "io.k8s.api.rbac", "rbac.authorization.k8s.io", "v1", "clusterroles", "ClusterRole", "clusterrole")
        .hooks(rbac::CLUSTER_ROLE_HOOKS)
        .names(names::path_segment_rule)
        .served(),
    row!(Namespaced, "io.k8s.api.rbac", "rbac.authorization.k8s.io", "v1", "rolebindings", "RoleBinding", "rolebinding")
        .hooks(rbac::ROLE_BINDING_HOOKS)
        .names(names::path_segment_rule)
        .served(),
    row!(Namespaced, "io.k8s.api.rbac", "rbac.authorization.k8s.io", "v1", "roles", "Role", "role")
        .hooks(rbac::ROLE_HOOKS)
        .names(names::path_segment_rule)
        .served(),
    row!(Cluster, "io.k8s.api.storage", "storage.k8s.io", "v1", "csidrivers", "CSIDriver", "csidriver")
        .hooks(storage::CSI_DRIVER_HOOKS)
        .served(),
    row!(Cluster, "io.k8s.api.storage", "storage.k8s.io", "v1", "csinodes", "CSINode", "csinode")
        .hooks(storage::CSI_NODE_HOOKS)
        .served(),
    row!(Namespaced, "io.k8s.api.storage", "storage.k8s.io", "v1", "csistoragecapacities", "CSIStorageCapacity", "csistoragecapacity")
        .hooks(storage::CSI_CAPACITY_HOOKS)
        .served(),
    row!(Cluster, "io.k8s.api.storage", "storage.k8s.io", "v1", "storageclasses", "StorageClass", "storageclass")
        .short(&["sc"])
        .hooks(storage::CLASS_HOOKS)
        .served(),
    row!(Cluster, "io.k8s.api.storage", "storage.k8s.io", "v1", "volumeattachments", "VolumeAttachment", "volumeattachment")
        .parts(const { &[status("VolumeAttachment").served()] })
        .hooks(storage::ATTACHMENT_HOOKS)
        .served(),
    row!(Cluster, "io.k8s.api.storage", "storage.k8s.io", "v1", "volumeattributesclasses", "VolumeAttributesClass", "volumeattributesclass")
        .short(&["vac"])
        .hooks(storage::ATTRIBUTES_CLASS_HOOKS)
        .served(),
    row!(Cluster, "io.k8s.api.admissionregistration", "admissionregistration.k8s.io", "v1", "mutatingadmissionpolicies", "MutatingAdmissionPolicy", "mutatingadmissionpolicy")
        .categories(API_EXTENSIONS)
        .hooks(policies::MUTATING_POLICY_HOOKS)
        .served(),
    row!(Cluster, "io.k8s.api.admissionregistration", "admissionregistration.k8s.io", "v1", "mutatingadmissionpolicybindings", "MutatingAdmissionPolicyBinding", "mutatingadmissionpolicybinding")
        .categories(API_EXTENSIONS)
        .hooks(policies::MUTATING_BINDING_HOOKS)
        .served(),
    row!(Cluster, "io.k8s.api.admissionregistration", "admissionregistration.k8s.io", "v1", "mutatingwebhookconfigurations", "MutatingWebhookConfiguration", "mutatingwebhookconfiguration")
        .categories(API_EXTENSIONS)
        .hooks(webhooks::MUTATING_WEBHOOK_HOOKS)
        .served(),
    row!(Cluster, "io.k8s.api.admissionregistration", "admissionregistration.k8s.io", "v1", "validatingadmissionpolicies", "ValidatingAdmissionPolicy", "validatingadmissionpolicy")
        .categories(API_EXTENSIONS)
        .parts(const { &[status("ValidatingAdmissionPolicy").served()] })
        .hooks(policies::VALIDATING_POLICY_HOOKS)
        .served(),
    row!(Cluster, "io.k8s.api.admissionregistration", "admissionregistration.k8s.io", "v1", "validatingadmissionpolicybindings", "ValidatingAdmissionPolicyBinding", "validatingadmissionpolicybinding")
        .categories(API_EXTENSIONS)
        .hooks(policies::VALIDATING_BINDING_HOOKS)
        .served(),
    row!(Cluster, "io.k8s.api.admissionregistration", "admissionregistration.k8s.io", "v1", "validatingwebhookconfigurations", "ValidatingWebhookConfiguration", "validatingwebhookconfiguration")
        .categories(API_EXTENSIONS)
        .hooks(webhooks::VALIDATING_WEBHOOK_HOOKS)
        .served(),
    row!(Cluster, "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions", "apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition", "customresourcedefinition")
        .short(&["crd", "crds"])
        .categories(API_EXTENSIONS)
        .parts(const { &[status("CustomResourceDefinition").served()] })
        .hooks(extensions::DEFINITION_HOOKS)
        .served(),
    row!(Cluster, "io.k8s.api.scheduling", "scheduling.k8s.io", "v1", "priorityclasses", "PriorityClass", "priorityclass")
        .short(&["pc"])
        .hooks(plain::PRIORITY_CLASS_HOOKS)
        .served(),
    row!(Namespaced, "io.k8s.api.coordination", "coordination.k8s.io", "v1", "leases", "Lease", "lease")
        .hooks(lease::HOOKS)
        .served(),
    row!(Cluster, "io.k8s.api.node", "node.k8s.io", "v1", "runtimeclasses", "RuntimeClass", "runtimeclass")
        .hooks(runtime::RUNTIME_CLASS_HOOKS)
        .served(),
    row!(Namespaced, "io.k8s.api.discovery", "discovery.k8s.io", "v1", "endpointslices", "EndpointSlice", "endpointslice")
        .hooks(endpoints::SLICE_HOOKS)
        .served(),
    row!(Cluster, "io.k8s.api.resource", "resource.k8s.io", "v1", "deviceclasses", "DeviceClass", "deviceclass")
        .hooks(dynamic::DEVICE_CLASS_HOOKS)
        .served(),
    row!(Namespaced, "io.k8s.api.resource", "resource.k8s.io", "v1", "resourceclaims", "ResourceClaim", "resourceclaim")
        .parts(const { &[status("ResourceClaim").served()] })
        .hooks(dynamic::RESOURCE_CLAIM_HOOKS)
        .served(),
    row!(Namespaced, "io.k8s.api.resource", "resource.k8s.io", "v1", "resourceclaimtemplates", "ResourceClaimTemplate", "resourceclaimtemplate")
        .hooks(dynamic::CLAIM_TEMPLATE_HOOKS)
        .served(),
    row!(Cluster, "io.k8s.api.resource", "resource.k8s.io", "v1", "resourceslices", "ResourceSlice", "resourceslice")
        .hooks(dynamic::RESOURCE_SLICE_HOOKS)
        .served(),
    row!(Cluster, "io.k8s.api.flowcontrol", "flowcontrol.apiserver.k8s.io", "v1", "flowschemas", "FlowSchema", "flowschema")
        .parts(const { &[status("FlowSchema").served()] })
        .hooks(flow::FLOW_SCHEMA_HOOKS)
        .served(),
    row!(Cluster, "io.k8s.api.flowcontrol", "flowcontrol.apiserver.k8s.io", "v1", "prioritylevelconfigurations", "PriorityLevelConfiguration", "prioritylevelconfiguration")
        .parts(const { &[status("PriorityLevelConfiguration").served()] })
        .hooks(flow::PRIORITY_LEVEL_HOOKS)
        .served(),
];
