//! The `atoll` program: one binary, several parts.
//!
//! `shim` and `hello` branch off before anything else exists, since there are many of them
//! and each byte they touch counts.

#![allow(unreachable_pub, reason = "a program exports nothing")]

mod agent;
mod backup;
mod check;
mod cli;
mod client;
mod config;
mod confinement;
mod dev;
mod dns;
mod etcd;
mod handoff;
mod hello;
mod image;
mod keys;
mod listen;
mod member;
mod memory;
mod pinned;
mod process;
mod registries;
mod secrets;
mod server;
mod token;
mod why;

use anyhow::{Context as _, Result};
use clap::{CommandFactory as _, Parser as _};
use cli::{Cli, Command, Target};
use client::connect::{Sources, connect_merged};
use futures::TryFutureExt as _;
use std::{ffi::OsString, path::PathBuf, process::ExitCode};
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os();
    if arguments.next().is_some_and(|program| program == atoll_container::PAUSE_PROGRAM) {
        return ExitCode::from(u8::try_from(atoll_container::pause_main()).unwrap_or(1));
    }
    match arguments.next().as_deref().and_then(|first| first.to_str()) {
        Some("shim") => {
            let code = atoll_container::shim_main(arguments.collect::<Vec<OsString>>());
            ExitCode::from(u8::try_from(code).unwrap_or(1))
        }
        Some("hello") => {
            finish(hello::run(&hello::Environment(environment())).map(|()| ExitCode::SUCCESS))
        }
        _ => finish(run(Cli::parse())),
    }
}

#[allow(clippy::disallowed_methods, reason = "the binary alone reads the environment")]
fn environment() -> std::collections::BTreeMap<String, String> {
    std::env::vars().collect()
}

#[allow(clippy::disallowed_methods, reason = "the binary alone reads the environment")]
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

#[allow(clippy::print_stderr, reason = "a command-line tool says on stderr what went wrong")]
fn finish(result: Result<ExitCode>) -> ExitCode {
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("{}", sentence(&error));
            ExitCode::FAILURE
        }
    }
}

/// The API's refusals read as kubectl prints them; everything else as a chain of causes.
fn sentence(error: &anyhow::Error) -> String {
    for cause in error.chain() {
        if let Some(kube::Error::Api(status)) = cause.downcast_ref::<kube::Error>() {
            let reason = if status.reason.is_empty() { "Unknown" } else { &status.reason };
            return format!("Error from server ({reason}): {}", status.message);
        }
    }
    format!("error: {}", causes(error))
}

/// The chain of causes. Libraries that print their source and also hand it out would have
/// it said twice.
fn causes(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if text.is_empty() {
            text = cause;
        } else if !text.ends_with(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
    }
    text
}

fn run(cli: Cli) -> Result<ExitCode> {
    rustls::crypto::aws_lc_rs::default_provider()
        .install_default()
        .map_err(|_installed| anyhow::anyhow!("TLS was set up twice"))?;
    let Cli { command, target, log } = cli;
    match command {
        Command::Dev(dev) => service(log.or_else(|| Some(DEV_LOG.to_owned())), dev::run(dev)),
        Command::Server(server) => service(log, server::run(server)),
        Command::Agent(agent) => service(log, agent::run(agent)),
        Command::Dns(dns) => service(log, dns::run(dns)),
        Command::Completions { shell } => {
            let mut command = Cli::command();
            clap_complete::generate(shell, &mut command, "atoll", &mut std::io::stdout());
            Ok(ExitCode::SUCCESS)
        }
        Command::Config(show) => config::run(&show).map(|()| ExitCode::SUCCESS),
        Command::Restore(restore) => {
            tool(log, async move { backup::run_restore(&restore) }.map_ok(|()| ExitCode::SUCCESS))
        }
        Command::Chaos(chaos) => tool(log, dev::chaos::run(chaos)),
        Command::Image(image) => tool(log, image::run(image)),
        command => tool(log, with_cluster(command, target)),
    }
}

/// The client library logs each failed request; whoever made it says so better.
const SERVICE_LOG: &str = "info,kube_client=off,kube_runtime=off";

/// A person reads what the supervisor says; its processes have logs of their own.
const DEV_LOG: &str = "warn,atoll::dev=info,kube_client=off,kube_runtime=off";

/// A long-running part: logs go to standard error.
fn service(log: Option<String>, part: impl Future<Output = Result<()>>) -> Result<ExitCode> {
    start_logging(log.as_deref().unwrap_or(SERVICE_LOG))?;
    // Two cores carry a whole cluster; more threads than that only cost memory.
    let threads = std::thread::available_parallelism().map_or(2, usize::from).clamp(1, 4);
    memory::limit_heaps(threads);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .max_blocking_threads(64)
        .enable_all()
        .build()
        .context("starting the runtime")?;
    let result = runtime.block_on(part);
    // One thread reads the supervisor's pipe for as long as that is open: a part that fails
    // must not wait for it.
    runtime.shutdown_background();
    result.map(|()| ExitCode::SUCCESS)
}

/// What goes wrong a tool says itself, once.
const TOOL_LOG: &str = "warn,kube_client=off,kube_runtime=off";

/// A command that ends by itself.
fn tool<T: Into<ExitCode>>(
    log: Option<String>,
    part: impl Future<Output = Result<T>>,
) -> Result<ExitCode> {
    start_logging(log.as_deref().unwrap_or(TOOL_LOG))?;
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting the runtime")?
        .block_on(part)
        .map(Into::into)
}

fn start_logging(filter: &str) -> Result<()> {
    let filter = EnvFilter::try_new(filter)
        .with_context(|| format!("the log filter {filter:?} is not of the form target=level"))?;
    let colours = std::io::IsTerminal::is_terminal(&std::io::stderr());
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(colours)
        // Whoever closed standard error wants to hear nothing, not a panic.
        .log_internal_errors(false)
        .init();
    Ok(())
}

async fn with_cluster(command: Command, target: Target) -> Result<ExitCode> {
    let sources = Sources {
        flag: target.kubeconfig,
        environment: variable("KUBECONFIG"),
        home: variable("HOME").map(PathBuf::from),
        data_dir: match &command {
            Command::Backup(backup) => backup.data_dir.clone(),
            Command::Check(check) => check.data_dir.clone(),
            _ => None,
        },
    };
    let files = sources.find()?;
    let context = target.context.as_deref();
    if let Command::Check(check) = &command {
        return check::run(&files, context, check).await;
    }
    let connection = connect_merged(&files, context).await?;
    let namespace = target.namespace.as_deref();
    match command {
        Command::Member(members) => member::run(&connection, &members).await?,
        Command::Secrets(secrets) => secrets::run(&connection, &secrets).await?,
        Command::Token(token) => token::run(&connection, &token).await?,
        Command::Backup(backup) => backup::run_backup(&connection, &backup).await?,
        Command::Etcd(etcd) => etcd::run(&connection, etcd).await?,
        Command::Get(get) => return client::get::run(&connection, namespace, &get).await,
        Command::Apply(apply) => return client::apply::run(&connection, namespace, &apply).await,
        Command::Delete(delete) => {
            return client::delete::run(&connection, namespace, &delete).await;
        }
        Command::Logs(logs) => client::logs::run(&connection, namespace, &logs).await?,
        Command::Exec(exec) => return client::exec::run(&connection, namespace, &exec).await,
        Command::Scale(scale) => client::scale::run(&connection, namespace, &scale).await?,
        Command::Rollout(rollout) => client::rollout::run(&connection, namespace, &rollout).await?,
        Command::Events(events) => client::events::run(&connection, namespace, &events).await?,
        Command::Why(why) => why::run(&connection, namespace, &why).await?,
        other => anyhow::bail!("{other:?} needs no cluster"),
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Talkative(std::io::Error);

    impl std::fmt::Display for Talkative {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            write!(f, "failed to read: {}", self.0)
        }
    }

    impl std::error::Error for Talkative {
        fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
            Some(&self.0)
        }
    }

    #[test]
    fn a_cause_is_said_once() {
        let error = anyhow::Error::new(Talkative(std::io::Error::other("no such file")));
        let error = error.context("reading the kubeconfig /nope");
        let said = sentence(&error);
        assert_eq!(said, "error: reading the kubeconfig /nope: failed to read: no such file");
    }
}
