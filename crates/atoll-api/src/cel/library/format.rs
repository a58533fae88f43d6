//! Named formats of texts: `format.dns1123Label().validate(name)`.

use super::url::Url;
use super::{Context, Function, Opaque, function, no_overload};
use crate::cel::error::EvalError;
use crate::cel::value::{self, Value};
use crate::names;

type Evaluated<'a> = Result<Value<'a>, EvalError>;

/// One format.
pub struct Format {
    /// As expressions name it.
    pub(super) name: &'static str,
    /// Characters of the pattern that upstream takes for its cost.
    pub(in crate::cel) pattern_size: u64,
    check: fn(&str) -> Vec<String>,
}

impl std::fmt::Debug for Format {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(self.name)
    }
}

static FORMATS: [Format; 13] = [
    Format { name: "dns1123Label", pattern_size: 30, check: |text| names::label_rule(text, false) },
    Format {
        name: "dns1123Subdomain",
        pattern_size: 60,
        check: |text| names::subdomain_rule(text, false),
    },
    Format {
        name: "dns1035Label",
        pattern_size: 30,
        check: |text| names::label_1035_rule(text, false),
    },
    Format { name: "qualifiedName", pattern_size: 60, check: names::qualified_name },
    Format {
        name: "dns1123LabelPrefix",
        pattern_size: 30,
        check: |text| names::label_rule(text, true),
    },
    Format {
        name: "dns1123SubdomainPrefix",
        pattern_size: 60,
        check: |text| names::subdomain_rule(text, true),
    },
    Format {
        name: "dns1035LabelPrefix",
        pattern_size: 30,
        check: |text| names::label_1035_rule(text, true),
    },
    Format { name: "labelValue", pattern_size: 40, check: names::label_value },
    Format {
        name: "uri",
        pattern_size: 2000,
        check: |text| Url::parse(text).err().into_iter().collect(),
    },
    Format {
        name: "uuid",
        pattern_size: 81,
        check: |text| fault(is_uuid(text), "does not match the UUID format"),
    },
    Format {
        name: "byte",
        pattern_size: 84,
        check: |text| fault(is_base64(text), "invalid base64"),
    },
    Format { name: "date", pattern_size: 97, check: |text| fault(is_date(text), "invalid date") },
    Format {
        name: "datetime",
        pattern_size: 97,
        check: |text| fault(value::parse_timestamp(text).is_ok(), "invalid datetime"),
    },
];

const NONE: &[&str] = &["() kubernetes.NamedFormat"];

pub(super) const FUNCTIONS: &[Function] =
    &[
        function("format.named", &["(string) optional<kubernetes.NamedFormat>"], |args, _| {
            match args {
                [Value::String(name)] => Ok(match find(name.as_str()) {
                    Some(format) => Value::some(Value::Opaque(Opaque::Format(format))),
                    None => Value::Optional(None),
                }),
                _ => no_overload(),
            }
        }),
        function("validate", &["kubernetes.NamedFormat.(string) optional<list<string>>"], validate),
        function("format.dns1123Label", NONE, |_, _| named("dns1123Label")),
        function("format.dns1123Subdomain", NONE, |_, _| named("dns1123Subdomain")),
        function("format.dns1035Label", NONE, |_, _| named("dns1035Label")),
        function("format.qualifiedName", NONE, |_, _| named("qualifiedName")),
        function("format.dns1123LabelPrefix", NONE, |_, _| named("dns1123LabelPrefix")),
        function("format.dns1123SubdomainPrefix", NONE, |_, _| named("dns1123SubdomainPrefix")),
        function("format.dns1035LabelPrefix", NONE, |_, _| named("dns1035LabelPrefix")),
        function("format.labelValue", NONE, |_, _| named("labelValue")),
        function("format.uri", NONE, |_, _| named("uri")),
        function("format.uuid", NONE, |_, _| named("uuid")),
        function("format.byte", NONE, |_, _| named("byte")),
        function("format.date", NONE, |_, _| named("date")),
        function("format.datetime", NONE, |_, _| named("datetime")),
    ];

fn find(name: &str) -> Option<&'static Format> {
    FORMATS.iter().find(|format| format.name == name)
}

fn named<'a>(name: &str) -> Evaluated<'a> {
    find(name).map_or_else(no_overload, |format| Ok(Value::Opaque(Opaque::Format(format))))
}

fn validate<'a>(args: &[Value<'a>], _: &Context) -> Evaluated<'a> {
    let [Value::Opaque(Opaque::Format(format)), Value::String(text)] = args else {
        return no_overload();
    };
    let faults = (format.check)(text.as_str());
    if faults.is_empty() {
        return Ok(Value::Optional(None));
    }
    Ok(Value::some(Value::list(faults.into_iter().map(Value::text).collect())))
}

fn fault(fine: bool, text: &str) -> Vec<String> {
    if fine { Vec::new() } else { vec![text.to_owned()] }
}

fn is_uuid(text: &str) -> bool {
    let groups: Vec<&str> = text.split('-').collect();
    let hex = text.bytes().all(|one| one.is_ascii_hexdigit() || one == b'-');
    let lengths: Vec<usize> = groups.iter().map(|group| group.len()).collect();
    // The dashes may be missing.
    hex && (lengths == [8, 4, 4, 4, 12] || lengths == [32])
}

fn is_base64(text: &str) -> bool {
    !text.is_empty() && value::decode_base64(text).is_ok()
}

fn is_date(text: &str) -> bool {
    text.len() == 10 && text.parse::<jiff::civil::Date>().is_ok()
}
