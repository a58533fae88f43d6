//! What a task makes of containers that it finds.

use std::path::Path;

use atoll_container::{ContainerKey, ContainerRef, Exit, State};
use serde_json::json;

use super::*;
use crate::pod::track::label;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn observed(name: &str, attempt: u32, state: State) -> Observed {
    let key = ContainerKey { sandbox: "u".into(), name: name.into(), attempt };
    Observed {
        container: ContainerRef { key, id: format!("id{attempt}"), dir: "/nonexistent".into() },
        labels: BTreeMap::from([(label::IMAGE.to_owned(), "img".to_owned())]),
        log: "/nonexistent".into(),
        created_at: at(0),
        state,
        shim_alive: true,
    }
}

fn running() -> State {
    State::Running { pid: 7, started_at: at(50) }
}

fn pod(status: serde_json::Value) -> Pod {
    serde_json::from_value(json!({"spec": {"containers": [
        {"name": "c", "image": "img", "readinessProbe": {"tcpSocket": {"port": 1}}}]},
        "status": status}))
    .unwrap()
}

fn adopt_at(pod: &Pod, observed: Vec<Observed>) -> Tracks {
    adopt(pod, observed, Path::new("/nonexistent"))
}

#[test]
fn a_container_that_was_ready_stays_so_when_it_is_the_same() {
    let status = |id: &str| {
        json!({"containerStatuses": [{"name": "c", "image": "", "imageID": "", "ready": true,
            "started": true, "restartCount": 3, "containerID": format!("atoll://{id}")}]})
    };
    let same = adopt_at(&pod(status("id3")), vec![observed("c", 3, running())]);
    assert!(same["c"].ready && same["c"].started);
    assert_eq!(same["c"].restart_count(), 3);
    let other = adopt_at(&pod(status("id2")), vec![observed("c", 3, running())]);
    assert!(!other["c"].ready, "another run has to be probed first");
}

#[test]
fn a_start_that_nobody_heard_of_is_still_probed() {
    let mut pod = pod(json!({}));
    let adopted = adopt_at(&pod, vec![observed("c", 0, running())]);
    assert!(adopted["c"].started);
    let container = &mut pod.spec.as_mut().unwrap().containers[0];
    container.startup_probe = container.readiness_probe.clone();
    let adopted = adopt_at(&pod, vec![observed("c", 0, running())]);
    assert!(!adopted["c"].started);
}

#[test]
fn what_was_made_but_never_started_is_no_run() {
    let exit = Exit { unknown: false, code: 9, ..Exit::unknown(Some(at(1)), at(2)) };
    let ended = || observed("c", 0, State::Exited(exit.clone()));
    let lost = State::Exited(Exit::unknown(None, at(3)));
    for second in [State::Created, State::Creating, lost] {
        let tracks = adopt_at(&pod(json!({})), vec![ended(), observed("c", 1, second)]);
        assert_eq!(tracks["c"].exit().unwrap().code, 9);
        assert_eq!((tracks["c"].restart_count(), tracks["c"].next_attempt()), (0, 1));
    }
}

#[test]
fn restarts_are_never_counted_back() {
    let exit = Exit { unknown: false, ..Exit::unknown(Some(at(1)), at(2)) };
    let found =
        vec![observed("c", 1, State::Exited(exit.clone())), observed("c", 2, State::Exited(exit))];
    let tracks = adopt_at(&pod(json!({})), found);
    let track = &tracks["c"];
    assert_eq!((track.restart_count(), track.next_attempt()), (2, 3));
    assert_eq!(track.previous.as_ref().unwrap().attempt(), 1);
    let status = json!({"containerStatuses": [{"name": "c", "image": "", "imageID": "",
        "ready": false, "restartCount": 5, "containerID": "atoll://x"}]});
    let lost = adopt_at(&pod(status), Vec::new());
    assert_eq!(lost["c"].next_attempt(), 6);
    let mut of_old_sandbox = tracks["c"].clone();
    of_old_sandbox.previous = of_old_sandbox.current.take();
    assert_eq!(of_old_sandbox.next_attempt(), 3, "its record is still on disk");
}
