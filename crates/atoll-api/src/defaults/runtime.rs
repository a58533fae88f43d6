//! RuntimeClass.
