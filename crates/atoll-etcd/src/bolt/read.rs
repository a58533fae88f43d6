//! Reads bbolt files. Nothing in them is believed: pages are looked at
//! only inside of the file, each at most once, and no deeper than a tree of that size can be.
//!
//! The list of free pages is not read: a tree that leads to one shows by its checksum in the
//! snapshot, or by its keys.

use std::io;

use super::{BRANCH, ELEMENT_BYTES, HEADER_BYTES, IS_BUCKET, LEAF, MAGIC, VERSION, fnv};

/// What a file is read from.
pub trait Source {
    fn length(&self) -> io::Result<u64>;
    /// Fails where the source ends before.
    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()>;
}

impl Source for std::fs::File {
    fn length(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        std::os::unix::fs::FileExt::read_exact_at(self, out, offset)
    }
}

impl Source for &[u8] {
    fn length(&self) -> io::Result<u64> {
        Ok(self.len() as u64)
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let start = usize::try_from(offset).map_err(io::Error::other)?;
        let end = start.checked_add(out.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        let found = self.get(start..end).ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(found);
        Ok(())
    }
}

#[derive(Debug, thiserror::Error)]
pub enum BoltError {
    #[error("it is no bbolt file: neither of its meta pages is one")]
    NoMeta,
    #[error("the page {page} is damaged: {reason}")]
    Damaged { page: u64, reason: &'static str },
    #[error("it has no bucket called {name:?}")]
    NoBucket { name: String },
    #[error("reading it failed")]
    Read(#[source] io::Error),
}

const META_BYTES: usize = 64;
const PAGE_BYTES_MIN: u64 = 1 << 10;
/// Machines have pages of 64 KiB at most.
const PAGE_BYTES_MAX: u64 = 1 << 16;
/// A page with what belongs to it, which is in memory at once: far above etcd's largest request.
const RUN_BYTES_MAX: u64 = 64 << 20;
/// A branch page has two children at least, so that a tree of this depth fits no disk.
const DEPTH_MAX: usize = 48;

#[derive(Debug)]
pub(crate) struct Bolt<S> {
    source: S,
    page_bytes: u64,
    /// There are no pages from this one on.
    pages: u64,
    root: u64,
}

#[derive(Debug, Clone, Copy)]
struct Meta {
    page_bytes: u64,
    root: u64,
    pages: u64,
    transaction: u64,
}

impl Meta {
    fn read(source: &impl Source, offset: u64) -> Option<Self> {
        let mut page = [0; HEADER_BYTES + META_BYTES];
        source.read_at(offset, &mut page).ok()?;
        let body = &page[HEADER_BYTES..];
        let (checked, checksum) = body.split_at(META_BYTES - 8);
        let page_bytes = u64::from(number32(body, 8)?);
        let is_valid = number32(body, 0)? == MAGIC
            && number32(body, 4)? == VERSION
            && number64(checksum, 0)? == fnv(checked)
            && page_bytes.is_power_of_two()
            && (PAGE_BYTES_MIN..=PAGE_BYTES_MAX).contains(&page_bytes);
        let meta = Self {
            page_bytes,
            root: number64(body, 16)?,
            pages: number64(body, 40)?,
            transaction: number64(body, 48)?,
        };
        is_valid.then_some(meta)
    }

    /// The newer of the two, of which one may have been written when the machine stopped.
    fn newest(source: &impl Source) -> Option<Self> {
        let first = Self::read(source, 0);
        let sizes = std::iter::successors(Some(PAGE_BYTES_MIN), |bytes| Some(bytes * 2))
            .take_while(|bytes| *bytes <= PAGE_BYTES_MAX);
        let second = sizes
            .filter(|bytes| first.is_none_or(|meta| meta.page_bytes == *bytes))
            .find_map(|bytes| Self::read(source, bytes).filter(|meta| meta.page_bytes == bytes));
        first.into_iter().chain(second).max_by_key(|meta| meta.transaction)
    }
}

/// Where a bucket's tree begins.
enum Tree {
    Page(u64),
    /// A small bucket stands in the page of the one above.
    Inline(Vec<u8>),
}

/// A page with all that belongs to it.
struct Page {
    number: u64,
    bytes: Vec<u8>,
    is_branch: bool,
    count: usize,
}

impl<S: Source> Bolt<S> {
    /// The first `length` bytes of the source.
    pub(crate) fn open(source: S, length: u64) -> Result<Self, BoltError> {
        let meta = Meta::newest(&source).ok_or(BoltError::NoMeta)?;
        let pages = meta.pages.min(length / meta.page_bytes);
        if pages < meta.pages {
            let reason = "the file ends before it";
            return Err(BoltError::Damaged { page: pages, reason });
        }
        Ok(Self { source, page_bytes: meta.page_bytes, pages, root: meta.root })
    }

    /// Every key of a bucket, in order. A bucket inside of it is an error: etcd has none.
    pub(crate) fn for_each<E: From<BoltError>>(
        &self,
        bucket: &str,
        mut visit: impl FnMut(&[u8], &[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let tree = self.find(bucket)?;
        let missing = || BoltError::NoBucket { name: bucket.to_owned() };
        self.walk(tree.ok_or_else(missing)?, |page, flags, key, value| {
            if flags & IS_BUCKET != 0 {
                return Err(E::from(BoltError::Damaged { page, reason: "it holds a bucket" }));
            }
            visit(key, value)
        })
    }

    pub(crate) fn has_bucket(&self, name: &str) -> Result<bool, BoltError> {
        Ok(self.find(name)?.is_some())
    }

    fn find(&self, name: &str) -> Result<Option<Tree>, BoltError> {
        let mut found = None;
        self.walk(Tree::Page(self.root), |page, flags, key, value| {
            if flags & IS_BUCKET == 0 || key != name.as_bytes() {
                return Ok(());
            }
            let short = BoltError::Damaged { page, reason: "a bucket in it is cut" };
            let root = number64(value, 0).filter(|_| value.len() >= 16);
            found = Some(match root.ok_or(short)? {
                0 => Tree::Inline(value[16..].to_vec()),
                root => Tree::Page(root),
            });
            Ok::<_, BoltError>(())
        })?;
        Ok(found)
    }

    fn walk<E: From<BoltError>>(
        &self,
        tree: Tree,
        mut visit: impl FnMut(u64, u32, &[u8], &[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut seen = 0;
        let first = match tree {
            Tree::Page(number) => self.page(number, &mut seen)?,
            Tree::Inline(bytes) => Page::parse(0, bytes)?,
        };
        let mut last: Option<Vec<u8>> = None;
        let mut path = vec![(first, 0)];
        while let Some((page, next)) = path.last_mut() {
            if *next == page.count {
                path.pop();
                continue;
            }
            let position = *next;
            *next += 1;
            if page.is_branch {
                let child = page.child(position)?;
                if path.len() == DEPTH_MAX {
                    return Err(damaged(child, "it is deeper than any tree").into());
                }
                path.push((self.page(child, &mut seen)?, 0));
                continue;
            }
            let (flags, key, value) = page.element(position)?;
            if last.as_deref().is_some_and(|last| last >= key) {
                return Err(damaged(page.number, "its keys are not in order").into());
            }
            last = Some(key.to_vec());
            visit(page.number, flags, key, value)?;
        }
        Ok(())
    }

    /// `seen` counts pages: a tree that has more than the file goes in a circle.
    fn page(&self, number: u64, seen: &mut u64) -> Result<Page, BoltError> {
        if !(2..self.pages).contains(&number) {
            return Err(damaged(number, "it is not inside of the file"));
        }
        let mut header = [0; HEADER_BYTES];
        self.read(number, &mut header)?;
        let run = u64::from(number32(&header, 12).unwrap_or(0)) + 1;
        let bytes = run.saturating_mul(self.page_bytes);
        if run > self.pages - number || bytes > RUN_BYTES_MAX {
            return Err(damaged(number, "it is too long"));
        }
        *seen += run;
        if *seen > self.pages {
            return Err(damaged(number, "the tree goes in a circle"));
        }
        // Bounded above.
        let mut content = vec![0; usize::try_from(bytes).unwrap_or(0)];
        self.read(number, &mut content)?;
        if number64(&content, 0) != Some(number) {
            return Err(damaged(number, "it says that it is another one"));
        }
        Page::parse(number, content)
    }

    fn read(&self, number: u64, out: &mut [u8]) -> Result<(), BoltError> {
        self.source.read_at(number * self.page_bytes, out).map_err(BoltError::Read)
    }
}

impl Page {
    fn parse(number: u64, bytes: Vec<u8>) -> Result<Self, BoltError> {
        let header = bytes.get(8..HEADER_BYTES);
        let header = header.ok_or_else(|| damaged(number, "it has no header"))?;
        let flags = u16::from_le_bytes([header[0], header[1]]);
        let count = usize::from(u16::from_le_bytes([header[2], header[3]]));
        let is_branch = match flags {
            BRANCH => true,
            LEAF => false,
            _ => return Err(damaged(number, "it is neither leaf nor branch")),
        };
        if is_branch && count == 0 {
            return Err(damaged(number, "a branch without children"));
        }
        if HEADER_BYTES + count * ELEMENT_BYTES > bytes.len() {
            return Err(damaged(number, "it has more elements than room"));
        }
        Ok(Self { number, bytes, is_branch, count })
    }

    fn child(&self, position: usize) -> Result<u64, BoltError> {
        let at = HEADER_BYTES + position * ELEMENT_BYTES;
        number64(&self.bytes, at + 8).ok_or_else(|| damaged(self.number, "an element is cut"))
    }

    fn element(&self, position: usize) -> Result<(u32, &[u8], &[u8]), BoltError> {
        let at = HEADER_BYTES + position * ELEMENT_BYTES;
        let word = |offset| number32(&self.bytes, at + offset);
        let parts = || {
            let [start, key, value] = [word(4)?, word(8)?, word(12)?]
                .map(|number| usize::try_from(number).unwrap_or(usize::MAX));
            let start = at.checked_add(start)?;
            let middle = start.checked_add(key)?;
            let end = middle.checked_add(value)?;
            Some((word(0)?, self.bytes.get(start..middle)?, self.bytes.get(middle..end)?))
        };
        parts().ok_or_else(|| damaged(self.number, "an element reaches beyond it"))
    }
}

fn damaged(page: u64, reason: &'static str) -> BoltError {
    BoltError::Damaged { page, reason }
}

fn number32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk::<4>()?))
}

fn number64(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk::<8>()?))
}
