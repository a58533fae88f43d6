//! Admission: the built-in plugins that complete or refuse a write after authorization.
//!
//! [`PLUGINS`] is the ordered list. Mutating hooks run first, all of them, then the
//! validating ones on the final object.

mod answering;
mod certificates;
mod escalation;
mod limit_range;
pub(crate) mod matching;
mod nodes;
pub(crate) mod notes;
mod pod_resize;
mod pod_security;
mod pods;
pub(crate) mod policies;
pub(crate) mod quota;
pub(crate) mod reinvocation;
mod runtime_class;
mod storage;
#[doc(hidden)]
pub mod webhooks;

use atoll_api::kinds::ResourceInfo;
use futures::future::BoxFuture;
use serde_json::Value;

use self::notes::Notes;
use self::reinvocation::Reinvocation;
use crate::core::Core;
use crate::namespace;
use crate::status::Status;
use crate::user::UserInfo;

/// What a write does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    Create,
    Update,
    Delete,
    /// exec, attach, portforward and proxy.
    Connect,
}

/// One write as admission sees it.
#[derive(Debug, Clone, Copy)]
pub struct AdmissionRequest<'a> {
    pub user: &'a UserInfo,
    pub operation: Operation,
    pub row: &'a ResourceInfo,
    /// Empty for the object itself.
    pub subresource: &'a str,
    pub namespace: &'a str,
    /// Empty while a generated name is not known yet.
    pub name: &'a str,
    /// The object as it stands in the store, on update and delete.
    pub old: Option<&'a Value>,
    pub dry_run: bool,
    /// CreateOptions, UpdateOptions or DeleteOptions; null for a connection.
    pub(crate) options: &'a Value,
    /// Warnings go out with the answer, whatever it is.
    pub(crate) notes: &'a Notes,
    /// Set while mutating hooks run.
    pub(crate) reinvocation: Option<&'a Reinvocation>,
}

impl Operation {
    /// As rules of policies and webhooks name it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Create => "CREATE",
            Self::Update => "UPDATE",
            Self::Delete => "DELETE",
            Self::Connect => "CONNECT",
        }
    }
}

/// May change the object, may refuse. On a delete the object is the stored one and changes
/// to it are lost.
pub type Mutate = for<'a> fn(
    &'a Core,
    &'a AdmissionRequest<'a>,
    &'a mut Value,
) -> BoxFuture<'a, Result<(), Status>>;

/// Sees the final object, may refuse.
pub type Validate =
    for<'a> fn(&'a Core, &'a AdmissionRequest<'a>, &'a Value) -> BoxFuture<'a, Result<(), Status>>;

/// One built-in plugin, by upstream's name.
pub struct Plugin {
    pub name: &'static str,
    pub mutate: Option<Mutate>,
    pub validate: Option<Validate>,
}

/// The built-in plugins in the order in which they run.
pub static PLUGINS: &[Plugin] = &[
    mutating("NamespaceLifecycle", namespace::lifecycle),
    Plugin {
        name: "LimitRanger",
        mutate: Some(limit_range::complete),
        validate: Some(limit_range::check),
    },
    mutating("ServiceAccount", pods::service_account),
    mutating("NodeRestriction", nodes::restrict),
    mutating("TaintNodesByCondition", nodes::taint_new),
    mutating("Priority", pods::priority),
    mutating("DefaultTolerationSeconds", pods::default_tolerations),
    Plugin {
        name: "RuntimeClass",
        mutate: Some(runtime_class::complete),
        validate: Some(runtime_class::check),
    },
    mutating("DefaultStorageClass", storage::default_class),
    mutating("StorageObjectInUseProtection", storage::protect),
    mutating("PersistentVolumePhaseTime", storage::phase_time),
    validating("PersistentVolumeClaimResize", storage::resize),
    validating("PodResizeValidator", pod_resize::check),
    // Part of NodeRestriction.
    validating("NodeVolumes", storage::hold),
    // Upstream does this in the kind's own strategy, which sees the user there.
    mutating("CertificateRequester", certificates::requester),
    mutating("CertificateConditions", certificates::times),
    validating("CertificateApprovalAndSigning", certificates::signers),
    validating("CertificateSubjectRestriction", certificates::subject),
    // Upstream does this in the storage of the kinds of RBAC.
    validating("RbacEscalation", escalation::check),
    mutating("MutatingAdmissionPolicy", policies::mutate),
    mutating("MutatingAdmissionWebhook", webhooks::mutate),
    validating("PodSecurity", pod_security::check),
    validating("ValidatingAdmissionPolicy", policies::validate),
    validating("ValidatingAdmissionWebhook", webhooks::validate),
];

const fn mutating(name: &'static str, mutate: Mutate) -> Plugin {
    Plugin { name, mutate: Some(mutate), validate: None }
}

const fn validating(name: &'static str, validate: Validate) -> Plugin {
    Plugin { name, mutate: None, validate: Some(validate) }
}

/// Runs the mutating hooks, all of them a second time when one asks for it.
pub async fn admit(
    core: &Core,
    request: &AdmissionRequest<'_>,
    object: &mut Value,
) -> Result<(), Status> {
    let reinvocation = Reinvocation::default();
    let request = AdmissionRequest { reinvocation: Some(&reinvocation), ..*request };
    loop {
        for plugin in PLUGINS {
            if let Some(mutate) = plugin.mutate {
                mutate(core, &request, object).await?;
            }
        }
        if !reinvocation.begin_again() {
            return Ok(());
        }
    }
}

/// Runs the validating hooks.
pub async fn validate(
    core: &Core,
    request: &AdmissionRequest<'_>,
    object: &Value,
) -> Result<(), Status> {
    for plugin in PLUGINS {
        if let Some(validate) = plugin.validate {
            validate(core, request, object).await?;
        }
    }
    Ok(())
}
