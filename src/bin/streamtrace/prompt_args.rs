//! The arguments that give a prompt: a text, a file, or the messages of a conversation.

use std::path::PathBuf;

use clap::Args;
use serde_json::Value;
use streamtrace::{Error, Message, Tracer, tasks::ChatFrame, words::text_file::read_text};

use crate::args::ModelArgs;

#[derive(Args)]
#[command(next_help_heading = "Prompt")]
pub struct PromptArgs {
    /// The prompt
    #[arg(
        long,
        value_name = "TEXT",
        allow_hyphen_values = true,
        required_unless_present_any = ["prompt_file", "messages"],
        conflicts_with_all = ["prompt_file", "messages"]
    )]
    prompt: Option<String>,
    /// File that holds the prompt, in UTF-8 or UTF-16; - for standard input
    #[arg(long, value_name = "FILE", conflicts_with = "messages")]
    prompt_file: Option<PathBuf>,
    /// Send the prompt as a user's message, in the model's chat template
    #[arg(long)]
    chat: bool,
    /// JSON file with a conversation, [{"role": "system", "content": "…"}, …], for the model's chat template
    #[arg(long, value_name = "FILE.json")]
    messages: Option<PathBuf>,
    #[command(flatten)]
    template: TemplateArgs,
}

impl PromptArgs {
    /// The prompt, and the model that reads it.
    pub fn with_tracer(&self, model: &ModelArgs) -> Result<(String, Tracer), Error> {
        let conversation = self.conversation()?;
        let text = match &self.prompt_file {
            Some(path) => read_text("read the prompt", path)?,
            None => self.prompt.clone().unwrap_or_default(),
        };
        let (messages, tools) = conversation.unwrap_or_default();
        let tracer = model.tracer()?;
        let tracer = tools.into_iter().fold(tracer, |tracer, tools| tracer.template_argument("tools", tools));
        let tracer = self.template.applied(tracer);
        let prompt = match &messages[..] {
            [] if self.chat => tracer.chat_prompt(&[Message::user(text)])?,
            [] => text,
            messages => tracer.chat_prompt(messages)?,
        };
        Ok((prompt, tracer))
    }

    fn conversation(&self) -> Result<Option<Conversation>, Error> {
        let Some(path) = &self.messages else { return Ok(None) };
        conversation(&read_text("read the messages", path)?).map(Some).map_err(|found| {
            Error::setting(
                format!("messages {}", path.display()),
                "a list of messages such as {\"role\": \"user\", \"content\": \"…\"}",
                found,
                "write each message with these two fields; give tools by --template-arg tools=[…]",
            )
        })
    }
}

/// The messages, at least one, and the tools that stand beside them in a request of OpenAI's kind.
type Conversation = (Vec<Message>, Option<Value>);

/// Reads a conversation, or says what is there instead.
fn conversation(json: &str) -> Result<Conversation, String> {
    let json: Value = serde_json::from_str(json).map_err(|e| format!("no JSON: {e}"))?;
    let messages = messages(json.as_array().or(json["messages"].as_array()).ok_or("no list")?)?;
    Ok((messages, json.get("tools").filter(|tools| !tools.is_null()).cloned()))
}

fn messages(list: &[Value]) -> Result<Vec<Message>, String> {
    if list.is_empty() {
        return Err("an empty list".into());
    }
    let one = |(i, message): (usize, &Value)| {
        let fields = message.as_object().ok_or(format!("no object at {i}"))?;
        if let Some(other) = fields.keys().find(|name| !["role", "content"].contains(&name.as_str())) {
            return Err(format!("{other:?} in message {i}"));
        }
        match (&message["role"], text_of(&message["content"])) {
            (Value::String(role), Some(content)) => Ok(Message::new(role, content)),
            (Value::String(_), None) => Err(format!("no text as content of message {i}")),
            _ => Err(format!("no role in message {i}")),
        }
    };
    list.iter().enumerate().map(one).collect()
}

/// A message's text: as it is, or in parts `{"type": "text", "text": "…"}`.
fn text_of(content: &Value) -> Option<String> {
    let part = |part: &Value| part["text"].as_str().filter(|_| part["type"] == "text").map(String::from);
    content.as_str().map(String::from).or_else(|| content.as_array()?.iter().map(part).collect())
}

/// How a task is asked
#[derive(Args)]
pub struct ChatArgs {
    /// Ask in the model's chat template; as in RULER, the start of the answer stands after it
    #[arg(long)]
    chat: bool,
    #[command(flatten)]
    template: TemplateArgs,
}

impl ChatArgs {
    /// The chat template around a task, if there is to be one.
    pub fn frame(&self, tracer: &Tracer) -> Result<Option<ChatFrame>, Error> {
        let tracer = self.template.applied(tracer.clone());
        self.chat.then(|| tracer.chat_frame()).transpose()
    }
}

/// Arguments of the chat template
#[derive(Args)]
struct TemplateArgs {
    /// Argument of the chat template, such as enable_thinking=false; JSON, or else a text; may be given several
    /// times
    #[arg(long, value_name = "NAME=VALUE", value_parser = template_arg)]
    template_arg: Vec<(String, Value)>,
}

impl TemplateArgs {
    fn applied(&self, tracer: Tracer) -> Tracer {
        self.template_arg
            .iter()
            .fold(tracer, |tracer, (name, value)| tracer.template_argument(name, value.clone()))
    }
}

fn template_arg(text: &str) -> Result<(String, Value), String> {
    let (name, value) = text
        .split_once('=')
        .filter(|(name, _)| !name.is_empty())
        .ok_or("expected a name and a value, such as enable_thinking=false")?;
    // As Python writes them, too.
    let value = match value {
        "True" => true.into(),
        "False" => false.into(),
        "None" => Value::Null,
        text => serde_json::from_str(text).unwrap_or_else(|_| text.into()),
    };
    Ok((name.into(), value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conversations_are_read_or_named() {
        let user = Message::user("Hi");
        for json in [
            r#"[{"role": "user", "content": "Hi"}]"#,
            r#"{"messages": [{"role": "user", "content": "Hi"}]}"#,
            r#"[{"role": "user", "content": [{"type": "text", "text": "H"}, {"type": "text", "text": "i"}]}]"#,
        ] {
            assert_eq!(conversation(json).unwrap(), (vec![user.clone()], None), "{json}");
        }
        let with_tools =
            r#"{"messages": [{"role": "user", "content": "Hi"}], "tools": [{"name": "f"}], "model": "m"}"#;
        let tools = serde_json::json!([{ "name": "f" }]);
        assert_eq!(conversation(with_tools).unwrap(), (vec![user], Some(tools)));
        for (json, found) in [
            ("Hi", "no JSON: expected value at line 1 column 1"),
            (r#"{"role": "user", "content": "Hi"}"#, "no list"),
            ("[]", "an empty list"),
            (r#"["Hi"]"#, "no object at 0"),
            (r#"[{"content": "Hi"}]"#, "no role in message 0"),
            (r#"[{"role": "user", "content": null}]"#, "no text as content of message 0"),
            (r#"[{"role": "user", "content": [{"type": "image"}]}]"#, "no text as content of message 0"),
            (r#"[{"role": "user", "content": "", "tool_calls": []}]"#, "\"tool_calls\" in message 0"),
        ] {
            assert_eq!(conversation(json).unwrap_err(), found, "{json}");
        }
    }

    #[test]
    fn values_are_json_or_a_text() {
        for (text, value) in [
            ("a=false", Value::from(false)),
            ("a=False", false.into()),
            ("a=None", Value::Null),
            ("a=3", 3.into()),
            ("a=high", "high".into()),
            ("a=x=y", "x=y".into()),
            ("a=[{\"b\": 1}]", serde_json::json!([{ "b": 1 }])),
            ("a=", "".into()),
        ] {
            assert_eq!(template_arg(text), Ok(("a".into(), value)), "{text}");
        }
        assert!(template_arg("enable_thinking").is_err() && template_arg("=3").is_err());
    }
}
