//! Keys of one keyspace as they stand in an etcd that others use too.

use atoll_store::kv::{KeyRange, prefix_end};
use bytes::{BufMut, Bytes, BytesMut};

/// What stands before every key, and the first key behind them all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Prefix {
    start: Bytes,
    end: Bytes,
}

impl Prefix {
    pub(super) fn new(start: impl Into<Bytes>) -> Self {
        let start = start.into();
        let end = prefix_end(&start);
        Self { start, end }
    }

    pub(super) fn start(&self) -> &Bytes {
        &self.start
    }

    pub(super) fn end(&self) -> &Bytes {
        &self.end
    }

    pub(super) fn add(&self, key: &[u8]) -> Bytes {
        let mut out = BytesMut::with_capacity(self.start.len() + key.len());
        out.put_slice(&self.start);
        out.put_slice(key);
        out.freeze()
    }

    /// `None` for a key of somebody else.
    pub(super) fn strip(&self, key: &Bytes) -> Option<Bytes> {
        key.starts_with(&self.start).then(|| key.slice(self.start.len()..))
    }

    /// Key and end as etcd wants them; no range reaches beyond this prefix.
    pub(super) fn range(&self, range: &KeyRange) -> (Bytes, Bytes) {
        let key = self.add(&range.key);
        let end = match range.end.as_deref() {
            None => Bytes::new(),
            Some([0]) => self.end.clone(),
            Some(end) => self.add(end),
        };
        (key, end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn both(range: KeyRange) -> (String, String) {
        let (key, end) = Prefix::new("/a/").range(&range);
        let text = |bytes: Bytes| String::from_utf8_lossy(&bytes).into_owned();
        (text(key), text(end))
    }

    #[test]
    fn no_range_reaches_beyond_the_prefix() {
        let owned = |key: &str, end: &str| (key.to_owned(), end.to_owned());
        assert_eq!(both(KeyRange::single("k")), owned("/a/k", ""));
        assert_eq!(both(KeyRange::prefix("k")), owned("/a/k", "/a/l"));
        assert_eq!(both(KeyRange::prefix(vec![0xff_u8])).1, "/a0");
        let all = KeyRange { key: Bytes::from_static(&[0]), end: Some(Bytes::from_static(&[0])) };
        assert_eq!(both(all), owned("/a/\0", "/a0"));
        let nothing = KeyRange { key: "b".into(), end: Some(Bytes::new()) };
        assert_eq!(both(nothing), owned("/a/b", "/a/"));
    }

    #[test]
    fn only_our_own_keys_lose_the_prefix() {
        let prefix = Prefix::new("/a/");
        assert_eq!(prefix.strip(&prefix.add(b"k")).unwrap(), "k");
        assert_eq!(prefix.strip(&Bytes::from_static(b"/b/k")), None);
    }
}
