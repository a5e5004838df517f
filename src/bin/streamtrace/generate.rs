//! `streamtrace generate`: the text that the model writes after a prompt.

use std::io::{self, Write};

use clap::Args;
use serde_json::json;
use streamtrace::{Error, GenerateConfig};

use crate::{args::ModelArgs, output::print, prompt_args::PromptArgs};

#[derive(Args)]
pub struct GenerateArgs {
    /// Most tokens to write
    #[arg(long, value_name = "TOKENS", default_value_t = GenerateConfig::default().max_tokens)]
    max_tokens: usize,
    /// 0 takes the most likely token each time; 1 draws by the model's probabilities
    #[arg(long, default_value_t = 0.0)]
    temperature: f64,
    /// Draw only from the most likely tokens that together have this probability
    #[arg(long, value_name = "SHARE")]
    top_p: Option<f64>,
    /// Seed of the draws
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Stop at this text; may be given several times
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    stop: Vec<String>,
    /// Attend to everything instead of what the search keeps
    #[arg(long)]
    dense: bool,
    /// Print one JSON object at the end, for programs, instead of the text as it comes
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    prompt: PromptArgs,
    #[command(flatten)]
    model: ModelArgs,
}

impl GenerateArgs {
    pub fn run(&self) -> Result<(), Error> {
        let GenerateArgs { max_tokens, temperature, top_p, seed, ref stop, dense, .. } = *self;
        let how = GenerateConfig { max_tokens, temperature, top_p, seed, stop: stop.clone(), dense };
        how.validate()?;
        let (prompt, tracer) = self.prompt.with_tracer(&self.model)?;
        let generated = tracer.generate_streaming(&prompt, &how, |text| {
            if !self.json {
                // A closed pipe is reported, if at all, with the last line.
                let _ = write!(io::stdout(), "{text}").and_then(|()| io::stdout().flush());
            }
        })?;
        if self.json { print(json!(generated)) } else { print("") }
    }
}
