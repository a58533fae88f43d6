//! Dynamic resource allocation: devices and claims to them.
