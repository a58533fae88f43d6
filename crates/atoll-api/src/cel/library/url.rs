//! `url()`: absolute URIs and absolute paths, as Go's `url.ParseRequestURI` takes them.

use std::rc::Rc;

use super::{Function, Opaque, function, no_overload};
use crate::cel::error::{EvalError, fail};
use crate::cel::value::{Map, OwnMap, Value};
use crate::field::quote;

type Evaluated<'a> = Result<Value<'a>, EvalError>;

const PART: &[&str] = &["kubernetes.URL.() string"];

pub(super) const FUNCTIONS: &[Function] = &[
    function("url", &["(string) kubernetes.URL"], |args, _| match args {
        [Value::String(text)] => match Url::parse(text.as_str()) {
            Ok(url) => Ok(Value::Opaque(Opaque::Url(Rc::new(url)))),
            Err(why) => fail(format!("URL parse error during conversion from string: {why}")),
        },
        _ => no_overload(),
    }),
    function("isURL", &["(string) bool"], |args, _| match args {
        [Value::String(text)] => Ok(Value::Bool(Url::parse(text.as_str()).is_ok())),
        _ => no_overload(),
    }),
    function("getScheme", PART, |args, _| part(args, |url| url.scheme.clone())),
    function("getHost", PART, |args, _| part(args, |url| url.host.clone())),
    function("getHostname", PART, |args, _| part(args, |url| url.hostname().to_owned())),
    function("getPort", PART, |args, _| part(args, |url| url.port().to_owned())),
    function("getEscapedPath", PART, |args, _| part(args, |url| url.path.clone())),
    function("getQuery", &["kubernetes.URL.() map<string, list<string>>"], query),
];

fn part<'a>(args: &[Value<'a>], read: impl Fn(&Url) -> String) -> Evaluated<'a> {
    match args {
        [Value::Opaque(Opaque::Url(url))] => Ok(Value::text(read(url))),
        _ => no_overload(),
    }
}

fn query<'a>(args: &[Value<'a>], _: &super::Context) -> Evaluated<'a> {
    let [Value::Opaque(Opaque::Url(url))] = args else { return no_overload() };
    let mut lists: Vec<(String, Vec<Value<'a>>)> = Vec::new();
    for pair in url.query.split('&').filter(|pair| !pair.is_empty() && !pair.contains(';')) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let (Some(key), Some(value)) = (decode(key), decode(value)) else { continue };
        match lists.iter_mut().find(|(own, _)| *own == key) {
            Some((_, list)) => list.push(Value::text(value)),
            None => lists.push((key, vec![Value::text(value)])),
        }
    }
    let mut map = OwnMap::default();
    for (key, list) in lists {
        map.insert(Value::text(key), Value::list(list))?;
    }
    Ok(Value::Map(Map::Own(Rc::new(map))))
}

/// `%20` and `+` to what they stand for.
fn decode(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(one) = bytes.next() {
        match one {
            b'+' => out.push(b' '),
            b'%' => {
                let (high, low) = (bytes.next()?, bytes.next()?);
                let digit = |one: u8| char::from(one).to_digit(16);
                out.push(u8::try_from(digit(high)? * 16 + digit(low)?).ok()?);
            }
            other => out.push(other),
        }
    }
    Some(String::from_utf8_lossy(&out).into_owned())
}

/// The parts of a URL, as they are written.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Url {
    pub(super) scheme: String,
    /// With the port.
    pub(super) host: String,
    pub(super) path: String,
    pub(super) query: String,
}

impl Url {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let bad = |why: &str| format!("parse {}: {why}", quote(text));
        if text.is_empty() {
            return Err(bad("empty url"));
        }
        if text.bytes().any(|one| one < 0x20 || one == 0x7f) {
            return Err(bad("net/url: invalid control character in URL"));
        }
        if text == "*" {
            return Ok(Self { path: "*".to_owned(), ..Self::default() });
        }
        let (scheme, rest) = scheme(text).map_err(bad)?;
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        if !rest.starts_with('/') {
            // `mailto:a@b`: opaque, which has neither host nor path.
            if scheme.is_empty() {
                return Err(bad("invalid URI for request"));
            }
            return Ok(Self { scheme, query: query.to_owned(), ..Self::default() });
        }
        let mut host = "";
        let mut path = rest;
        let authority =
            rest.strip_prefix("//").filter(|_| !scheme.is_empty() || !rest.starts_with("///"));
        if let Some(authority) = authority {
            let end = authority.find('/').unwrap_or(authority.len());
            let (own, after) = authority.split_at(end);
            host = own.rsplit_once('@').map_or(own, |(_, host)| host);
            path = after;
            check_host(host).map_err(|why| bad(&why))?;
        }
        check_escapes(path).map_err(|why| bad(&why))?;
        Ok(Self { scheme, host: host.to_owned(), path: escaped(path), query: query.to_owned() })
    }

    fn split_host(&self) -> (&str, &str) {
        let inner = self.host.rfind(']').unwrap_or(0);
        match self.host.rfind(':').filter(|at| *at >= inner) {
            Some(at) => self.host.split_at(at),
            None => (&self.host, ""),
        }
    }

    fn hostname(&self) -> &str {
        let host = self.split_host().0;
        host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
    }

    fn port(&self) -> &str {
        self.split_host().1.trim_start_matches(':')
    }
}

/// The scheme in lower case, and what follows its colon.
fn scheme(text: &str) -> Result<(String, &str), &'static str> {
    for (at, one) in text.char_indices() {
        match one {
            'a'..='z' | 'A'..='Z' => {}
            '0'..='9' | '+' | '-' | '.' if at > 0 => {}
            ':' if at == 0 => return Err("missing protocol scheme"),
            ':' => {
                let (scheme, rest) = text.split_at(at);
                return Ok((scheme.to_ascii_lowercase(), rest.get(1..).unwrap_or("")));
            }
            _ => break,
        }
    }
    // A colon in the first part of a path would be taken for a scheme's by others.
    let first = text.split('/').next().unwrap_or("");
    if first.contains(':') {
        return Err("first path segment in URL cannot contain colon");
    }
    Ok((String::new(), text))
}

fn check_host(host: &str) -> Result<(), String> {
    if let Some(inner) = host.strip_prefix('[') {
        let Some((_, port)) = inner.split_once(']') else {
            return Err("missing ']' in host".to_owned());
        };
        return check_port(port);
    }
    if let Some(one) = host.chars().find(|one| {
        one.is_ascii() && !one.is_ascii_alphanumeric() && !"-._~!$&'()*+,;=:[]<>\"%".contains(*one)
    }) {
        return Err(format!("invalid character {} in host name", quote(&one.to_string())));
    }
    check_escapes(host)?;
    match host.rfind(':') {
        Some(at) => check_port(host.get(at..).unwrap_or("")),
        None => Ok(()),
    }
}

fn check_port(port: &str) -> Result<(), String> {
    let digits = port.strip_prefix(':');
    let fine = port.is_empty()
        || digits.is_some_and(|digits| digits.bytes().all(|one| one.is_ascii_digit()));
    if fine { Ok(()) } else { Err(format!("invalid port {} after host", quote(port))) }
}

fn check_escapes(text: &str) -> Result<(), String> {
    for (at, _) in text.match_indices('%') {
        let digits = text.as_bytes().get(at + 1..at + 3);
        if !digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit)) {
            let shown: String = text.get(at..).unwrap_or("").chars().take(3).collect();
            return Err(format!("invalid URL escape {}", quote(&shown)));
        }
    }
    Ok(())
}

/// What cannot stand in a path as it is is escaped; what is escaped stays.
fn escaped(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    for one in path.bytes() {
        let plain = one.is_ascii_alphanumeric() || b"-_.~$&+,/:;=@!'()*[]%".contains(&one);
        if plain { out.push(char::from(one)) } else { out.push_str(&format!("%{one:02X}")) }
    }
    out
}
