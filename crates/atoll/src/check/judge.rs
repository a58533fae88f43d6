//! What is wrong, from what was heard. It asks nobody.

use super::{Heard, rejoins};
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

/// Entries that a follower may be behind the leader.
const LAG_MAX: u64 = 10_000;
/// A disk that takes longer slows every write.
const SYNC_MICROS_MAX: u64 = 100_000;
/// Where an answer has the room of each keyspace, and what to do when there is none.
const KEYSPACES: [(&str, &str, &str); 2] = [
    ("store", "the cluster's objects have", "delete objects that nobody needs"),
    (
        "applications",
        "the applications' keys (etcd API) have",
        "delete keys; old revisions go by themselves; or start all servers with a larger --etcd-quota-backend-bytes",
    ),
];
/// Of a keyspace's quota, in percent.
const LIVE_PERCENT_MAX: u64 = 80;
const FREE_BYTES_MIN: u64 = 1 << 30;
/// An authority is replaced by a person, who needs time.
const AUTHORITY_LEFT_MIN: SignedDuration = SignedDuration::from_hours(60 * 24);
/// A certificate that should have been renewed this long ago will not be.
const OVERDUE_MAX: SignedDuration = SignedDuration::from_hours(24);

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Finding {
    pub about: String,
    pub problem: String,
    pub remedy: String,
}

fn finding(about: &str, problem: String, remedy: &str) -> Finding {
    Finding { about: about.to_owned(), problem, remedy: remedy.to_owned() }
}

pub(super) fn judge(heard: &Heard, now: Timestamp) -> Vec<Finding> {
    let mut findings = Vec::new();
    leaders(heard, &mut findings);
    findings.extend(super::formats::finding(heard));
    for server in &heard.servers {
        let about = format!("server/{}", server.name);
        let trouble = rejoins::trouble(heard, &server.name);
        if let Some(cause) = &trouble {
            findings.push(rejoins::finding(&about, cause, server.answer.is_ok()));
        }
        match &server.answer {
            Ok(answer) => of_server(heard, &about, answer, now, &mut findings),
            Err(_) if trouble.is_some() => {}
            Err(why) => findings.push(Finding {
                about,
                problem: format!("it does not answer at {} ({why})", server.url),
                remedy: format!(
                    "start it, or mend its network; if it is gone for good: atoll member remove {}",
                    server.name
                ),
            }),
        }
    }
    nodes(&heard.nodes, &mut findings);
    deployments(&heard.deployments, &mut findings);
    findings
}

/// Who leads, by the highest term that anybody knows, and that term.
pub(super) fn leader(heard: &Heard) -> (Option<String>, u64) {
    let answers = heard.servers.iter().filter_map(|server| server.answer.as_ref().ok());
    let claims = answers.map(|answer| {
        let cluster = &answer["cluster"];
        let term = cluster["term"].as_u64().or_else(|| answer["store"]["term"].as_u64());
        let leader = cluster["leader"].as_str().map(ToOwned::to_owned);
        (term.unwrap_or(0), leader)
    });
    let (term, leader) = claims.max().unwrap_or((0, None));
    (leader, term)
}

pub(super) fn role(answer: &Value, leader: Option<&str>) -> &'static str {
    let name = answer["server"].as_str();
    let members = answer["cluster"]["members"].as_array().into_iter().flatten();
    let is_learner =
        members.into_iter().any(|one| one["name"].as_str() == name && one["isLearner"] == true);
    match (name == leader && leader.is_some(), is_learner) {
        (true, _) => "leader",
        (false, true) => "learner",
        (false, false) => "follower",
    }
}

/// Entries that it is behind the furthest.
pub(super) fn lag(heard: &Heard, answer: &Value) -> Option<u64> {
    let applied = |answer: &Value| answer["store"]["appliedIndex"].as_u64();
    let answers = heard.servers.iter().filter_map(|server| server.answer.as_ref().ok());
    let furthest = answers.filter_map(applied).max()?;
    Some(furthest.saturating_sub(applied(answer)?))
}

/// When the first of its certificates ends.
pub(super) fn certificate_end(answer: &Value) -> Option<String> {
    let ends = all_certificates(answer).filter_map(|one| one["until"].as_str());
    let ends = ends.chain(answer["machine"]["peerCertificateEnds"].as_str());
    ends.min().map(ToOwned::to_owned)
}

/// Those of the API server, and those of the store.
fn all_certificates(answer: &Value) -> impl Iterator<Item = &Value> {
    let lists = [&answer["certificates"], &answer["machine"]["certificates"]];
    lists.into_iter().filter_map(Value::as_array).flatten()
}

fn leaders(heard: &Heard, findings: &mut Vec<Finding>) {
    let answers = heard.servers.iter().filter_map(|server| server.answer.as_ref().ok());
    let answering = answers.clone().count();
    let is_ours = answers.clone().any(|answer| answer["cluster"].is_object());
    if is_ours && leader(heard).0.is_none() {
        let all = heard.servers.len();
        findings.push(finding(
            "store",
            format!("no server leads: {answering} of {all} answer, a majority is {}", all / 2 + 1),
            "start or reach the others",
        ));
    }
    let mut clusters: Vec<&str> = answers.filter_map(|one| one["clusterId"].as_str()).collect();
    clusters.sort_unstable();
    clusters.dedup();
    if clusters.len() > 1 {
        findings.push(finding(
            "store",
            format!("the servers are of different clusters: {}", clusters.join(", ")),
            "correct the addresses that they tell each other",
        ));
    }
}

fn of_server(
    heard: &Heard,
    about: &str,
    answer: &Value,
    now: Timestamp,
    findings: &mut Vec<Finding>,
) {
    let number = |pointer: &str| answer.pointer(pointer).and_then(Value::as_u64);
    let mut add = |problem: String, remedy: &str| findings.push(finding(about, problem, remedy));
    if let Some(why) = answer["problem"].as_str() {
        add(
            format!("its store does not work: {why}"),
            "start or reach the others; its log says more",
        );
    }
    if let Some(behind) = lag(heard, answer).filter(|behind| *behind > LAG_MAX) {
        add(format!("it is {behind} entries behind"), "look at its disk and its network");
    }
    if let Some(micros) = number("/machine/syncMicroseconds").filter(|one| *one > SYNC_MICROS_MAX) {
        add(
            format!("a write to its disk takes {} ms", micros / 1_000),
            "give the store a faster disk, or take other load off it",
        );
    }
    if let Some(why) = answer["machine"]["syncProblem"].as_str() {
        add(format!("its disk cannot be written: {why}"), "mend the disk, or make some room");
    }
    for (keyspace, what, remedy) in KEYSPACES {
        if let Some(problem) = space(&answer[keyspace]) {
            add(format!("{what} {problem}"), remedy);
        }
    }
    if let Some(free) = number("/machine/diskFreeBytes").filter(|free| *free < FREE_BYTES_MIN) {
        add(format!("its disk has {} MiB left", free >> 20), "make some room");
    }
    certificates(answer, now, &mut add);
}

/// What is wrong with the room of a keyspace.
fn space(keyspace: &Value) -> Option<String> {
    let (live, quota) = keyspace["liveBytes"].as_u64().zip(keyspace["quotaBytes"].as_u64())?;
    let held = format!("{} of {} MiB", live >> 20, quota >> 20);
    if keyspace["noSpace"] == true {
        return Some(format!("no room: they take {held}, and writes are refused"));
    }
    (quota > 0 && live.saturating_mul(100) > quota.saturating_mul(LIVE_PERCENT_MAX))
        .then(|| format!("little room: they take {held}"))
}

fn certificates(answer: &Value, now: Timestamp, add: &mut impl FnMut(String, &str)) {
    let time = |value: &Value| value.as_str().and_then(|text| text.parse::<Timestamp>().ok());
    for one in all_certificates(answer) {
        let name = one["name"].as_str().unwrap_or_default();
        if let Some(until) = time(&one["until"])
            && until.duration_since(now) < AUTHORITY_LEFT_MIN
        {
            add(
                format!("the certificate of the {name} ends at {until}"),
                "make a new authority before that, or set the clock if it is wrong",
            );
        }
        if let Some(renewed) = time(&one["renewedAt"])
            && now.duration_since(renewed) > OVERDUE_MAX
        {
            add(
                format!("its certificate as {name} was to be renewed at {renewed}"),
                "look into its log, and start it again",
            );
        }
    }
}

fn nodes(nodes: &Value, findings: &mut Vec<Finding>) {
    for node in nodes["items"].as_array().into_iter().flatten() {
        let about = format!("node/{}", node["metadata"]["name"].as_str().unwrap_or_default());
        let conditions = node["status"]["conditions"].as_array().into_iter().flatten();
        for condition in conditions {
            let kind = condition["type"].as_str().unwrap_or_default();
            let is_well = (condition["status"] == "True") == (kind == "Ready");
            if !is_well && (kind == "Ready" || condition["status"] == "True") {
                let message = condition["message"].as_str().unwrap_or_default();
                let name = about.trim_start_matches("node/");
                findings.push(Finding {
                    about: about.clone(),
                    problem: match kind {
                        "Ready" => format!("it is not ready ({message})"),
                        other => format!("it has {other} ({message})"),
                    },
                    remedy: format!("atoll why node/{name} says more"),
                });
            }
        }
    }
}

fn deployments(deployments: &Value, findings: &mut Vec<Finding>) {
    for one in deployments["items"].as_array().into_iter().flatten() {
        let text = |field: &str| one["metadata"][field].as_str().unwrap_or_default();
        let wanted = one["spec"]["replicas"].as_i64().unwrap_or(1);
        let available = one["status"]["availableReplicas"].as_i64().unwrap_or(0);
        if available < wanted {
            let (namespace, name) = (text("namespace"), text("name"));
            findings.push(Finding {
                about: format!("deployment/{name} in {namespace}"),
                problem: format!("{available} of {wanted} replicas are available"),
                remedy: format!("atoll why deployment/{name} -n {namespace} says why"),
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Asked;
    use serde_json::json;

    fn now() -> Timestamp {
        "2026-11-25T16:00:00Z".parse().unwrap()
    }

    fn server(name: &str, applied: u64) -> Asked {
        let answer = json!({
            "server": name,
            "clusterId": "c",
            "cluster": { "leader": "node-1", "term": 3, "members": [] },
            "store": { "term": 3, "appliedIndex": applied, "liveBytes": 1, "quotaBytes": 100 },
            "machine": {
                "syncMicroseconds": 900, "diskFreeBytes": 9_u64 << 30,
                "peerCertificateEnds": "2027-02-01T00:00:00Z",
                "certificates": [{ "name": "peer authority", "until": "2036-11-22T00:00:00Z" }],
            },
            "certificates": [
                { "name": "serving authority", "until": "2036-11-22T00:00:00Z" },
                { "name": "API server", "renewedAt": "2027-01-22T00:00:00Z" },
            ],
            "problem": null,
        });
        Asked { name: name.to_owned(), url: "https://x:6443".to_owned(), answer: Ok(answer) }
    }

    fn heard() -> Heard {
        let servers = vec![server("node-1", 20_010), server("node-2", 20_000)];
        Heard { servers, nodes: json!({}), deployments: json!({}) }
    }

    fn said(heard: &Heard) -> String {
        let findings = judge(heard, now());
        let lines = findings.iter().map(|one| format!("{}: {}", one.about, one.problem));
        lines.collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn a_healthy_cluster_has_no_findings() {
        let heard = heard();
        assert_eq!(judge(&heard, now()), []);
        assert_eq!(leader(&heard), (Some("node-1".to_owned()), 3));
        let second = heard.servers[1].answer.clone().unwrap();
        assert_eq!(lag(&heard, &second), Some(10));
        assert_eq!(role(&second, Some("node-1")), "follower");
        assert_eq!(certificate_end(&second).unwrap(), "2027-02-01T00:00:00Z");
    }

    #[test]
    fn what_is_wrong_is_named_with_what_to_do() {
        let mut heard = heard();
        heard.servers[1].answer = Err("no route".to_owned());
        let Ok(answer) = &mut heard.servers[0].answer else { panic!() };
        answer["machine"]["syncMicroseconds"] = json!(250_000);
        answer["machine"]["diskFreeBytes"] = json!(5 << 20);
        answer["store"]["liveBytes"] = json!(81);
        answer["applications"] = json!({"liveBytes": 99, "quotaBytes": 100, "noSpace": true});
        answer["certificates"][0]["until"] = json!("2026-12-01T00:00:00Z");
        answer["certificates"][1]["renewedAt"] = json!("2026-11-20T00:00:00Z");
        answer["machine"]["certificates"][0]["until"] = json!("2026-12-02T00:00:00Z");
        answer["cluster"]["leader"] = Value::Null;
        heard.nodes = json!({"items": [{
            "metadata": {"name": "node-9"},
            "status": {"conditions": [
                {"type": "Ready", "status": "Unknown", "message": "silent"},
                {"type": "DiskPressure", "status": "Unknown"},
            ]},
        }]});
        heard.deployments = json!({"items": [{
            "metadata": {"name": "web", "namespace": "shop"},
            "spec": {"replicas": 3}, "status": {"availableReplicas": 1},
        }]});
        let said = said(&heard);
        for expected in [
            "store: no server leads: 1 of 2 answer, a majority is 2",
            "server/node-2: it does not answer at https://x:6443 (no route)",
            "server/node-1: a write to its disk takes 250 ms",
            "server/node-1: its disk has 5 MiB left",
            "server/node-1: the cluster's objects have little room: they take 0 of 0 MiB",
            "server/node-1: the applications' keys (etcd API) have no room: they take 0 of 0 MiB, and writes are refused",
            "server/node-1: the certificate of the serving authority ends at 2026-12-01T00:00:00Z",
            "server/node-1: its certificate as API server was to be renewed at",
            "server/node-1: the certificate of the peer authority ends at 2026-12-02T00:00:00Z",
            "node/node-9: it is not ready (silent)",
            "deployment/web in shop: 1 of 3 replicas are available",
        ] {
            assert!(said.contains(expected), "{expected}\n---\n{said}");
        }
        assert_eq!(said.lines().count(), 11, "{said}");
    }
}
