//! The controllers: each makes one kind of object true, by the Kubernetes API alone.
//!
//! [`start`] runs them all on shared informers. None polls: each works from what watches
//! report, and would run on any Kubernetes.

mod claim;
mod cronjob;
mod daemon;
mod deployment;
mod disruption;
pub mod election;
mod endpoints;
mod error;
mod expect;
mod failures;
mod gc;
mod history;
mod job;
mod launch;
mod mirror;
mod namespace;
mod node;
mod pod_control;
mod pods;
mod quota;
mod replicaset;
mod replication;
mod selector;
mod service_account;
mod service_cidrs;
mod shared;
mod signer;
mod stateful;
mod token_secrets;
mod volumes;
mod written;

pub use shared::ClientFor;
pub use signer::Signers;
pub use token_secrets::{SecretToken, SignToken};

use gc::Collector;
use shared::Shared;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// What the controllers need to know of the cluster.
#[derive(Clone)]
pub struct Config {
    /// A client for each controller, by the name of its ServiceAccount in kube-system.
    pub clients: ClientFor,
    /// The authority of the API's serving certificates, published to every namespace.
    pub root_ca_pem: String,
    /// `None` leaves certificate signing requests to others.
    pub signers: Option<Signers>,
    /// `None` leaves Secrets of type `kubernetes.io/service-account-token` to others.
    pub sign_token: Option<SignToken>,
}

/// Starts every controller on `tasks`; all end when `stop` is cancelled.
pub fn start(config: &Config, tasks: &TaskTracker, stop: &CancellationToken) {
    let Config { clients, root_ca_pem, signers, sign_token } = config;
    let shared = Shared::new();
    let collector = Collector::new(clients, tasks, stop);
    deployment::start(clients, &shared, tasks, stop);
    replicaset::start(clients, &shared, tasks, stop);
    replication::start(clients, &shared, tasks, stop);
    stateful::start(clients, &shared, tasks, stop);
    daemon::start(clients, &shared, tasks, stop);
    endpoints::start(clients, &shared, tasks, stop);
    mirror::start(clients, &shared, tasks, stop);
    job::start(clients, &shared, tasks, stop);
    cronjob::start(clients, &shared, tasks, stop);
    disruption::start(clients, &shared, tasks, stop);
    service_account::start(clients, &shared, root_ca_pem, tasks, stop);
    service_cidrs::start(clients, &shared, tasks, stop);
    namespace::start(clients, &shared, &collector, tasks, stop);
    node::start(clients, &shared, tasks, stop);
    volumes::start(clients, &shared, tasks, stop);
    quota::start(clients, &shared, &collector, tasks, stop);
    if let Some(signers) = signers {
        signer::start(clients, signers, &shared, tasks, stop);
    }
    if let Some(sign) = sign_token {
        token_secrets::start(clients, sign, root_ca_pem, &shared, tasks, stop);
    }
    collector.start(tasks, stop);
    // The informers act as the manager, which may read every kind.
    shared.run(&clients(shared::MANAGER), tasks, stop);
}
