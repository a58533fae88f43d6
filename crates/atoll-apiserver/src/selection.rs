//! Which objects a list, watch or deletecollection is about.

use atoll_api::kinds::ResourceInfo;
use atoll_api::selector::{FieldSelector, LabelSelector};

use crate::cache::Entry;
use crate::call::Call;
use crate::status::Status;

/// Label and field selectors, parsed and checked against the row.
#[derive(Debug, Clone, Default)]
pub(crate) struct Selection {
    labels: Option<LabelSelector>,
    fields: Vec<Term>,
}

#[derive(Debug, Clone)]
struct Term {
    field: String,
    equal: bool,
    value: String,
}

impl Selection {
    pub(crate) fn parse(call: &Call) -> Result<Self, Status> {
        let (row, query) = (&call.row, &call.query);
        let labels = match query.text("labelSelector") {
            "" => None,
            text => Some(
                LabelSelector::parse(text)
                    .map_err(|error| Status::bad_request(error.to_string()))?,
            ),
        };
        let mut fields = match query.text("fieldSelector") {
            "" => Vec::new(),
            text => FieldSelector::parse(text)
                .map_err(|error| Status::bad_request(error.to_string()))?
                .terms
                .into_iter()
                .map(|(field, equal, value)| Term { field, equal, value })
                .collect(),
        };
        for term in &fields {
            check_field(row, &term.field)?;
        }
        // The name that access was asked for, whether the selector or the path had it.
        if !call.name().is_empty() {
            let (field, value) = ("metadata.name".to_owned(), call.name().to_owned());
            fields.push(Term { field, equal: true, value });
        }
        Ok(Self { labels, fields })
    }

    pub(crate) fn is_everything(&self) -> bool {
        self.labels.is_none() && self.fields.is_empty()
    }

    pub(crate) fn matches(&self, row: &ResourceInfo, entry: &Entry) -> bool {
        if let Some(labels) = &self.labels
            && !labels.matches(|key| entry.label(key))
        {
            return false;
        }
        if self.fields.is_empty() {
            return true;
        }
        if row.storage.from_storage.is_some() || row.version != row.storage.version {
            // The other version has other names for its fields.
            let Ok(object) = entry.object(row) else { return false };
            let fields = row.selectable_fields(&object);
            return self.all_terms(entry, |field| {
                fields.iter().find(|(name, _)| *name == field).map(|(_, value)| value.as_str())
            });
        }
        self.all_terms(entry, |field| {
            entry.fields.iter().find(|(name, _)| *name == field).map(|(_, value)| value.as_ref())
        })
    }

    fn all_terms<'a>(&self, entry: &'a Entry, value: impl Fn(&str) -> Option<&'a str>) -> bool {
        self.fields.iter().all(|term| {
            let actual = match term.field.as_str() {
                "metadata.name" => entry.name(),
                "metadata.namespace" => entry.namespace(),
                other => value(other).unwrap_or(""),
            };
            (actual == term.value) == term.equal
        })
    }
}

fn check_field(row: &ResourceInfo, field: &str) -> Result<(), Status> {
    let common = field == "metadata.name" || field == "metadata.namespace";
    let own = row.selectable_names();
    if common || own.contains(&field) {
        return Ok(());
    }
    let message = if own.is_empty() {
        format!(
            "{field:?} is not a known field selector: only \"metadata.name\", \"metadata.namespace\""
        )
    } else {
        format!("field label not supported: {field}")
    };
    Err(Status::bad_request(message))
}
