//! The page of `/metrics`: under etcd's names and in its words, as far as there is such a thing
//! here. What is counted, is counted on the server that was asked.

use std::fmt::{Display, Write as _};

use atoll_store::TimesSeen;
use atoll_store::kv::{Consistency, KeyRange, RangeRequest, Status};

use super::counters::{CODES, Counter, METHODS};
use super::maintenance::STORAGE_VERSION;
use super::{Core, ETCD_VERSION, Process};

pub(super) const KIND: &str = "text/plain; version=0.0.4; charset=utf-8";
const GAUGE: &str = "gauge";
const COUNTER: &str = "counter";

pub(super) async fn page(core: &Core) -> String {
    let mut page = Page::default();
    counted(core, &mut page);
    members(core, &mut page);
    // A store that cannot say how it is has nothing to show.
    if let Ok(status) = core.store.status().await {
        stored(&status, &mut page);
        alarms(core, &status, &mut page);
    }
    if let Some(times) = core.store.disk_times() {
        page.times(
            "etcd_disk_wal_fsync_duration_seconds",
            "The latency distributions of fsync called by WAL.",
            &times.log,
        );
        page.times(
            "etcd_disk_backend_commit_duration_seconds",
            "The latency distributions of commit called by backend.",
            &times.state,
        );
    }
    // It is read from files of the system.
    if let Ok(figures) = tokio::task::spawn_blocking(core.config.process).await {
        process(&figures, &mut page);
    }
    if let Some(keys) = keys(core).await {
        page.one(GAUGE, "etcd_debugging_mvcc_keys_total", "Total number of keys.", keys);
    }
    calls(core, &mut page);
    page.0
}

#[derive(Default)]
struct Page(String);

impl Page {
    fn head(&mut self, kind: &str, name: &str, help: &str) {
        // Writing to a string does not fail.
        writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}").unwrap_or_default();
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &dyn Display)], value: impl Display) {
        let labels: Vec<_> =
            labels.iter().map(|(label, value)| format!("{label}=\"{value}\"")).collect();
        let labels =
            if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        writeln!(self.0, "{name}{labels} {value}").unwrap_or_default();
    }

    fn times(&mut self, name: &str, help: &str, times: &TimesSeen) {
        self.head("histogram", name, help);
        let bucket = format!("{name}_bucket");
        for (bound, count) in &times.buckets {
            self.sample(&bucket, &[("le", &bound.as_secs_f64())], *count);
        }
        self.sample(&bucket, &[("le", &"+Inf")], times.count);
        self.sample(&format!("{name}_sum"), &[], times.total.as_secs_f64());
        self.sample(&format!("{name}_count"), &[], times.count);
    }

    fn one(&mut self, kind: &str, name: &str, help: &str, value: impl Display) {
        self.head(kind, name, help);
        self.sample(name, &[], value);
    }
}

fn counted(core: &Core, page: &mut Page) {
    let of = &core.counters;
    let table: &[(&str, &str, &str, &Counter)] = &[
        (COUNTER, "etcd_mvcc_put_total", "Total number of puts seen by this member.", &of.puts),
        (
            COUNTER,
            "etcd_mvcc_delete_total",
            "Total number of deletes seen by this member.",
            &of.deletes,
        ),
        (COUNTER, "etcd_mvcc_txn_total", "Total number of txns seen by this member.", &of.txns),
        (
            COUNTER,
            "etcd_mvcc_range_total",
            "Total number of ranges seen by this member.",
            &of.ranges,
        ),
        (
            GAUGE,
            "etcd_debugging_mvcc_watch_stream_total",
            "Total number of watch streams.",
            &of.watch_streams,
        ),
        (GAUGE, "etcd_debugging_mvcc_watcher_total", "Total number of watchers.", &of.watchers),
        (
            COUNTER,
            "etcd_server_health_success",
            "The total number of successful health checks",
            &of.health_success,
        ),
        (
            COUNTER,
            "etcd_server_health_failures",
            "The total number of failed health checks",
            &of.health_failures,
        ),
        (
            COUNTER,
            "etcd_server_leader_changes_seen_total",
            "The number of leader changes seen.",
            &of.leader_changes,
        ),
        (
            GAUGE,
            "etcd_server_proposals_pending",
            "The current number of pending proposals to commit.",
            &of.proposals_pending,
        ),
        (
            COUNTER,
            "etcd_server_proposals_failed_total",
            "The total number of failed proposals seen.",
            &of.proposals_failed,
        ),
    ];
    for (kind, name, help, counter) in table {
        page.one(kind, name, help, counter.get());
    }
}

fn members(core: &Core, page: &mut Page) {
    let leader = core.membership.borrow().leader;
    let own = core.config.member_id;
    let table = [
        (
            "etcd_server_has_leader",
            "Whether or not a leader exists. 1 is existence, 0 is not.",
            leader.is_some(),
        ),
        (
            "etcd_server_is_leader",
            "Whether or not this member is a leader. 1 if is, 0 otherwise.",
            leader == Some(own),
        ),
        (
            "etcd_server_is_learner",
            "Whether or not this member is a learner. 1 if is, 0 otherwise.",
            core.is_learner(),
        ),
    ];
    for (name, help, is_so) in table {
        page.one(GAUGE, name, help, u64::from(is_so));
    }
    // As etcd has it, without the patch.
    let cluster = STORAGE_VERSION.rsplit_once('.').map_or(STORAGE_VERSION, |(minor, _)| minor);
    let (id, release) = (format!("{own:x}"), ETCD_VERSION);
    let labelled: [(&str, &str, &str, &dyn Display); 3] = [
        (
            "etcd_server_id",
            "Server or member ID in hexadecimal format. 1 for 'server_id' label with current ID.",
            "server_id",
            &id,
        ),
        (
            "etcd_server_version",
            "Which version is running. 1 for 'server_version' label with current version.",
            "server_version",
            &release,
        ),
        (
            "etcd_cluster_version",
            "Which version is running. 1 for 'cluster_version' label with current cluster version",
            "cluster_version",
            &cluster,
        ),
    ];
    for (name, help, label, value) in labelled {
        page.head(GAUGE, name, help);
        page.sample(name, &[(label, value)], 1);
    }
}

fn stored(status: &Status, page: &mut Page) {
    let table = [
        (
            "etcd_server_quota_backend_bytes",
            "Current backend storage quota size in bytes.",
            Some(status.quota_bytes),
        ),
        (
            "etcd_mvcc_db_total_size_in_bytes",
            "Total size of the underlying database physically allocated in bytes.",
            Some(super::maintenance::allocated_bytes(status)),
        ),
        (
            "etcd_mvcc_db_total_size_in_use_in_bytes",
            "Total size of the underlying database logically in use in bytes.",
            Some(status.live_bytes),
        ),
        (
            "etcd_debugging_mvcc_current_revision",
            "The current revision of store.",
            u64::try_from(status.revision).ok(),
        ),
        (
            "etcd_debugging_mvcc_compact_revision",
            "The revision of the last compaction in store.",
            u64::try_from(status.compacted_revision).ok(),
        ),
        (
            "etcd_server_proposals_committed_total",
            "The total number of consensus proposals committed.",
            Some(status.raft_index),
        ),
        (
            "etcd_server_proposals_applied_total",
            "The total number of consensus proposals applied.",
            Some(status.applied_index),
        ),
    ];
    for (name, help, value) in table {
        if let Some(value) = value {
            page.one(GAUGE, name, help, value);
        }
    }
}

/// As clients of Prometheus show it of their own process.
fn process(of: &Process, page: &mut Page) {
    let table: [(&str, &str, &str, Option<&dyn Display>); 6] = [
        (
            COUNTER,
            "process_cpu_seconds_total",
            "Total user and system CPU time spent in seconds.",
            shown(&of.cpu_seconds),
        ),
        (
            GAUGE,
            "process_max_fds",
            "Maximum number of open file descriptors.",
            shown(&of.open_files_max),
        ),
        (GAUGE, "process_open_fds", "Number of open file descriptors.", shown(&of.open_files)),
        (
            GAUGE,
            "process_resident_memory_bytes",
            "Resident memory size in bytes.",
            shown(&of.resident_bytes),
        ),
        (
            GAUGE,
            "process_start_time_seconds",
            "Start time of the process since unix epoch in seconds.",
            shown(&of.start_seconds),
        ),
        (
            GAUGE,
            "process_virtual_memory_bytes",
            "Virtual memory size in bytes.",
            shown(&of.virtual_bytes),
        ),
    ];
    for (kind, name, help, value) in table {
        if let Some(value) = value {
            page.one(kind, name, help, value);
        }
    }
}

fn shown<T: Display>(value: &Option<T>) -> Option<&dyn Display> {
    value.as_ref().map(|value| value as &dyn Display)
}

fn alarms(core: &Core, status: &Status, page: &mut Page) {
    let name = "etcd_debugging_server_alarms";
    let up = core.alarms(status);
    if up.is_empty() {
        return;
    }
    page.head(GAUGE, name, "Alarms for every member in cluster. 1 for 'server_id' label with current ID. 2 for 'alarm_type' label with type of this alarm");
    for alarm in up {
        let (kind, id) = (alarm.alarm().as_str_name(), format!("{:x}", alarm.member_id));
        page.sample(name, &[("alarm_type", &kind), ("server_id", &id)], 1);
    }
}

async fn keys(core: &Core) -> Option<u64> {
    const ALL: &[u8] = b"\0";
    let mut all = RangeRequest::new(KeyRange { key: ALL.into(), end: Some(ALL.into()) });
    all.count_only = true;
    all.consistency = Consistency::Serializable;
    Some(core.store.range(all).await.ok()?.count)
}

/// Under the names of the interceptor that an etcd has; codes that never were are left out.
fn calls(core: &Core, page: &mut Page) {
    let pairs = || METHODS.iter().zip(&core.counters.calls);
    let name = "grpc_server_started_total";
    page.head(COUNTER, name, "Total number of RPCs started on the server.");
    for ((service, method, kind), counts) in pairs() {
        let labels: [(&str, &dyn Display); 3] =
            [("grpc_method", method), ("grpc_service", service), ("grpc_type", kind)];
        page.sample(name, &labels, counts.started.get());
    }
    let name = "grpc_server_handled_total";
    let help = "Total number of RPCs completed on the server, regardless of success or failure.";
    page.head(COUNTER, name, help);
    for ((service, method, kind), counts) in pairs() {
        for (code, counter) in CODES.iter().zip(&counts.handled) {
            let labels: [(&str, &dyn Display); 4] = [
                ("grpc_code", code),
                ("grpc_method", method),
                ("grpc_service", service),
                ("grpc_type", kind),
            ];
            if counter.get() > 0 || *code == "OK" {
                page.sample(name, &labels, counter.get());
            }
        }
    }
}
