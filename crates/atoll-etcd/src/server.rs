//! The etcd v3 API over a [`KvStore`](atoll_store::kv::KvStore).
