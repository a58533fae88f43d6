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
}

pub use generated::{authpb, etcdserverpb, grpc_health_v1, mvccpb};
