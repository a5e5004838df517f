//! Python's methods that chat templates call and `minijinja` does not know, beside those of `minijinja_contrib`: of
//! texts, and `append` of lists, which are values that never change there.

use std::sync::{Arc, Mutex, PoisonError};

use minijinja::{
    Environment, Error, ErrorKind, State,
    value::{Enumerator, Object, ObjectRepr, Value, from_args},
};

/// The function that makes a list to append to.
const LIST: &str = "list_to_append_to";

/// Adds the methods.
pub fn add_to(environment: &mut Environment) {
    environment.set_unknown_method_callback(call);
    environment.add_function(LIST, |items: Vec<Value>| Value::from_object(Growing(Mutex::new(items))));
}

fn call(state: &mut State, value: &Value, method: &str, args: &[Value]) -> Result<Value, Error> {
    let Some(text) = value.as_str() else {
        return minijinja_contrib::pycompat::unknown_method_callback(state, value, method, args);
    };
    let list = |parts: &[&str]| parts.iter().map(|part| Value::from(*part)).collect::<Value>();
    match method {
        "removeprefix" => {
            let (prefix,): (&str,) = from_args(args)?;
            Ok(text.strip_prefix(prefix).unwrap_or(text).into())
        }
        "removesuffix" => {
            let (suffix,): (&str,) = from_args(args)?;
            Ok(text.strip_suffix(suffix).unwrap_or(text).into())
        }
        "partition" | "rpartition" => {
            let (mark,): (&str,) = from_args(args)?;
            match method {
                _ if mark.is_empty() => Err(Error::new(ErrorKind::InvalidOperation, "an empty separator")),
                "partition" => Ok(text
                    .split_once(mark)
                    .map_or_else(|| list(&[text, "", ""]), |(before, after)| list(&[before, mark, after]))),
                _ => Ok(text
                    .rsplit_once(mark)
                    .map_or_else(|| list(&["", "", text]), |(before, after)| list(&[before, mark, after]))),
            }
        }
        "rsplit" => {
            let (mark, most): (Option<&str>, Option<i64>) = from_args(args)?;
            let most = most.and_then(|most| usize::try_from(most).ok()).unwrap_or(usize::MAX);
            rsplit(text, mark, most).map(|parts| list(&parts))
        }
        _ => minijinja_contrib::pycompat::unknown_method_callback(state, value, method, args),
    }
}

/// Splits a text from its end, at `mark` or at blanks, at most `most` times.
fn rsplit<'a>(text: &'a str, mark: Option<&str>, most: usize) -> Result<Vec<&'a str>, Error> {
    let mut parts: Vec<&str> = match mark {
        Some("") => return Err(Error::new(ErrorKind::InvalidOperation, "an empty separator")),
        Some(mark) => text.rsplitn(most.saturating_add(1), mark).collect(),
        None => {
            let (mut parts, mut rest) = (Vec::new(), text.trim());
            while let (true, Some((before, last))) =
                (parts.len() < most, rest.rsplit_once(char::is_whitespace))
            {
                parts.push(last);
                rest = before.trim_end();
            }
            if !rest.is_empty() {
                parts.push(rest);
            }
            parts
        }
    };
    parts.reverse();
    Ok(parts)
}

/// A list that grows.
#[derive(Debug)]
struct Growing(Mutex<Vec<Value>>);

impl Object for Growing {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Seq
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.items().get(key.as_usize()?).cloned()
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Values(self.items())
    }

    fn call_method(self: &Arc<Self>, _: &mut State, method: &str, args: &[Value]) -> Result<Value, Error> {
        match method {
            "append" => {
                let (item,): (Value,) = from_args(args)?;
                self.0.lock().unwrap_or_else(PoisonError::into_inner).push(item);
                Ok(Value::from(()))
            }
            _ => Err(Error::from(ErrorKind::UnknownMethod)),
        }
    }
}

impl Growing {
    fn items(&self) -> Vec<Value> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Makes the lists that a template writes ones to append to, if it appends.
pub fn with_lists(source: String) -> String {
    if !source.contains(".append(") {
        return source;
    }
    let (mut written, mut rest) = (String::with_capacity(2 * source.len()), source.as_str());
    while let Some(start) = ["{%", "{{"].iter().filter_map(|mark| rest.find(mark)).min() {
        let end = rest[start..].find(if rest[start..].starts_with("{%") { "%}" } else { "}}" });
        let end = end.map_or(rest.len(), |end| start + end);
        written.push_str(&rest[..start]);
        write_code(&rest[start..end], &mut written);
        rest = &rest[end..];
    }
    written + rest
}

/// Writes the code between two marks, with a call around each list in it.
fn write_code(code: &str, written: &mut String) {
    // Of each open bracket, whether it begins a list; a subscript follows a name or another bracket's end.
    let (mut open, mut quote, mut before) = (Vec::new(), None, ' ');
    let mut escaped = false;
    for c in code.chars() {
        match (quote, c) {
            (Some(q), _) => {
                quote = Some(q).filter(|q| escaped || *q != c);
                escaped = !escaped && c == '\\';
                written.push(c);
            }
            (None, '\'' | '"') => {
                quote = Some(c);
                written.push(c);
            }
            (None, '[') => {
                let is_list =
                    !(before.is_alphanumeric() || "_)]'\"".contains(before)) || ends_with_in(written);
                open.push(is_list);
                written.push_str(if is_list { LIST } else { "" });
                written.push_str(if is_list { "([" } else { "[" });
            }
            (None, ']') => written.push_str(if open.pop() == Some(true) { "])" } else { "]" }),
            _ => written.push(c),
        }
        if !c.is_whitespace() {
            before = c;
        }
    }
}

/// Whether a word that no subscript follows stands last.
fn ends_with_in(written: &str) -> bool {
    let last = written.trim_end().rsplit(|c: char| !c.is_alphanumeric() && c != '_').next();
    ["in", "not", "and", "or", "else", "if", "is"].contains(&last.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_lists_become_ones_to_append_to() {
        let source =
            "[a] {% set x = [] %}{{ x.append(y[0]['[']) }}{% for i in [1, [2]] %}{{ m[1:] + \"[\\\"]\" }}";
        let l = LIST;
        assert_eq!(
            with_lists(source.into()),
            format!(
                "[a] {{% set x = {l}([]) %}}{{{{ x.append(y[0]['[']) }}}}{{% for i in {l}([1, {l}([2])]) %}}\
                 {{{{ m[1:] + \"[\\\"]\" }}}}"
            )
        );
        assert_eq!(with_lists("{% set x = [] %}".into()), "{% set x = [] %}");
    }

    #[test]
    fn texts_are_split_from_their_ends() {
        for (text, mark, most, parts) in [
            ("a b  c", None, 1, vec!["a b", "c"]),
            (" a b ", None, usize::MAX, vec!["a", "b"]),
            ("a, b, c", Some(", "), 1, vec!["a, b", "c"]),
            ("a", Some("/"), 3, vec!["a"]),
            ("a/b", Some("/"), 0, vec!["a/b"]),
        ] {
            assert_eq!(rsplit(text, mark, most).unwrap(), parts, "{text:?}");
        }
    }
}
