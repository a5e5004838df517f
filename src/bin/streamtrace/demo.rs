//! `streamtrace demo`: the first ten seconds, with the model that the program carries.

use std::{fs, path::PathBuf};

use clap::Args;
use streamtrace::{
    Error, LoadOptions, Tracer,
    tasks::{RulerConfig, Task},
};

use crate::{
    open::open,
    output::{print, wrote},
};

/// The files of the bundled model.
const MODEL: [(&str, &[u8]); 3] = [
    ("config.json", include_bytes!("../../../models/needle-6m/config.json")),
    ("tokenizer.json", include_bytes!("../../../models/needle-6m/tokenizer.json")),
    ("model.safetensors", include_bytes!("../../../models/needle-6m/model.safetensors")),
];

#[derive(Args)]
pub struct DemoArgs {
    /// Length of the prompt in tokens, in which a number is hidden
    #[arg(long, value_name = "TOKENS", default_value_t = 16_000)]
    n_tokens: usize,
    /// Folder for the model, the prompt, the trace, the picture and the page
    #[arg(long, value_name = "FOLDER", default_value = "streamtrace-demo")]
    out: PathBuf,
    /// Open the page in the browser
    #[arg(long)]
    open: bool,
}

impl DemoArgs {
    pub fn run(&self) -> Result<(), Error> {
        fs::create_dir_all(&self.out).map_err(Error::io("create", &self.out))?;
        let file = |name: &str| self.out.join(name);
        let options = LoadOptions { model: self.model()?, ..LoadOptions::default() };
        let tracer = Tracer::load_with(options)?;
        let task = RulerConfig {
            task: Task::NiahMultikey1,
            n_tokens: self.n_tokens,
            seed: 1,
            ..RulerConfig::default()
        };
        let prompt = tracer.prompt(&task)?;
        // The space before the answer, so that the next token is its first digit.
        let text = format!("{} ", prompt.text);
        fs::write(file("prompt.txt"), &text).map_err(Error::io("write", &file("prompt.txt")))?;
        let trace = tracer.pruned(0.95).trace(&text)?;
        trace.save(file("demo.trace"))?;
        let reading = trace.reading()?;
        reading.save(file("read.svg"))?;
        trace.explore()?.files(["demo.trace"]).save(file("demo.html"))?;
        print(&trace)?;
        print(&reading)?;
        print(format!("The answer that is hidden in the prompt:{}", prompt.answer))?;
        for name in ["prompt.txt", "demo.trace", "read.svg"] {
            wrote(&file(name), "");
        }
        let page = file("demo.html");
        wrote(&page, "open it in a browser; then trace a prompt of your own: streamtrace trace --help");
        if self.open { open(&page) } else { Ok(()) }
    }

    /// Writes the bundled model beside the prompt, where further commands find it.
    fn model(&self) -> Result<PathBuf, Error> {
        let folder = self.out.join("needle-6m");
        fs::create_dir_all(&folder).map_err(Error::io("create", &folder))?;
        for (name, bytes) in MODEL {
            fs::write(folder.join(name), bytes).map_err(Error::io("write", &folder.join(name)))?;
        }
        Ok(folder)
    }
}
