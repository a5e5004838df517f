//! A model's chat template: Jinja as `transformers` runs it, from `chat_template.jinja`,
//! `tokenizer_config.json` or a GGUF file.

use std::path::{Path, PathBuf};

use minijinja::{
    Environment, ErrorKind,
    syntax::SyntaxConfig,
    value::{Kwargs, Serde, Value},
};
use serde::Serialize;
use serde_json::{Map, Value as Json, json, ser::Formatter};

use super::{chat_methods, json_file};
use crate::{error::Error, protocol::Message};

/// Most steps that a template may take: far more than any conversation needs.
const FUEL: u64 = 50_000_000;

/// Marks a message that the template raised by `raise_exception`, as distinct from errors of the Jinja
/// engine.
const RAISED: &str = "raised: ";

/// A template and the special tokens that it may name.
#[derive(Clone, Debug, PartialEq)]
pub struct ChatTemplate {
    /// The file that holds it.
    pub path: PathBuf,
    pub source: String,
    /// `bos_token`, `eos_token` and the like.
    pub special_tokens: Map<String, Json>,
}

impl ChatTemplate {
    /// Reads the template of a model folder.
    ///
    /// # Errors
    /// [`Error::Model`] when the folder has no template, [`Error::File`] and [`Error::Model`] when its files
    /// cannot be read.
    pub fn read(folder: &Path) -> Result<Self, Error> {
        let path = folder.join("tokenizer_config.json");
        let config = if path.exists() { json_file::read(&path)? } else { Json::Null };
        let special_tokens = special_tokens(&config);
        let file = folder.join("chat_template.jinja");
        if file.exists() {
            let source = std::fs::read_to_string(&file).map_err(Error::io("read", &file))?;
            return Ok(ChatTemplate { path: file, source, special_tokens });
        }
        match default_template(&config["chat_template"]) {
            Some(source) => Ok(ChatTemplate { source: source.into(), path, special_tokens }),
            None => Err(missing(folder)),
        }
    }

    /// Renders `messages` as the text after which the model writes the next message; the template also gets
    /// `arguments`.
    ///
    /// # Errors
    /// [`Error::Setting`] for an argument named "messages", [`Error::Prompt`] when the template refuses the
    /// messages, [`Error::Model`] when the template is broken.
    pub fn prompt(&self, messages: &[Message], arguments: &Map<String, Json>) -> Result<String, Error> {
        if let Some(given) = arguments.get("messages") {
            return Err(Error::setting(
                "template argument messages",
                "another name: the messages are given apart",
                given,
                "leave it out, and give a conversation by --messages",
            ));
        }
        let environment = environment();
        let source = chat_methods::with_lists(without_generation_marks(&self.source));
        let template = environment.template_from_str(&source).map_err(|e| self.failed(&e))?;
        let mut given = self.special_tokens.clone();
        given.insert("messages".into(), json!(messages));
        given.insert("add_generation_prompt".into(), json!(true));
        // Templates compare these with none, so they must be defined.
        given.extend(["tools", "documents"].map(|name| (name.into(), Json::Null)));
        given.extend(arguments.clone());
        template.render(Serde(&given)).map_err(|e| self.failed(&e))
    }

    /// The error for a template that did not render.
    fn failed(&self, why: &minijinja::Error) -> Error {
        match why.detail().and_then(|detail| detail.strip_prefix(RAISED)) {
            Some(said) => Error::prompt(
                "messages that the model's chat template takes",
                format!("what it refuses: {said}"),
                "change their order or their roles",
            ),
            None => broken(&self.path, "a chat template", &why.to_string()),
        }
    }
}

/// The error for a model without a template.
pub(super) fn missing(path: &Path) -> Error {
    Error::model(
        path.display(),
        "a chat template",
        "none",
        "it is a base model: give it plain text, without --chat, or take the model that was made for chats",
    )
}

/// The error for a template, or a file with one, that cannot be used.
fn broken(path: &Path, expected: &str, found: &str) -> Error {
    Error::model(
        path.display(),
        expected,
        found.lines().next().unwrap_or_default(),
        "download it again, or write the prompt as plain text",
    )
}

/// Returns the template, or the one named "default" if `json` lists several.
fn default_template(json: &Json) -> Option<&str> {
    match json {
        Json::Array(named) => {
            named.iter().find(|template| template["name"] == "default")?["template"].as_str()
        }
        template => template.as_str(),
    }
}

/// Returns the fields such as `bos_token`, each of which is a text or an object with a text.
fn special_tokens(config: &Json) -> Map<String, Json> {
    let fields = config.as_object().into_iter().flatten().filter(|(name, _)| name.ends_with("_token"));
    let text = |value: &Json| value.as_str().or(value["content"].as_str()).map(Json::from);
    fields.filter_map(|(name, value)| Some((name.clone(), text(value)?))).collect()
}

/// Sets up Jinja with the functions and filters that `transformers` adds.
fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    environment.set_syntax(syntax.expect("the usual marks are no contradiction"));
    environment.set_fuel(Some(FUEL));
    chat_methods::add_to(&mut environment);
    environment.add_function("raise_exception", |said: String| -> Result<Value, minijinja::Error> {
        Err(minijinja::Error::new(ErrorKind::InvalidOperation, format!("{RAISED}{said}")))
    });
    environment.add_function("strftime_now", |format: String| -> Result<String, minijinja::Error> {
        let now = jiff::fmt::strtime::format(&format, &jiff::Zoned::now());
        now.map_err(|e| minijinja::Error::new(ErrorKind::InvalidOperation, e.to_string()))
    });
    // As Python writes JSON: without escapes for HTML, with a space after separators.
    environment.add_filter("tojson", |value: Value, options: Kwargs| -> Result<String, minijinja::Error> {
        let indent = options.get::<Option<usize>>("indent")?;
        to_json(&value, indent).map_err(|e| minijinja::Error::new(ErrorKind::BadSerialization, e.to_string()))
    });
    environment
}

/// Writes a value as JSON, on one line or indented by `indent` spaces.
fn to_json(value: &Value, indent: Option<usize>) -> serde_json::Result<String> {
    let mut text = Vec::new();
    match indent {
        Some(n) => {
            let spaces = " ".repeat(n);
            let pretty = serde_json::ser::PrettyFormatter::with_indent(spaces.as_bytes());
            value.serialize(&mut serde_json::Serializer::with_formatter(&mut text, pretty))?;
        }
        None => value.serialize(&mut serde_json::Serializer::with_formatter(&mut text, Spaced))?,
    }
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// Writes JSON on one line, with a space after each separator: `{"a": 1, "b": 2}`.
struct Spaced;

impl Formatter for Spaced {
    fn begin_array_value<W: ?Sized + std::io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + std::io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + std::io::Write>(&mut self, writer: &mut W) -> std::io::Result<()> {
        writer.write_all(b": ")
    }
}

/// Replaces `{% generation %}`, which marks text for training and has no effect on a prompt.
fn without_generation_marks(source: &str) -> String {
    let (mut written, mut rest) = (String::with_capacity(source.len()), source);
    while let Some(start) = rest.find("{%") {
        let Some(end) = rest[start..].find("%}").map(|end| start + end + 2) else { break };
        let code = &rest[start + 2..end - 2];
        let nothing = match code.trim_matches(|c: char| c.is_whitespace() || "+-".contains(c)) {
            "generation" => Some(("generation", "if true")),
            "endgeneration" => Some(("endgeneration", "endif")),
            _ => None,
        };
        written.push_str(&rest[..start + 2]);
        match nothing {
            // A word needs blanks around it where it stands between marks.
            Some((mark, nothing)) => written.push_str(&code.replace(mark, &format!(" {nothing} "))),
            None => written.push_str(code),
        }
        written.push_str("%}");
        rest = &rest[end..];
    }
    written + rest
}
