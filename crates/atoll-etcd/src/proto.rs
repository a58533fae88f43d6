//! Messages and services of the etcd v3 API, and of gRPC's health checks, generated from the
//! `.proto` files beside this one by `cargo xtask proto`.

#[rustfmt::skip]
#[allow(
    clippy::all,
    clippy::pedantic,
    unreachable_pub,
    unused_qualifications,
    clippy::allow_attributes_without_reason,
    reason = "generated code"
)]
mod generated {
    pub mod authpb;
    pub mod etcdserverpb;
    pub mod grpc_health_v1;
    pub mod mvccpb;
    pub mod v3electionpb;
    pub mod v3lockpb;
}

pub use generated::{authpb, etcdserverpb, grpc_health_v1, mvccpb, v3electionpb, v3lockpb};

/// All of these as a `FileDescriptorSet`: what messages and calls are, for whoever translates them.
pub(crate) const DESCRIPTORS: &[u8] = include_bytes!("proto/generated/descriptors.binpb");
