//! The node's own objects in the API: Node, its status, its Lease; and the pings.

pub mod extended;
pub mod heartbeat;
pub mod object;
pub mod register;
