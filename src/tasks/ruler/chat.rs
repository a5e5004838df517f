//! A task as a chat: the model's chat template around it, then RULER's answer prefix, as the start of what the
//! model answers.

use serde::{Deserialize, Serialize};

use super::Asks;
use crate::tasks::{
    draft::{Draft, Role},
    fit::{Elastic, Limit},
};

/// What a chat template writes around a user's message. Without a template both are empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChatFrame {
    /// The text before the message, such as a system message.
    pub before: String,
    /// The text between the message and what the model writes.
    pub after: String,
}

/// A task's prompt in a frame, with the answer prefix behind it.
pub(super) struct InChat {
    pub task: Box<dyn Asks>,
    pub frame: ChatFrame,
}

impl Elastic for InChat {
    fn smallest(&self) -> usize {
        self.task.smallest()
    }

    fn limit(&self) -> Option<Limit> {
        self.task.limit()
    }

    fn draft(&mut self, n_units: usize) -> Draft {
        let mut draft = Draft::default();
        draft.push(&self.frame.before, Role::Filling);
        draft.append(self.task.draft(n_units));
        draft.push(&self.frame.after, Role::Filling);
        draft.push(self.task.prefix(), Role::Filling);
        draft
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        error::Error,
        tasks::{Prompt, RulerConfig, Task},
    };

    /// A stand-in for a tokenizer: four bytes a token.
    fn bytes_over_4(text: &str) -> Result<usize, Error> {
        Ok(text.len().div_ceil(4))
    }

    fn prompt(task: Task, n_tokens: usize, chat: Option<ChatFrame>) -> Result<Prompt, Error> {
        RulerConfig { task, n_tokens, seed: 5, chat, ..Default::default() }.prompt(&mut bytes_over_4)
    }

    fn frame(before: &str) -> Option<ChatFrame> {
        Some(ChatFrame { before: before.into(), after: "<end>\n<assistant>\n".into() })
    }

    #[test]
    fn the_template_stands_around_the_task_and_the_answer_prefix_behind_it() {
        for task in Task::ALL {
            let plain = prompt(task, 6000, None).unwrap();
            let chat = prompt(task, 6000, frame("<user>\né ")).unwrap();
            let (message, prefix) =
                chat.text.strip_prefix("<user>\né ").unwrap().split_once("<end>\n<assistant>\n").unwrap();
            assert!(message.ends_with(&chat.text[chat.question.clone()]), "{task}");
            assert!(plain.text.ends_with(prefix) && prefix.starts_with(' '), "{task}: {prefix}");
            let task_only = format!("{message}{prefix}");
            assert!(plain.text.starts_with(&task_only[..60]), "{task}");
            let pieces = |prompt: &Prompt| {
                let needles = prompt.needles.iter().map(|range| prompt.text[range.clone()].to_string());
                needles.collect::<Vec<_>>()
            };
            if task.has_depth() {
                assert_eq!(pieces(&chat), pieces(&plain), "{task}");
            }
            assert_eq!((chat.answer, chat.answers), (plain.answer, plain.answers));
        }
    }

    #[test]
    fn a_template_counts_among_the_tokens() {
        let system = "You are a helpful assistant. ".repeat(80);
        let chat = prompt(Task::NiahSingle2, 4000, frame(&system)).unwrap();
        assert!((3936..=4000).contains(&chat.n_tokens), "{}", chat.n_tokens);
        assert_eq!(chat.n_tokens, bytes_over_4(&chat.text).unwrap());
        let error = prompt(Task::NiahSingle2, 500, frame(&system)).unwrap_err().to_string();
        assert!(error.contains("at least ") && error.contains("n_tokens of 500"), "{error}");
    }
}
