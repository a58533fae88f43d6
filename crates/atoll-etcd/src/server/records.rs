//! What this API keeps beside the keys of applications: alarms that clients raised, what members
//! were added with, and where each server serves clients.
//!
//! It stands in the keyspace of the cluster, which applications do not see, and every server
//! follows it there.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use atoll_store::kv::{
    Consistency, Error, EventKind, KeyRange, Op, OpResult, PutRequest, RangeRequest, Result,
    Revision, Txn, WatchRequest,
};
use bytes::Bytes;
use futures::StreamExt as _;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::Core;
use crate::proto::etcdserverpb::AlarmType;

const PLACE: &str = "/atoll/etcd/";
const ALARMS: &str = "alarms";
const ADDED: &str = "added";
const CLIENTS: &str = "clients";
/// After the store could not be read or written.
const AGAIN_AFTER: Duration = Duration::from_secs(1);
/// How long a change that was made may take until this server sees it.
const SEEN_WITHIN: Duration = Duration::from_secs(5);

/// As this server knows them.
#[derive(Debug, Clone, Default)]
pub(super) struct Records {
    /// Up to here it knows them; 0 before it has looked.
    revision: Revision,
    /// Members, and the number of the alarm's kind.
    pub(super) alarms: BTreeSet<(u64, i32)>,
    pub(super) added: BTreeMap<u64, Added>,
    client_urls: BTreeMap<u64, Vec<String>>,
}

/// What a client asked for when it added or changed a member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Added {
    pub(super) peer_urls: Vec<String>,
    pub(super) is_learner: bool,
}

/// A key, taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Name {
    Alarm(u64, i32),
    Added(u64),
    Clients(u64),
}

impl Name {
    fn parse(key: &[u8]) -> Option<Self> {
        let rest = std::str::from_utf8(key).ok()?.strip_prefix(PLACE)?;
        let mut parts = rest.split('/');
        let kind = parts.next()?;
        let id = u64::from_str_radix(parts.next()?, 16).ok()?;
        match (kind, parts.next()) {
            (ALARMS, Some(alarm)) => Some(Self::Alarm(id, alarm.parse().ok()?)),
            (ADDED, None) => Some(Self::Added(id)),
            (CLIENTS, None) => Some(Self::Clients(id)),
            _ => None,
        }
    }

    fn key(self) -> Bytes {
        let name = match self {
            Self::Alarm(id, alarm) => format!("{PLACE}{ALARMS}/{id:016x}/{alarm}"),
            Self::Added(id) => format!("{PLACE}{ADDED}/{id:016x}"),
            Self::Clients(id) => format!("{PLACE}{CLIENTS}/{id:016x}"),
        };
        name.into()
    }
}

impl Records {
    /// What a later release has written, and cannot be read here, is passed over.
    fn put(&mut self, key: &[u8], value: &[u8]) {
        match Name::parse(key) {
            Some(Name::Alarm(id, alarm)) => {
                self.alarms.insert((id, alarm));
            }
            Some(Name::Added(id)) => {
                if let Ok(added) = serde_json::from_slice(value) {
                    self.added.insert(id, added);
                }
            }
            Some(Name::Clients(id)) => {
                if let Ok(urls) = serde_json::from_slice(value) {
                    self.client_urls.insert(id, urls);
                }
            }
            None => {}
        }
    }

    fn delete(&mut self, key: &[u8]) {
        match Name::parse(key) {
            Some(Name::Alarm(id, alarm)) => {
                self.alarms.remove(&(id, alarm));
            }
            Some(Name::Added(id)) => {
                self.added.remove(&id);
            }
            Some(Name::Clients(id)) => {
                self.client_urls.remove(&id);
            }
            None => {}
        }
    }

    pub(super) fn is_raised(&self, kind: AlarmType) -> bool {
        self.alarms.iter().any(|(_, alarm)| *alarm == i32::from(kind))
    }

    /// None of one that does not serve this API.
    pub(super) fn client_urls(&self, member: u64) -> Vec<String> {
        self.client_urls.get(&member).cloned().unwrap_or_default()
    }

    fn lacks(&self, member: u64, urls: &[String]) -> bool {
        self.revision > 0 && self.client_urls.get(&member).is_none_or(|known| known != urls)
    }
}

impl Core {
    /// Keeps the records known, and says where this server is, until the future is dropped.
    pub(super) async fn keep_records(&self) {
        tokio::join!(self.follow(), self.announce());
    }

    async fn follow(&self) {
        loop {
            if let Err(error) = self.follow_once().await {
                tracing::debug!(%error, "the records of the etcd API are read again");
            }
            tokio::time::sleep(AGAIN_AFTER).await;
        }
    }

    async fn follow_once(&self) -> Result<()> {
        let range = KeyRange::prefix(PLACE);
        let mut all = RangeRequest::new(range.clone());
        all.consistency = Consistency::Serializable;
        let read = self.cluster.range(all).await?;
        let mut known = Records { revision: read.revision, ..Records::default() };
        for kv in &read.kvs {
            known.put(&kv.key, &kv.value);
        }
        self.records.send_replace(known);
        let start_revision = Some(read.revision + 1);
        let mut watch = self.cluster.watch(WatchRequest { range, start_revision, prev_kv: false });
        while let Some(batch) = watch.next().await {
            let batch = batch?;
            self.records.send_modify(|known| {
                for event in &batch.events {
                    match event.kind {
                        EventKind::Put => known.put(&event.kv.key, &event.kv.value),
                        EventKind::Delete => known.delete(&event.kv.key),
                    }
                }
                known.revision = known.revision.max(batch.revision);
            });
        }
        Ok(())
    }

    async fn announce(&self) {
        let (own, urls) = (self.config.member_id, &self.config.client_urls);
        if urls.is_empty() {
            return;
        }
        let mut records = self.records.subscribe();
        while records.wait_for(|known| known.lacks(own, urls)).await.is_ok() {
            if let Err(error) = self.record(Name::Clients(own), urls).await {
                tracing::debug!(%error, "the others do not know yet where the etcd API is");
                tokio::time::sleep(AGAIN_AFTER).await;
            }
        }
    }

    async fn record(&self, name: Name, value: &impl Serialize) -> Result<()> {
        let value = serde_json::to_vec(value).map_err(|error| {
            let detail = format!("a record of the etcd API is not written: {error}");
            Error::Unavailable { detail }
        })?;
        let (key, value) = (name.key(), value.into());
        self.change(vec![Op::Put(PutRequest { key, value, lease: 0, prev_kv: false })]).await
    }

    /// Returns when this server knows of it.
    async fn change(&self, ops: Vec<Op>) -> Result<()> {
        let done = self.cluster.txn(Txn { success: ops, ..Txn::default() }).await?;
        let is_nothing = |one: &OpResult| matches!(one, OpResult::Delete { deleted: 0, .. });
        if done.responses.iter().all(is_nothing) {
            return Ok(());
        }
        let mut records = self.records.subscribe();
        let seen = records.wait_for(|known| known.revision >= done.revision);
        // It is done; who is told late asks again.
        let _in_time = tokio::time::timeout(SEEN_WITHIN, seen).await.is_ok();
        Ok(())
    }

    pub(super) async fn raise(&self, member: u64, alarm: i32) -> Result<()> {
        self.record(Name::Alarm(member, alarm), &()).await
    }

    pub(super) async fn lower(&self, member: u64, alarm: i32) -> Result<()> {
        self.forget(&[Name::Alarm(member, alarm)]).await
    }

    pub(super) async fn record_added(&self, member: u64, added: &Added) -> Result<()> {
        self.record(Name::Added(member), added).await
    }

    pub(super) async fn forget_member(&self, member: u64) -> Result<()> {
        self.forget(&[Name::Added(member), Name::Clients(member)]).await
    }

    async fn forget(&self, names: &[Name]) -> Result<()> {
        let delete =
            |name: &Name| Op::Delete { range: KeyRange::single(name.key()), prev_kv: false };
        self.change(names.iter().map(delete).collect()).await
    }
}

/// Before anything is known.
pub(super) fn unknown() -> watch::Sender<Records> {
    watch::Sender::new(Records::default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        for name in [Name::Alarm(u64::MAX, 1), Name::Added(7), Name::Clients(0x123)] {
            assert_eq!(Name::parse(&name.key()), Some(name));
        }
        for key in ["/atoll/etcd/alarms/7", "/atoll/etcd/added/x", "/atoll/etcd/new/7", "/other"] {
            assert_eq!(Name::parse(key.as_bytes()), None, "{key}");
        }
    }
}
