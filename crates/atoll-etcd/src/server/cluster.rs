//! The Cluster service: the members, over [`ClusterControl`].
//!
//! [`ClusterControl`]: atoll_store::cluster::ClusterControl

use std::time::Duration;

use atoll_store::cluster::{Member, Membership};
use atoll_store::kv::Error;
use tonic::{Request, Response, Status};

use super::{Core, Shared, error};
use crate::proto::etcdserverpb;
use crate::proto::etcdserverpb::cluster_server::Cluster;
use crate::proto::etcdserverpb::{
    MemberAddRequest, MemberAddResponse, MemberListRequest, MemberListResponse,
    MemberPromoteRequest, MemberPromoteResponse, MemberRemoveRequest, MemberRemoveResponse,
    MemberUpdateRequest, MemberUpdateResponse,
};

/// How the addresses of peers begin when they are shown as URLs: peers speak mutual TLS.
const PEER_SCHEME: &str = "https://";
const OWN_NAME: &str = "atoll";
/// How long this server may take to hear of a change that another one has made for it.
const KNOWN_WITHIN: Duration = Duration::from_secs(5);

impl Core {
    fn members(&self) -> Vec<etcdserverpb::Member> {
        let membership = self.membership.borrow();
        membership.members.iter().map(|member| self.shown(member)).collect()
    }

    fn shown(&self, member: &Member) -> etcdserverpb::Member {
        let peer = &member.peer_address;
        let is_own = member.id == self.config.member_id;
        let own_urls = &self.config.client_urls;
        let client_urls = match own_urls.first() {
            Some(_) if is_own => own_urls.clone(),
            Some(own_url) => client_url_like(own_url, member).into_iter().collect(),
            None => member.client_urls.clone(),
        };
        // A member without a name is one that has not started.
        let is_nameless = is_own && member.name.is_empty();
        etcdserverpb::Member {
            id: member.id,
            name: if is_nameless { OWN_NAME.to_owned() } else { member.name.clone() },
            peer_ur_ls: if peer.is_empty() { vec![] } else { vec![format!("{PEER_SCHEME}{peer}")] },
            client_ur_ls: client_urls,
            is_learner: member.is_learner,
        }
    }

    fn find(&self, id: u64) -> Result<Member, Status> {
        let membership = self.membership.borrow();
        Ok(membership.member(id).ok_or(error::MEMBER_NOT_FOUND)?.clone())
    }
}

impl Core {
    /// Waits until this server knows it too: an etcd answers such calls when it has applied them.
    pub(super) async fn until_known(&self, is_known: impl Fn(&Membership) -> bool) -> bool {
        let mut membership = self.membership.clone();
        let known = membership.wait_for(|now| is_known(now));
        tokio::time::timeout(KNOWN_WITHIN, known).await.is_ok_and(|known| known.is_ok())
    }

    /// No other member has that address.
    fn check_free(&self, peer_address: &str, own: Option<u64>) -> Result<(), Status> {
        let membership = self.membership.borrow();
        let mut others = membership.members.iter().filter(|member| Some(member.id) != own);
        match others.any(|other| other.peer_address == peer_address) {
            true => Err(error::PEER_URL_EXISTS.into()),
            false => Ok(()),
        }
    }
}

/// The same API on another server: its host, with our scheme and port.
fn client_url_like(own_url: &str, member: &Member) -> Option<String> {
    let (scheme, own) = own_url.split_once("://")?;
    let (_, port) = own.rsplit_once(':')?;
    let (_, theirs) = member.client_urls.first()?.split_once("://")?;
    let host = theirs.rsplit_once(':').map_or(theirs, |(host, _)| host);
    Some(format!("{scheme}://{host}:{port}"))
}

/// `HOST:PORT` of the first URL; all have to be URLs, as etcd wants them.
fn peer_address(urls: &[String]) -> Result<String, Status> {
    let mut addresses = Vec::new();
    for url in urls {
        let address = url.strip_prefix("http://").or_else(|| url.strip_prefix(PEER_SCHEME));
        let has_port = |address: &&str| {
            let port = address.rsplit_once(':').map(|(_, port)| port.parse::<u16>());
            matches!(port, Some(Ok(_))) && !address.contains('/')
        };
        addresses.push(address.filter(has_port).ok_or(error::BAD_URLS)?);
    }
    Ok((*addresses.first().ok_or(error::BAD_URLS)?).to_owned())
}

fn is_last_voter(membership: &Membership, id: u64) -> bool {
    membership.voters().all(|member| member.id == id)
}

#[tonic::async_trait]
impl Cluster for Shared {
    async fn member_add(
        &self,
        request: Request<MemberAddRequest>,
    ) -> Result<Response<MemberAddResponse>, Status> {
        let peer_address = peer_address(&request.into_inner().peer_ur_ls)?;
        self.check_free(&peer_address, None)?;
        // Every server begins without a vote and gets one when it has caught up.
        let member = Member {
            id: 0,
            name: String::new(),
            peer_address,
            client_urls: Vec::new(),
            is_learner: true,
        };
        let added = self.control.add_learner(member).await;
        let added = added.map_err(|error| error::status(&error))?;
        self.until_known(|now| now.member(added.id).is_some()).await;
        Ok(Response::new(MemberAddResponse {
            header: self.header(0),
            member: Some(self.shown(&added)),
            members: self.members(),
        }))
    }

    async fn member_remove(
        &self,
        request: Request<MemberRemoveRequest>,
    ) -> Result<Response<MemberRemoveResponse>, Status> {
        let id = request.into_inner().id;
        self.find(id)?;
        if is_last_voter(&self.membership.borrow(), id) {
            return Err(error::NOT_ENOUGH_STARTED.into());
        }
        self.control.remove(id).await.map_err(|refused| match refused {
            // Those who would be left are not enough, or do not answer.
            Error::Unavailable { .. } => error::UNHEALTHY.into(),
            other => error::status(&other),
        })?;
        self.until_known(|now| now.member(id).is_none()).await;
        let header = self.header(0);
        Ok(Response::new(MemberRemoveResponse { header, members: self.members() }))
    }

    async fn member_update(
        &self,
        request: Request<MemberUpdateRequest>,
    ) -> Result<Response<MemberUpdateResponse>, Status> {
        let request = request.into_inner();
        let mut member = self.find(request.id)?;
        member.peer_address = peer_address(&request.peer_ur_ls)?;
        self.check_free(&member.peer_address, Some(request.id))?;
        let address = member.peer_address.clone();
        self.control.update(member).await.map_err(|error| error::status(&error))?;
        let is_there = |one: &Member| one.id == request.id && one.peer_address == address;
        self.until_known(|now| now.members.iter().any(is_there)).await;
        let header = self.header(0);
        Ok(Response::new(MemberUpdateResponse { header, members: self.members() }))
    }

    async fn member_list(
        &self,
        _request: Request<MemberListRequest>,
    ) -> Result<Response<MemberListResponse>, Status> {
        let header = self.header(0);
        Ok(Response::new(MemberListResponse { header, members: self.members() }))
    }

    async fn member_promote(
        &self,
        request: Request<MemberPromoteRequest>,
    ) -> Result<Response<MemberPromoteResponse>, Status> {
        let id = request.into_inner().id;
        if !self.find(id)?.is_learner {
            return Err(error::MEMBER_NOT_LEARNER.into());
        }
        self.control.promote(id).await.map_err(|refused| match refused {
            Error::Unavailable { .. } => error::LEARNER_BEHIND.into(),
            other => error::status(&other),
        })?;
        self.until_known(|now| now.voters().any(|voter| voter.id == id)).await;
        let header = self.header(0);
        Ok(Response::new(MemberPromoteResponse { header, members: self.members() }))
    }
}
