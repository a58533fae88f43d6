//! Starts controllers and scheduler as clients of this server's own API.

use anyhow::Result;
use atoll_apiserver::{
    server::ApiServer,
    trust::{Trust, component},
};
use kube::Client;
use std::sync::Arc;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub fn start(
    api: &ApiServer,
    trust: &Arc<Trust>,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) -> Result<()> {
    let signers =
        atoll_controllers::Signers { client: trust.client.clone(), kubelet: trust.kubelet.clone() };
    let service = api.clone();
    // Each controller is a user of its own; the informers they share act as the manager.
    let clients: atoll_controllers::ClientFor =
        Arc::new(move |name: &str| Client::new(service.local_service(component(name)), "default"));
    let config = atoll_controllers::Config {
        clients: clients.clone(),
        root_ca_pem: trust.serving.certificate_pem().to_owned(),
        signers: Some(signers),
    };
    atoll_controllers::start(&config, tasks, stop);
    let client = clients("kube-scheduler");
    atoll_scheduler::start(&atoll_scheduler::Config { client }, tasks, stop);
    Ok(())
}
