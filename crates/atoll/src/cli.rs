//! What can be typed: one table of commands and flags, from which help and completions
//! are generated.

use crate::{
    agent, backup, check, client, config, dev, dns, etcd, image, member, secrets, server, token,
    why,
};
use clap::{Parser, Subcommand, ValueEnum};
use std::path::PathBuf;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    Json,
    Yaml,
}

/// A distributed application platform in one program: a Kubernetes API, a replicated
/// store, and nodes that run containers.
#[derive(Debug, Parser)]
#[command(name = "atoll", version, max_term_width = 100, propagate_version = true)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
    #[command(flatten)]
    pub target: Target,
    /// Log more: debug for everything, or a filter such as atoll_node=debug
    #[arg(long, global = true, value_name = "FILTER", env = "ATOLL_LOG", hide_env_values = true)]
    pub log: Option<String>,
}

/// Which cluster and namespace a command is for.
#[derive(Debug, clap::Args)]
pub struct Target {
    /// The kubeconfig to use; otherwise $KUBECONFIG, ~/.kube/config, or the dev cluster's
    #[arg(long, global = true, value_name = "FILE", help_heading = "Cluster")]
    pub kubeconfig: Option<PathBuf>,
    /// The context of the kubeconfig
    #[arg(long, global = true, value_name = "NAME", help_heading = "Cluster")]
    pub context: Option<String>,
    /// The namespace
    #[arg(short, long, global = true, value_name = "NAME", help_heading = "Cluster")]
    pub namespace: Option<String>,
}

#[derive(Debug, Subcommand)]
#[allow(clippy::large_enum_variant, reason = "there is one, for as long as it is parsed")]
pub enum Command {
    /// A cluster on this machine, in the foreground
    Dev(dev::Dev),
    /// A server: store, API, controllers, scheduler
    Server(server::Server),
    /// A node without the store
    Agent(agent::Agent),
    /// The cluster's DNS on a node, from what the node's agent writes; the agent starts it
    Dns(dns::Dns),
    /// Join tokens for new nodes and servers
    Token(token::Token),
    Backup(backup::Backup),
    Restore(backup::Restore),
    /// The applications' keyspace, which the etcd v3 API serves
    Etcd(etcd::Etcd),
    /// The servers of the cluster: list them, take one out, let one lead
    Member(member::Members),
    /// The key that Secrets are sealed with in the store: show how it stands, take a new one
    Secrets(secrets::Secrets),
    /// Is everything well, and what to do if not
    Check(check::Check),
    /// Print the settings in effect, and where each came from
    Config(config::Show),
    /// Images on this node or on the nodes of a dev cluster
    Image(image::Image),
    /// Show objects
    Get(client::get::Get),
    /// Make the cluster hold what files say
    Apply(client::apply::Apply),
    /// Delete objects
    Delete(client::delete::Delete),
    /// Show what a pod's containers wrote
    Logs(client::logs::Logs),
    /// Run a command in a container
    Exec(client::exec::Exec),
    /// Change the number of replicas
    Scale(client::scale::Scale),
    /// Follow and steer rollouts
    Rollout(client::rollout::Rollout),
    /// Show what happened lately
    Events(client::events::Events),
    /// Say in a sentence why an object is not well
    Why(why::Why),
    /// Break a dev cluster on purpose
    Chaos(dev::chaos::Chaos),
    /// Print a completion script for a shell
    Completions {
        shell: clap_complete::Shell,
    },
}
