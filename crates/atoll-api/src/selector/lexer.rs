//! Tokens of label selectors.

use std::iter::Peekable;
use std::str::Chars;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Token {
    Error,
    End,
    ClosedParenthesis,
    Comma,
    DoesNotExist,
    DoubleEquals,
    Equals,
    GreaterThan,
    Identifier,
    In,
    LessThan,
    NotEquals,
    NotIn,
    OpenParenthesis,
}

/// A token and its text.
pub(super) type Scanned = (Token, String);

const SYMBOLS: &str = "=!(),<>";

pub(super) fn scan(text: &str) -> Vec<Scanned> {
    let mut characters = text.chars().peekable();
    let mut tokens = Vec::new();
    loop {
        let scanned = next(&mut characters);
        let done = matches!(scanned.0, Token::End | Token::Error);
        tokens.push(scanned);
        if done {
            return tokens;
        }
    }
}

fn next(characters: &mut Peekable<Chars<'_>>) -> Scanned {
    while characters.next_if(|one| is_space(*one)).is_some() {}
    let Some(first) = characters.peek().copied() else { return (Token::End, String::new()) };
    if SYMBOLS.contains(first) { symbol(characters) } else { word(characters) }
}

/// What upstream takes for one; whatever is none belongs to a word.
fn is_space(one: char) -> bool {
    matches!(one, ' ' | '\t' | '\r' | '\n')
}

fn word(characters: &mut Peekable<Chars<'_>>) -> Scanned {
    let mut text = String::new();
    while let Some(one) = characters.next_if(|one| !SYMBOLS.contains(*one) && !is_space(*one)) {
        text.push(one);
    }
    let token = match text.as_str() {
        "in" => Token::In,
        "notin" => Token::NotIn,
        _ => Token::Identifier,
    };
    (token, text)
}

/// The longest symbol that the text begins with.
fn symbol(characters: &mut Peekable<Chars<'_>>) -> Scanned {
    let mut text = String::new();
    let mut last = None;
    while let Some(one) = characters.peek().copied().filter(|one| SYMBOLS.contains(*one)) {
        text.push(one);
        let Some(token) = of_symbol(&text) else {
            text.pop();
            break;
        };
        last = Some(token);
        characters.next();
    }
    match last {
        Some(token) => (token, text),
        None => (Token::Error, format!("error expected: keyword found '{text}'")),
    }
}

fn of_symbol(text: &str) -> Option<Token> {
    Some(match text {
        ")" => Token::ClosedParenthesis,
        "," => Token::Comma,
        "!" => Token::DoesNotExist,
        "==" => Token::DoubleEquals,
        "=" => Token::Equals,
        ">" => Token::GreaterThan,
        "<" => Token::LessThan,
        "!=" => Token::NotEquals,
        "(" => Token::OpenParenthesis,
        _ => return None,
    })
}
