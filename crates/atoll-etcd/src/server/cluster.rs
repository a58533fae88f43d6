//! The Cluster service: the members, over [`ClusterControl`].
//!
//! [`ClusterControl`]: atoll_store::cluster::ClusterControl

use std::time::Duration;

use atoll_store::cluster::{Member, Membership};
use atoll_store::kv::{Consistency, Error};
use tonic::{Request, Response, Status};

use super::error::Refusal;
use super::records::Added;
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
/// Those that etcd takes, and whether a host and a port have to follow.
const SCHEMES: &[(&str, bool)] =
    &[("http://", true), (PEER_SCHEME, true), ("unix://", false), ("unixs://", false)];
/// Members without a vote that clients may have added as such at a time.
const LEARNERS_MAX: usize = 1;
const OWN_NAME: &str = "atoll";
/// How the store of a server that was removed begins to say so.
const REMOVED: &str = "this server was removed from the cluster";
/// How long this server may take to hear of a change that another one has made for it.
const KNOWN_WITHIN: Duration = Duration::from_secs(5);

impl Core {
    fn members(&self) -> Vec<etcdserverpb::Member> {
        let membership = self.membership.borrow();
        membership.members.iter().map(|member| self.shown(member)).collect()
    }

    fn shown(&self, member: &Member) -> etcdserverpb::Member {
        let is_own = member.id == self.config.member_id;
        let own_urls = &self.config.client_urls;
        let client_urls = match own_urls.is_empty() {
            true => member.client_urls.clone(),
            false if is_own => own_urls.clone(),
            false => self.records.borrow().client_urls(member.id),
        };
        // A member without a name is one that has not started.
        let is_nameless = is_own && member.name.is_empty();
        etcdserverpb::Member {
            id: member.id,
            name: if is_nameless { OWN_NAME.to_owned() } else { member.name.clone() },
            peer_ur_ls: self.peer_urls(member),
            client_ur_ls: client_urls,
            is_learner: member.is_learner,
        }
    }

    /// As a client gave them, for as long as that is where the member is.
    fn peer_urls(&self, member: &Member) -> Vec<String> {
        let peer = &member.peer_address;
        if let Some(added) = self.records.borrow().added.get(&member.id)
            && added.peer_urls.iter().any(|url| peer_address(url) == Ok(peer))
        {
            return added.peer_urls.clone();
        }
        if peer.is_empty() { vec![] } else { vec![format!("{PEER_SCHEME}{peer}")] }
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

    /// Whether this server is no member any more. One that goes may hear of it from its own log, or
    /// from the others, who then talk to it no more.
    async fn is_removed(&self) -> bool {
        let own = self.config.member_id;
        if self.membership.borrow().member(own).is_none() {
            return true;
        }
        let again = self.control.remove(own).await;
        matches!(again, Ok(()))
            || matches!(again, Err(Error::Unavailable { detail }) if detail.starts_with(REMOVED))
    }

    /// No other member has one of these addresses.
    fn check_free(&self, urls: &[String], own: Option<u64>) -> Result<(), Status> {
        let membership = self.membership.borrow();
        let others = membership.members.iter().filter(|member| Some(member.id) != own);
        let taken: Vec<String> = others.flat_map(|other| self.peer_urls(other)).collect();
        let is_taken =
            |url: &String| taken.iter().any(|one| peer_address(one) == peer_address(url));
        match urls.iter().any(is_taken) {
            true => Err(error::PEER_URL_EXISTS.into()),
            false => Ok(()),
        }
    }

    /// Those that join by themselves get their votes soon, and do not count.
    fn check_learners(&self) -> Result<(), Status> {
        let membership = self.membership.borrow();
        let records = self.records.borrow();
        let was_added = |member: &&Member| {
            member.is_learner && records.added.get(&member.id).is_some_and(|added| added.is_learner)
        };
        match membership.members.iter().filter(was_added).count() < LEARNERS_MAX {
            true => Ok(()),
            false => Err(error::TOO_MANY_LEARNERS.into()),
        }
    }
}

/// What follows the scheme of a URL, as etcd wants it.
fn peer_address(url: &str) -> Result<&str, Refusal> {
    let found = SCHEMES.iter().find_map(|(scheme, needs_port)| {
        url.strip_prefix(scheme).map(|address| (address, *needs_port))
    });
    let (address, needs_port) = found.ok_or(error::BAD_URLS)?;
    let port = address.rsplit_once(':').map(|(_, port)| port.parse::<u16>());
    let is_host_and_port = matches!(port, Some(Ok(_))) && !address.contains('/');
    if address.is_empty() || (needs_port && !is_host_and_port) {
        return Err(error::BAD_URLS);
    }
    Ok(address)
}

/// Where a member with these URLs is reached; all have to be URLs.
fn first_address(urls: &[String]) -> Result<String, Status> {
    let addresses: Result<Vec<&str>, _> = urls.iter().map(|url| peer_address(url)).collect();
    let addresses = addresses?;
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
        let MemberAddRequest { mut peer_ur_ls, is_learner } = request.into_inner();
        peer_ur_ls.sort();
        let peer_address = first_address(&peer_ur_ls)?;
        self.check_free(&peer_ur_ls, None)?;
        if is_learner {
            self.check_learners()?;
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
        let wanted = Added { peer_urls: peer_ur_ls, is_learner };
        let recorded = self.record_added(added.id, &wanted).await;
        recorded.map_err(|error| error::status(&error))?;
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
        let removed = self.control.remove(id).await;
        match removed {
            Ok(()) => {
                self.until_known(|now| now.member(id).is_none()).await;
            }
            // A store that is removed ends before it can say so.
            Err(Error::Timeout { .. })
                if id == self.config.member_id && self.is_removed().await =>
            {
                let (header, mut members) = (self.header(0), self.members());
                members.retain(|member| member.id != id);
                return Ok(Response::new(MemberRemoveResponse { header, members }));
            }
            // Those who would be left are not enough, or do not answer.
            Err(Error::Unavailable { .. }) => return Err(error::UNHEALTHY.into()),
            Err(other) => return Err(error::status(&other)),
        }
        if let Err(error) = self.forget_member(id).await {
            tracing::debug!(%error, id, "what was kept of a member that is gone stays");
        }
        let header = self.header(0);
        Ok(Response::new(MemberRemoveResponse { header, members: self.members() }))
    }

    async fn member_update(
        &self,
        request: Request<MemberUpdateRequest>,
    ) -> Result<Response<MemberUpdateResponse>, Status> {
        let request = request.into_inner();
        let mut member = self.find(request.id)?;
        member.peer_address = first_address(&request.peer_ur_ls)?;
        self.check_free(&request.peer_ur_ls, Some(request.id))?;
        let former = self.records.borrow().added.get(&request.id).cloned();
        let is_learner = former.is_some_and(|former| former.is_learner);
        let wanted = Added { peer_urls: request.peer_ur_ls, is_learner };
        let recorded = self.record_added(request.id, &wanted).await;
        recorded.map_err(|error| error::status(&error))?;
        let address = member.peer_address.clone();
        self.control.update(member).await.map_err(|error| error::status(&error))?;
        let is_there = |one: &Member| one.id == request.id && one.peer_address == address;
        self.until_known(|now| now.members.iter().any(is_there)).await;
        let header = self.header(0);
        Ok(Response::new(MemberUpdateResponse { header, members: self.members() }))
    }

    async fn member_list(
        &self,
        request: Request<MemberListRequest>,
    ) -> Result<Response<MemberListResponse>, Status> {
        if request.get_ref().linearizable {
            self.read_nothing(Consistency::Linearizable).await?;
        }
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
