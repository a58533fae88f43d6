//! What keeps the cluster from using the formats that most of its servers know.

use super::{Heard, judge::Finding};
use serde_json::Value;

/// As the server says that knows of most.
pub(super) fn finding(heard: &Heard) -> Option<Finding> {
    let answers = heard.servers.iter().filter_map(|server| server.answer.as_ref().ok());
    let cluster = answers
        .map(|answer| &answer["cluster"])
        .max_by_key(|cluster| members(cluster).filter(|one| supported(one).is_some()).count())?;
    let level = cluster["formatLevel"].as_u64()?;
    let highest = members(cluster).filter_map(supported).max()?;
    if highest <= level {
        return None;
    }
    let behind = |one: &&Value| supported(one).is_none_or(|theirs| theirs <= level);
    let behind: Vec<String> = members(cluster).filter(behind).map(named).collect();
    if behind.is_empty() {
        return None;
    }
    Some(Finding {
        about: "store".to_owned(),
        problem: format!(
            "new formats wait (the level is {level}, most servers know {highest}) for {}",
            behind.join(" and ")
        ),
        remedy: "install the release there that the others run and start it again, or remove it \
                 (atoll member remove NAME)"
            .to_owned(),
    })
}

fn members(cluster: &Value) -> impl Iterator<Item = &Value> {
    cluster["members"].as_array().into_iter().flatten()
}

fn supported(member: &Value) -> Option<u64> {
    member["formatLevelSupported"].as_u64()
}

fn named(member: &Value) -> String {
    let name = member["name"].as_str().unwrap_or("a server without a name");
    match (member["release"].as_str(), supported(member)) {
        (Some(release), Some(_)) => format!("{name}, which runs {release}"),
        (Some(release), None) => format!("{name}, not heard of and last running {release}"),
        (None, Some(level)) => format!("{name}, which knows {level}"),
        (None, None) => format!("{name}, not heard of"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Asked;
    use serde_json::json;

    fn heard(level: u64, members: Value) -> Heard {
        let answer = Ok(json!({ "cluster": { "formatLevel": level, "members": members } }));
        let servers = vec![Asked { name: "a".to_owned(), url: String::new(), answer }];
        Heard { servers, nodes: Value::Null, deployments: Value::Null }
    }

    #[test]
    fn whoever_holds_the_level_is_named_and_nobody_when_all_know_the_same() {
        let of = |name: &str, level: Option<u64>, release: Option<&str>| json!({ "name": name, "formatLevelSupported": level, "release": release });
        let new = of("a", Some(2), Some("0.2.0"));
        let old = of("b", Some(1), None);
        let silent = of("c", None, Some("0.1.0"));
        let found = finding(&heard(1, json!([new, old, silent]))).unwrap().problem;
        assert!(found.contains("the level is 1, most servers know 2"), "{found}");
        assert!(found.contains("b, which knows 1"), "{found}");
        assert!(found.contains("c, not heard of and last running 0.1.0"), "{found}");
        assert_eq!(finding(&heard(2, json!([new, new]))), None);
        // It rises within the second.
        assert_eq!(finding(&heard(1, json!([new, new]))), None);
        assert_eq!(finding(&heard(1, json!([old, old]))), None);
    }
}
