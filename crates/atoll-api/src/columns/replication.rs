//! ReplicationController and PodTemplate.
