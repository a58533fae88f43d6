//! CustomResourceDefinition.
