//! Content negotiation: in which form the client sends and wants to read.

use atoll_api::kinds::ResourceInfo;
use atoll_api::proto;
use http::header::{ACCEPT, CONTENT_TYPE, HeaderMap, USER_AGENT};
use serde_json::Value;

use crate::query::Query;
use crate::status::Status;

/// The form of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Accept {
    pub format: Format,
    pub shape: Shape,
    /// Indented, for people.
    pub pretty: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    Json,
    Yaml,
    Protobuf,
}

/// Kubernetes' own encoding.
pub(crate) const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

/// What an object or list is turned into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    Full,
    Table {
        version: MetaVersion,
    },
    /// Single objects; a list becomes a list of these.
    PartialMetadata {
        version: MetaVersion,
    },
}

/// `meta.k8s.io/v1` or `v1beta1`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MetaVersion {
    V1,
    V1Beta1,
}

impl MetaVersion {
    pub(crate) fn api_version(self) -> &'static str {
        match self {
            Self::V1 => "meta.k8s.io/v1",
            Self::V1Beta1 => "meta.k8s.io/v1beta1",
        }
    }
}

/// The format of a request's body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BodyFormat {
    Json,
    Yaml,
    Protobuf,
}

/// One entry of an Accept header: `application/json;as=Table;v=v1;g=meta.k8s.io`.
pub(crate) struct MediaRange<'a> {
    pub(crate) name: &'a str,
    params: Vec<(&'a str, &'a str)>,
}

impl<'a> MediaRange<'a> {
    fn parse(text: &'a str) -> Self {
        let mut parts = text.split(';').map(str::trim);
        let name = parts.next().unwrap_or("");
        let params = parts.filter_map(|part| part.split_once('=')).collect();
        Self { name, params }
    }

    pub(crate) fn param(&self, key: &str) -> &'a str {
        self.params.iter().find(|(own, _)| *own == key).map_or("", |(_, value)| value)
    }

    fn format(&self) -> Option<Format> {
        match self.name {
            "application/json" | "application/*" | "*/*" => Some(Format::Json),
            "application/yaml" => Some(Format::Yaml),
            PROTOBUF => Some(Format::Protobuf),
            _ => None,
        }
    }

    /// The client's weight in thousandths, and how much of the name is a wildcard.
    fn rank(&self) -> (std::cmp::Reverse<u32>, bool, bool) {
        let weight = match self.param("q") {
            "" => 1.0,
            text => text.parse::<f32>().unwrap_or(1.0).clamp(0.0, 1.0),
        };
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 1000")]
        let thousandths = (weight * 1000.0) as u32;
        let wild = |part: Option<&str>| part == Some("*");
        let mut parts = self.name.split('/');
        (std::cmp::Reverse(thousandths), wild(parts.next()), wild(parts.next()))
    }

    fn shape(&self) -> Option<Shape> {
        let version = match self.param("v") {
            "v1" => MetaVersion::V1,
            "v1beta1" => MetaVersion::V1Beta1,
            _ if self.param("as").is_empty() => MetaVersion::V1,
            _ => return None,
        };
        match (self.param("as"), self.param("g")) {
            ("", _) => Some(Shape::Full),
            ("Table", "meta.k8s.io") => Some(Shape::Table { version }),
            ("PartialObjectMetadata" | "PartialObjectMetadataList", "meta.k8s.io") => {
                Some(Shape::PartialMetadata { version })
            }
            _ => None,
        }
    }
}

/// All entries of the Accept header, the most wanted first; one that takes everything when
/// there is none.
pub(crate) fn media_ranges(headers: &HeaderMap) -> Vec<MediaRange<'_>> {
    let mut ranges: Vec<_> = headers
        .get_all(ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(MediaRange::parse)
        .filter(|range| !range.name.is_empty())
        .collect();
    ranges.sort_by_key(MediaRange::rank);
    if ranges.is_empty() { vec![MediaRange::parse("*/*")] } else { ranges }
}

/// The first form that the client takes and the server has.
pub(crate) fn accept(headers: &HeaderMap, query: &Query) -> Result<Accept, Status> {
    accept_of(headers, query, true, true)
}

/// The same for what a row serves: custom resources have no protobuf, and what is answered and
/// not stored has no Table. Without a Status the refusal is the router's own: of built-in
/// resources it looks at the media type before anything else does.
pub(crate) fn accept_for(
    row: &ResourceInfo,
    headers: &HeaderMap,
    query: &Query,
) -> Result<Accept, Option<Status>> {
    let protobuf = proto::carried(&row.api_version(), &row.kind).is_some();
    accept_of(headers, query, protobuf, row.allows("get")).map_err(|refusal| {
        if row.custom.is_some() {
            return Some(refusal);
        }
        let routed = media_ranges(headers).iter().any(|range| range.format().is_some());
        routed.then(|| {
            Status::unacceptable(format!(
                "only the following media types are accepted: application/json, \
                 application/yaml, {PROTOBUF}"
            ))
        })
    })
}

/// What of a form can only be told with the verb: lists of lists, and what a Table includes.
pub(crate) fn check_shape(
    row: &ResourceInfo,
    verb: &str,
    headers: &HeaderMap,
    query: &Query,
) -> Result<(), Status> {
    let ranges = media_ranges(headers);
    let wanted = ranges.iter().find(|range| range.shape().is_some() && range.format().is_some());
    // Upstream names the type in Go.
    let package = if row.group.is_empty() { "core" } else { &row.group };
    let package = package.split('.').next().unwrap_or_default();
    let custom = row.custom.is_some();
    let list = if custom { "UnstructuredList" } else { &row.list_kind };
    let single = if custom { "Unstructured" } else { &row.kind };
    let package = if custom { "unstructured" } else { package };
    match wanted.map_or("", |range| range.param("as")) {
        form @ "PartialObjectMetadata" if verb == "list" => Err(Status::unacceptable(format!(
            "you requested {form}, but the requested object is a list (*{package}.{list})"
        ))),
        form @ "PartialObjectMetadataList" if verb == "get" => Err(Status::unacceptable(format!(
            "you requested {form}, but the requested object is not a list (*{package}.{single})"
        ))),
        "Table" => match query.text("includeObject") {
            "" | "None" | "Metadata" | "Object" => Ok(()),
            other => Err(Status::bad_request(format!(
                "Unable to convert to Table as requested: includeObject: Invalid value: \
                 {other:?}: must be 'Metadata', 'Object', 'None', or empty"
            ))),
        },
        _ => Ok(()),
    }
}

fn accept_of(
    headers: &HeaderMap,
    query: &Query,
    protobuf: bool,
    table: bool,
) -> Result<Accept, Status> {
    let pretty = pretty(headers, query);
    for range in media_ranges(headers) {
        let (Some(format), Some(shape)) = (range.format(), range.shape()) else { continue };
        let fits = match shape {
            // As upstream, a Table is JSON or YAML.
            Shape::Table { .. } => table && format != Format::Protobuf,
            _ => protobuf || format != Format::Protobuf,
        };
        if fits {
            return Ok(Accept { format, shape, pretty });
        }
    }
    Err(Status::not_acceptable())
}

/// For errors: whatever the client takes, an answer it must have.
pub(crate) fn accept_or_json(headers: &HeaderMap, query: &Query) -> Accept {
    accept(headers, query).unwrap_or(Accept {
        format: Format::Json,
        shape: Shape::Full,
        pretty: pretty(headers, query),
    })
}

/// For an object that is of no row: JSON where protobuf does not carry it.
pub(crate) fn accept_object(headers: &HeaderMap, query: &Query, object: &Value) -> Accept {
    let text = |field: &str| object[field].as_str().unwrap_or("");
    let carried = proto::carried(text("apiVersion"), text("kind")).is_some();
    let accept = accept_or_json(headers, query);
    if accept.format == Format::Protobuf && !carried {
        return Accept { format: Format::Json, ..accept };
    }
    accept
}

fn pretty(headers: &HeaderMap, query: &Query) -> bool {
    if let Some(wanted) = query.opt_flag("pretty") {
        return wanted;
    }
    let agent = headers.get(USER_AGENT).and_then(|value| value.to_str().ok()).unwrap_or("");
    ["curl", "Wget", "Mozilla/5.0"].iter().any(|known| agent.starts_with(known))
}

/// The media type of the body without parameters; empty for none.
pub(crate) fn content_type(headers: &HeaderMap) -> &str {
    let value = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
    value.split(';').next().unwrap_or("").trim()
}

/// How to read the body of anything but a PATCH.
pub(crate) fn body_format(headers: &HeaderMap) -> Result<BodyFormat, Status> {
    match content_type(headers) {
        "" | "application/json" | "*/*" => Ok(BodyFormat::Json),
        "application/yaml" => Ok(BodyFormat::Yaml),
        PROTOBUF => Ok(BodyFormat::Protobuf),
        _ => Err(Status::unsupported_media_type()),
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn accepted(value: &'static str) -> Result<Accept, Status> {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static(value));
        accept(&headers, &Query::default())
    }

    #[test]
    fn the_first_known_form_wins() {
        let kubectl = "application/json;as=Table;v=v1;g=meta.k8s.io,\
                       application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        let shape = accepted(kubectl).map(|accept| accept.shape);
        assert_eq!(shape, Ok(Shape::Table { version: MetaVersion::V1 }));
        let format = |value| accepted(value).map(|accept| accept.format);
        let typed = "application/vnd.kubernetes.protobuf,application/json";
        assert_eq!(format(typed), Ok(Format::Protobuf));
        assert_eq!(format("application/json;q=0.5,application/yaml"), Ok(Format::Yaml));
        assert_eq!(format("*/*,application/vnd.kubernetes.protobuf"), Ok(Format::Protobuf));
    }

    #[test]
    fn a_table_is_no_protobuf_but_metadata_is() {
        let table = "application/vnd.kubernetes.protobuf;as=Table;v=v1;g=meta.k8s.io";
        assert!(accepted(table).is_err());
        let partial =
            "application/vnd.kubernetes.protobuf;as=PartialObjectMetadata;v=v1;g=meta.k8s.io";
        let accept = accepted(partial).map(|accept| (accept.format, accept.shape));
        let shape = Shape::PartialMetadata { version: MetaVersion::V1 };
        assert_eq!(accept, Ok((Format::Protobuf, shape)));
    }

    #[test]
    fn refuses_what_it_cannot_write() {
        let code = accepted("application/cbor").map_err(|status| status.code().as_u16());
        assert_eq!(code.err(), Some(406));
    }
}
