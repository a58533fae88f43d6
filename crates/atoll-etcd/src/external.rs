//! A [`KvStore`](atoll_store::kv::KvStore) over an etcd that somebody else runs.
