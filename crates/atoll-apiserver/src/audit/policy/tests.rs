//! Which rule of a policy an event falls under.

use super::*;
use crate::user::UserInfo;

const POLICY: &str = "\
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: None
  users: [system:kube-proxy]
  verbs: [watch]
- level: RequestResponse
  resources:
  - group: \"\"
    resources: [pods, \"*/log\"]
- level: Request
  namespaces: [kube-system]
  omitManagedFields: true
- level: None
  nonResourceURLs: [/healthz*, /version]
- level: Metadata
  omitStages: [ResponseStarted]
";

fn level(policy: &Policy, user: &str, change: impl FnOnce(&mut Attributes<'_>)) -> Level {
    let user = UserInfo::authenticated(user, ["g"]);
    let mut asked = Attributes::resource(&user, "get", "", "configmaps");
    change(&mut asked);
    policy.keep(&asked).level
}

#[test]
fn the_first_rule_that_fits_decides() {
    let policy = Policy::parse(POLICY).unwrap();
    assert_eq!(level(&policy, "u", |_| {}), Level::Metadata);
    assert_eq!(level(&policy, "system:kube-proxy", |asked| asked.verb = "watch"), Level::None);
    assert_eq!(level(&policy, "u", |asked| asked.resource = "pods"), Level::RequestResponse);
    let exec = |asked: &mut Attributes<'_>| {
        asked.resource = "pods";
        asked.subresource = "exec";
    };
    assert_eq!(level(&policy, "u", exec), Level::Metadata);
    assert_eq!(level(&policy, "u", |asked| asked.subresource = "log"), Level::RequestResponse);
    assert_eq!(level(&policy, "u", |asked| asked.namespace = "kube-system"), Level::Request);
    let path = |asked: &mut Attributes<'_>| {
        asked.resource_request = false;
        asked.path = "/healthz/etcd";
    };
    assert_eq!(level(&policy, "u", path), Level::None);
    let user = UserInfo::anonymous();
    let keep = policy.keep(&Attributes::resource(&user, "get", "", "configmaps"));
    assert_eq!(keep.omit_stages, [Stage::RequestReceived, Stage::ResponseStarted]);
}

fn refused(text: &str) -> String {
    Policy::parse(text).unwrap_err().to_string()
}

#[test]
fn what_is_wrong_is_named_with_its_line() {
    let head = "apiVersion: audit.k8s.io/v1\nkind: Policy\n";
    assert_eq!(
        refused(&format!("{head}rules:\n- level: Metadata\n- level: Everything\n")),
        "line 5: rules[1].level: Unsupported value: \"Everything\": supported values: \"None\", \
         \"Metadata\", \"Request\", \"RequestResponse\""
    );
    assert_eq!(
        refused(&format!("{head}rules:\n- level: None\n  user: [a]\n")),
        "line 5: rules[0].user: Forbidden: unknown field"
    );
    assert_eq!(
        refused(&format!("{head}rules:\n- users: [a]\n")),
        "line 4: rules[0].level: Required value"
    );
    assert_eq!(
        refused(&format!("{head}rules: []\n")),
        "line 3: rules: Required value: loaded illegal policy with 0 rules"
    );
    assert_eq!(
        refused("apiVersion: audit.k8s.io/v2\nkind: Policy\nrules: [{level: None}]\n"),
        "line 1: apiVersion: Invalid value: \"audit.k8s.io/v2\": unknown group version field \
         audit.k8s.io/v2, Kind=Policy in policy"
    );
    assert!(refused("a: [\n").starts_with("line "));
    assert_eq!(
        refused(&format!("{head}rules:\n- level: None\n  level: Metadata\n")),
        "line 5: duplicate field \"rules[0].level\""
    );
    assert_eq!(
        refused(&format!("{head}rules:\n- level: None\n  nonResourceURLs:\n  - /a\n  - b\n")),
        "line 7: rules[0].nonResourceURLs[1]: Invalid value: \"b\": non-resource URL rules must \
         begin with a '/' character"
    );
}
