//! Tables as the server sends them, printed as kubectl prints them.

use serde_json::Value;

/// Between columns.
const GAP: usize = 3;

/// Rows of text under headings.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Table {
    pub columns: Vec<String>,
    pub rows: Vec<Vec<String>>,
}

impl Table {
    /// Reads a `meta.k8s.io/v1` Table. `wide` keeps the columns of lower priority, and
    /// `namespaces` puts each object's namespace in front.
    pub fn read(document: &Value, wide: bool, namespaces: bool) -> Self {
        let definitions = document["columnDefinitions"].as_array();
        let shown: Vec<(usize, &Value)> = definitions
            .into_iter()
            .flatten()
            .enumerate()
            .filter(|(_, column)| wide || column["priority"].as_i64().unwrap_or(0) == 0)
            .collect();
        let mut table = Self::default();
        if namespaces {
            table.columns.push("NAMESPACE".into());
        }
        let names = shown.iter().map(|(_, column)| column["name"].as_str().unwrap_or_default());
        table.columns.extend(names.map(str::to_uppercase));
        for row in document["rows"].as_array().into_iter().flatten() {
            let mut cells = Vec::with_capacity(table.columns.len());
            if namespaces {
                cells.push(cell(&row["object"]["metadata"]["namespace"]));
            }
            cells.extend(shown.iter().map(|(index, _)| cell(&row["cells"][*index])));
            table.rows.push(cells);
        }
        table
    }

    /// Aligned text; what stands before an empty last cell is filled up, as kubectl does.
    pub fn render(&self, headings: bool) -> String {
        let mut widths: Vec<usize> = vec![0; self.columns.len()];
        let lines = || headings.then_some(&self.columns).into_iter().chain(&self.rows);
        for line in lines() {
            for (width, text) in widths.iter_mut().zip(line) {
                *width = (*width).max(text.chars().count());
            }
        }
        let mut rendered = String::new();
        for line in lines() {
            let mut text = String::new();
            for (index, (cell, width)) in line.iter().zip(&widths).enumerate() {
                text.push_str(cell);
                if index + 1 < line.len() {
                    let fill = width + GAP - cell.chars().count();
                    text.extend(std::iter::repeat_n(' ', fill));
                }
            }
            rendered.push_str(&text);
            rendered.push('\n');
        }
        rendered
    }
}

fn cell(value: &Value) -> String {
    match value {
        Value::Null => "<none>".into(),
        // A line break would tear the table.
        Value::String(text) => text.lines().next().unwrap_or_default().to_owned(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn prints_what_kubectl_prints() {
        let document = json!({
            "columnDefinitions": [
                { "name": "Name", "priority": 0 }, { "name": "Data", "priority": 0 },
                { "name": "Node", "priority": 1 },
            ],
            "rows": [
                { "cells": ["kube-root-ca.crt", 1, null], "object": {} },
                { "cells": ["x", 12, ""], "object": {} },
            ],
        });
        let narrow = "NAME               DATA\nkube-root-ca.crt   1\nx                  12\n";
        assert_eq!(Table::read(&document, false, false).render(true), narrow);
        // An empty cell at the end leaves the blanks before it, as kubectl's does.
        let wide = Table::read(&document, true, false).render(true);
        assert!(wide.ends_with("\nx                  12     \n"), "{wide:?}");
    }
}
