//! Restart decisions, told as pods in the state in which they are found.

use atoll_container::Exit;
use serde_json::json;

use super::*;
use crate::pod::track::{RunState, test_run};

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn spec(value: serde_json::Value) -> PodSpec {
    serde_json::from_value(value).unwrap()
}

fn run(state: RunState) -> Track {
    let run = test_run(0, state);
    Track { current: Some(run), started: true, hooked: true, ..Track::default() }
}

fn running() -> Track {
    run(RunState::Running { started_at: at(1) })
}

fn exited(code: i32) -> Track {
    let exit = Exit { code, ..Exit::unknown(Some(at(1)), at(2)) };
    run(RunState::Exited(exit))
}

fn tracks(of: &[(&str, Track)]) -> Tracks {
    of.iter().map(|(name, track)| ((*name).to_owned(), track.clone())).collect()
}

fn two_stage() -> PodSpec {
    spec(json!({"initContainers": [
            {"name": "side", "image": "img", "restartPolicy": "Always"},
            {"name": "init", "image": "img"}],
        "containers": [{"name": "a", "image": "img"}, {"name": "b", "image": "img"}]}))
}

#[test]
fn init_containers_come_one_after_the_other() {
    let spec = two_stage();
    assert_eq!(plan(&spec, &tracks(&[])).start, ["side"]);
    assert_eq!(plan(&spec, &tracks(&[("side", running())])).start, ["init"]);
    let busy = tracks(&[("side", running()), ("init", running())]);
    assert_eq!(plan(&spec, &busy), Plan::default());
    let done = tracks(&[("side", running()), ("init", exited(0))]);
    assert_eq!(plan(&spec, &done).start, ["a", "b"]);
}

#[test]
fn a_sidecar_that_is_not_up_holds_the_others_back() {
    let mut side = running();
    side.started = false;
    assert_eq!(plan(&two_stage(), &tracks(&[("side", side)])), Plan::default());
}

#[test]
fn a_failed_init_container_is_tried_again_unless_the_policy_is_never() {
    let mut spec = two_stage();
    let state = tracks(&[("side", running()), ("init", exited(1))]);
    assert_eq!(plan(&spec, &state).start, ["init"]);
    spec.restart_policy = Some("Never".into());
    let end = plan(&spec, &state);
    assert!(end.start.is_empty() && !end.finished);
    assert_eq!(end.retire[0].container, "side");
    let state = tracks(&[("side", exited(137)), ("init", exited(1))]);
    assert!(plan(&spec, &state).finished);
}

#[test]
fn sidecars_restart_and_do_not_hold_back_completion() {
    let mut spec = two_stage();
    spec.restart_policy = Some("OnFailure".into());
    let state =
        tracks(&[("side", exited(0)), ("init", exited(0)), ("a", running()), ("b", exited(0))]);
    assert_eq!(plan(&spec, &state).start, ["side"]);
    let state =
        tracks(&[("side", running()), ("init", exited(0)), ("a", exited(0)), ("b", exited(0))]);
    let end = plan(&spec, &state);
    assert_eq!((end.start.len(), end.retire.len(), end.finished), (0, 1, false));
}

#[test]
fn restart_policies() {
    for (policy, code, restarts) in [
        ("Always", 0, true),
        ("Always", 1, true),
        ("OnFailure", 0, false),
        ("OnFailure", 1, true),
        ("Never", 1, false),
    ] {
        let spec = spec(json!({"restartPolicy": policy, "containers": [{"name": "a"}]}));
        let plan = plan(&spec, &tracks(&[("a", exited(code))]));
        assert_eq!(!plan.start.is_empty(), restarts, "{policy} {code}");
        assert_eq!(plan.finished, !restarts, "{policy} {code}");
    }
}

#[test]
fn one_end_does_not_finish_a_pod_whose_other_container_runs() {
    let spec = spec(json!({"restartPolicy": "Never",
        "containers": [{"name": "a"}, {"name": "b"}]}));
    let plan = plan(&spec, &tracks(&[("a", exited(1)), ("b", running())]));
    assert_eq!(plan, Plan::default());
}

#[test]
fn a_changed_image_or_a_failed_probe_kills() {
    let changed = spec(json!({"containers": [{"name": "a", "image": "other"}]}));
    let kill = &plan(&changed, &tracks(&[("a", running())])).kill[0];
    assert_eq!(kill.message, "Container a definition changed, will be restarted");
    assert_eq!(kill.renewal, Some(Renewal::Definition));
    let mut changed = two_stage();
    changed.init_containers.as_mut().unwrap()[1].image = Some("other".into());
    let busy = tracks(&[("side", running()), ("init", running())]);
    assert_eq!(
        plan(&changed, &busy),
        Plan::default(),
        "an init container that runs ends by itself"
    );
    let mut track = running();
    track.condemned = Some(Condemned {
        message: "x".into(),
        grace_seconds: Some(3),
        renewal: Some(Renewal::Probe),
    });
    let mut same = spec(json!({"containers": [{"name": "a", "image": "img"}]}));
    let state = tracks(&[("a", track)]);
    let kill = &plan(&same, &state).kill[0];
    assert_eq!((kill.grace_seconds, kill.renewal), (Some(3), Some(Renewal::Probe)));
    same.restart_policy = Some("Never".into());
    assert_eq!(plan(&same, &state).kill[0].renewal, None, "it ends for good");
}

#[test]
fn a_crash_is_held_from_its_end() {
    let mut track = exited(1);
    assert_eq!(held_until(&track, at(2)), None);
    track.crash.advance(at(2));
    assert_eq!(held_until(&track, at(3)).unwrap().1, at(12));
    assert_eq!(held_until(&track, at(12)), None);
}
