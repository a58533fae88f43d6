//! Whether this server is well: `/health`, and the checks behind `/livez` and `/readyz`.

use std::fmt::Write as _;
use std::time::Duration;

use atoll_store::kv::Consistency;
use tonic::Status;

use super::plain::Query;
use super::{Core, error};
use crate::proto::etcdserverpb::AlarmType;

/// What a read may take before it has failed: etcd's request timeout with its default elections.
const READ_MAX: Duration = Duration::from_secs(7);

/// One of what is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Check {
    /// No alarm says that members differ.
    DataCorruption,
    /// What this server has can be read.
    SerializableRead,
    /// A majority agrees that it is the newest.
    LinearizableRead,
    NonLearner,
}

const LIVE: &[Check] = &[Check::SerializableRead];
const READY: &[Check] =
    &[Check::DataCorruption, Check::SerializableRead, Check::LinearizableRead, Check::NonLearner];

/// The checks that a path names.
#[derive(Debug, Clone, Copy)]
pub(super) struct Checks {
    all: &'static [Check],
    only: Option<Check>,
}

/// `None` for paths of something else.
pub(super) fn checks(path: &str) -> Option<Checks> {
    let path = path.strip_prefix('/')?;
    let (kind, name) = path.split_once('/').map_or((path, None), |(kind, name)| (kind, Some(name)));
    let all = match kind {
        "livez" => LIVE,
        "readyz" => READY,
        _ => return None,
    };
    let Some(name) = name else { return Some(Checks { all, only: None }) };
    let only = all.iter().copied().find(|check| check.name() == name)?;
    Some(Checks { all, only: Some(only) })
}

impl Checks {
    /// What is to be answered; an error where one has failed.
    pub(super) async fn run(self, core: &Core, query: Query<'_>) -> Result<String, String> {
        let is_wanted = |check: Check| match self.only {
            Some(only) => check == only,
            None => query.all("exclude").all(|excluded| excluded != check.name()),
        };
        let (mut said, mut is_well) = (String::new(), true);
        for check in self.all.iter().copied().filter(|check| is_wanted(*check)) {
            let name = check.name();
            let line = match check.run(core).await {
                Ok(()) => format!("[+]{name} ok"),
                Err(reason) => {
                    is_well = false;
                    format!("[-]{name} failed: {reason}")
                }
            };
            // Writing to a string does not fail.
            writeln!(said, "{line}").unwrap_or_default();
        }
        if !is_well {
            return Err(said);
        }
        let is_verbose = query.all("verbose").next().is_some();
        Ok(if is_verbose { format!("{said}ok\n") } else { "ok\n".to_owned() })
    }
}

impl Check {
    fn name(self) -> &'static str {
        match self {
            Self::DataCorruption => "data_corruption",
            Self::SerializableRead => "serializable_read",
            Self::LinearizableRead => "linearizable_read",
            Self::NonLearner => "non_learner",
        }
    }

    async fn run(self, core: &Core) -> Result<(), String> {
        let failed = |status: Status| status.message().to_owned();
        match self {
            Self::DataCorruption if core.records.borrow().is_raised(AlarmType::Corrupt) => {
                Err("alarm activated: CORRUPT".to_owned())
            }
            Self::NonLearner if core.is_learner() => Err("not supported for learner".to_owned()),
            Self::DataCorruption | Self::NonLearner => Ok(()),
            Self::SerializableRead => read(core, Consistency::Serializable).await.map_err(failed),
            Self::LinearizableRead => read(core, Consistency::Linearizable).await.map_err(failed),
        }
    }
}

async fn read(core: &Core, consistency: Consistency) -> Result<(), Status> {
    let read = tokio::time::timeout(READ_MAX, core.read_nothing(consistency)).await;
    read.unwrap_or_else(|_elapsed| Err(error::TIMEOUT.into())).map(drop)
}

/// For `/health`; an error is the reason why not.
pub(super) async fn health(core: &Core, query: Query<'_>) -> Result<(), String> {
    let found = look(core, query).await;
    let counters = &core.counters;
    let counter = if found.is_ok() { &counters.health_success } else { &counters.health_failures };
    counter.add(1);
    found
}

async fn look(core: &Core, query: Query<'_>) -> Result<(), String> {
    let unread = |status: Status| format!("RANGE ERROR:{}", status.message());
    let alarms = core.alarms(&core.store_status().await.map_err(unread)?);
    let mut names = alarms.iter().map(|alarm| alarm.alarm().as_str_name());
    if let Some(name) = names.find(|name| query.all("exclude").all(|one| one != *name)) {
        return Err(format!("ALARM {name}"));
    }
    let is_serializable = query.all("serializable").next() == Some("true");
    if is_serializable {
        return read(core, Consistency::Serializable).await.map_err(unread);
    }
    if !core.has_leader() {
        return Err("RAFT NO LEADER".to_owned());
    }
    read(core, Consistency::Linearizable).await.map_err(unread)
}
