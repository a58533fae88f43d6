//! The election service: of those who campaign for a name one leads, and all others can see what
//! it proclaims.

use std::pin::Pin;

use atoll_store::kv::EventKind;
use bytes::Bytes;
use futures::Stream;
use futures::future::BoxFuture;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::waiting::{Entered, Place, below};
use super::{Shared, convert};
use crate::proto::etcdserverpb::request_op::Request as Op;
use crate::proto::etcdserverpb::{PutRequest, ResponseHeader};
use crate::proto::mvccpb::KeyValue;
use crate::proto::v3electionpb::election_server::Election;
use crate::proto::v3electionpb::{
    CampaignRequest, CampaignResponse, LeaderKey, LeaderRequest, LeaderResponse, ProclaimRequest,
    ProclaimResponse, ResignRequest, ResignResponse,
};

type Leaders = Pin<Box<dyn Stream<Item = Result<LeaderResponse, Status>> + Send>>;
type Sender = mpsc::Sender<Result<LeaderResponse, Status>>;

/// What waits for an observer that is slow; then the election is not looked at.
const UNSEEN_MAX: usize = 16;

fn not_leader() -> Status {
    Status::unknown("election: not leader")
}

/// The place that a client names, and its lease.
fn led(leader: Option<LeaderKey>) -> Result<(Place, i64), Status> {
    let missing = || Status::unknown("\"leader\" field must be provided");
    let LeaderKey { key, rev, lease, .. } = leader.ok_or_else(missing)?;
    Ok((Place { key, since: rev }, lease))
}

impl Shared {
    async fn announce(
        &self,
        place: &Place,
        lease: i64,
        value: Bytes,
    ) -> Result<Option<ResponseHeader>, Status> {
        let put = PutRequest { key: place.key.clone(), value, lease, ..PutRequest::default() };
        let done = self.commit(place.is_held(), &[Op::RequestPut(put)], &[]).await?;
        if done.succeeded { Ok(done.header) } else { Err(not_leader()) }
    }

    /// Sends who leads, from now on. Ends with the observer, which may be slow, and with its call.
    async fn follow(self, name: Bytes, seen: Sender, ends: BoxFuture<'static, Status>) {
        let ended = tokio::select! {
            () = seen.closed() => return,
            status = ends => Err(status),
            ended = self.follow_all(&name, &seen) => ended,
        };
        if let Err(status) = ended {
            // The observer may have gone meanwhile.
            drop(seen.send(Err(status)).await);
        }
    }

    async fn follow_all(&self, name: &[u8], seen: &Sender) -> Result<(), Status> {
        loop {
            let read = self.oldest(name).await?;
            let revision = read.header.unwrap_or_default().revision;
            let found = match read.kvs.into_iter().next() {
                Some(kv) => Some((revision, kv)),
                None => self.first_put(name, revision).await?,
            };
            let Some((revision, kv)) = found else { continue };
            let key = kv.key.clone();
            self.show(seen, revision, kv).await?;
            self.follow_one(key, revision + 1, seen).await?;
        }
    }

    /// Everything that one leader proclaims, until its key is gone.
    async fn follow_one(&self, key: Bytes, from: i64, seen: &Sender) -> Result<(), Status> {
        let mut changes = self.changes(atoll_store::kv::KeyRange::single(key), from);
        while let Some(batch) = self.next_of(&mut changes).await? {
            for event in batch.events {
                if event.kind == EventKind::Delete {
                    return Ok(());
                }
                self.show(seen, batch.revision, convert::key_value(event.kv)).await?;
            }
        }
        Ok(())
    }

    /// The next key that is put below a name; `None` when it has to be looked for again.
    async fn first_put(&self, name: &[u8], from: i64) -> Result<Option<(i64, KeyValue)>, Status> {
        let mut changes = self.changes(below(name), from);
        while let Some(batch) = self.next_of(&mut changes).await? {
            let put = batch.events.into_iter().find(|event| event.kind == EventKind::Put);
            if let Some(put) = put {
                return Ok(Some((put.kv.mod_revision, convert::key_value(put.kv))));
            }
        }
        Ok(None)
    }

    async fn show(&self, seen: &Sender, revision: i64, kv: KeyValue) -> Result<(), Status> {
        let answer = LeaderResponse { header: self.header(revision), kv: Some(kv) };
        seen.send(Ok(answer)).await.map_err(|_gone| Status::cancelled("nobody observes any more"))
    }
}

#[tonic::async_trait]
impl Election for Shared {
    async fn campaign(
        &self,
        request: Request<CampaignRequest>,
    ) -> Result<Response<CampaignResponse>, Status> {
        let CampaignRequest { name, lease, value } = request.into_inner();
        let lease = self.session(lease).await?;
        let entered = self.enter(&name, lease, value.clone()).await?;
        if entered.known.as_ref().is_some_and(|known| known.value != value) {
            self.announce(&entered.place, lease, value).await?;
        }
        if self.turn(&name, &entered).await?.is_none() {
            return Err(not_leader());
        }
        let Entered { place, header, waiting, .. } = entered;
        waiting.won();
        let leader = LeaderKey { name, key: place.key, rev: place.since, lease };
        Ok(Response::new(CampaignResponse { header: Some(header), leader: Some(leader) }))
    }

    async fn proclaim(
        &self,
        request: Request<ProclaimRequest>,
    ) -> Result<Response<ProclaimResponse>, Status> {
        let ProclaimRequest { leader, value } = request.into_inner();
        let (place, lease) = led(leader)?;
        let lease = self.session(lease).await?;
        let header = self.announce(&place, lease, value).await?;
        Ok(Response::new(ProclaimResponse { header }))
    }

    async fn leader(
        &self,
        request: Request<LeaderRequest>,
    ) -> Result<Response<LeaderResponse>, Status> {
        let read = self.oldest(&request.into_inner().name).await?;
        let kv = read.kvs.into_iter().next();
        let kv = kv.ok_or_else(|| Status::unknown("election: no leader"))?;
        Ok(Response::new(LeaderResponse { header: read.header, kv: Some(kv) }))
    }

    type ObserveStream = Leaders;

    async fn observe(&self, request: Request<LeaderRequest>) -> Result<Response<Leaders>, Status> {
        let (seen, leaders) = mpsc::channel(UNSEEN_MAX);
        let ends = self.stream_ends(request.metadata());
        let name = request.into_inner().name;
        self.tasks.spawn(self.clone().follow(name, seen, ends));
        Ok(Response::new(Box::pin(ReceiverStream::new(leaders))))
    }

    async fn resign(
        &self,
        request: Request<ResignRequest>,
    ) -> Result<Response<ResignResponse>, Status> {
        let (place, _) = led(request.into_inner().leader)?;
        let left = self.leave(&place).await?;
        Ok(Response::new(ResignResponse { header: left.header }))
    }
}
