//! Pulls from a real registry, and from one that misbehaves.
