//! The commands, a series for each part of the API.

use crate::transcript::Transcript;
use atoll_e2e::eventually;
use std::time::Duration;

pub fn keys(t: &mut Transcript<'_>) {
    for (key, value) in [("a", "3"), ("b", "1"), ("c", "2"), ("ab", "4"), ("", "5")] {
        t.step(&["put", key, value]);
    }
    t.step(&["put", "a", "6", "--prev-kv"]);
    t.step(&["put", "a", "7", "-w", "json"]);
    t.step(&["put", "a", "--ignore-value", "--prev-kv"]);
    t.step(&["put", "missing", "--ignore-value"]);
    t.step(&["put", "a", "8", "--ignore-lease"]);
    t.step(&["put", "missing", "8", "--ignore-lease"]);
    t.step(&["put", "a", "8", "--lease=123"]);
    t.step_with(&["put", "piped"], "from standard input");

    t.step(&["get", "a"]);
    t.step(&["get", "a", "-w", "json"]);
    t.step(&["get", "a", "-w", "fields"]);
    t.step(&["get", "a", "--hex"]);
    t.step(&["get", "a", "--print-value-only"]);
    t.step(&["get", "a", "--prefix"]);
    t.step(&["get", "a", "c"]);
    t.step(&["get", "b", "--from-key"]);
    t.step(&["get", "", "--prefix", "--keys-only"]);
    t.step(&["get", "", "--prefix", "--limit=2", "-w", "json"]);
    t.step(&["get", "", "--prefix", "--count-only", "-w", "fields"]);
    t.step(&["get", "a", "--consistency=s"]);
    t.step(&["get", "c", "a"]);
    t.step(&["get", "missing"]);
    for target in ["CREATE", "KEY", "MODIFY", "VALUE", "VERSION"] {
        for order in ["ASCEND", "DESCEND"] {
            let (order, target) = (format!("--order={order}"), format!("--sort-by={target}"));
            t.step(&["get", "", "--prefix", &order, &target]);
            t.step(&["get", "", "--prefix", &order, &target, "--limit=2", "--keys-only"]);
        }
    }
    t.step(&["get", "a", "--rev=2"]);
    t.step(&["get", "", "--prefix", "--rev=4"]);
    t.step(&["get", "a", "--rev=1000"]);
    t.step(&["get", ""]);

    let guarded = "mod(\"a\") > \"0\"\nval(\"b\") = \"1\"\n\nput d 9\nget a\ndel b\n\nget c\n\n";
    t.step_with(&["txn"], guarded);
    t.step_with(&["txn"], guarded);
    t.step_with(
        &["txn", "-w", "json"],
        "ver(\"d\") < \"9\"\ncreate(\"zz\") = \"0\"\n\nget d\n\n\n",
    );
    t.step_with(&["txn"], "val(\"a\") != \"0\"\n\nput x 1\nput x 2\n\n\n");
    t.step_with(&["txn"], "\nput e 1\nget e\nput f 2\n\n\n");

    t.step(&["del", "d", "--prev-kv"]);
    t.step(&["del", "missing"]);
    t.step(&["del", "a", "--prefix", "-w", "json"]);
    t.step(&["del", "c", "e"]);
    t.step(&["del", "x", "--from-key"]);
    t.step(&["del", "e", "--range"]);

    t.step(&["compaction", "5"]);
    t.step(&["compaction", "5"]);
    t.step(&["compaction", "1000"]);
    t.step(&["get", "a", "--rev=4"]);
    t.step(&["compaction", "7", "--physical"]);
    t.step(&["get", "", "--prefix", "--rev=7"]);
    t.step(&["get", "", "--prefix", "-w", "json"]);
}

pub fn watches_and_leases(t: &mut Transcript<'_>) {
    t.step(&["put", "w/1", "before"]);
    t.step(&["del", "w/1"]);
    let first = t.start(&["watch", "w/1", "--rev=2", "--prev-kv"], "");
    t.lines(&first, 8);
    t.step(&["put", "w/1", "after"]);
    t.lines(&first, 3);
    drop(first);

    let commands = "watch w/ --prefix --rev=2\nprogress\nwatch other\n";
    let interactive = t.start(&["watch", "-i"], commands);
    // These releases of etcd tell their progress before the events that it covers.
    let is_progress = |line: &String| line.starts_with("progress notify: ");
    let lines: Vec<_> = (0..10).map(|_| interactive.line()).collect();
    let (progress, events): (Vec<_>, Vec<_>) = lines.into_iter().partition(is_progress);
    t.note(&format!("{} and {}", events.join("|"), progress.join("|")));
    drop(interactive);

    t.step(&["compaction", "3"]);
    t.step(&["watch", "w/1", "--rev=2"]);
    let granted = t.step(&["lease", "grant", "600"]);
    let lease = granted.split_whitespace().nth(1).unwrap().to_owned();
    let with_lease = format!("--lease={lease}");
    t.step(&["put", "leased/1", "x", &with_lease]);
    t.step(&["put", "leased/2", "x", &with_lease]);
    t.step(&["get", "leased/1", "-w", "fields"]);
    t.step(&["lease", "timetolive", &lease]);
    // An etcd names them in any order.
    let attached = t.run(&["lease", "timetolive", &lease, "--keys"]).ok();
    t.note(&format!("{}", ["leased/1", "leased/2"].iter().all(|key| attached.contains(key))));
    t.step(&["lease", "list"]);
    t.step(&["lease", "keep-alive", &lease, "--once"]);
    let kept = t.start(&["lease", "keep-alive", &lease], "");
    t.lines(&kept, 1);
    drop(kept);
    t.step(&["put", "leased/2", "freed"]);
    t.step(&["put", "leased/1", "y", "--ignore-lease"]);
    t.step(&["lease", "timetolive", &lease, "--keys"]);
    t.step(&["lease", "revoke", &lease]);
    t.step(&["lease", "revoke", &lease]);
    t.step(&["lease", "timetolive", &lease]);
    t.step(&["lease", "keep-alive", &lease, "--once"]);
    t.step(&["get", "leased/", "--prefix"]);
    t.step(&["lease", "grant", "9000000001"]);
    t.step(&["lease", "grant", "abc"]);
    t.step(&["lease", "list"]);

    let granted = t.step(&["lease", "grant", "2"]);
    let short = granted.split_whitespace().nth(1).unwrap().to_owned();
    let watch = t.start(&["watch", "short", "--rev=4"], "");
    t.step(&["put", "short", "lived", &format!("--lease={short}")]);
    let mut lines = vec![watch.line()];
    if lines[0] == "PUT" {
        lines = vec![watch.line(), watch.line(), watch.line()];
    }
    t.note(&lines[lines.len() - 1]);
    drop(watch);
    t.step(&["get", "short"]);

    let ran = t.start(&["watch", "w/2", "--", "sh", "-c", "echo ran for $ETCD_WATCH_KEY"], "");
    // It says nothing when it has begun; so there are writes until it has seen one.
    let seen = eventually(Duration::from_secs(20), "a watch runs its command", || {
        t.run(&["put", "w/2", "x"]).ok();
        ran.line_within(Duration::from_millis(200)).ok_or_else(String::new)
    });
    t.note(&seen);
    t.lines(&ran, 3);
    drop(ran);
}

pub fn locks_and_elections(t: &mut Transcript<'_>) {
    let holder = t.start(&["lock", "mutex", "--ttl=30"], "");
    let key = holder.line();
    t.note(&format!("{}", key.starts_with("mutex/")));
    t.step(&["get", "mutex/", "--prefix", "--keys-only"]);
    let waiter = t.start(&["lock", "mutex", "--", "sh", "-c", "echo now mine"], "");
    t.note(&format!("the first ends with {}", holder.interrupt()));
    t.lines(&waiter, 1);
    drop(waiter);
    t.step(&["lock", "other", "echo", "held"]);
    t.step(&["lock", "other", "false"]);

    let leader = t.start(&["elect", "chair", "ann"], "");
    t.note(&format!("{}", leader.line().starts_with("chair/")));
    t.note(&leader.line());
    let observer = t.start(&["elect", "-l", "chair"], "");
    t.note(&format!("{}", observer.line().starts_with("chair/")));
    t.note(&observer.line());
    let next = t.start(&["elect", "chair", "bob"], "");
    t.note(&format!("{}", leader.interrupt()));
    t.note(&format!("{}", next.line().starts_with("chair/")));
    t.note(&next.line());
    t.note(&format!("{}", observer.line().starts_with("chair/")));
    t.note(&observer.line());
}

pub fn operators(t: &mut Transcript<'_>) {
    for index in 0..20 {
        t.run(&["put", &format!("k{}", index % 7), &format!("value {index}")]).ok();
    }
    t.run(&["del", "k3"]).ok();
    // The very hash of an etcd with the same history.
    t.step(&["endpoint", "hashkv"]);
    t.step(&["compaction", "15", "--physical"]);
    t.step(&["endpoint", "hashkv"]);
    t.step(&["put", "k1", "x"]);
    t.step(&["del", "", "--prefix"]);
    t.step(&["endpoint", "hashkv"]);
    t.step(&["endpoint", "health"]);
    t.step(&["endpoint", "health", "-w", "json"]);
    t.step(&["endpoint", "health", "--cluster"]);
    let status = t.run(&["endpoint", "status", "-w", "fields"]).ok();
    let kept = ["\"Revision\"", "\"Leader\"", "\"Endpoint\""];
    let names: Vec<_> = status.lines().filter_map(|line| line.split_once(" :")).collect();
    t.note(&format!("{}", kept.iter().all(|name| names.iter().any(|(found, _)| found == name))));
    // Of 3.4, this is no authority of a URI.
    t.scheme = "http://";
    t.step(&["endpoint", "hashkv"]);
    t.step(&["endpoint", "hashkv", "--cluster"]);
    t.step(&["defrag"]);
    t.run(&["endpoint", "status", "--cluster"]).ok();
    t.scheme = "";
    t.step(&["alarm", "list"]);
    t.step(&["alarm", "disarm"]);
    t.step(&["defrag"]);
    t.step(&["member", "remove", "1234"]);
    t.step(&["member", "update", "1234", "--peer-urls=http://127.0.0.1:1"]);
    t.step(&["member", "promote", "1234"]);
    t.step(&["member", "add", "other", "--peer-urls=nothing"]);
    t.step(&["member", "add", "other"]);
    t.step(&["move-leader", "1234"]);
    t.step(&["user", "list"]);
    t.step(&["role", "list"]);
    t.step(&["user", "get", "nobody"]);
    t.step(&["user", "delete", "nobody"]);
    t.step(&["user", "grant-role", "nobody", "nothing"]);
    t.step(&["user", "revoke-role", "nobody", "nothing"]);
    t.step(&["role", "get", "nothing"]);
    t.step(&["role", "delete", "nothing"]);
    t.step(&["role", "grant-permission", "nothing", "read", "k"]);
    t.step(&["role", "revoke-permission", "nothing", "k"]);
    t.step(&["auth", "disable"]);
    t.step(&["get", "k", "--user=somebody:secret"]);
    // It says how far it is, which differs.
    let scale = t.run(&["check", "datascale", "--load=s", "--prefix=/scale/"]).ok();
    t.note(&format!("{}", scale.contains("PASS")));
}

pub fn operators_since_3_5(t: &mut Transcript<'_>) {
    t.step(&["auth", "status"]);
    t.step(&["auth", "enable"]);
}

/// Enough for a tree of several levels, with deletions, a large value, leases and a compaction.
pub fn fill(t: &mut Transcript<'_>) {
    let value = "v".repeat(150);
    for round in 0..32 {
        let puts: String =
            (0..120).map(|index| format!("put key/{round}/{index} {value}\n")).collect();
        t.step_with(&["txn"], &format!("\n{puts}\n\n"));
    }
    let large = "x".repeat(300_000);
    t.step_with(&["put", "large"], &large);
    for _ in 0..3 {
        let granted = t.step(&["lease", "grant", "6000"]);
        let lease = granted.split_whitespace().nth(1).unwrap().to_owned();
        t.step(&["put", "leased", "x", &format!("--lease={lease}")]);
    }
    t.step(&["del", "key/3/", "--prefix"]);
    t.step(&["compaction", "34", "--physical"]);
    t.step(&["del", "key/4/", "--prefix"]);
    t.step(&["put", "key/5/1", "newer"]);
}

pub fn look(t: &mut Transcript<'_>) {
    t.step(&["endpoint", "hashkv"]);
    let leases = t.run(&["lease", "list"]).ok();
    let mut leases: Vec<_> = leases.lines().collect();
    leases.sort_unstable();
    t.note(&leases.join(" "));
    for revision in ["--rev=33", "--rev=34", "--rev=36", "--rev=0"] {
        t.step(&["get", "", "--prefix", "-w", "json", revision]);
    }
}
