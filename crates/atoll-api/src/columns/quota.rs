//! ResourceQuota and LimitRange: what a namespace may use.
