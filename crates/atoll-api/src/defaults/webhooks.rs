//! Configurations of admission webhooks.
