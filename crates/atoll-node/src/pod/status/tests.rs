//! Statuses as `kubectl get pod` would show them, from hand-made container states.

use atoll_container::Exit;
use serde_json::json;

use super::*;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn pod(spec: serde_json::Value) -> Pod {
    serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": spec})).unwrap()
}

fn run(state: RunState) -> Track {
    let run = crate::pod::track::test_run(2, state);
    Track { current: Some(run), started: true, hooked: true, ready: true, ..Track::default() }
}

fn running() -> Track {
    run(RunState::Running { started_at: at(5) })
}

fn exited(code: i32) -> Track {
    run(RunState::Exited(Exit { code, unknown: false, ..Exit::unknown(Some(at(5)), at(6)) }))
}

fn show(pod: &Pod, tracks: &[(&str, Track)], ended: bool) -> PodStatus {
    let tracks: Tracks = tracks.iter().map(|(n, t)| ((*n).to_owned(), t.clone())).collect();
    let view = View {
        pod,
        tracks: &tracks,
        pod_ip: Some("10.42.0.7"),
        host_ip: "10.41.0.1",
        sandbox_ready: true,
        started_at: at(1),
        failed: None,
        ended,
        pending: None,
        progress: None,
        now: at(100),
    };
    derive(&view, None)
}

fn find<'a>(status: &'a PodStatus, kind: &str) -> &'a PodCondition {
    status.conditions.as_ref().unwrap().iter().find(|c| c.type_ == kind).unwrap()
}

#[test]
fn a_running_pod_is_ready() {
    let status = show(
        &pod(json!({"containers": [{"name": "c", "image": "i"}]})),
        &[("c", running())],
        false,
    );
    assert_eq!(status.phase.as_deref(), Some("Running"));
    for kind in
        ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"]
    {
        assert_eq!(find(&status, kind).status, "True", "{kind}");
    }
    let container = &status.container_statuses.as_ref().unwrap()[0];
    assert_eq!(container.container_id.as_deref(), Some("atoll://ab"));
    assert_eq!(
        (container.restart_count, container.ready, container.started),
        (2, true, Some(true))
    );
}

#[test]
fn a_new_pod_is_pending_and_creating() {
    let status = show(&pod(json!({"containers": [{"name": "c"}]})), &[], false);
    assert_eq!(status.phase.as_deref(), Some("Pending"));
    let container = &status.container_statuses.as_ref().unwrap()[0];
    let waiting = container.state.as_ref().unwrap().waiting.as_ref().unwrap();
    assert_eq!(waiting.reason.as_deref(), Some("ContainerCreating"));
    let ready = find(&status, "Ready");
    assert_eq!(ready.reason.as_deref(), Some("ContainersNotReady"));
    assert_eq!(ready.message.as_deref(), Some("containers with unready status: [c]"));
}

#[test]
fn apps_wait_for_init_containers() {
    let pod = pod(
        json!({"initContainers": [{"name": "i"}, {"name": "j"}], "containers": [{"name": "c"}]}),
    );
    let status = show(&pod, &[("i", running())], false);
    assert_eq!(status.phase.as_deref(), Some("Pending"));
    let container = &status.container_statuses.as_ref().unwrap()[0];
    let waiting = container.state.as_ref().unwrap().waiting.as_ref().unwrap();
    assert_eq!(waiting.reason.as_deref(), Some("PodInitializing"));
    let initialized = find(&status, "Initialized");
    assert_eq!(initialized.message.as_deref(), Some("containers with incomplete status: [i j]"));
    let done = show(&pod, &[("i", exited(0)), ("j", exited(0)), ("c", running())], false);
    assert_eq!(done.phase.as_deref(), Some("Running"));
    assert_eq!(find(&done, "Ready").status, "True");
}

#[test]
fn a_crash_loop_shows_the_last_end() {
    let mut track = exited(1);
    track.waiting = Some(Waiting::new(messages::CRASH_LOOP_BACK_OFF, None));
    let status = show(&pod(json!({"containers": [{"name": "c"}]})), &[("c", track)], false);
    assert_eq!(status.phase.as_deref(), Some("Running"));
    let container = &status.container_statuses.as_ref().unwrap()[0];
    assert!(container.state.as_ref().unwrap().waiting.is_some());
    let last = container.last_state.as_ref().unwrap().terminated.as_ref().unwrap();
    assert_eq!((last.exit_code, last.reason.as_deref()), (1, Some("Error")));
    assert!(!container.ready);
}

#[test]
fn phases_of_finished_pods() {
    let never =
        pod(json!({"restartPolicy": "Never", "containers": [{"name": "a"}, {"name": "b"}]}));
    let phase =
        |a, b, ended| show(&never, &[("a", exited(a)), ("b", exited(b))], ended).phase.unwrap();
    assert_eq!(phase(0, 0, false), "Succeeded");
    assert_eq!(phase(0, 3, false), "Failed");
    let always = pod(json!({"containers": [{"name": "a"}]}));
    assert_eq!(show(&always, &[("a", exited(0))], false).phase.unwrap(), "Running");
    assert_eq!(show(&always, &[("a", exited(0))], true).phase.unwrap(), "Succeeded");
    assert_eq!(show(&always, &[("a", exited(143))], true).phase.unwrap(), "Failed");
    let gone = show(&always, &[], true);
    let state = gone.container_statuses.as_ref().unwrap()[0].state.clone().unwrap();
    assert_eq!(state.terminated.unwrap().reason.as_deref(), Some("ContainerStatusUnknown"));
}

#[test]
fn out_of_memory_is_named() {
    let mut track = exited(137);
    if let Some(Run { state: RunState::Exited(exit), .. }) = &mut track.current {
        exit.oom_killed = true;
    }
    let never = pod(json!({"restartPolicy": "Never", "containers": [{"name": "a"}]}));
    let status = show(&never, &[("a", track)], false);
    let state = status.container_statuses.as_ref().unwrap()[0].state.clone().unwrap();
    assert_eq!(state.terminated.unwrap().reason.as_deref(), Some("OOMKilled"));
}

#[test]
fn readiness_gates_hold_back_ready() {
    let mut pod =
        pod(json!({"containers": [{"name": "c"}], "readinessGates": [{"conditionType": "x/y"}]}));
    let status = show(&pod, &[("c", running())], false);
    assert_eq!(find(&status, "Ready").reason.as_deref(), Some("ReadinessGatesNotReady"));
    assert_eq!(find(&status, "ContainersReady").status, "True");
    pod.status =
        serde_json::from_value(json!({"conditions": [{"type": "x/y", "status": "True"}]})).unwrap();
    assert_eq!(find(&show(&pod, &[("c", running())], false), "Ready").status, "True");
}

#[test]
fn transition_times_stay_while_nothing_changes() {
    let pod = pod(json!({"containers": [{"name": "c"}]}));
    let first = show(&pod, &[("c", running())], false);
    let tracks: Tracks = [("c".to_owned(), running())].into();
    let view = View {
        pod: &pod,
        tracks: &tracks,
        pod_ip: Some("10.42.0.7"),
        host_ip: "10.41.0.1",
        sandbox_ready: true,
        started_at: at(1),
        failed: None,
        ended: false,
        now: at(999),
        pending: None,
        progress: None,
    };
    assert_eq!(derive(&view, Some(&first)), first);
}

#[test]
fn what_the_node_ends_to_start_it_anew_is_shown_as_it_was() {
    let mut track = running();
    track.renewal = Some(crate::pod::track::Renewal::Definition);
    track.observe(exited(143).current.unwrap());
    let pod = pod(json!({"restartPolicy": "Never", "containers": [{"name": "c"}]}));
    let shown = show(&pod, &[("c", track.clone())], false);
    let container = &shown.container_statuses.as_ref().unwrap()[0];
    let state = container.state.as_ref().unwrap();
    assert_eq!(state.running.as_ref().unwrap().started_at.as_ref().unwrap().0, at(5));
    assert!(container.ready && container.started == Some(true));
    assert_eq!((find(&shown, "Ready").status.as_str(), container.restart_count), ("True", 2));
    // Its next start is put off: now its end is told.
    track.stand_in = None;
    let shown = show(&pod, &[("c", track)], false);
    let state = shown.container_statuses.as_ref().unwrap()[0].state.clone().unwrap();
    assert_eq!(state.terminated.unwrap().exit_code, 143);
    let mut own = running();
    own.observe(exited(0).current.unwrap());
    assert_eq!(own.stand_in, None, "it ended by itself");
}

#[test]
fn a_sidecar_counts_for_readiness_whatever_it_does() {
    let pod = pod(json!({"containers": [{"name": "c"}],
        "initContainers": [{"name": "side", "restartPolicy": "Always"}, {"name": "i"}]}));
    let message = |tracks: &[(&str, Track)]| {
        let status = show(&pod, tracks, false);
        find(&status, "Ready").message.clone().unwrap()
    };
    assert_eq!(message(&[]), "containers with unready status: [side c]");
    let ended = [("side", exited(1)), ("i", exited(0)), ("c", running())];
    assert_eq!(message(&ended), "containers with unready status: [side]");
}
