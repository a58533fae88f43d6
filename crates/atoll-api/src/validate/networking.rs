//! Ingress, NetworkPolicy, and the addresses of Services.
