//! StatefulSet and DaemonSet: pods with an identity, pods of every node.
