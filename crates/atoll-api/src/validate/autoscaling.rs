//! HorizontalPodAutoscaler, in two versions.
