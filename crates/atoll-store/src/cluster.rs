//! The members of a store's cluster, and what store and transport ask of each other.
//!
//! The store decides who is a member, by entries of its log. The transport carries bytes between
//! members and proves who they are; it knows nothing of Raft. The simulator is another transport.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::io;

use async_trait::async_trait;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::consensus::Position;
pub use crate::folder::draw_member_id;
use crate::kv::Error;

/// One server of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Member {
    /// Drawn at random when it joins, never zero, never given again.
    pub id: u64,
    /// The name of its node.
    pub name: String,
    /// `HOST:PORT` where other members reach it. May change; identity is the id.
    pub peer_address: String,
    /// Where clients reach its API: URLs.
    pub client_urls: Vec<String>,
    /// Receives everything and has no vote.
    pub is_learner: bool,
}

/// Who a server is when it opens its folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberStart {
    /// The name of its node.
    pub name: String,
    /// `HOST:PORT` where other members reach it.
    pub peer_address: String,
    /// Where clients reach its API.
    pub client_urls: Vec<String>,
    pub start: Start,
}

/// What becomes of a folder that does not exist yet; one that exists goes on as what it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Start {
    /// A cluster of one.
    New,
    /// A member that [`ClusterControl::add_learner`] has added.
    Join {
        /// 32 hexadecimal digits.
        cluster_id: String,
        member_id: u64,
        /// Those who are there already.
        members: Vec<Member>,
    },
}

/// The members as one server knows them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Membership {
    /// In the order of their ids.
    pub members: Vec<Member>,
    /// `None` while this server knows of none.
    pub leader: Option<u64>,
    pub term: u64,
}

impl Membership {
    pub fn member(&self, id: u64) -> Option<&Member> {
        self.members.iter().find(|member| member.id == id)
    }

    pub fn voters(&self) -> impl Iterator<Item = &Member> {
        self.members.iter().filter(|member| !member.is_learner)
    }
}

/// How far one member has come, as the leader sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    pub id: u64,
    /// The last entry known to be in its log.
    pub matched_index: u64,
    /// It answered within the last election timeout.
    pub is_active: bool,
}

/// The format level of what is replicated, and what the members support.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Formats {
    /// The cluster's: what is new above it is not written yet.
    pub level: u32,
    /// The highest that this server supports.
    pub supported: u32,
    /// What is known of each member, this one among them.
    pub members: BTreeMap<u64, MemberFormats>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MemberFormats {
    /// The highest level that it supports; `None` while this server has not talked to it.
    pub supported: Option<u32>,
    /// The version of its program, as it last said.
    pub release: Option<String>,
}

/// Changes and questions about the cluster, on any member; changes go through the log.
#[async_trait]
pub trait ClusterControl: Send + Sync {
    fn membership(&self) -> Membership;
    /// Sees every change of members, leader or term.
    fn watch_membership(&self) -> tokio::sync::watch::Receiver<Membership>;
    /// Only on the leader; empty elsewhere.
    fn progress(&self) -> Vec<Progress>;
    /// In which format new things are written, and who supports what.
    fn formats(&self) -> Formats;
    /// Adds a server without a vote; its id is drawn here unless it has one, of
    /// [`draw_member_id`]. The leader promotes it by itself when it has caught up.
    async fn add_learner(&self, member: Member) -> Result<Member, Error>;
    async fn promote(&self, id: u64) -> Result<(), Error>;
    /// For good: the id is refused ever after.
    async fn remove(&self, id: u64) -> Result<(), Error>;
    /// A new address, name or client URLs for a member.
    async fn update(&self, member: Member) -> Result<(), Error>;
    /// Gives leadership to this member, or to the one that is furthest.
    async fn transfer_leadership(&self, to: Option<u64>) -> Result<(), Error>;
}

/// What a member says of itself before anything else on a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// Version of the messages that follow; see [`PEER_FORMAT`].
    pub format: u32,
    /// Highest replicated format level that this release supports.
    pub level: u32,
    pub cluster_id: [u8; 16],
    pub from: u64,
    pub to: u64,
    /// Rises at every start of the sender.
    pub epoch: u64,
    /// The end of the sender's log on disk.
    pub last: Position,
    /// The highest (epoch, index) that the receiver ever acknowledged to the sender: a receiver
    /// that is behind it runs on an old copy of its folder.
    pub acknowledged: (u64, u64),
    /// The version of the sender's program; empty of one that does not say it.
    pub release: String,
}

/// Version of the peer messages that this release speaks. Two members speak the lower of theirs.
pub const PEER_FORMAT: u32 = 1;

/// The oldest version that this release still speaks.
pub const PEER_FORMAT_MIN: u32 = 1;

/// Why a peer is not talked to. Goes over the wire, so that the other side can say it too.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("it speaks format {theirs} of the peer protocol, this server {ours}")]
    Format { theirs: u32, ours: u32 },
    #[error("it belongs to the cluster {theirs}, this server to {ours}")]
    OtherCluster { theirs: String, ours: String },
    #[error("it says it is member {claimed:x}, its certificate says otherwise")]
    OtherMember { claimed: u64 },
    #[error("member {id:x} is not the one that was called")]
    NotAddressed { id: u64 },
    #[error("member {id:x} was removed from the cluster")]
    Removed { id: u64 },
    #[error("member {id:x} is not known here yet")]
    Unknown { id: u64 },
    #[error(
        "member {id:x} started from an old copy of its folder: it has acknowledged entry {acknowledged} and now ends at {last}"
    )]
    OldCopy { id: u64, acknowledged: u64, last: u64 },
    #[error(
        "it supports formats up to level {theirs}, and this cluster has the level {cluster} since \
         all of its servers supported it; start it with the release that the others run"
    )]
    Level { theirs: u32, cluster: u32 },
    #[error("{0}")]
    Other(String),
}

/// How urgent a message is: one that keeps leadership alive must not wait behind megabytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lane {
    /// Heartbeats, votes, read index.
    Urgent,
    /// Entries and their answers.
    Bulk,
}

/// A state on its way to a member that is too far behind.
pub struct OutgoingSnapshot {
    pub to: u64,
    /// The message that makes the receiver take the content as its state.
    pub message: Bytes,
    /// Blocking: read it on a thread of its own.
    pub content: Box<dyn Iterator<Item = Result<Bytes, Error>> + Send>,
}

impl Debug for OutgoingSnapshot {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("OutgoingSnapshot").field("to", &self.to).finish_non_exhaustive()
    }
}

/// Takes in a snapshot's content, chunk by chunk, in order. Dropping it gives it up.
pub trait SnapshotSink: Send {
    /// Blocking: it writes to disk.
    fn push(&mut self, chunk: &[u8]) -> io::Result<()>;
    /// The content was whole; the store takes it over when it comes to it.
    fn finish(self: Box<Self>) -> io::Result<()>;
}

/// What the transport tells the store. All calls return at once but those of a sink.
pub trait Inbox: Send + Sync + Debug {
    /// For a connection to or from `peer`.
    fn hello(&self, peer: u64) -> Hello;
    /// `mine` was said before `theirs` was made: what the peer had acknowledged by then, it must
    /// still have. What it acknowledges meanwhile on another connection proves nothing. The
    /// certificate has been compared with `theirs.from` already.
    fn check(&self, mine: &Hello, theirs: &Hello) -> Result<(), Refusal>;
    /// `false` when too much waits: the message is dropped, and Raft sends it again.
    fn deliver(&self, from: u64, message: Bytes) -> bool;
    /// What had arrived has been delivered. The store may do on this thread what follows from it,
    /// which takes no longer than it takes without a disk.
    fn settle(&self) {}
    /// A message to this peer was dropped, or its connection broke.
    fn unreachable(&self, peer: u64);
    /// Nothing listens at the address of this peer, and it has no connection to here.
    fn gone(&self, _peer: u64) {}
    /// This peer said why it does not talk to this server.
    fn refused_by(&self, peer: u64, refusal: &Refusal);
    fn begin_snapshot(&self, from: u64, message: Bytes) -> io::Result<Box<dyn SnapshotSink>>;
    /// An outgoing snapshot has arrived whole, or has not.
    fn snapshot_sent(&self, to: u64, arrived: bool);
}
