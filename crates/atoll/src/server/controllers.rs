//! Runs controllers and scheduler, as clients of this server's own API, while this server holds
//! their Leases.

use atoll_apiserver::{
    server::ApiServer,
    tokens::secret::SecretClaims,
    trust::{Trust, component},
};
use atoll_controllers::election::{Candidate, Surroundings};
use kube::Client;
use std::sync::Arc;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

const MANAGER: &str = "kube-controller-manager";
const SCHEDULER: &str = "kube-scheduler";

/// They run on `tasks` until `stop`.
pub fn start(
    api: &ApiServer,
    trust: &Arc<Trust>,
    name: &str,
    surroundings: &Surroundings,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) {
    let service = api.clone();
    // Each controller is a user of its own; the informers they share act as the manager.
    let clients: atoll_controllers::ClientFor =
        Arc::new(move |name: &str| Client::new(service.local_service(component(name)), "default"));
    let identity = format!("{name}_{:032x}", rand::random::<u128>());
    let candidate = |lease: &'static str| Candidate {
        client: clients(lease),
        lease,
        identity: identity.clone(),
        surroundings: surroundings.clone(),
    };
    let (manager, scheduler) = (candidate(MANAGER), candidate(SCHEDULER));
    let config = atoll_controllers::Config {
        clients: clients.clone(),
        root_ca_pem: trust.serving.certificate_pem().to_owned(),
        signers: Some(atoll_controllers::Signers {
            client: trust.client.clone(),
            kubelet: trust.kubelet.clone(),
        }),
        sign_token: Some(sign_token(trust)),
    };
    tasks.spawn(manager.run(stop.clone(), move |tasks, stop| {
        atoll_controllers::start(&config, tasks, stop);
    }));
    tasks.spawn(scheduler.run(stop.clone(), move |tasks, stop| {
        let config = atoll_scheduler::Config { client: clients(SCHEDULER) };
        atoll_scheduler::start(&config, tasks, stop);
    }));
}

/// Signs tokens for Secrets with the key of this cluster's accounts.
fn sign_token(trust: &Arc<Trust>) -> atoll_controllers::SignToken {
    let trust = trust.clone();
    Arc::new(move |token| {
        let atoll_controllers::SecretToken { namespace, secret, account, account_uid } = token;
        let claims = SecretClaims::new(namespace, secret, account, account_uid);
        trust.tokens.sign_secret(&claims).map_err(|error| error.to_string())
    })
}
