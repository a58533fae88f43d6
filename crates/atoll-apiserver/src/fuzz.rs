//! Entry points for the fuzzer: what reads a request before its sender may be trusted.

use atoll_api::kinds;
use atoll_identity::AccountKey;
use http::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderValue};
use http::{Method, Uri};

use crate::admission::webhooks::{Version, read_answer};
use crate::audit::Policy;
use crate::authz::Attributes;
use crate::decode::{self, Expected};
use crate::negotiate::{self, BodyFormat};
use crate::query::{FieldValidation, Query};
use crate::request::target;
use crate::tokens::AccountTokens;
use crate::user::UserInfo;

/// The Accept and Content-Type headers, and which answer they ask for.
pub fn headers(value: &[u8]) {
    let Ok(value) = HeaderValue::from_bytes(value) else { return };
    let mut headers = HeaderMap::new();
    headers.insert(ACCEPT, value.clone());
    headers.insert(CONTENT_TYPE, value);
    drop(negotiate::accept(&headers, &Query::parse("")));
    drop(negotiate::body_format(&headers));
}

/// Path and query of a request.
pub fn request_line(line: &str) {
    let Ok(uri) = line.parse::<Uri>() else { return };
    let query = Query::parse(uri.query().unwrap_or(""));
    for method in [Method::GET, Method::POST, Method::DELETE] {
        target(&method, uri.path(), &query);
    }
    drop(query.write_options("PatchOptions"));
    drop(query.number("limit"));
    drop(negotiate::accept(&HeaderMap::new(), &query));
}

/// A continue token of a list.
pub fn continue_token(token: &str) {
    crate::list::fuzz_continue(token);
}

/// A value of the store that claims to be sealed, and the file of the keys for that.
pub fn sealed(input: &[u8]) {
    use crate::encryption::envelope::{self, SecretKey};
    let key = SecretKey::derived(b"fuzz", b"fuzz");
    let (place, id) = (b"/registry/core/secrets/a/b", "0123456789abcdef");
    assert!(envelope::key_id(input).is_none_or(|id| id.len() == envelope::ID_LENGTH));
    assert!(envelope::open(&key, place, input).is_err(), "nobody sealed that");
    if let Ok(sealed) = envelope::seal(&key, id, place, input) {
        assert_eq!(envelope::key_id(&sealed), Some(id));
        assert_eq!(envelope::open(&key, place, &sealed).as_deref(), Ok(input));
    }
    if let Ok(text) = std::str::from_utf8(input) {
        crate::encryption::ring::check_file(text);
    }
}

/// The body of a server that wants to join.
pub fn join_server(body: &[u8]) {
    crate::servers::join::fuzz_request(body);
    crate::servers::rejoin::fuzz_request(body);
}

/// A body as the generic path takes it: decoded, pruned, defaulted and validated.
pub fn body(row: usize, format: u8, body: &[u8]) {
    let rows = kinds::builtin();
    let Some(row) = rows.get(row % rows.len().max(1)) else { return };
    let format = match format % 3 {
        0 => BodyFormat::Json,
        1 => BodyFormat::Yaml,
        _ => BodyFormat::Protobuf,
    };
    let expected = Expected::of_row(row);
    let Ok(incoming) = decode::object(&expected, body, format, FieldValidation::Warn) else {
        return;
    };
    let mut object = incoming.object;
    atoll_api::defaults::normalise(&mut object);
    row.prepare_create(&mut object);
    drop(row.validate_create(&object));
    let mut changed = object.clone();
    row.prepare_update(&mut changed, &object);
    drop(row.validate_update(&changed, &object));
}

/// A bearer token that claims to be one of ours.
pub struct Tokens(AccountTokens);

impl Tokens {
    pub fn new() -> Option<Self> {
        let key = AccountKey::create().ok()?;
        AccountTokens::new(&key, "https://kubernetes.default.svc".to_owned()).ok().map(Self)
    }

    pub fn verify(&self, token: &str) {
        drop(self.0.verify(token, jiff::Timestamp::UNIX_EPOCH));
    }
}

/// The answer of an admission webhook.
pub fn admission_answer(bytes: &[u8]) {
    for version in [Version::V1, Version::V1Beta1] {
        for mutating in [true, false] {
            drop(read_answer(bytes, version, "u", mutating));
        }
    }
}

/// A page that comes through a proxy.
pub fn proxied_page(page: &[u8]) {
    crate::proxy::fuzz_page(page);
}

/// An audit policy; one that holds may be asked.
pub fn audit_policy(text: &str) {
    if let Ok(policy) = Policy::parse(text) {
        let user = UserInfo::authenticated("u", ["g"]);
        policy.keep(&Attributes::resource(&user, "get", "", "pods"));
        policy.keep(&Attributes::empty(&user, "/healthz"));
    }
}
