//! Admission policies in CEL, and their bindings.
