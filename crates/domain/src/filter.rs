//! The filters of list and watch calls: conditions joined by `AND`, after <https://google.aip.dev/160>.

/// A parsed filter. Empty matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter(Vec<Condition>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Condition {
    field: String,
    equal: bool,
    value: String,
}

impl Filter {
    /// Parses `text`, allowing the fields in `known` (`labels.` stands for any label).
    ///
    /// # Errors
    /// A sentence that says what is wrong and what would be right.
    pub fn parse(text: &str, known: &[&str]) -> Result<Self, String> {
        let mut tokens = tokenize(text)?.into_iter().peekable();
        let mut conditions = Vec::new();
        while tokens.peek().is_some() {
            if !conditions.is_empty() {
                match tokens.next() {
                    Some(Token::Word(word)) if word == "AND" => {}
                    other => return Err(format!("conditions are joined by AND, not by {other:?}")),
                }
            }
            let Some(Token::Word(field)) = tokens.next() else {
                return Err("a condition starts with a field's name".to_owned());
            };
            let is_known = known.iter().any(|name| {
                if name.ends_with('.') {
                    field.len() > name.len() && field.starts_with(name)
                } else {
                    field == *name
                }
            });
            if !is_known {
                return Err(format!("there is no field {field:?} to filter on; use {}", known.join(", ")));
            }
            let equal = match tokens.next() {
                Some(Token::Equal) => true,
                Some(Token::NotEqual) => false,
                _ => return Err(format!("after {field:?} comes = or !=")),
            };
            let Some(Token::Word(value) | Token::Quoted(value)) = tokens.next() else {
                return Err(format!("the condition on {field:?} has no value"));
            };
            conditions.push(Condition { field, equal, value });
        }
        Ok(Self(conditions))
    }

    /// Whether something whose fields are `field` matches. A field that it lacks equals nothing.
    pub fn matches(&self, field: impl Fn(&str) -> Option<String>) -> bool {
        self.0.iter().all(|c| (field(&c.field).as_deref() == Some(c.value.as_str())) == c.equal)
    }

    /// The value that `field` must have, where one condition says so.
    pub fn required(&self, field: &str) -> Option<&str> {
        self.0.iter().find(|c| c.equal && c.field == field).map(|c| c.value.as_str())
    }
}

#[derive(Debug)]
enum Token {
    Word(String),
    Quoted(String),
    Equal,
    NotEqual,
}

fn tokenize(text: &str) -> Result<Vec<Token>, String> {
    let mut tokens = Vec::new();
    let mut chars = text.chars().peekable();
    while let Some(&c) = chars.peek() {
        match c {
            c if c.is_whitespace() => {
                chars.next();
            }
            '=' => {
                chars.next();
                tokens.push(Token::Equal);
            }
            '!' => {
                chars.next();
                if chars.next() != Some('=') {
                    return Err("after ! comes =".to_owned());
                }
                tokens.push(Token::NotEqual);
            }
            '"' => {
                chars.next();
                let mut value = String::new();
                loop {
                    match chars.next() {
                        None => return Err("a quotation mark is not closed".to_owned()),
                        Some('"') => break,
                        Some('\\') => value.extend(chars.next()),
                        Some(c) => value.push(c),
                    }
                }
                tokens.push(Token::Quoted(value));
            }
            c if is_word(c) => {
                let mut word = String::new();
                while let Some(c) = chars.next_if(|c| is_word(*c)) {
                    word.push(c);
                }
                tokens.push(Token::Word(word));
            }
            other => return Err(format!("{other:?} has no meaning here; put values in double quotes")),
        }
    }
    Ok(tokens)
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '_' | '-' | '.')
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: &[&str] = &["state", "labels."];

    fn matches(filter: &str) -> bool {
        Filter::parse(filter, KNOWN).unwrap().matches(|field| match field {
            "state" => Some("RUNNING".to_owned()),
            "labels.team" => Some("blue \"one\"".to_owned()),
            _ => None,
        })
    }

    #[test]
    fn conditions_are_all_required() {
        assert!(matches(""));
        assert!(matches("state = RUNNING"));
        assert!(matches(r#"state=RUNNING AND labels.team="blue \"one\"""#));
        assert!(!matches("state = RUNNING AND labels.team = red"));
        assert!(matches("labels.other != red"));
        assert!(!matches("labels.other = red"));
    }

    #[test]
    fn mistakes_say_what_is_right() {
        for (filter, part) in [
            ("colour = red", "colour"),
            ("state RUNNING", "= or !="),
            ("state = ", "no value"),
            ("state = A state = B", "AND"),
            ("state = \"A", "not closed"),
            ("state < A", "'<'"),
            ("labels. = A", "labels."),
        ] {
            let error = Filter::parse(filter, KNOWN).unwrap_err();
            assert!(error.contains(part), "{filter}: {error}");
        }
    }

    #[test]
    fn what_a_condition_requires_is_told_by_field() {
        let filter = Filter::parse("state = RUNNING AND labels.team != blue", KNOWN).unwrap();
        assert_eq!(filter.required("state"), Some("RUNNING"));
        assert_eq!([filter.required("labels.team"), filter.required("name")], [None; 2]);
    }
}
