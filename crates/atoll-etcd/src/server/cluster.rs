//! The Cluster service: the members, over [`ClusterControl`].
//!
//! [`ClusterControl`]: atoll_store::cluster::ClusterControl

use atoll_store::cluster::{Member, Membership};
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
        if self.membership.borrow().members.iter().any(|one| one.peer_address == peer_address) {
            return Err(error::PEER_URL_EXISTS.into());
        }
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
        self.control.remove(id).await.map_err(|error| error::status(&error))?;
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
        self.control.update(member).await.map_err(|error| error::status(&error))?;
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
        self.control.promote(id).await.map_err(|error| error::status(&error))?;
        let header = self.header(0);
        Ok(Response::new(MemberPromoteResponse { header, members: self.members() }))
    }
}
