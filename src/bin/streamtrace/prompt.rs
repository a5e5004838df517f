//! `streamtrace prompt`: a prompt whose answer is known, for the other commands.

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
};

use clap::Args;
use serde_json::json;
use streamtrace::{
    DeviceChoice, Error, LoadOptions, Tracer,
    tasks::{RulerConfig, Task},
};

use crate::{output::print, prompt_args::ChatArgs};

#[derive(Args)]
pub struct TaskPromptArgs {
    /// The model whose tokenizer counts: a folder, a .gguf file, or a name on the hub
    #[arg(long)]
    model: PathBuf,
    /// Read the model as one of this family, such as qwen2, whatever its files say
    #[arg(long = "as", value_name = "FAMILY")]
    family: Option<String>,
    /// One of RULER's tasks, such as niah_single_1, niah_multikey_2, vt or cwe
    #[arg(long, default_value_t = Task::NiahMultikey1)]
    task: Task,
    /// Length of the prompt in tokens
    #[arg(long, alias = "tokens", value_name = "TOKENS", default_value_t = 16_384)]
    n_tokens: usize,
    /// Seed of the words, numbers and places
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Share of the haystack before the needle, 0 to 1; drawn from the seed if left out
    #[arg(long, value_name = "SHARE")]
    depth: Option<f64>,
    #[command(flatten)]
    chat: ChatArgs,
    /// Print one JSON object with prompt and answer, for programs
    #[arg(long)]
    json: bool,
}

impl TaskPromptArgs {
    pub fn run(&self) -> Result<(), Error> {
        let options = LoadOptions {
            model: self.model.clone(),
            device: DeviceChoice::Cpu,
            family: self.family.clone(),
            ..LoadOptions::default()
        };
        let &TaskPromptArgs { task, n_tokens, seed, depth, .. } = self;
        let tracer = Tracer::load_with(options)?;
        let chat = self.chat.frame(&tracer)?;
        let prompt = tracer.prompt(&RulerConfig { task, n_tokens, seed, depth, chat, essay: None })?;
        if self.json {
            return print(json!(prompt));
        }
        eprintln!("the answer: {:?}", prompt.answer);
        // Without a line end, which would change the prompt.
        io::stdout()
            .write_all(prompt.text.as_bytes())
            .map_err(Error::io("write", Path::new("standard output")))
    }
}
