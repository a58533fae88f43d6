//! FlowSchema and PriorityLevelConfiguration.
