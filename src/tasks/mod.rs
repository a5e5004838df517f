//! Prompts whose answer is known: RULER's synthetic tasks, and word problems with the true anchors of their chains
//! of thought. In the wording that the bundled model was trained on, reproducible from a seed, and fitted to a length
//! in tokens by whatever tokenizer counts them.
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
pub use ruler::{Prompt, RulerConfig, Task, score};
