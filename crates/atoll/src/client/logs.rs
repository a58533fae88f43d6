//! `atoll logs`: what a pod's containers wrote.

use super::{catalog::Catalog, connect::Connection, output};
use anyhow::{Context as _, Result, bail};
use futures::{AsyncBufReadExt as _, AsyncReadExt as _, io::AsyncBufRead, io::AsyncRead};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, ResourceExt as _,
    api::{ListParams, LogParams},
};
use serde_json::Value;

#[derive(Debug, clap::Args)]
pub struct Logs {
    /// POD or KIND/NAME, such as deployment/web
    #[arg(required_unless_present = "selector")]
    pub target: Option<String>,
    /// Of all pods with these labels; the last 10 lines of each unless --tail says otherwise
    #[arg(short = 'l', long)]
    pub selector: Option<String>,
    /// How many logs are followed at once, with --selector
    #[arg(long, default_value_t = 5, value_name = "N")]
    pub max_log_requests: usize,
    /// Which container, if the pod has several
    #[arg(short, long)]
    pub container: Option<String>,
    /// Go on as more is written
    #[arg(short, long)]
    pub follow: bool,
    /// Of the container before the last restart
    #[arg(short, long)]
    pub previous: bool,
    /// Only this many lines from the end
    #[arg(long)]
    pub tail: Option<i64>,
    /// Only what was written within this time, such as 5m
    #[arg(long, value_parser = super::duration, value_name = "DURATION")]
    pub since: Option<std::time::Duration>,
    /// The time in front of each line
    #[arg(long)]
    pub timestamps: bool,
}

pub async fn run(connection: &Connection, namespace: Option<&str>, logs: &Logs) -> Result<()> {
    let namespace = namespace.unwrap_or(&connection.namespace);
    let api: Api<Pod> = Api::namespaced(connection.client.clone(), namespace);
    match (&logs.target, &logs.selector) {
        (Some(_), Some(_)) => bail!("only a selector (-l) or a POD name is allowed"),
        (None, Some(selector)) => of_selected(&api, namespace, selector, logs).await,
        (Some(target), None) => {
            let pod = find_pod(connection, namespace, target, true).await?;
            copy(open(&api, &pod, logs).await?).await
        }
        (None, None) => bail!("POD or TYPE/NAME is a required argument for the logs command"),
    }
}

/// One log after the other, or all at once if they are followed; lines stay whole then.
async fn of_selected(api: &Api<Pod>, namespace: &str, selector: &str, logs: &Logs) -> Result<()> {
    let pods = api.list(&ListParams::default().labels(selector)).await?.items;
    if pods.is_empty() {
        output::remark(&format!("No resources found in {namespace} namespace."));
        return Ok(());
    }
    if !logs.follow {
        for pod in &pods {
            copy(open(api, pod, logs).await?).await?;
        }
        return Ok(());
    }
    let (count, max) = (pods.len(), logs.max_log_requests);
    if count > max {
        bail!(
            "you are attempting to follow {count} log streams, but maximum allowed concurrency is {max}, use --max-log-requests to increase the limit"
        );
    }
    let followed = pods.iter().map(|pod| async move {
        let lines = futures::io::BufReader::new(open(api, pod, logs).await?);
        copy_lines(lines).await
    });
    futures::future::try_join_all(followed).await.map(|_ended| ())
}

async fn open(api: &Api<Pod>, pod: &Pod, logs: &Logs) -> Result<impl AsyncBufRead + use<>> {
    if let Some(name) = logs.container.as_deref().filter(|name| !has_container(pod, name)) {
        bail!("container {name} is not valid for pod {}", pod.name_any());
    }
    let container = logs.container.clone().or_else(|| default_container(pod));
    let of_many = logs.selector.is_some().then_some(SELECTED_LINES);
    let params = LogParams {
        container,
        follow: logs.follow,
        previous: logs.previous,
        // Less than none is all, as for kubectl.
        tail_lines: logs.tail.or(of_many).filter(|lines| *lines >= 0),
        since_seconds: logs
            .since
            .map(|since| i64::try_from(since.as_secs().max(1)).unwrap_or(i64::MAX)),
        timestamps: logs.timestamps,
        ..LogParams::default()
    };
    let name = pod.name_any();
    api.log_stream(&name, &params).await.with_context(|| format!("reading the log of pod {name}"))
}

/// With a selector, lines of each pod.
const SELECTED_LINES: i64 = 10;

async fn copy_lines(lines: impl AsyncBufRead) -> Result<()> {
    let mut lines = std::pin::pin!(lines);
    let mut line = Vec::new();
    while lines.read_until(b'\n', &mut line).await.context("reading the log")? > 0 {
        output::bytes(&line);
        line.clear();
    }
    Ok(())
}

async fn copy(stream: impl AsyncRead) -> Result<()> {
    let mut stream = std::pin::pin!(stream);
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let length = stream.read(&mut buffer).await.context("reading the log")?;
        if length == 0 {
            return Ok(());
        }
        output::bytes(&buffer[..length]);
    }
}

/// The pod that a command means: itself, or one of those that an object selects, which
/// is said if `says_which`.
pub(super) async fn find_pod(
    connection: &Connection,
    namespace: &str,
    target: &str,
    says_which: bool,
) -> Result<Pod> {
    let api: Api<Pod> = Api::namespaced(connection.client.clone(), namespace);
    let Some((word, name)) = target.split_once('/') else {
        return match api.get(target).await {
            Err(kube::Error::Api(status)) if status.code == 404 => bail!(
                "error from server (NotFound): {} in namespace \"{namespace}\"",
                status.message
            ),
            found => Ok(found?),
        };
    };
    let catalog = Catalog::read(&connection.client).await?;
    let entry = catalog.find(word)?;
    if entry.kind == "Pod" {
        return Ok(api.get(name).await?);
    }
    let owner = entry.api(&connection.client, namespace).get(name).await?;
    let selector = selector_of(&owner.data);
    let Some(selector) = selector else {
        bail!("{} selects no pods; name a pod", entry.name_of(name));
    };
    let pods = api.list(&ListParams::default().labels(&selector)).await?;
    let running = |pod: &&Pod| {
        pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Running")
    };
    let found = pods.items.iter().find(running).or_else(|| pods.items.first());
    match found {
        Some(pod) => {
            if pods.items.len() > 1 && says_which {
                let count = pods.items.len();
                output::remark(&format!("Found {count} pods, using pod/{}", pod.name_any()));
            }
            Ok(pod.clone())
        }
        None => bail!("{} has no pods; `atoll why {target}` says why", entry.name_of(name)),
    }
}

/// A selector's `key=value` pairs; Services have them bare, workloads in matchLabels.
fn selector_of(object: &Value) -> Option<String> {
    let selector = &object["spec"]["selector"];
    let pairs = selector["matchLabels"].as_object().or_else(|| selector.as_object())?;
    let pairs = pairs.iter().filter_map(|(key, value)| Some(format!("{key}={}", value.as_str()?)));
    let text = pairs.collect::<Vec<_>>().join(",");
    (!text.is_empty()).then_some(text)
}

fn has_container(pod: &Pod, name: &str) -> bool {
    let Some(spec) = pod.spec.as_ref() else { return false };
    let all = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let debug = spec.ephemeral_containers.iter().flatten();
    all.map(|one| &one.name).chain(debug.map(|one| &one.name)).any(|one| one == name)
}

fn default_container(pod: &Pod) -> Option<String> {
    let annotated = pod.annotations().get("kubectl.kubernetes.io/default-container");
    if let Some(name) = annotated {
        return Some(name.clone());
    }
    let containers = &pod.spec.as_ref()?.containers;
    if containers.len() > 1 {
        let names: Vec<&str> = containers.iter().map(|one| one.name.as_str()).collect();
        output::remark(&format!(
            "Defaulted container \"{}\" out of: {}",
            names[0],
            names.join(", ")
        ));
    }
    containers.first().map(|one| one.name.clone())
}
