//! The fields of every message in the order of their numbers, found once.
//!
//! The schema table sorts by name and gives fields of structs that Go embeds a path of numbers;
//! here each number of a message leads to a field or to the message that holds embedded ones.

use std::sync::LazyLock;

use crate::schema::{self, Definition, Field, SchemaId};

static PLANS: LazyLock<Vec<Level>> =
    LazyLock::new(|| schema::definitions().iter().map(|one| level(one, &[])).collect());

/// One message, or the part of a message that Go embeds: what stands behind each number.
#[derive(Debug)]
pub(super) struct Level(Vec<(u32, Step)>);

#[derive(Debug)]
pub(super) enum Step {
    Field(&'static Field),
    Embedded(Level),
}

/// The plan of a built-in definition.
pub(super) fn of(id: SchemaId) -> &'static Level {
    &PLANS[id.0 as usize]
}

impl Level {
    /// In the order of the numbers, which is that of Go's bytes.
    pub(super) fn steps(&self) -> &[(u32, Step)] {
        &self.0
    }

    pub(super) fn step(&self, number: u32) -> Option<&Step> {
        let found = self.0.binary_search_by_key(&number, |(own, _)| *own);
        found.ok().map(|at| &self.0[at].1)
    }

    /// Protobuf carries nothing of it; a Table is such a type.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The fields whose numbers begin with `outer`.
fn level(definition: &'static Definition, outer: &[u32]) -> Level {
    let inside = |field: &&Field| field.tags.len() > outer.len() && field.tags.starts_with(outer);
    let mut fields: Vec<&'static Field> = definition.fields.iter().filter(inside).collect();
    fields.sort_by_key(|field| field.tags[outer.len()]);
    let mut steps: Vec<(u32, Step)> = Vec::new();
    for field in fields {
        let number = field.tags[outer.len()];
        if steps.last().is_some_and(|(last, _)| *last == number) {
            continue;
        }
        let step = if field.tags.len() == outer.len() + 1 {
            Step::Field(field)
        } else {
            Step::Embedded(level(definition, &[outer, &[number]].concat()))
        };
        steps.push((number, step));
    }
    Level(steps)
}
