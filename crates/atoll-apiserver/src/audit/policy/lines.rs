//! On which line of a YAML file each of its fields stands.

use atoll_api::tree::DecodeError;
use saphyr_parser::{Event, Parser};

/// Fields of one file whose lines are kept; the lines of later ones are those of their parents.
const FIELDS_MAX: usize = 100_000;

/// Paths such as `rules[1].level` with their lines, in the order of the file.
pub(super) type Lines = Vec<(String, usize)>;

/// A node that is open.
enum Open {
    /// The path of the map, and of the key whose value comes next.
    Map {
        path: String,
        key: Option<String>,
    },
    List {
        path: String,
        index: usize,
    },
}

pub(super) fn of(text: &str) -> Lines {
    let mut lines = Lines::new();
    let mut open: Vec<Open> = Vec::new();
    for event in Parser::new_from_str(text) {
        let Ok((event, span)) = event else { break };
        if lines.len() >= FIELDS_MAX {
            break;
        }
        let line = span.start.line();
        match event {
            Event::Scalar(ref value, ..) => {
                if let Some(Open::Map { path, key: key @ None }) = open.last_mut() {
                    let name =
                        if path.is_empty() { value.to_string() } else { format!("{path}.{value}") };
                    lines.push((name.clone(), line));
                    *key = Some(name);
                } else {
                    drop(place(&mut open, &mut lines, line));
                }
            }
            Event::Alias(_) => drop(place(&mut open, &mut lines, line)),
            Event::MappingStart(..) => {
                let path = place(&mut open, &mut lines, line);
                open.push(Open::Map { path, key: None });
            }
            Event::SequenceStart(..) => {
                let path = place(&mut open, &mut lines, line);
                open.push(Open::List { path, index: 0 });
            }
            Event::MappingEnd | Event::SequenceEnd => {
                open.pop();
            }
            _ => {}
        }
    }
    lines
}

/// The path of a node that begins here; its parent goes on to the next.
fn place(open: &mut [Open], lines: &mut Lines, line: usize) -> String {
    match open.last_mut() {
        None => String::new(),
        Some(Open::Map { key, .. }) => key.take().unwrap_or_default(),
        Some(Open::List { path, index }) => {
            let own = format!("{path}[{index}]");
            *index += 1;
            lines.push((own.clone(), line));
            own
        }
    }
}

/// The line of a field, or of the nearest thing around it that is there.
pub(super) fn nearest(lines: &Lines, path: &str) -> usize {
    let mut path = path;
    loop {
        if let Some((_, line)) = lines.iter().find(|(own, _)| own == path) {
            return *line;
        }
        let Some(end) = path.rfind(['.', '[']) else { return 1 };
        path = path.get(..end).unwrap_or("");
    }
}

/// The line where a field stands the last time.
pub(super) fn last(lines: &Lines, path: &str) -> usize {
    lines.iter().rfind(|(own, _)| own == path).map_or(1, |(_, line)| *line)
}

pub(super) fn of_error(error: &DecodeError) -> usize {
    match error {
        DecodeError::Yaml { line, .. } => *line,
        _ => 1,
    }
}
