//! The model that an engine opens, and its device.

use std::path::PathBuf;

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
    /// Most memory that a run may take, in bytes; all free memory if not set.
    pub memory: Option<u64>,
}

impl Default for LoadOptions {
    fn default() -> Self {
        LoadOptions { model: PathBuf::new(), family: None, device: DeviceChoice::Auto, memory: None }
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
