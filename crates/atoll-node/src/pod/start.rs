//! Starts one container: image, configuration, root file system, runtime, postStart.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use atoll_container::{ContainerKey, ContainerRef, ContainerSpec, Root, State, User};
use atoll_image::{ImageInfo, MountDirs};
use atoll_informer::EventType;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::context::Context;
use crate::network::PodSandbox;
use crate::objects::Found;
use crate::pod::env::{self, Surroundings};
use crate::pod::files;
use crate::pod::identity::PodId;
use crate::pod::image::{self, PullFailure, Wanted, with_sources};
use crate::pod::image_volume;
use crate::pod::lifecycle::run_hook;
use crate::pod::messages;
use crate::pod::sandbox;
use crate::pod::security::{RunAs, run_as, verify_non_root};
use crate::pod::spec::{self, Parts};
use crate::pod::stop::wait_exited;
use crate::pod::track::Run;
use crate::rootless;

/// A run whose command did not start is ended by its shim; longer than this is a fault.
const END_PATIENCE: Duration = Duration::from_secs(5);

/// One start.
pub struct StartJob {
    pub pod: Arc<Pod>,
    pub id: PodId,
    pub container: Container,
    /// Set for an ephemeral container that wants to see another's processes.
    pub target: Option<Target>,
    pub attempt: u32,
    pub sandbox: PodSandbox,
    pub volumes: BTreeMap<String, PathBuf>,
    /// What variables and pull secrets refer to.
    pub found: Found,
    /// Ends a pull; what comes after it is not interrupted.
    pub cancel: CancellationToken,
}

/// A container whose processes another one sees.
#[derive(Debug, Clone)]
pub struct Target {
    pub container: String,
    /// `None` when it does not run.
    pub run: Option<ContainerKey>,
}

/// How it went.
#[derive(Debug, Clone, PartialEq)]
pub enum StartEnd {
    Started,
    /// It runs, but its postStart hook failed: it is to be killed.
    HookFailed(String),
    /// The container waits with this reason and message.
    Failed {
        reason: &'static str,
        message: String,
        /// What could not be pulled, where that was it.
        image: Option<String>,
    },
    /// Its command could not be run: a run that ended as it began.
    NeverStarted {
        run: Box<Run>,
        message: String,
    },
    Cancelled,
}

pub async fn start(cx: &Context, job: &StartJob) -> StartEnd {
    let images = tokio::select! {
        () = job.cancel.cancelled() => return StartEnd::Cancelled,
        images = images(cx, job) => images,
    };
    let images = match images {
        Ok(images) => images,
        Err(failure) => return not_pulled(cx, job, failure),
    };
    let reference = match create(cx, job, &images).await {
        Ok(reference) => reference,
        Err(failure) => {
            let (Failure::Waits(_, message) | Failure::NeverStarted(_, message)) = &failure;
            let text = format!("Error: {message}");
            cx.container_event(&job.pod, &job.container.name, EventType::Warning, "Failed", text);
            return match failure {
                Failure::Waits(reason, message) => {
                    StartEnd::Failed { reason, message, image: None }
                }
                Failure::NeverStarted(run, message) => StartEnd::NeverStarted { run, message },
            };
        }
    };
    cx.container_event(
        &job.pod,
        &job.container.name,
        EventType::Normal,
        "Started",
        "Container started".to_owned(),
    );
    post_start(cx, job, &reference).await
}

/// What a container is made of.
struct Images {
    own: ImageInfo,
    /// By the names of the volumes that show them.
    volumes: BTreeMap<String, ImageInfo>,
}

async fn images(cx: &Context, job: &StartJob) -> Result<Images, PullFailure> {
    let (pod, container, secrets) = (&job.pod, &job.container, &job.found.secrets);
    image::tell_of_secrets(cx, pod, secrets);
    let volumes = image_volume::pull(cx, pod, container, secrets).await?;
    let own = image::ensure(cx, pod, &Wanted::of(container), secrets).await?;
    Ok(Images { own, volumes })
}

fn not_pulled(cx: &Context, job: &StartJob, failure: PullFailure) -> StartEnd {
    let PullFailure { reason, message, image } = failure;
    let text = format!("Error: {reason}");
    cx.container_event(&job.pod, &job.container.name, EventType::Warning, "Failed", text);
    StartEnd::Failed { reason, message, image: Some(image) }
}

/// Why there is no running container.
enum Failure {
    /// It waits with this reason and message.
    Waits(&'static str, String),
    /// Its command could not be run, which counts as a run that ended.
    NeverStarted(Box<Run>, String),
}

/// A command that does not exist or may not be run is the container's fault, and counts as
/// a crash; whatever else goes wrong is the node's, and the same run is tried again.
fn not_created(error: &atoll_container::Error, spec: &ContainerSpec, now: Timestamp) -> Failure {
    match error {
        atoll_container::Error::Create { reason, .. }
            if reason.starts_with("unable to start container process") =>
        {
            let message = format!("OCI runtime create failed: {reason}");
            Failure::NeverStarted(Box::new(Run::never_started(spec, message.clone(), now)), message)
        }
        _ => Failure::Waits(messages::CREATE_CONTAINER_ERROR, with_sources(error)),
    }
}

async fn create(cx: &Context, job: &StartJob, images: &Images) -> Result<ContainerRef, Failure> {
    let image = &images.own;
    let config_error =
        |message: String| Failure::Waits(messages::CREATE_CONTAINER_CONFIG_ERROR, message);
    let create_error = |message: String| Failure::Waits(messages::CREATE_CONTAINER_ERROR, message);
    let run_as = run_as(&job.pod, &job.container);
    verify_non_root(&run_as, &image.config.user, &job.id, &job.container.name)
        .map_err(config_error)?;
    let env = variables(cx, job).map_err(config_error)?;
    let key = ContainerKey {
        sandbox: job.id.uid.clone(),
        name: job.container.name.clone(),
        attempt: job.attempt,
    };
    prepare_files(cx, &key).await.map_err(create_error)?;
    let mut volumes = job.volumes.clone();
    let shown = image_volume::mount(cx, &job.id.uid, &images.volumes).await;
    volumes.extend(shown.map_err(create_error)?);
    let dir = spec::rootfs_dir(&cx.config, &key);
    let dirs =
        MountDirs { rootfs: dir.join("rootfs"), upper: dir.join("upper"), work: dir.join("work") };
    let root = root(cx, image, &dirs).await.map_err(create_error)?;
    let user = user(cx, &root, &dirs.rootfs, image, &run_as).map_err(config_error)?;
    let processes = processes_of(cx, job).await.map_err(create_error)?;
    let names = files::names(&job.pod, &cx.config.node_name, &cx.config.cluster_domain);
    let parts = Parts {
        config: &cx.config,
        pod: &job.pod,
        id: &job.id,
        container: &job.container,
        key,
        sandbox: &job.sandbox,
        names: &names,
        image,
        rootfs: dirs.rootfs,
        root,
        user,
        env,
        volumes: &volumes,
        processes,
        memory_capacity: cx.machine.memory_bytes,
        isolation: cx.config.containers || cx.runtime.capabilities().isolation,
    };
    let spec = spec::build(parts).map_err(config_error)?;
    remove_leftover(cx, &spec).await.map_err(create_error)?;
    let created = cx.runtime.create(&spec).await;
    let reference = created.map_err(|error| not_created(&error, &spec, cx.now()))?;
    cx.container_event(
        &job.pod,
        &job.container.name,
        EventType::Normal,
        "Created",
        "Container created".to_owned(),
    );
    match cx.runtime.start(&reference).await {
        Ok(()) => Ok(reference),
        Err(error) => {
            // Its end is what the delay of the next run counts from.
            let (_keep, mut patience) = watch::channel(Instant::now() + END_PATIENCE);
            if !wait_exited(cx.runtime.as_ref(), &reference.key, &mut patience).await {
                tracing::warn!(container = %reference.key, "not ended after it failed to start");
            }
            Err(Failure::Waits(messages::RUN_CONTAINER_ERROR, with_sources(&error)))
        }
    }
}

/// The namespace of the processes of the pod, where it has one, or of the container that this
/// one is to look at.
async fn processes_of(cx: &Context, job: &StartJob) -> Result<Option<PathBuf>, String> {
    if let Some(shared) = sandbox::shared_processes(cx, &job.pod, &job.id).await? {
        return Ok(Some(shared));
    }
    let Some(target) = &job.target else { return Ok(None) };
    let missing = || format!("target container \"{}\" is not running", target.container);
    let key = target.run.as_ref().ok_or_else(missing)?;
    let found = cx.runtime.inspect(key).await.map_err(|error| with_sources(&error))?;
    match found.map(|found| found.state) {
        Some(State::Running { pid, .. }) => Ok(Some(format!("/proc/{pid}/ns/pid").into())),
        _ => Err(missing()),
    }
}

/// An agent that was killed may have made this run without starting it.
async fn remove_leftover(cx: &Context, spec: &ContainerSpec) -> Result<(), String> {
    let key = ContainerKey {
        sandbox: spec.sandbox.clone(),
        name: spec.name.clone(),
        attempt: spec.attempt,
    };
    let found = cx.runtime.inspect(&key).await.map_err(|error| with_sources(&error))?;
    let Some(found) = found else { return Ok(()) };
    tracing::info!(container = %key, "made by the last agent and never started; made anew");
    cx.runtime.remove(&found.container).await.map_err(|error| with_sources(&error))
}

async fn prepare_files(cx: &Context, key: &ContainerKey) -> Result<(), String> {
    let message = spec::message_file(&cx.config.pods_dir(), key);
    let fail = |error: std::io::Error| format!("{}: {error}", message.display());
    if let Some(parent) = message.parent() {
        tokio::fs::create_dir_all(parent).await.map_err(fail)?;
    }
    tokio::fs::write(&message, "").await.map_err(fail)?;
    // Whoever the container runs as may leave its last words.
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o666);
    tokio::fs::set_permissions(&message, mode).await.map_err(fail)
}

fn variables(cx: &Context, job: &StartJob) -> Result<Vec<(String, String)>, String> {
    // Without root no Service address leads anywhere.
    let services = if cx.config.containers { cx.services.list() } else { Vec::new() };
    let around = Surroundings {
        pod: &job.pod,
        pod_ip: Some(&job.sandbox.ip),
        host_ip: &cx.config.node_ip.to_string(),
        node_name: &cx.config.node_name,
        allocatable_cpu_milli: cx.machine.cpus * 1000,
        allocatable_memory: cx.machine.allocatable_memory(),
        allocatable_disk: cx.machine.allocatable_disk(),
        config_maps: &job.found.config_maps,
        secrets: &job.found.secrets,
        services: &services,
    };
    let mut all = cx.config.rootless.api_variables();
    all.extend(job.sandbox.ports.variables(&job.container.name));
    // The pod's own word comes last, and wins.
    all.extend(env::environment(&job.container, &around).map_err(|error| error.to_string())?);
    Ok(all)
}

async fn root(cx: &Context, image: &ImageInfo, dirs: &MountDirs) -> Result<Root, String> {
    if !cx.config.containers {
        return rootless::root::root(cx, image, dirs).await;
    }
    cx.images.mount(image, dirs).await.map_err(|error| with_sources(&error))?;
    Ok(Root::Mounted)
}

fn user(
    cx: &Context,
    root: &Root,
    rootfs: &std::path::Path,
    image: &ImageInfo,
    run_as: &RunAs,
) -> Result<User, String> {
    if cx.config.containers {
        resolve_user(rootfs, &image.config.user, run_as)
    } else {
        rootless::root::user(cx, root, &image.config.user, run_as)
    }
}

/// Numbers for the user: the pod's word first, then the image's.
fn resolve_user(
    rootfs: &std::path::Path,
    image_user: &str,
    run_as: &RunAs,
) -> Result<User, String> {
    let wanted = run_as.user.map_or_else(|| image_user.to_owned(), |uid| uid.to_string());
    let found = atoll_image::resolve_user(rootfs, &wanted).map_err(|error| with_sources(&error))?;
    let mut additional_gids = found.additional_gids;
    additional_gids.extend(&run_as.groups);
    additional_gids.sort_unstable();
    additional_gids.dedup();
    Ok(User { uid: found.uid, gid: run_as.group.unwrap_or(found.gid), additional_gids })
}

async fn post_start(cx: &Context, job: &StartJob, reference: &ContainerRef) -> StartEnd {
    let hook = job.container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.post_start.as_ref());
    let Some(hook) = hook else { return StartEnd::Started };
    let ports = job.container.ports.as_deref().unwrap_or_default();
    let hook = job.sandbox.ports.hook(hook.clone(), ports);
    let run = run_hook(cx, &hook, &job.container, reference, (&job.id, &job.sandbox.ip));
    let result = tokio::select! {
        () = job.cancel.cancelled() => return StartEnd::Started,
        result = run => result,
    };
    match result {
        Ok(()) => StartEnd::Started,
        Err(reason) => {
            cx.container_event(
                &job.pod,
                &job.container.name,
                EventType::Warning,
                "FailedPostStartHook",
                "PostStartHook failed".to_owned(),
            );
            tracing::info!(pod = %job.id, reason, "postStart hook failed");
            StartEnd::HookFailed(reason)
        }
    }
}
