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
