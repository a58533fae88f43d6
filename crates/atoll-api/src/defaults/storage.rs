//! Volumes, claims, classes and what CSI drivers tell of themselves.
