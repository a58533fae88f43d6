//! Characters to tokens.

use super::ast::Literal;
use super::error::Issue;

/// One token; positions are in characters.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Token {
    pub at: u32,
    pub kind: TokenKind,
    /// As it is written, for errors.
    pub text: Box<str>,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum TokenKind {
    Ident,
    Literal(Literal),
    /// An operator or a bracket.
    Punct(&'static str),
    End,
}

/// Longer ones first.
const PUNCTUATION: &[&str] = &[
    "==", "!=", "<=", ">=", "&&", "||", "[", "]", "{", "}", "(", ")", ".", ",", ":", "?", "<", ">",
    "!", "+", "-", "*", "/", "%",
];

/// All tokens, the last an [`TokenKind::End`].
///
/// # Errors
///
/// With every character that begins no token, and every malformed literal.
pub(super) fn tokens(source: &str) -> Result<Vec<Token>, Vec<Issue>> {
    let mut lexer = Lexer { rest: source, at: 0, issues: Vec::new() };
    let mut tokens = Vec::new();
    while let Some(token) = lexer.next() {
        tokens.push(token);
    }
    tokens.push(Token { at: lexer.at, kind: TokenKind::End, text: "<EOF>".into() });
    if lexer.issues.is_empty() { Ok(tokens) } else { Err(lexer.issues) }
}

struct Lexer<'s> {
    rest: &'s str,
    at: u32,
    issues: Vec<Issue>,
}

impl Lexer<'_> {
    fn next(&mut self) -> Option<Token> {
        loop {
            self.skip_blank();
            let first = self.rest.chars().next()?;
            let at = self.at;
            if let Some((kind, text)) = self.token(first) {
                return Some(Token { at, kind, text });
            }
        }
    }

    fn skip_blank(&mut self) {
        loop {
            let blank =
                self.rest.find(|one: char| !matches!(one, ' ' | '\t' | '\r' | '\n' | '\u{c}'));
            self.advance(blank.unwrap_or(self.rest.len()));
            if !self.rest.starts_with("//") {
                return;
            }
            self.advance(self.rest.find('\n').unwrap_or(self.rest.len()));
        }
    }

    /// Bytes that are taken, and what they were.
    fn advance(&mut self, bytes: usize) -> Box<str> {
        let (taken, rest) = self.rest.split_at_checked(bytes).unwrap_or((self.rest, ""));
        self.at += u32::try_from(taken.chars().count()).unwrap_or(u32::MAX);
        self.rest = rest;
        taken.into()
    }

    fn issue(&mut self, at: u32, message: impl Into<String>) {
        self.issues.push(Issue { at, message: message.into() });
    }

    /// `None` when it was reported as wrong and skipped.
    fn token(&mut self, first: char) -> Option<(TokenKind, Box<str>)> {
        if let Some(quoted) = self.quoted() {
            return quoted;
        }
        if first.is_ascii_alphabetic() || first == '_' {
            let end = self.rest.find(|one: char| !one.is_ascii_alphanumeric() && one != '_');
            let text = self.advance(end.unwrap_or(self.rest.len()));
            let kind = match text.as_ref() {
                "true" => TokenKind::Literal(Literal::Bool(true)),
                "false" => TokenKind::Literal(Literal::Bool(false)),
                "null" => TokenKind::Literal(Literal::Null),
                "in" => TokenKind::Punct("in"),
                _ => TokenKind::Ident,
            };
            return Some((kind, text));
        }
        let second = self.rest.chars().nth(1).unwrap_or(' ');
        if first.is_ascii_digit() || (first == '.' && second.is_ascii_digit()) {
            return self.number();
        }
        if let Some(punct) = PUNCTUATION.iter().find(|one| self.rest.starts_with(**one)) {
            let text = self.advance(punct.len());
            return Some((TokenKind::Punct(punct), text));
        }
        let at = self.at;
        let shown = self.advance(first.len_utf8());
        self.issue(at, format!("Syntax error: token recognition error at: '{shown}'"));
        None
    }

    fn number(&mut self) -> Option<(TokenKind, Box<str>)> {
        let at = self.at;
        if self.rest.starts_with("0x") || self.rest.starts_with("0X") {
            let digits = self.rest.get(2..).unwrap_or("");
            let end = digits.find(|one: char| !one.is_ascii_hexdigit()).unwrap_or(digits.len());
            if end > 0 {
                let text = self.advance(2 + end);
                return self.integer(at, text, 16);
            }
        }
        let (end, double) = number_end(self.rest);
        let text = self.advance(end);
        if double {
            return match text.parse::<f64>() {
                Ok(value) if value.is_finite() => {
                    Some((TokenKind::Literal(Literal::Double(value)), text))
                }
                _ => {
                    self.issue(at, "invalid double literal");
                    None
                }
            };
        }
        self.integer(at, text, 10)
    }

    fn integer(&mut self, at: u32, text: Box<str>, radix: u32) -> Option<(TokenKind, Box<str>)> {
        let digits = if radix == 16 { text.get(2..).unwrap_or("") } else { &text };
        let unsigned = self.rest.starts_with(['u', 'U']);
        // The parser puts the sign before an integer, so one more than the largest is read.
        let Ok(value) = u64::from_str_radix(digits, radix) else {
            if unsigned {
                self.advance(1);
            }
            self.issue(at, if unsigned { "invalid uint literal" } else { "invalid int literal" });
            return None;
        };
        if unsigned {
            self.advance(1);
            return Some((TokenKind::Literal(Literal::Uint(value)), text));
        }
        match i64::try_from(value) {
            Ok(value) => Some((TokenKind::Literal(Literal::Int(value)), text)),
            Err(_) if value == i64::MIN.unsigned_abs() => {
                Some((TokenKind::Literal(Literal::Int(i64::MIN)), text))
            }
            Err(_) => {
                self.issue(at, "invalid int literal");
                None
            }
        }
    }

    /// A string or bytes, if one begins here.
    fn quoted(&mut self) -> Option<Option<(TokenKind, Box<str>)>> {
        let head: String = self.rest.chars().take(2).collect::<String>().to_ascii_lowercase();
        let (raw, bytes, prefix) = match head.as_str() {
            "rb" | "br" => (true, true, 2),
            _ if head.starts_with('r') => (true, false, 1),
            _ if head.starts_with('b') => (false, true, 1),
            _ => (false, false, 0),
        };
        let body = self.rest.get(prefix..)?;
        let quote = ["\"\"\"", "'''", "\"", "'"].into_iter().find(|one| body.starts_with(one))?;
        let inner = body.get(quote.len()..)?;
        let at = self.at;
        let Some(end) = closing(inner, quote, raw) else {
            let shown = self.advance(self.rest.find('\n').unwrap_or(self.rest.len()));
            self.issue(at, format!("Syntax error: token recognition error at: '{shown}'"));
            return Some(None);
        };
        let content = inner.get(..end).unwrap_or("").replace("\r\n", "\n");
        let literal = unquote(&content, raw, bytes);
        let text = self.advance(prefix + 2 * quote.len() + end);
        match literal {
            Some(literal) => Some(Some((TokenKind::Literal(literal), text))),
            None => {
                self.issue(at, "invalid string literal: unable to unescape string");
                Some(None)
            }
        }
    }
}

/// Where a decimal number ends, and whether it is a double.
fn number_end(text: &str) -> (usize, bool) {
    let digits = |from: usize| {
        let rest = text.get(from..).unwrap_or("");
        rest.find(|one: char| !one.is_ascii_digit()).unwrap_or(rest.len())
    };
    let mut end = digits(0);
    let mut double = false;
    let fraction =
        if text.get(end..).is_some_and(|rest| rest.starts_with('.')) { digits(end + 1) } else { 0 };
    if fraction > 0 {
        double = true;
        end += 1 + fraction;
    }
    if text.get(end..).is_some_and(|rest| rest.starts_with(['e', 'E'])) {
        let signed = text.get(end + 1..).is_some_and(|rest| rest.starts_with(['+', '-']));
        let from = end + 1 + usize::from(signed);
        let exponent = digits(from);
        if exponent > 0 {
            double = true;
            end = from + exponent;
        }
    }
    (end, double)
}

/// The byte at which the closing quote stands. Only long quotes go over lines.
fn closing(inner: &str, quote: &str, raw: bool) -> Option<usize> {
    let mut escaped = false;
    for (at, one) in inner.char_indices() {
        if escaped {
            escaped = false;
        } else if one == '\\' && !raw {
            escaped = true;
        } else if inner.get(at..)?.starts_with(quote) {
            return Some(at);
        } else if quote.len() == 1 && (one == '\n' || one == '\r') {
            return None;
        }
    }
    None
}

fn unquote(content: &str, raw: bool, bytes: bool) -> Option<Literal> {
    if raw {
        return Some(if bytes {
            Literal::Bytes(content.as_bytes().into())
        } else {
            Literal::String(content.into())
        });
    }
    let mut out = Vec::with_capacity(content.len());
    let mut rest = content;
    while let Some(one) = rest.chars().next() {
        if one == '\\' {
            rest = escape(rest.get(1..)?, bytes, &mut out)?;
        } else {
            push(one, &mut out);
            rest = rest.get(one.len_utf8()..)?;
        }
    }
    if bytes {
        return Some(Literal::Bytes(out.into()));
    }
    String::from_utf8(out).ok().map(|text| Literal::String(text.into()))
}

fn push(one: char, out: &mut Vec<u8>) {
    out.extend_from_slice(one.encode_utf8(&mut [0; 4]).as_bytes());
}

/// Reads one escape, after its backslash, and gives what follows.
fn escape<'s>(rest: &'s str, bytes: bool, out: &mut Vec<u8>) -> Option<&'s str> {
    let first = rest.chars().next()?;
    let simple = match first {
        'a' => Some('\u{7}'),
        'b' => Some('\u{8}'),
        'f' => Some('\u{c}'),
        'n' => Some('\n'),
        'r' => Some('\r'),
        't' => Some('\t'),
        'v' => Some('\u{b}'),
        '\\' | '"' | '\'' | '`' | '?' => Some(first),
        _ => None,
    };
    if let Some(one) = simple {
        push(one, out);
        return rest.get(1..);
    }
    let (start, digits, radix) = match first {
        'x' | 'X' => (1, 2, 16),
        'u' if !bytes => (1, 4, 16),
        'U' if !bytes => (1, 8, 16),
        '0'..='3' => (0, 3, 8),
        _ => return None,
    };
    let text = rest.get(start..start + digits)?;
    let code = u32::from_str_radix(text, radix).ok().filter(|_| !text.starts_with('+'))?;
    if bytes {
        out.push(u8::try_from(code).ok()?);
    } else {
        push(char::from_u32(code)?, out);
    }
    rest.get(start + digits..)
}
