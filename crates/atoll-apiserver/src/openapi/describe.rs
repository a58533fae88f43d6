//! Descriptions of types and fields, from k8s-openapi's own schemas.

use atoll_api::kinds::Row;
use k8s_openapi::api;
use k8s_openapi::api::admissionregistration::v1 as admission;
use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;
use schemars::SchemaGenerator;
use serde_json::{Map, Value};

type Describe = fn(&mut SchemaGenerator);

macro_rules! described {
    ($($name:literal => $type:ty),* $(,)?) => {
        /// By the name of the definition.
        static DESCRIBED: &[(&str, Describe)] =
            &[$(($name, |generator| { generator.subschema_for::<$type>(); })),*];
    };
}

described! {
    "io.k8s.api.core.v1.Binding" => api::core::v1::Binding,
    "io.k8s.api.core.v1.ConfigMap" => api::core::v1::ConfigMap,
    "io.k8s.api.core.v1.Endpoints" => api::core::v1::Endpoints,
    "io.k8s.api.core.v1.Event" => api::core::v1::Event,
    "io.k8s.api.core.v1.LimitRange" => api::core::v1::LimitRange,
    "io.k8s.api.core.v1.Namespace" => api::core::v1::Namespace,
    "io.k8s.api.core.v1.Node" => api::core::v1::Node,
    "io.k8s.api.core.v1.PersistentVolume" => api::core::v1::PersistentVolume,
    "io.k8s.api.core.v1.PersistentVolumeClaim" => api::core::v1::PersistentVolumeClaim,
    "io.k8s.api.core.v1.Pod" => api::core::v1::Pod,
    "io.k8s.api.core.v1.PodTemplate" => api::core::v1::PodTemplate,
    "io.k8s.api.core.v1.ReplicationController" => api::core::v1::ReplicationController,
    "io.k8s.api.core.v1.ResourceQuota" => api::core::v1::ResourceQuota,
    "io.k8s.api.core.v1.Secret" => api::core::v1::Secret,
    "io.k8s.api.core.v1.Service" => api::core::v1::Service,
    "io.k8s.api.core.v1.ServiceAccount" => api::core::v1::ServiceAccount,
    "io.k8s.api.apps.v1.ControllerRevision" => api::apps::v1::ControllerRevision,
    "io.k8s.api.apps.v1.DaemonSet" => api::apps::v1::DaemonSet,
    "io.k8s.api.apps.v1.Deployment" => api::apps::v1::Deployment,
    "io.k8s.api.apps.v1.ReplicaSet" => api::apps::v1::ReplicaSet,
    "io.k8s.api.apps.v1.StatefulSet" => api::apps::v1::StatefulSet,
    "io.k8s.api.events.v1.Event" => api::events::v1::Event,
    "io.k8s.api.authentication.v1.SelfSubjectReview" => api::authentication::v1::SelfSubjectReview,
    "io.k8s.api.authentication.v1.TokenReview" => api::authentication::v1::TokenReview,
    "io.k8s.api.authorization.v1.LocalSubjectAccessReview" =>
        api::authorization::v1::LocalSubjectAccessReview,
    "io.k8s.api.authorization.v1.SelfSubjectAccessReview" =>
        api::authorization::v1::SelfSubjectAccessReview,
    "io.k8s.api.authorization.v1.SelfSubjectRulesReview" =>
        api::authorization::v1::SelfSubjectRulesReview,
    "io.k8s.api.authorization.v1.SubjectAccessReview" =>
        api::authorization::v1::SubjectAccessReview,
    "io.k8s.api.batch.v1.CronJob" => api::batch::v1::CronJob,
    "io.k8s.api.batch.v1.Job" => api::batch::v1::Job,
    "io.k8s.api.certificates.v1.CertificateSigningRequest" =>
        api::certificates::v1::CertificateSigningRequest,
    "io.k8s.api.policy.v1.PodDisruptionBudget" => api::policy::v1::PodDisruptionBudget,
    "io.k8s.api.rbac.v1.ClusterRole" => api::rbac::v1::ClusterRole,
    "io.k8s.api.rbac.v1.ClusterRoleBinding" => api::rbac::v1::ClusterRoleBinding,
    "io.k8s.api.rbac.v1.Role" => api::rbac::v1::Role,
    "io.k8s.api.rbac.v1.RoleBinding" => api::rbac::v1::RoleBinding,
    "io.k8s.api.scheduling.v1.PriorityClass" => api::scheduling::v1::PriorityClass,
    "io.k8s.api.coordination.v1.Lease" => api::coordination::v1::Lease,
    "io.k8s.api.discovery.v1.EndpointSlice" => api::discovery::v1::EndpointSlice,
    "io.k8s.api.core.v1.ComponentStatus" => api::core::v1::ComponentStatus,
    "io.k8s.api.autoscaling.v1.HorizontalPodAutoscaler" =>
        api::autoscaling::v1::HorizontalPodAutoscaler,
    "io.k8s.api.autoscaling.v2.HorizontalPodAutoscaler" =>
        api::autoscaling::v2::HorizontalPodAutoscaler,
    "io.k8s.api.networking.v1.IngressClass" => api::networking::v1::IngressClass,
    "io.k8s.api.networking.v1.Ingress" => api::networking::v1::Ingress,
    "io.k8s.api.networking.v1.IPAddress" => api::networking::v1::IPAddress,
    "io.k8s.api.networking.v1.NetworkPolicy" => api::networking::v1::NetworkPolicy,
    "io.k8s.api.networking.v1.ServiceCIDR" => api::networking::v1::ServiceCIDR,
    "io.k8s.api.node.v1.RuntimeClass" => api::node::v1::RuntimeClass,
    "io.k8s.api.storage.v1.CSIDriver" => api::storage::v1::CSIDriver,
    "io.k8s.api.storage.v1.CSINode" => api::storage::v1::CSINode,
    "io.k8s.api.storage.v1.CSIStorageCapacity" => api::storage::v1::CSIStorageCapacity,
    "io.k8s.api.storage.v1.StorageClass" => api::storage::v1::StorageClass,
    "io.k8s.api.storage.v1.VolumeAttachment" => api::storage::v1::VolumeAttachment,
    "io.k8s.api.storage.v1.VolumeAttributesClass" => api::storage::v1::VolumeAttributesClass,
    "io.k8s.api.admissionregistration.v1.MutatingAdmissionPolicy" =>
        admission::MutatingAdmissionPolicy,
    "io.k8s.api.admissionregistration.v1.MutatingAdmissionPolicyBinding" =>
        admission::MutatingAdmissionPolicyBinding,
    "io.k8s.api.admissionregistration.v1.MutatingWebhookConfiguration" =>
        admission::MutatingWebhookConfiguration,
    "io.k8s.api.admissionregistration.v1.ValidatingAdmissionPolicy" =>
        admission::ValidatingAdmissionPolicy,
    "io.k8s.api.admissionregistration.v1.ValidatingAdmissionPolicyBinding" =>
        admission::ValidatingAdmissionPolicyBinding,
    "io.k8s.api.admissionregistration.v1.ValidatingWebhookConfiguration" =>
        admission::ValidatingWebhookConfiguration,
    "io.k8s.api.resource.v1.DeviceClass" => api::resource::v1::DeviceClass,
    "io.k8s.api.resource.v1.ResourceClaim" => api::resource::v1::ResourceClaim,
    "io.k8s.api.resource.v1.ResourceClaimTemplate" => api::resource::v1::ResourceClaimTemplate,
    "io.k8s.api.resource.v1.ResourceSlice" => api::resource::v1::ResourceSlice,
    "io.k8s.api.flowcontrol.v1.FlowSchema" => api::flowcontrol::v1::FlowSchema,
    "io.k8s.api.flowcontrol.v1.PriorityLevelConfiguration" =>
        api::flowcontrol::v1::PriorityLevelConfiguration,
    "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.CustomResourceDefinition" =>
        k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
    "io.k8s.kube-aggregator.pkg.apis.apiregistration.v1.APIService" =>
        k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::APIService,
}

/// Schemas with descriptions of all that the rows reach, by definition.
pub(super) fn of_rows(rows: &[Row]) -> Map<String, Value> {
    let mut generator = SchemaGenerator::default();
    generator.subschema_for::<meta::DeleteOptions>();
    generator.subschema_for::<meta::Status>();
    generator.subschema_for::<api::autoscaling::v1::Scale>();
    generator.subschema_for::<api::policy::v1::Eviction>();
    generator.subschema_for::<api::authentication::v1::TokenRequest>();
    for row in rows {
        let known = DESCRIBED.iter().find(|(name, _)| row.definition == *name);
        if let Some((_, describe)) = known {
            describe(&mut generator);
        }
    }
    generator.take_definitions(false)
}
