//! A server without any node: what its controllers make true needs none. Pods stay pending.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test, which may block")]

mod namespaces;
mod owners;
mod quotas;
mod volumes;

use atoll_e2e::{
    Output,
    cluster::{binary, free_port, run},
    eventually,
};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use std::{
    fs::File,
    process::{Child, Command, Stdio},
    time::Duration,
};

const SOON: Duration = Duration::from_secs(20);
/// A debug build on a loaded machine takes a while.
const READY: Duration = Duration::from_secs(90);

struct Alone {
    child: Child,
    folder: tempfile::TempDir,
}

impl Alone {
    fn start() -> Self {
        let folder = tempfile::Builder::new().prefix("atoll-e2e-").tempdir().unwrap();
        let log = File::create(folder.path().join("log")).unwrap();
        let mut command = Command::new(binary());
        command.args(["server", "--data-dir"]).arg(folder.path().join("data"));
        command.args(["--listen", &format!("127.0.0.1:{}", free_port())]);
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let alone = Self { child: command.spawn().unwrap(), folder };
        eventually(READY, "the server is ready", || {
            let answer = alone.kubectl(&["get", "--raw", "/readyz"], "");
            let account = alone.kubectl(&["get", "serviceaccount", "default"], "");
            let log = || std::fs::read_to_string(alone.folder.path().join("log")).unwrap();
            if answer.code == 0 && account.code == 0 { Ok(()) } else { Err(log()) }
        });
        alone
    }

    fn kubectl(&self, arguments: &[&str], input: &str) -> Output {
        let mut command = Command::new("kubectl");
        command.arg("--kubeconfig").arg(self.folder.path().join("data/kubeconfig"));
        command.args(arguments).env("HOME", self.folder.path());
        run(command, input)
    }

    /// Creates objects, given as one list.
    #[track_caller]
    fn create(&self, objects: &[Value]) {
        let list = json!({"apiVersion": "v1", "kind": "List", "items": objects});
        self.kubectl(&["create", "-f", "-"], &list.to_string()).ok();
    }

    #[track_caller]
    fn get(&self, what: &[&str]) -> Value {
        let arguments = [&["get", "-o", "json", "--ignore-not-found"], what].concat();
        let text = self.kubectl(&arguments, "").ok();
        if text.trim().is_empty() { Value::Null } else { serde_json::from_str(&text).unwrap() }
    }

    #[track_caller]
    fn items(&self, what: &[&str]) -> Vec<Value> {
        // Of an empty list kubectl says nothing with this flag.
        self.get(what)["items"].as_array().cloned().unwrap_or_default()
    }

    #[track_caller]
    fn patch(&self, what: &[&str], patch: &Value) {
        let text = patch.to_string();
        let arguments = [&["patch"], what, &["--type=merge", "-p", &text]].concat();
        self.kubectl(&arguments, "").ok();
    }

    /// Asks for the end of something without waiting for it.
    #[track_caller]
    fn delete(&self, what: &[&str], cascade: &str) {
        let cascade = format!("--cascade={cascade}");
        let arguments = [&["delete"], what, &["--wait=false", &cascade]].concat();
        self.kubectl(&arguments, "").ok();
    }

    /// Waits until so many are there.
    #[track_caller]
    fn count(&self, what: &[&str], count: usize) -> Vec<Value> {
        eventually(SOON, &format!("{count} of {what:?}"), || {
            let items = self.items(what);
            if items.len() == count { Ok(items) } else { Err(format!("{items:?}")) }
        })
    }

    /// Waits until it is gone.
    #[track_caller]
    fn gone(&self, what: &[&str]) {
        eventually(SOON, &format!("{what:?} is gone"), || match self.get(what) {
            Value::Null => Ok(()),
            there => Err(there.to_string()),
        });
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        kill_process(pid.unwrap(), Signal::INT).unwrap();
        self.child.wait().unwrap();
    }
}

fn template(app: &str, finalizers: &[&str]) -> Value {
    json!({
        "metadata": {"labels": {"app": app}, "finalizers": finalizers},
        "spec": {"containers": [{"name": "c", "image": "test.local/none:1"}]},
    })
}

/// A ReplicationController of so many pods.
fn controller(name: &str, replicas: u32, finalizers: &[&str]) -> Value {
    json!({"apiVersion": "v1", "kind": "ReplicationController", "metadata": {"name": name},
        "spec": {"replicas": replicas, "selector": {"app": name},
            "template": template(name, finalizers)}})
}

#[test]
fn controllers_need_no_nodes() {
    let alone = Alone::start();
    owners::a_circle_holds_nothing(&alone);
    owners::a_deployment_goes_with_all_of_its_own(&alone);
    owners::a_controller_waits_for_its_pods(&alone);
    owners::an_owner_that_stays_keeps_what_two_have(&alone);
    owners::orphans_stay(&alone);
    owners::who_owns_across_namespaces_is_told(&alone);
    namespaces::pods_go_first(&alone);
    namespaces::whoever_is_away_is_waited_for(&alone);
    namespaces::the_authority_is_kept(&alone);
    volumes::no_claim_waits_in_vain(&alone);
    quotas::every_kind_is_counted_and_given_back(&alone);
    quotas::pods_are_counted_in_all_they_ask(&alone);
    quotas::scopes_part_the_pods(&alone);
}
