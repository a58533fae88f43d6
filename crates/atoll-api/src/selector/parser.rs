//! The grammar of label selectors, with upstream's texts for what breaks it.

use super::lexer::{Scanned, Token, scan};
use super::{Operator, Requirement, SelectorError};

/// Words that are identifiers where a value or key is expected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Context {
    KeyAndOperator,
    Values,
}

pub(super) fn parse(text: &str) -> Result<Vec<Requirement>, SelectorError> {
    let mut parser = Parser { tokens: scan(text), position: 0 };
    let mut requirements = Vec::new();
    loop {
        let (token, found) = parser.look(Context::Values);
        match token {
            Token::Identifier | Token::DoesNotExist => {
                let requirement = parser.requirement().map_err(|error| {
                    SelectorError(format!("unable to parse requirement: {error}"))
                })?;
                requirements.push(requirement);
                let (token, found) = parser.take(Context::Values);
                match token {
                    Token::End => return Ok(requirements),
                    Token::Comma => {
                        let (token, found) = parser.look(Context::Values);
                        if !matches!(token, Token::Identifier | Token::DoesNotExist) {
                            return fail(format!(
                                "found '{found}', expected: identifier after ','"
                            ));
                        }
                    }
                    _ => {
                        return fail(format!("found '{found}', expected: ',' or 'end of string'"));
                    }
                }
            }
            Token::End => return Ok(requirements),
            _ => {
                let text = format!("found '{found}', expected: !, identifier, or 'end of string'");
                return fail(text);
            }
        }
    }
}

fn fail<T>(text: String) -> Result<T, SelectorError> {
    Err(SelectorError(text))
}

struct Parser {
    tokens: Vec<Scanned>,
    position: usize,
}

impl Parser {
    fn look(&self, context: Context) -> Scanned {
        let end = || (Token::End, String::new());
        let (token, text) = self.tokens.get(self.position).cloned().unwrap_or_else(end);
        if context == Context::Values && matches!(token, Token::In | Token::NotIn) {
            return (Token::Identifier, text);
        }
        (token, text)
    }

    fn take(&mut self, context: Context) -> Scanned {
        let scanned = self.look(context);
        self.position += 1;
        scanned
    }

    fn requirement(&mut self) -> Result<Requirement, SelectorError> {
        let (mut token, mut key) = self.take(Context::Values);
        let mut absent = false;
        if token == Token::DoesNotExist {
            absent = true;
            (token, key) = self.take(Context::Values);
        }
        if token != Token::Identifier {
            return fail(format!("found '{key}', expected: identifier"));
        }
        let (next, _) = self.look(Context::Values);
        if matches!(next, Token::End | Token::Comma) || absent {
            let operator = if absent { Operator::DoesNotExist } else { Operator::Exists };
            return Requirement::new(&key, operator, Vec::new());
        }
        // The key is checked before its operator is looked at.
        Requirement::new(&key, Operator::Exists, Vec::new())?;
        let (token, found) = self.take(Context::KeyAndOperator);
        let operator = match token {
            Token::In | Token::Equals | Token::DoubleEquals => Operator::In,
            Token::NotIn | Token::NotEquals => Operator::NotIn,
            Token::GreaterThan => Operator::GreaterThan,
            Token::LessThan => Operator::LessThan,
            _ => {
                return fail(format!("found '{found}', expected: in, notin, =, ==, !=, gt, lt"));
            }
        };
        let mut values = if matches!(token, Token::In | Token::NotIn) {
            self.values()?
        } else {
            vec![self.exact_value()?]
        };
        values.sort();
        values.dedup();
        Requirement::new(&key, operator, values)
    }

    fn exact_value(&mut self) -> Result<String, SelectorError> {
        if matches!(self.look(Context::Values).0, Token::End | Token::Comma) {
            return Ok(String::new());
        }
        match self.take(Context::Values) {
            (Token::Identifier, value) => Ok(value),
            (_, found) => fail(format!("found '{found}', expected: identifier")),
        }
    }

    fn values(&mut self) -> Result<Vec<String>, SelectorError> {
        let (token, found) = self.take(Context::Values);
        if token != Token::OpenParenthesis {
            return fail(format!("found '{found}' expected: '('"));
        }
        match self.look(Context::Values) {
            (Token::Identifier | Token::Comma, _) => {
                let values = self.identifiers()?;
                match self.take(Context::Values) {
                    (Token::ClosedParenthesis, _) => Ok(values),
                    (_, found) => fail(format!("found '{found}', expected: ')'")),
                }
            }
            (Token::ClosedParenthesis, _) => {
                self.take(Context::Values);
                Ok(vec![String::new()])
            }
            (_, found) => fail(format!("found '{found}', expected: ',', ')' or identifier")),
        }
    }

    fn identifiers(&mut self) -> Result<Vec<String>, SelectorError> {
        let mut values = Vec::new();
        loop {
            match self.take(Context::Values) {
                (Token::Identifier, value) => {
                    values.push(value);
                    match self.look(Context::Values) {
                        (Token::Comma, _) => continue,
                        (Token::ClosedParenthesis, _) => return Ok(values),
                        (_, found) => {
                            return fail(format!("found '{found}', expected: ',' or ')'"));
                        }
                    }
                }
                (Token::Comma, _) => match self.look(Context::Values).0 {
                    Token::ClosedParenthesis => {
                        values.push(String::new());
                        return Ok(values);
                    }
                    Token::Comma => {
                        self.take(Context::Values);
                        values.push(String::new());
                    }
                    _ if values.is_empty() => values.push(String::new()),
                    _ => {}
                },
                (_, found) => {
                    return fail(format!("found '{found}', expected: ',', or identifier"));
                }
            }
        }
    }
}
