//! Approves what nodes ask for themselves, and signs what has been approved.
//!
//! What a signer may sign is `atoll-identity`'s to say; who may have it without asking a
//! person is decided here: a node, for its own name and addresses.

mod keep;

use crate::{
    error::{Error, failed, gone_is_fine},
    launch::launch,
    shared::{ClientFor, MANAGER, Shared},
};
use atoll_identity::{
    Authority, KUBE_APISERVER_CLIENT_SIGNER, KUBELET_CLIENT_SIGNER, KUBELET_SERVING_SIGNER,
    SignerRequest, SigningRequest, sign,
};
use atoll_informer::{Change, Informer, Key, Outcome, WorkQueue};
use jiff::Timestamp;
use k8s_openapi::{
    ByteString,
    api::{
        certificates::v1::{
            CertificateSigningRequest, CertificateSigningRequestCondition,
            CertificateSigningRequestStatus,
        },
        core::v1::Node,
    },
    apimachinery::pkg::apis::meta::v1::Time,
};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, PostParams, Preconditions},
    runtime::watcher,
};
use std::sync::Arc;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::info;

/// The authorities whose keys this server holds.
#[derive(Clone)]
pub struct Signers {
    pub client: Arc<Authority>,
    pub kubelet: Arc<Authority>,
}

struct Controller {
    approver: Client,
    signer: Client,
    signers: Signers,
    requests: Arc<Informer<CertificateSigningRequest>>,
    shared: Arc<Shared>,
}

pub(crate) fn start(
    clients: &ClientFor,
    signers: &Signers,
    shared: &Arc<Shared>,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) {
    let queue: Arc<WorkQueue<Key>> = WorkQueue::new();
    let requests: Arc<Informer<CertificateSigningRequest>> = Informer::new();
    let controller = Arc::new(Controller {
        approver: clients("certificate-controller"),
        signer: clients("certificate-controller"),
        signers: signers.clone(),
        requests: requests.clone(),
        shared: shared.clone(),
    });
    let changed = queue.clone();
    requests.on_change(move |change: &Change<'_, CertificateSigningRequest>| {
        if let Some(request) = change.new {
            changed.add(Key::of(request.as_ref()));
        }
    });
    let api = Api::all(clients(MANAGER));
    tasks.spawn(requests.run(api, watcher::Config::default(), stop.clone()));
    launch("signer", 2, &queue, shared, tasks, stop, move |key| {
        let controller = controller.clone();
        async move { controller.reconcile(&key).await }
    });
}

/// Where a request stands.
#[derive(Debug, PartialEq, Eq)]
enum Stage {
    Pending,
    Approved,
    /// Denied, failed or signed: nothing more to do.
    Settled,
}

fn stage(request: &CertificateSigningRequest) -> Stage {
    let status = request.status.as_ref();
    let has = |kind: &str| {
        status.is_some_and(|status| {
            status.conditions.iter().flatten().any(|condition| condition.type_ == kind)
        })
    };
    let signed = status.is_some_and(|status| status.certificate.is_some());
    if signed || has("Denied") || has("Failed") {
        Stage::Settled
    } else if has("Approved") {
        Stage::Approved
    } else {
        Stage::Pending
    }
}

/// Whether a node asks for itself. `node` is the object of the name that asks, if any.
fn is_own_request(
    spec: &k8s_openapi::api::certificates::v1::CertificateSigningRequestSpec,
    parsed: &SigningRequest,
    node: Option<&Node>,
) -> bool {
    let user = spec.username.as_deref().unwrap_or_default();
    let is_node = user.starts_with(atoll_identity::NODE_USER_PREFIX)
        && spec.groups.iter().flatten().any(|group| group == atoll_identity::NODES_GROUP);
    if !is_node || parsed.common_name != user {
        return false;
    }
    if spec.signer_name == KUBELET_CLIENT_SIGNER {
        return true;
    }
    // A serving certificate is for the names that the node is known by, and no other's.
    let addresses = node.and_then(|node| node.status.as_ref()?.addresses.as_ref());
    let known =
        |wanted: &str| addresses.into_iter().flatten().any(|address| address.address == wanted);
    parsed.ips.iter().all(|ip| known(&ip.to_string())) && parsed.dns.iter().all(|name| known(name))
}

impl Controller {
    async fn reconcile(&self, key: &Key) -> Result<Outcome, Error> {
        let Some(request) = self.requests.get(key) else { return Ok(Outcome::Done) };
        let left = keep::kept_for(&request, Timestamp::now());
        if left.is_zero() {
            return self.remove(&request).await;
        }
        self.answer(&request).await?;
        Ok(Outcome::After(left))
    }

    async fn answer(&self, request: &CertificateSigningRequest) -> Result<(), Error> {
        let ours = [KUBELET_CLIENT_SIGNER, KUBELET_SERVING_SIGNER, KUBE_APISERVER_CLIENT_SIGNER];
        if !ours.contains(&request.spec.signer_name.as_str()) || stage(request) == Stage::Settled {
            return Ok(());
        }
        let text = String::from_utf8_lossy(&request.spec.request.0).into_owned();
        let parsed = SigningRequest::from_pem(&text);
        match (stage(request), parsed) {
            (Stage::Pending, Ok(parsed)) => self.approve(request, &parsed).await,
            (Stage::Approved, Ok(parsed)) => self.sign(request, &parsed).await,
            (Stage::Approved, Err(error)) => self.fail(request, &error.to_string()).await,
            _ => Ok(()),
        }
    }

    async fn remove(&self, request: &CertificateSigningRequest) -> Result<Outcome, Error> {
        let api: Api<CertificateSigningRequest> = Api::all(self.signer.clone());
        let preconditions =
            Preconditions { uid: request.uid(), resource_version: request.resource_version() };
        let params = DeleteParams::default().preconditions(preconditions);
        let name = request.name_any();
        let deleted = gone_is_fine(api.delete(&name, &params).await);
        deleted.map_err(failed("removing", "certificatesigningrequest", name))?;
        Ok(Outcome::Done)
    }

    async fn approve(
        &self,
        request: &CertificateSigningRequest,
        parsed: &SigningRequest,
    ) -> Result<(), Error> {
        let spec = &request.spec;
        if spec.signer_name == KUBE_APISERVER_CLIENT_SIGNER {
            return Ok(());
        }
        let user = spec.username.as_deref().unwrap_or_default();
        let name = user.strip_prefix(atoll_identity::NODE_USER_PREFIX).unwrap_or_default();
        let node = self.shared.nodes.get(&Key::new("", name));
        if !is_own_request(spec, parsed, node.as_deref()) {
            return Ok(());
        }
        let message = "Auto approving a node's request for a certificate of its own.";
        let wanted = with_condition(request, "Approved", "AutoApproved", message);
        let api: Api<CertificateSigningRequest> = Api::all(self.approver.clone());
        let name = request.name_any();
        let written: Result<CertificateSigningRequest, _> =
            api.replace_subresource("approval", &name, &PostParams::default(), &wanted).await;
        written.map_err(failed("approving", "certificatesigningrequest", name))?;
        Ok(())
    }

    async fn sign(
        &self,
        request: &CertificateSigningRequest,
        parsed: &SigningRequest,
    ) -> Result<(), Error> {
        let spec = &request.spec;
        let authority = if spec.signer_name == KUBELET_SERVING_SIGNER {
            &self.signers.kubelet
        } else {
            &self.signers.client
        };
        let asked = SignerRequest {
            signer: &spec.signer_name,
            username: spec.username.as_deref().unwrap_or_default(),
            groups: spec.groups.as_deref().unwrap_or_default(),
            usages: spec.usages.as_deref().unwrap_or_default(),
            expiration_seconds: spec.expiration_seconds.map(i64::from),
            request: parsed,
        };
        match sign(authority, &asked, Timestamp::now()) {
            Ok(issued) => {
                let mut wanted = request.clone();
                let status = wanted.status.get_or_insert_default();
                status.certificate = Some(ByteString(issued.certificate_pem.into_bytes()));
                info!(request = %request.name_any(), signer = %spec.signer_name, "signed");
                self.write_status(&wanted).await
            }
            Err(error) => self.fail(request, &error.to_string()).await,
        }
    }

    async fn fail(&self, request: &CertificateSigningRequest, why: &str) -> Result<(), Error> {
        self.write_status(&with_condition(request, "Failed", "SignerValidationFailure", why)).await
    }

    async fn write_status(&self, wanted: &CertificateSigningRequest) -> Result<(), Error> {
        let api: Api<CertificateSigningRequest> = Api::all(self.signer.clone());
        let name = wanted.name_any();
        let written = api.replace_status(&name, &PostParams::default(), wanted).await;
        written.map_err(failed("signing", "certificatesigningrequest", name))?;
        Ok(())
    }
}

fn with_condition(
    request: &CertificateSigningRequest,
    kind: &str,
    reason: &str,
    message: &str,
) -> CertificateSigningRequest {
    let now = Time(Timestamp::now());
    let mut wanted = request.clone();
    let status: &mut CertificateSigningRequestStatus = wanted.status.get_or_insert_default();
    status.conditions.get_or_insert_default().push(CertificateSigningRequestCondition {
        type_: kind.into(),
        status: "True".into(),
        reason: Some(reason.into()),
        message: Some(message.into()),
        last_update_time: Some(now.clone()),
        last_transition_time: Some(now),
    });
    wanted
}

#[cfg(test)]
mod tests {
    use super::*;
    use atoll_identity::{new_request, node_client_leaf, node_serving_leaf};
    use serde_json::json;

    fn spec(
        signer: &str,
        user: &str,
        pem: &str,
    ) -> k8s_openapi::api::certificates::v1::CertificateSigningRequestSpec {
        k8s_openapi::api::certificates::v1::CertificateSigningRequestSpec {
            signer_name: signer.into(),
            username: Some(user.into()),
            groups: Some(vec!["system:nodes".into()]),
            request: ByteString(pem.as_bytes().to_vec()),
            ..Default::default()
        }
    }

    #[test]
    fn a_node_may_renew_its_own_name_only() {
        let (pem, _key) = new_request(&node_client_leaf("a")).unwrap();
        let parsed = SigningRequest::from_pem(&pem).unwrap();
        let own = spec(KUBELET_CLIENT_SIGNER, "system:node:a", &pem);
        assert!(is_own_request(&own, &parsed, None));
        let other = spec(KUBELET_CLIENT_SIGNER, "system:node:b", &pem);
        assert!(!is_own_request(&other, &parsed, None));
    }

    #[test]
    fn a_serving_certificate_is_for_known_addresses_only() {
        let (pem, _key) =
            new_request(&node_serving_leaf("a", &["a"], &["10.41.0.1".parse().unwrap()])).unwrap();
        let parsed = SigningRequest::from_pem(&pem).unwrap();
        let request = spec(KUBELET_SERVING_SIGNER, "system:node:a", &pem);
        let node = |address: &str| -> Node {
            serde_json::from_value(json!({ "status": { "addresses": [
                { "type": "InternalIP", "address": address }, { "type": "Hostname", "address": "a" },
            ] } }))
            .unwrap()
        };
        assert!(is_own_request(&request, &parsed, Some(&node("10.41.0.1"))));
        assert!(!is_own_request(&request, &parsed, Some(&node("10.41.0.2"))));
        assert!(!is_own_request(&request, &parsed, None));
    }
}
