//! What is wrong with an expression, and what went wrong while it ran.

use std::fmt;

/// Errors of one expression that are reported.
const ISSUES_MAX: usize = 100;

/// Bytes of a line that is shown below its fault; of a longer one only the place is told. The
/// number is cel-go's.
const SNIPPET_BYTES_MAX: usize = 16_384;

/// One fault of an expression; `at` is a position in characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issue {
    pub at: u32,
    pub message: String,
}

/// An expression that does not compile. The text is that of cel-go: a line for each fault and
/// two that show its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CompileError {
    pub issues: Vec<Issue>,
    text: String,
}

impl CompileError {
    pub(super) fn new(source: &str, mut issues: Vec<Issue>) -> Self {
        issues.sort_by_key(|issue| issue.at);
        issues.dedup();
        issues.truncate(ISSUES_MAX);
        let texts: Vec<String> = issues.iter().map(|issue| show(source, issue)).collect();
        Self { text: texts.join("\n"), issues }
    }
}

impl fmt::Display for CompileError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.text)
    }
}

impl std::error::Error for CompileError {}

fn show(source: &str, issue: &Issue) -> String {
    let at = issue.at as usize;
    let (mut line, mut column) = (0, 0);
    for one in source.chars().take(at) {
        (line, column) = if one == '\n' { (line + 1, 0) } else { (line, column + 1) };
    }
    let mut text = format!("ERROR: <input>:{}:{}: {}", line + 1, column + 1, issue.message);
    let line = source.split('\n').nth(line);
    let Some(snippet) = line.filter(|line| line.len() <= SNIPPET_BYTES_MAX) else { return text };
    text.push_str("\n | ");
    text.push_str(&snippet.replace('\t', " "));
    text.push_str("\n | ");
    // Wide characters get wide dots, so that the mark stands below its place.
    let mut characters = snippet.chars();
    for _ in 0..column {
        let wide = characters.next().is_some_and(|one| one.len_utf8() > 1);
        text.push(if wide { '\u{ff0e}' } else { '.' });
    }
    let wide = characters.next().is_some_and(|one| one.len_utf8() > 1);
    text.push(if wide { '\u{ff3e}' } else { '^' });
    text
}

/// Why an expression gave no value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EvalError {
    /// The expression failed; the text is cel-go's.
    #[error("{0}")]
    Failed(String),
    /// It would have cost more than allowed.
    #[error("operation cancelled: actual cost limit exceeded")]
    CostExceeded,
}

impl EvalError {
    pub(super) fn no_overload() -> Self {
        Self::Failed("no such overload".to_owned())
    }

    pub(super) fn no_key(key: impl fmt::Display) -> Self {
        Self::Failed(format!("no such key: {key}"))
    }

    pub(super) fn no_index(index: impl fmt::Display) -> Self {
        Self::Failed(format!("index out of bounds: {index}"))
    }
}

/// Fails with a text.
pub(super) fn fail<T>(text: impl Into<String>) -> Result<T, EvalError> {
    Err(EvalError::Failed(text.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_fills_the_screen_is_not_shown() {
        let source = " ".repeat(SNIPPET_BYTES_MAX + 1);
        let error = CompileError::new(&source, vec![Issue { at: 3, message: "far".to_owned() }]);
        assert_eq!(error.to_string(), "ERROR: <input>:1:4: far");
    }

    #[test]
    fn places_are_shown() {
        let issue = |at, message: &str| Issue { at, message: message.to_owned() };
        let error = CompileError::new("a +\n bé.x", vec![issue(7, "two"), issue(0, "one")]);
        assert_eq!(
            error.to_string(),
            "ERROR: <input>:1:1: one\n | a +\n | ^\nERROR: <input>:2:4: two\n |  bé.x\n | ..\u{ff0e}^"
        );
    }
}
