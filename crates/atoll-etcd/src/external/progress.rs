//! How far the watches of a keyspace are, and how they are made to tell.
//!
//! A new etcd answers on the stream of each watch. An older one may answer ahead of events that
//! it has not sent yet, so a key is written there instead, which all watches see in its turn.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use atoll_store::kv::Revision;
use bytes::Bytes;
use tokio::sync::watch;

use super::caller::{Caller, RANGE, TXN};
use super::convert;
use super::verdict::{Effect, Failure};
use crate::proto::etcdserverpb as pb;

/// What was asked of all watches last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Wanted {
    /// Counts the requests.
    pub(super) number: u64,
    pub(super) revision: Revision,
}

#[derive(Debug)]
pub(super) struct Progress {
    key: Bytes,
    /// Whether the etcd answers rightly when it is asked.
    by_request: bool,
    wanted: watch::Sender<Wanted>,
    /// The revision that each open watch has reached.
    reached: Mutex<Vec<Weak<AtomicI64>>>,
    asked: Mutex<u64>,
    written: tokio::sync::Mutex<Written>,
}

/// The last write of the key.
#[derive(Debug, Default)]
struct Written {
    /// It began after all requests up to this number had been made.
    through: u64,
    revision: Revision,
}

impl Progress {
    pub(super) fn new(key: Bytes, by_request: bool) -> Self {
        Self {
            key,
            by_request,
            wanted: watch::channel(Wanted::default()).0,
            reached: Mutex::default(),
            asked: Mutex::new(0),
            written: tokio::sync::Mutex::default(),
        }
    }

    pub(super) fn key(&self) -> &Bytes {
        &self.key
    }

    pub(super) fn by_request(&self) -> bool {
        self.by_request
    }

    /// A new watch, which has reached `revision`.
    pub(super) fn join(&self, revision: Revision) -> (Arc<AtomicI64>, watch::Receiver<Wanted>) {
        let reached = Arc::new(AtomicI64::new(revision));
        let mut all = self.reached.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|other| other.strong_count() > 0);
        all.push(Arc::downgrade(&reached));
        let mut wanted = self.wanted.subscribe();
        wanted.mark_unchanged();
        (reached, wanted)
    }

    /// The present revision, as of every write acknowledged before the call.
    pub(super) async fn present(&self, caller: &Caller) -> Result<Revision, Failure> {
        let request = pb::RangeRequest {
            key: self.key.clone(),
            count_only: true,
            ..pb::RangeRequest::default()
        };
        let answer: pb::RangeResponse = caller.call(Effect::Repeatable, RANGE, request).await?;
        Ok(convert::revision(answer.header.as_ref()))
    }

    pub(super) async fn request(&self, caller: &Caller) -> Result<Revision, Failure> {
        let mut revision = self.present(caller).await?;
        if !self.by_request && self.is_any_behind(revision) {
            revision = self.write(caller).await?;
        }
        self.wanted.send_modify(|wanted| {
            wanted.number += 1;
            wanted.revision = wanted.revision.max(revision);
        });
        Ok(revision)
    }

    fn is_any_behind(&self, revision: Revision) -> bool {
        let all = self.reached.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter()
            .filter_map(Weak::upgrade)
            .any(|reached| reached.load(Ordering::Acquire) < revision)
    }

    /// Writes the key, once for all who ask meanwhile.
    async fn write(&self, caller: &Caller) -> Result<Revision, Failure> {
        let mine = {
            let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
            *asked += 1;
            *asked
        };
        // Held while the etcd writes: that is what gathers the requests.
        let mut written = self.written.lock().await;
        if written.through >= mine {
            return Ok(written.revision);
        }
        let through = *self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        let put = pb::PutRequest { key: self.key.clone(), ..pb::PutRequest::default() };
        let put = pb::request_op::Request::RequestPut(put);
        let request = pb::TxnRequest {
            success: vec![pb::RequestOp { request: Some(put) }],
            ..pb::TxnRequest::default()
        };
        // Written twice does no harm.
        let answer: pb::TxnResponse = caller.call(Effect::Repeatable, TXN, request).await?;
        *written = Written { through, revision: convert::revision(answer.header.as_ref()) };
        Ok(written.revision)
    }
}
