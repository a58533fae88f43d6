//! Writes bbolt files: two meta pages, a list of free pages that is empty, and a tree for each
//! bucket, once from the front to the back.

use super::{
    BRANCH, ELEMENT_BYTES, FREE_LIST, HEADER_BYTES, IS_BUCKET, LEAF, MAGIC, META, VERSION, fnv,
};

pub(crate) const PAGE_BYTES: usize = 4096;
/// The pages before the first tree: two of meta, and the list of free ones.
pub(crate) const FIRST_PAGE: u64 = 3;
const FREE_LIST_PAGE: u64 = 2;

type Key = Vec<u8>;

/// A bucket's tree under construction; keys come in order.
pub(crate) struct Tree {
    next_page: u64,
    pending: Vec<(u32, Key, Vec<u8>)>,
    pending_bytes: usize,
    /// First keys and pages of what is complete.
    leaves: Vec<(Key, u64)>,
}

impl Tree {
    pub(crate) fn new(first_page: u64) -> Self {
        Self {
            next_page: first_page,
            pending: Vec::new(),
            pending_bytes: HEADER_BYTES,
            leaves: Vec::new(),
        }
    }

    /// Gives a page back, with what follows it if it is a large one, when one is full.
    pub(crate) fn push(&mut self, key: Key, value: Vec<u8>) -> Option<Vec<u8>> {
        self.push_element(0, key, value)
    }

    fn push_element(&mut self, flags: u32, key: Key, value: Vec<u8>) -> Option<Vec<u8>> {
        let bytes = ELEMENT_BYTES + key.len() + value.len();
        let is_full = !self.pending.is_empty() && self.pending_bytes + bytes > PAGE_BYTES;
        let page = is_full.then(|| self.end_leaf());
        self.pending_bytes += bytes;
        self.pending.push((flags, key, value));
        page
    }

    fn end_leaf(&mut self) -> Vec<u8> {
        let elements = std::mem::take(&mut self.pending);
        self.pending_bytes = HEADER_BYTES;
        let first = elements.first().map(|(_, key, _)| key.clone()).unwrap_or_default();
        let page = leaf(self.next_page, &elements);
        self.leaves.push((first, self.next_page));
        self.next_page += pages(&page);
        page
    }

    /// The rest of the tree, the page of its root, and the first page after it.
    pub(crate) fn finish(mut self) -> (Vec<u8>, u64, u64) {
        let mut out = Vec::new();
        if !self.pending.is_empty() || self.leaves.is_empty() {
            out = self.end_leaf();
        }
        let mut level = std::mem::take(&mut self.leaves);
        while level.len() > 1 {
            let mut above = Vec::new();
            let mut rest = level.as_slice();
            while !rest.is_empty() {
                let (here, after) = rest.split_at(fitting(rest));
                out.extend(branch(self.next_page, here));
                above.push((here[0].0.clone(), self.next_page));
                self.next_page += 1;
                rest = after;
            }
            level = above;
        }
        let root = level.first().map_or(self.next_page, |(_, page)| *page);
        (out, root, self.next_page)
    }
}

/// How many children one branch page has room for; two at least, or a tree would have no end.
fn fitting(children: &[(Key, u64)]) -> usize {
    let mut bytes = HEADER_BYTES;
    let fits = children.iter().take_while(|(key, _)| {
        bytes += ELEMENT_BYTES + key.len();
        bytes <= PAGE_BYTES
    });
    fits.count().max(2).min(children.len())
}

/// The tree that names the buckets and their roots. Names come in order.
pub(crate) fn root(first_page: u64, buckets: &[(&str, u64)]) -> (Vec<u8>, u64, u64) {
    let mut tree = Tree::new(first_page);
    let mut out = Vec::new();
    for (name, page) in buckets {
        let mut value = page.to_le_bytes().to_vec();
        value.extend_from_slice(&0u64.to_le_bytes());
        out.extend(
            tree.push_element(IS_BUCKET, name.as_bytes().to_vec(), value).unwrap_or_default(),
        );
    }
    let (rest, root, end) = tree.finish();
    out.extend(rest);
    (out, root, end)
}

/// What stands before the trees.
pub(crate) fn head(root: u64, end: u64) -> Vec<u8> {
    let mut out = meta(0, root, end);
    out.extend(meta(1, root, end));
    out.extend(padded(header(FREE_LIST_PAGE, FREE_LIST, 0, 0)));
    out
}

fn meta(number: u64, root: u64, end: u64) -> Vec<u8> {
    let mut out = header(number, META, 0, 0);
    for word in [MAGIC, VERSION, number32(PAGE_BYTES), 0] {
        out.extend_from_slice(&word.to_le_bytes());
    }
    // The last is the number of the transaction that wrote it.
    for word in [root, 0, FREE_LIST_PAGE, end, number] {
        out.extend_from_slice(&word.to_le_bytes());
    }
    let checksum = fnv(&out[HEADER_BYTES..]);
    out.extend_from_slice(&checksum.to_le_bytes());
    padded(out)
}

fn header(page: u64, flags: u16, count: usize, overflow: usize) -> Vec<u8> {
    let mut out = page.to_le_bytes().to_vec();
    out.extend_from_slice(&flags.to_le_bytes());
    out.extend_from_slice(&u16::try_from(count).unwrap_or(u16::MAX).to_le_bytes());
    out.extend_from_slice(&number32(overflow).to_le_bytes());
    out
}

fn leaf(page: u64, elements: &[(u32, Key, Vec<u8>)]) -> Vec<u8> {
    let bodies: usize = elements.iter().map(|(_, key, value)| key.len() + value.len()).sum();
    let bytes = HEADER_BYTES + elements.len() * ELEMENT_BYTES + bodies;
    let overflow = bytes.div_ceil(PAGE_BYTES) - 1;
    let mut out = header(page, LEAF, elements.len(), overflow);
    let mut at = elements.len() * ELEMENT_BYTES;
    for (flags, key, value) in elements {
        for word in [*flags, number32(at), number32(key.len()), number32(value.len())] {
            out.extend_from_slice(&word.to_le_bytes());
        }
        // From the next element, which begins so much later.
        at = at + key.len() + value.len() - ELEMENT_BYTES;
    }
    for (_, key, value) in elements {
        out.extend_from_slice(key);
        out.extend_from_slice(value);
    }
    padded(out)
}

fn branch(page: u64, children: &[(Key, u64)]) -> Vec<u8> {
    let mut out = header(page, BRANCH, children.len(), 0);
    let mut at = children.len() * ELEMENT_BYTES;
    for (key, child) in children {
        out.extend_from_slice(&number32(at).to_le_bytes());
        out.extend_from_slice(&number32(key.len()).to_le_bytes());
        out.extend_from_slice(&child.to_le_bytes());
        at = at + key.len() - ELEMENT_BYTES;
    }
    for (key, _) in children {
        out.extend_from_slice(key);
    }
    padded(out)
}

fn padded(mut page: Vec<u8>) -> Vec<u8> {
    page.resize(page.len().next_multiple_of(PAGE_BYTES), 0);
    page
}

fn pages(bytes: &[u8]) -> u64 {
    (bytes.len() / PAGE_BYTES) as u64
}

/// A record is at most a request, so nothing here comes near.
fn number32(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_follow_each_other() {
        let mut tree = Tree::new(FIRST_PAGE);
        let mut out = Vec::new();
        for number in 0..100_000_u32 {
            let value = vec![7; if number == 500 { 3 * PAGE_BYTES } else { 20 }];
            out.extend(tree.push(number.to_be_bytes().to_vec(), value).unwrap_or_default());
        }
        let (rest, root, end) = tree.finish();
        out.extend(rest);
        assert_eq!(end, FIRST_PAGE + pages(&out));
        assert_eq!(root, end - 1);
        let mut at = 0;
        while at < out.len() {
            let page = u64::from_le_bytes(out[at..at + 8].try_into().unwrap());
            let overflow = u32::from_le_bytes(out[at + 12..at + 16].try_into().unwrap());
            assert_eq!(page, FIRST_PAGE + (at / PAGE_BYTES) as u64);
            at += (overflow as usize + 1) * PAGE_BYTES;
        }
    }
}
