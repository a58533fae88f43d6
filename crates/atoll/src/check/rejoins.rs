//! Servers whose store could not be used: those that ask to become new members, and those that have.

use super::{Heard, judge::Finding};

/// Why a server is away that has asked others to take it in, and has no vote again yet.
pub(super) fn trouble(heard: &Heard, name: &str) -> Option<String> {
    let answers = heard.servers.iter().filter_map(|server| server.answer.as_ref().ok());
    answers.into_iter().find_map(|answer| {
        let asked = answer["rejoins"].as_array()?.iter().find(|one| one["server"] == name)?;
        let members = answer["cluster"]["members"].as_array()?;
        let is_back =
            members.iter().any(|one| one["id"] == asked["memberId"] && one["isLearner"] == false);
        let cause = asked["cause"].as_str().filter(|_| !is_back)?;
        Some(cause.to_owned())
    })
}

/// The same as something that is wrong.
pub(super) fn finding(about: &str, cause: &str, answers: bool) -> Finding {
    let (state, remedy) = if answers {
        ("it takes its state anew from the others", "wait until it has its vote again")
    } else {
        (
            "it has stopped serving and asks the others to take it in as a new member",
            "it does that by itself while a majority is there; its log says more",
        )
    };
    Finding {
        about: about.to_owned(),
        problem: format!("{state}, because {cause}"),
        remedy: remedy.to_owned(),
    }
}

/// What happened to servers that are well again, for whoever looks after their disks.
pub(super) fn notes(heard: &Heard) -> Vec<String> {
    let answers = heard.servers.iter().filter_map(|server| server.answer.as_ref().ok());
    let notes = answers.filter_map(|answer| {
        let rejoined = &answer["machine"]["rejoined"];
        let (at, cause) = (rejoined["at"].as_str()?, rejoined["cause"].as_str()?);
        let kept = rejoined["keptIn"].as_str().map_or_else(String::new, |path| {
            format!("; what could not be used is kept in {path}: delete it when nobody needs it")
        });
        let name = answer["server"].as_str()?;
        Some(format!("Note: server/{name} became a new member at {at}, because {cause}{kept}"))
    });
    notes.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Asked;
    use serde_json::{Value, json};

    fn heard(member: &str, is_learner: bool) -> Heard {
        let answer = json!({
            "server": "node-1",
            "cluster": { "members": [
                { "id": "1", "name": "node-1", "isLearner": false },
                { "id": member, "name": "node-2", "isLearner": is_learner },
            ] },
            "rejoins": [{ "server": "node-2", "cause": "a flipped bit", "memberId": "9" }],
            "machine": { "rejoined": {
                "at": "2026-11-25T16:00:00Z", "cause": "a cut file", "keptIn": "/x/store.damaged-1",
            } },
        });
        let server =
            |name: &str, answer| Asked { name: name.to_owned(), url: String::new(), answer };
        Heard {
            servers: vec![server("node-1", Ok(answer)), server("node-2", Err(String::new()))],
            nodes: Value::Null,
            deployments: Value::Null,
        }
    }

    #[test]
    fn a_server_that_rejoins_is_told_until_it_has_its_vote_again() {
        let cause = Some("a flipped bit".to_owned());
        assert_eq!(trouble(&heard("2", false), "node-2"), cause);
        assert_eq!(trouble(&heard("9", true), "node-2"), cause);
        assert_eq!(trouble(&heard("9", false), "node-2"), None);
        assert_eq!(trouble(&heard("2", false), "node-1"), None);
        let told = finding("server/node-2", "a flipped bit", false);
        assert!(told.problem.contains("has stopped serving") && told.problem.contains("flipped"));
    }

    #[test]
    fn what_happened_is_noted_with_what_was_kept() {
        let notes = notes(&heard("2", false));
        assert_eq!(notes.len(), 1);
        assert!(notes[0].starts_with("Note: server/node-1 became a new member"), "{notes:?}");
        assert!(notes[0].contains("a cut file; what could not be used is kept in /x/store"));
    }
}
