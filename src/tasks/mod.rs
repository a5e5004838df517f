//! Prompts with known answers: RULER's synthetic tasks, and word problems with the true anchors of their
//! chains of thought. They have the wording that the bundled model was trained on, are reproducible from a
//! seed, and are fitted to a length in tokens, which any tokenizer may count.
//!
//! ```
//! use streamtrace::tasks::{RulerConfig, Task};
//!
//! let config = RulerConfig { task: Task::NiahMultikey1, n_tokens: 2000, seed: 7, ..Default::default() };
//! let prompt = config.prompt(&mut |text| Ok(text.len() / 4))?; // the model's tokenizer instead
//! assert!(prompt.text[prompt.needles[0].clone()].ends_with(&format!("is: {}.", prompt.answers[0])));
//! # Ok::<(), streamtrace::error::Error>(())
//! ```

mod draft;
mod fit;
mod haystack;
mod prose;
mod reasoning;
mod ruler;
mod words;

pub use fit::CountTokens;
pub use reasoning::{ChainSentence, ReasoningPrompt, WordProblem};
pub use ruler::{ChatFrame, Prompt, RulerConfig, Task, find_answer, score};
