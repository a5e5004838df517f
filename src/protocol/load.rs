//! The model that an engine opens, and its device.

use std::{path::PathBuf, str::FromStr};

use serde::{Deserialize, Serialize};

/// The model to run, its device, and its memory.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LoadOptions {
    /// A Hugging Face model folder, a `.gguf` file, or a name on the hub.
    pub model: PathBuf,
    /// The family that the model is run as, such as "qwen2", whatever its files say; what they say if not set.
    pub family: Option<String>,
    pub device: DeviceChoice,
    /// Most memory that a run may take on each device, in bytes; all free memory if not set.
    pub memory: Option<u64>,
    /// The cards of this machine that share out the rows of a trace; on the CPU, processes.
    pub gpus: Gpus,
}

impl Default for LoadOptions {
    fn default() -> Self {
        LoadOptions {
            model: PathBuf::new(),
            family: None,
            device: DeviceChoice::Auto,
            memory: None,
            gpus: Gpus::Auto,
        }
    }
}

/// The device that a model runs on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "engine", derive(clap::ValueEnum))]
#[serde(rename_all = "snake_case")]
pub enum DeviceChoice {
    /// A GPU if there is one that works, else the CPU.
    #[default]
    Auto,
    Cpu,
    Cuda,
}

/// How many cards share out the rows of a trace. Everything else runs on the first one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Gpus {
    /// One, or all of this machine for a prompt that one has no memory for or would take long with, which is said.
    #[default]
    Auto,
    /// So many of this machine.
    Count(usize),
    /// All of this machine.
    All,
    /// One for each process that a launcher (torchrun, Slurm, Open MPI) has started, on one machine or several.
    Ranks,
}

impl FromStr for Gpus {
    type Err = String;

    /// Reads a number, "all", "auto" or "ranks".
    fn from_str(text: &str) -> Result<Self, String> {
        match (text, text.parse()) {
            ("auto", _) => Ok(Gpus::Auto),
            ("all", _) => Ok(Gpus::All),
            ("ranks", _) => Ok(Gpus::Ranks),
            (_, Ok(n)) if n > 0 => Ok(Gpus::Count(n)),
            _ => Err("expected a number of cards, \"all\", \"auto\" or \"ranks\"".into()),
        }
    }
}
