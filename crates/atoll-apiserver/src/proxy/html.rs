//! Links in a page, as it passes: whoever followed one that begins with `/` would leave the proxy.
//!
//! A page is read byte by byte and kept as it is, but for the values of attributes that hold
//! addresses. It is never held as a whole, and what is no HTML passes unharmed.

use std::ops::Range;

/// A tag that is longer passes as it is: it carries an image in itself, more likely than a link.
const TAG_BYTES_MAX: usize = 64 << 10;

/// Attributes that hold an address, by their tag.
const ADDRESSES: [(&str, &[&str]); 25] = [
    ("a", &["href"]),
    ("applet", &["codebase"]),
    ("area", &["href"]),
    ("audio", &["src"]),
    ("base", &["href"]),
    ("blockquote", &["cite"]),
    ("body", &["background"]),
    ("button", &["formaction"]),
    ("command", &["icon"]),
    ("del", &["cite"]),
    ("embed", &["src"]),
    ("form", &["action"]),
    ("frame", &["longdesc", "src"]),
    ("head", &["profile"]),
    ("html", &["manifest"]),
    ("iframe", &["longdesc", "src"]),
    ("img", &["longdesc", "src", "usemap"]),
    ("input", &["src", "usemap", "formaction"]),
    ("ins", &["cite"]),
    ("link", &["href"]),
    ("object", &["classid", "codebase", "data", "usemap"]),
    ("q", &["cite"]),
    ("script", &["src"]),
    ("source", &["src"]),
    ("video", &["poster", "src"]),
];

/// Elements whose content is text, tags and all, up to their end tag.
const OF_TEXT: [&str; 8] =
    ["iframe", "noembed", "noframes", "script", "style", "textarea", "title", "xmp"];

/// Reads pages in pieces; `relocate` says where a link leads instead, if elsewhere.
pub(super) struct Links<F> {
    relocate: F,
    state: State,
    tag: Tag,
    /// The element whose text this is.
    element: &'static str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Text,
    /// After `<`.
    Open,
    /// Within `<name …`, with what it is made of.
    Tag(Part),
    /// An end tag, or something that is no tag: up to the next `>`.
    Other,
    /// After `<!` and so many dashes.
    Declaration(u8),
    /// Within a comment, after so many dashes.
    Comment(u8),
    /// Within [`OF_TEXT`]: so much of `</name` has been seen.
    Raw(usize),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Name,
    Between,
    Key,
    AfterKey,
    BeforeValue,
    Value(Quote),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Quote {
    None,
    Of(u8),
}

/// A start tag that is being read.
#[derive(Debug, Default)]
struct Tag {
    bytes: Vec<u8>,
    name: Range<usize>,
    key: Range<usize>,
    /// Where the value that is being read began.
    value: usize,
    attributes: Vec<(Range<usize>, Range<usize>)>,
    /// It was too long, and is on its way out.
    passed: bool,
}

impl<F: Fn(&str) -> Option<String>> Links<F> {
    pub(super) fn new(relocate: F) -> Self {
        Self { relocate, state: State::Text, tag: Tag::default(), element: "" }
    }

    /// Reads on; what is known of the page by then is appended to `out`.
    pub(super) fn read(&mut self, mut page: &[u8], out: &mut Vec<u8>) {
        while let Some(&byte) = page.first() {
            let length = if self.state == State::Text {
                page.iter().position(|byte| *byte == b'<').unwrap_or(page.len())
            } else {
                0
            };
            if length > 0 {
                let (text, rest) = page.split_at(length);
                out.extend_from_slice(text);
                page = rest;
                continue;
            }
            self.step(byte, out);
            page = &page[1..];
        }
    }

    /// What was held back of a page that ended within a tag.
    pub(super) fn end(&mut self, out: &mut Vec<u8>) {
        out.append(&mut self.tag.bytes);
        self.state = State::Text;
    }

    fn step(&mut self, byte: u8, out: &mut Vec<u8>) {
        if self.state == State::Open && byte.is_ascii_alphabetic() {
            self.state = State::Tag(Part::Name);
            // Its `<` is out already.
            self.tag = Tag::default();
        }
        if let State::Tag(part) = self.state {
            return self.within_tag(part, byte, out);
        }
        out.push(byte);
        self.state = match (self.state, byte) {
            (State::Text | State::Open, b'<') => State::Open,
            (State::Open, b'!') => State::Declaration(0),
            (State::Open, b'/' | b'?') => State::Other,
            (State::Declaration(0), b'-') => State::Declaration(1),
            // `<!-->` is a whole comment.
            (State::Declaration(1), b'-') | (State::Comment(2), b'-' | b'!') => State::Comment(2),
            (State::Comment(dashes), b'-') => State::Comment(dashes + 1),
            (State::Other | State::Declaration(_) | State::Comment(2), b'>') => State::Text,
            (State::Comment(_), _) => State::Comment(0),
            (State::Other | State::Declaration(_), _) => State::Other,
            (State::Raw(seen), _) => self.raw(seen, byte),
            _ => State::Text,
        };
    }

    /// Looks for the end tag of an element that holds text.
    fn raw(&self, seen: usize, byte: u8) -> State {
        let mut end = b"</".iter().chain(self.element.as_bytes());
        match end.nth(seen) {
            Some(next) if next.eq_ignore_ascii_case(&byte) => State::Raw(seen + 1),
            None if byte == b'>' => State::Text,
            None if byte == b'/' || byte.is_ascii_whitespace() => State::Other,
            _ => State::Raw(usize::from(byte == b'<')),
        }
    }

    fn within_tag(&mut self, part: Part, byte: u8, out: &mut Vec<u8>) {
        let ends = byte == b'>' && !matches!(part, Part::Value(Quote::Of(_)));
        let next = self.tag.read(part, byte);
        if ends {
            if !self.tag.passed {
                self.element = self.tag.holds_text();
            }
            self.write(out);
            self.state = if self.element.is_empty() { State::Text } else { State::Raw(0) };
            return;
        }
        self.state = State::Tag(next);
        if self.tag.bytes.len() > TAG_BYTES_MAX && !self.tag.passed {
            self.element = self.tag.holds_text();
            self.tag.passed = true;
        }
        if self.tag.passed {
            out.append(&mut self.tag.bytes);
        }
    }

    /// The tag with its links as they are to be.
    fn write(&mut self, out: &mut Vec<u8>) {
        let tag = std::mem::take(&mut self.tag);
        let mut done = 0;
        for value in tag.addresses() {
            let text = tag.bytes.get(value.clone()).and_then(|text| str::from_utf8(text).ok());
            if let Some(target) = text.and_then(&self.relocate) {
                out.extend_from_slice(&tag.bytes[done..value.start]);
                out.extend_from_slice(target.as_bytes());
                done = value.end;
            }
        }
        out.extend_from_slice(&tag.bytes[done..]);
    }
}

impl Tag {
    /// Takes a byte; which part of the tag comes next.
    fn read(&mut self, part: Part, byte: u8) -> Part {
        let at = self.bytes.len();
        self.bytes.push(byte);
        let blank = byte.is_ascii_whitespace();
        let outside = blank || matches!(byte, b'/' | b'>');
        match part {
            Part::Name | Part::Key if !outside && (part == Part::Name || byte != b'=') => {
                let range = if part == Part::Name { &mut self.name } else { &mut self.key };
                range.end = at + 1;
                part
            }
            Part::Key | Part::AfterKey if byte == b'=' => Part::BeforeValue,
            Part::Key | Part::AfterKey if blank => Part::AfterKey,
            Part::Name | Part::Key | Part::Between | Part::AfterKey if outside => Part::Between,
            Part::Name | Part::Key | Part::Between | Part::AfterKey => {
                self.key = at..at + 1;
                Part::Key
            }
            Part::BeforeValue if blank => Part::BeforeValue,
            Part::BeforeValue if matches!(byte, b'"' | b'\'') => {
                self.value = at + 1;
                Part::Value(Quote::Of(byte))
            }
            Part::BeforeValue => {
                self.value = at;
                Part::Value(Quote::None)
            }
            Part::Value(quote) => {
                let ends = match quote {
                    Quote::None => blank || byte == b'>',
                    Quote::Of(mark) => byte == mark,
                };
                if !ends {
                    return part;
                }
                if !self.passed {
                    self.attributes.push((self.key.clone(), self.value..at));
                }
                Part::Between
            }
        }
    }

    fn name(&self) -> &[u8] {
        self.bytes.get(self.name.clone()).unwrap_or_default()
    }

    /// The name, if what follows is text.
    fn holds_text(&self) -> &'static str {
        let found = OF_TEXT.iter().find(|one| one.as_bytes().eq_ignore_ascii_case(self.name()));
        found.copied().unwrap_or_default()
    }

    /// Attributes that hold an address: where their value stands.
    fn addresses(&self) -> impl Iterator<Item = &Range<usize>> {
        let of = ADDRESSES.iter().find(|(tag, _)| tag.as_bytes().eq_ignore_ascii_case(self.name()));
        let keys = of.filter(|_| !self.passed).map_or(&[][..], |(_, keys)| *keys);
        let holds = move |key: &Range<usize>| {
            let key = self.bytes.get(key.clone()).unwrap_or_default();
            keys.iter().any(|one| one.as_bytes().eq_ignore_ascii_case(key))
        };
        let found = self.attributes.iter().filter(move |(key, _)| holds(key));
        found.map(|(_, value)| value)
    }
}

/// In one piece and in two a page becomes the same, and without a link that moves it stays.
pub(super) fn fuzz(page: &[u8]) {
    let read = |pieces: [&[u8]; 2], moves: bool| {
        let relocate = |link: &str| link.starts_with('/').then(|| format!("/P{link}"));
        let mut links = Links::new(|link: &str| relocate(link).filter(|_| moves));
        let mut out = Vec::new();
        for piece in pieces {
            links.read(piece, &mut out);
        }
        links.end(&mut out);
        out
    };
    let (first, second) = page.split_at(page.len() / 2);
    assert_eq!(read([page, b""], true), read([first, second], true));
    assert_eq!(read([first, second], false), page);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In two pieces, wherever it is cut.
    fn passed(page: &str) -> String {
        let relocate = |link: &str| link.strip_prefix('/').map(|rest| format!("/P/{rest}"));
        let whole = |cut: usize| {
            let (mut links, mut out) = (Links::new(relocate), Vec::new());
            links.read(&page.as_bytes()[..cut], &mut out);
            links.read(&page.as_bytes()[cut..], &mut out);
            links.end(&mut out);
            String::from_utf8(out).unwrap()
        };
        let first = whole(0);
        for cut in 1..page.len() {
            assert_eq!(whole(cut), first, "cut at {cut}");
        }
        first
    }

    #[test]
    fn links_lead_through_the_proxy_however_they_are_written() {
        for (page, wanted) in [
            (r#"<a href="/x">test</a>"#, r#"<a href="/P/x">test</a>"#),
            ("<A CLASS=b HREF=/x>", "<A CLASS=b HREF=/P/x>"),
            ("<a href = '/x' id>", "<a href = '/P/x' id>"),
            (
                "<img longdesc='/l' alt=\"a>b\" src=/i/>",
                "<img longdesc='/P/l' alt=\"a>b\" src=/P/i/>",
            ),
            ("a < b <a\nhref=\"/x?a=1&amp;b\">", "a < b <a\nhref=\"/P/x?a=1&amp;b\">"),
            (
                "<!DOCTYPE html><html manifest=/m><!-- - --><q cite=/q>",
                "<!DOCTYPE html><html manifest=/P/m><!-- - --><q cite=/P/q>",
            ),
            (
                "<script src=/s>'</b><a href=/x>'</script ><a href=/x>",
                "<script src=/P/s>'</b><a href=/x>'</script ><a href=/P/x>",
            ),
            ("<!--><a href=/x>", "<!--><a href=/P/x>"),
        ] {
            assert_eq!(passed(page), wanted);
        }
    }

    #[test]
    fn everything_else_stays_as_it_is() {
        for page in [
            "",
            "<a href=x><a name=/x><b href=/x><a href><a href=>",
            "<!-- <a href=/x> --><title><a href=/x></title>",
            "<a title=\"<a href='/x'>\">",
            "</a href=/x><?a href=/x?>",
            "<a href=\"/x",
            "<",
        ] {
            assert_eq!(passed(page), page);
        }
    }

    #[test]
    fn a_tag_that_never_ends_is_not_kept() {
        let (mut links, mut out) = (Links::new(|_: &str| Some("no".to_owned())), Vec::new());
        let page = format!("<img src=\"{}", "x".repeat(3 * TAG_BYTES_MAX));
        links.read(page.as_bytes(), &mut out);
        assert!(links.tag.bytes.is_empty());
        links.read(b"\"><a href=/x>", &mut out);
        assert_eq!(String::from_utf8(out).unwrap(), format!("{page}\"><a href=no>"));
    }
}
