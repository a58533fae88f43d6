//! Whether one set of rules holds everything that another grants: nobody may hand out
//! more than they have.

use std::collections::BTreeSet;

use crate::rule::{Rule, url_matches};

/// Splits `wanted` into its smallest parts and returns those that `owned` does not hold.
#[must_use]
pub fn covers(owned: &[Rule], wanted: &[Rule]) -> Vec<Rule> {
    wanted
        .iter()
        .flat_map(break_down)
        .filter(|part| !owned.iter().any(|rule| rule_covers(rule, part)))
        .collect()
}

/// Upstream's refusal when a user grants `wanted` and holds only `owned`; `None` when the
/// user holds it all.
#[must_use]
pub fn escalation_problem(
    user: &str,
    groups: &[String],
    owned: &[Rule],
    wanted: &[Rule],
    unresolved: &[String],
) -> Option<String> {
    let missing = covers(owned, wanted);
    if missing.is_empty() {
        return None;
    }
    let lines: BTreeSet<String> = compact(missing).iter().map(describe).collect();
    let lines: Vec<String> = lines.into_iter().collect();
    let mut message = format!(
        "user {user:?} (groups={}) is attempting to grant RBAC permissions not currently held:\n{}",
        quoted(groups),
        lines.join("\n")
    );
    if !unresolved.is_empty() {
        message.push_str(&format!("; resolution errors: [{}]", unresolved.join(", ")));
    }
    Some(message)
}

fn break_down(rule: &Rule) -> Vec<Rule> {
    let mut parts = Vec::new();
    let one = |text: &String| vec![text.clone()];
    for group in &rule.api_groups {
        for resource in &rule.resources {
            for verb in &rule.verbs {
                let part = Rule {
                    verbs: one(verb),
                    api_groups: one(group),
                    resources: one(resource),
                    ..Rule::default()
                };
                if rule.resource_names.is_empty() {
                    parts.push(part);
                    continue;
                }
                for name in &rule.resource_names {
                    parts.push(Rule { resource_names: one(name), ..part.clone() });
                }
            }
        }
    }
    for url in &rule.non_resource_urls {
        for verb in &rule.verbs {
            parts.push(Rule { verbs: one(verb), non_resource_urls: one(url), ..Rule::default() });
        }
    }
    parts
}

fn rule_covers(owned: &Rule, part: &Rule) -> bool {
    let all = |own: &[String], wanted: &[String]| {
        own.iter().any(|word| word == "*") || wanted.iter().all(|word| own.contains(word))
    };
    if !all(&owned.verbs, &part.verbs) {
        return false;
    }
    if !part.non_resource_urls.is_empty() {
        return part
            .non_resource_urls
            .iter()
            .all(|url| owned.non_resource_urls.iter().any(|own| url_matches(own, url)));
    }
    let resources = owned.resources.iter().any(|word| word == "*")
        || part.resources.iter().all(|wanted| {
            owned.resources.contains(wanted)
                || wanted
                    .split_once('/')
                    .is_some_and(|(_, sub)| owned.resources.contains(&format!("*/{sub}")))
        });
    let names = owned.resource_names.is_empty()
        || (!part.resource_names.is_empty()
            && part.resource_names.iter().all(|name| owned.resource_names.contains(name)));
    resources && names && all(&owned.api_groups, &part.api_groups)
}

/// Joins parts that differ only in their verb.
fn compact(parts: Vec<Rule>) -> Vec<Rule> {
    let mut rules: Vec<Rule> = Vec::new();
    for part in parts {
        let same = |rule: &&mut Rule| {
            rule.api_groups == part.api_groups
                && rule.resources == part.resources
                && rule.resource_names == part.resource_names
                && rule.non_resource_urls == part.non_resource_urls
                // Upstream joins rules on resources only.
                && rule.non_resource_urls.is_empty()
        };
        match rules.iter_mut().find(same) {
            Some(rule) => rule.verbs.extend(part.verbs),
            None => rules.push(part),
        }
    }
    rules
}

/// A rule in one line: `{APIGroups:[""], Resources:["pods"], Verbs:["get" "list"]}`.
fn describe(rule: &Rule) -> String {
    let fields = [
        ("APIGroups", &rule.api_groups),
        ("Resources", &rule.resources),
        ("NonResourceURLs", &rule.non_resource_urls),
        ("ResourceNames", &rule.resource_names),
        ("Verbs", &rule.verbs),
    ];
    let parts: Vec<String> = fields
        .iter()
        .filter(|(_, list)| !list.is_empty())
        .map(|(name, list)| format!("{name}:{}", quoted(list)))
        .collect();
    format!("{{{}}}", parts.join(", "))
}

/// A list as Go prints it with %q.
fn quoted(list: &[String]) -> String {
    let words: Vec<String> = list.iter().map(|word| format!("{word:?}")).collect();
    format!("[{}]", words.join(" "))
}
