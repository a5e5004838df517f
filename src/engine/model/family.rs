//! The supported families, and what they differ in besides the settings of `config.json`.

/// A family of decoders.
#[derive(Debug, PartialEq)]
pub struct Family {
    /// `model_type` in `config.json`.
    pub name: &'static str,
    /// The models that people know.
    pub models: &'static str,
    /// The architecture of its GGUF files, as llama.cpp names it.
    pub gguf: Option<&'static str>,
    pub norms: Norms,
    pub qk_norm: QkNorm,
    pub fused: Fused,
    pub qkv_bias: Bias,
    pub output_bias: Bias,
    pub rotary: Rotary,
    /// Whether each head has a sink, a logit beside the keys that has no value.
    pub sinks: bool,
    /// The experts that its layers have.
    pub experts: Option<Routed>,
    /// Whether the output layer is the embedding where `config.json` does not say.
    pub is_tied: bool,
}

/// The names of a layer's norms, without `.weight`; `None` where a family has none.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Norms {
    pub attention: Option<&'static str>,
    pub after_attention: Option<&'static str>,
    pub mlp: Option<&'static str>,
    pub after_mlp: Option<&'static str>,
}

/// What the norm of queries and keys is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QkNorm {
    None,
    /// Each head.
    Heads,
    /// The whole projection.
    Whole,
}

/// Projections that are one tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fused {
    None,
    /// Gate and up.
    GateUp,
    /// Queries, keys and values, and gate and up.
    All,
}

/// Whether projections have a bias.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bias {
    Never,
    Always,
    /// As `attention_bias` says; never if it does not.
    Said,
    /// As `attention_bias` says; always if it does not.
    SaidNever,
}

impl Bias {
    /// Returns whether there is one, by the `attention_bias` of `config.json`.
    pub fn is_there(self, said: Option<bool>) -> bool {
        match self {
            Bias::Never => false,
            Bias::Always => true,
            Bias::Said => said.unwrap_or(false),
            Bias::SaidNever => said.unwrap_or(true),
        }
    }
}

/// Which dimensions of a head rotate together, as the rows of its weights lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rotary {
    /// Dimension i and n_rotated / 2 + i.
    Halves,
    /// The same, but neighbours 2 i and 2 i + 1 in GGUF files.
    HalvesNeighboursInGguf,
    /// Neighbours.
    Neighbours,
}

/// The experts of a family: the names of their tensors, and what differs besides the settings of `config.json`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Routed {
    /// The module that holds router and experts, as files name it.
    pub block: &'static str,
    pub router: &'static str,
    /// Gate, up and down of an expert.
    pub parts: [&'static str; 3],
    /// The block that every row takes.
    pub shared: Option<&'static str>,
    /// What multiplies that block's output.
    pub shared_gate: Option<&'static str>,
    /// Numbers that are added to the experts' scores where they are chosen, not where they are weighed.
    pub correction: Option<&'static str>,
    /// Whether router and experts have biases, and the rows of gate and up take turns in one tensor.
    pub is_gpt_oss: bool,
    /// Whether experts are as wide as `moe_intermediate_size` says, and not as `intermediate_size`.
    pub has_own_width: bool,
    pub score: Score,
    /// Whether the weights of a row's experts sum to 1, whatever `norm_topk_prob` says.
    pub always_normalised: bool,
}

/// What a logit of an expert means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Score {
    /// Probabilities over all experts.
    Softmax,
    /// `1 / (1 + e⁻ˣ)` of each.
    Sigmoid,
}

/// The experts of Qwen3, which the others differ from.
const EXPERTS: Routed = Routed {
    block: "mlp",
    router: "gate",
    parts: ["gate_proj", "up_proj", "down_proj"],
    shared: None,
    shared_gate: None,
    correction: None,
    is_gpt_oss: false,
    has_own_width: true,
    score: Score::Softmax,
    always_normalised: false,
};

const BEFORE: Norms = Norms {
    attention: Some("input_layernorm"),
    after_attention: None,
    mlp: Some("post_attention_layernorm"),
    after_mlp: None,
};

/// A Llama, which the others differ from.
const LLAMA: Family = Family {
    name: "llama",
    models: "Llama 2 and 3.x, SmolLM2, DeepSeek-R1-Distill-Llama",
    gguf: Some("llama"),
    norms: BEFORE,
    qk_norm: QkNorm::None,
    fused: Fused::None,
    qkv_bias: Bias::Said,
    output_bias: Bias::Said,
    rotary: Rotary::HalvesNeighboursInGguf,
    sinks: false,
    experts: None,
    is_tied: false,
};

const QWEN2: Family = Family {
    name: "qwen2",
    models: "Qwen2 and 2.5, DeepSeek-R1-Distill-Qwen",
    gguf: Some("qwen2"),
    qkv_bias: Bias::Always,
    output_bias: Bias::Never,
    rotary: Rotary::Halves,
    ..LLAMA
};

const GEMMA2: Family = Family {
    name: "gemma2",
    models: "Gemma 2",
    gguf: Some("gemma2"),
    norms: Norms {
        attention: Some("input_layernorm"),
        after_attention: Some("post_attention_layernorm"),
        mlp: Some("pre_feedforward_layernorm"),
        after_mlp: Some("post_feedforward_layernorm"),
    },
    rotary: Rotary::Halves,
    is_tied: true,
    ..LLAMA
};

const OLMO2: Family = Family {
    name: "olmo2",
    models: "OLMo 2",
    gguf: Some("olmo2"),
    norms: Norms {
        attention: None,
        after_attention: Some("post_attention_layernorm"),
        mlp: None,
        after_mlp: Some("post_feedforward_layernorm"),
    },
    qk_norm: QkNorm::Whole,
    rotary: Rotary::Halves,
    ..LLAMA
};

const GLM: Family = Family {
    name: "glm",
    models: "GLM-4-9B as converted for transformers",
    gguf: None,
    fused: Fused::GateUp,
    qkv_bias: Bias::SaidNever,
    output_bias: Bias::Never,
    rotary: Rotary::Neighbours,
    ..LLAMA
};

/// All supported families.
pub const FAMILIES: [Family; 20] = [
    LLAMA,
    Family { name: "mistral", models: "Mistral", qkv_bias: Bias::Said, ..LLAMA },
    QWEN2,
    Family {
        name: "qwen3",
        models: "Qwen3",
        gguf: Some("qwen3"),
        qk_norm: QkNorm::Heads,
        rotary: Rotary::Halves,
        ..LLAMA
    },
    Family {
        name: "phi3",
        models: "Phi-3 and Phi-4",
        gguf: Some("phi3"),
        fused: Fused::All,
        rotary: Rotary::Halves,
        ..LLAMA
    },
    GEMMA2,
    Family { name: "gemma3_text", models: "Gemma 3", gguf: Some("gemma3"), qk_norm: QkNorm::Heads, ..GEMMA2 },
    Family { name: "granite", models: "Granite 3.x", gguf: Some("granite"), ..LLAMA },
    OLMO2,
    Family { name: "olmo3", models: "OLMo 3", ..OLMO2 },
    Family { name: "smollm3", models: "SmolLM3", gguf: Some("smollm3"), is_tied: true, ..LLAMA },
    GLM,
    Family {
        name: "glm4",
        models: "GLM-4-0414",
        gguf: Some("glm4"),
        norms: Norms {
            attention: Some("input_layernorm"),
            after_attention: Some("post_self_attn_layernorm"),
            mlp: Some("post_attention_layernorm"),
            after_mlp: Some("post_mlp_layernorm"),
        },
        ..GLM
    },
    Family {
        name: "mixtral",
        models: "Mixtral",
        experts: Some(Routed {
            block: "block_sparse_moe",
            parts: ["w1", "w3", "w2"],
            has_own_width: false,
            always_normalised: true,
            ..EXPERTS
        }),
        ..LLAMA
    },
    Family {
        name: "qwen2_moe",
        models: "Qwen1.5-MoE, Qwen2-57B-A14B",
        gguf: Some("qwen2moe"),
        experts: Some(Routed {
            shared: Some("shared_expert"),
            shared_gate: Some("shared_expert_gate"),
            ..EXPERTS
        }),
        ..QWEN2
    },
    Family {
        name: "qwen3_moe",
        models: "Qwen3-30B-A3B, Qwen3-235B-A22B",
        gguf: Some("qwen3moe"),
        qk_norm: QkNorm::Heads,
        rotary: Rotary::Halves,
        experts: Some(EXPERTS),
        ..LLAMA
    },
    Family {
        name: "olmoe",
        models: "OLMoE",
        gguf: Some("olmoe"),
        qk_norm: QkNorm::Whole,
        rotary: Rotary::Halves,
        experts: Some(Routed { has_own_width: false, ..EXPERTS }),
        ..LLAMA
    },
    Family {
        name: "glm4_moe",
        models: "GLM-4.5 and GLM-4.6, without their layer for drafts",
        gguf: Some("glm4moe"),
        output_bias: Bias::Never,
        qk_norm: QkNorm::Heads,
        rotary: Rotary::Halves,
        experts: Some(Routed {
            shared: Some("shared_experts"),
            correction: Some("gate.e_score_correction_bias"),
            score: Score::Sigmoid,
            ..EXPERTS
        }),
        ..LLAMA
    },
    Family {
        name: "gpt_oss",
        models: "gpt-oss",
        gguf: Some("gpt-oss"),
        qkv_bias: Bias::SaidNever,
        output_bias: Bias::SaidNever,
        rotary: Rotary::Halves,
        sinks: true,
        experts: Some(Routed {
            router: "router",
            is_gpt_oss: true,
            has_own_width: false,
            always_normalised: true,
            ..EXPERTS
        }),
        ..LLAMA
    },
    Family { name: "gemma3", models: "the text part of Gemma 3 with vision", gguf: None, ..GEMMA2 },
];

impl Family {
    /// Finds a family by the `model_type` of a `config.json`.
    pub fn of_name(name: &str) -> Option<&'static Self> {
        FAMILIES.iter().find(|family| family.name == name)
    }

    /// Finds a family by the architecture of a GGUF file, which has sliding windows or not, and experts or not.
    pub fn of_gguf(architecture: &str, has_windows: bool, has_experts: bool) -> Option<&'static Self> {
        let mut fitting = FAMILIES
            .iter()
            .filter(|family| family.gguf == Some(architecture) && family.experts.is_some() == has_experts);
        let first = fitting.next()?;
        // OLMo 3 is an "olmo2" with windows.
        Some(fitting.find(|family| family.name == "olmo3" && has_windows).unwrap_or(first))
    }

    /// Returns the base of the rotary frequencies where `config.json` does not say it.
    pub fn theta(&self) -> f64 {
        match self.name {
            "smollm3" => 2_000_000.0,
            "olmo3" => 500_000.0,
            "mixtral" => 1_000_000.0,
            "gpt_oss" => 150_000.0,
            _ => 10_000.0,
        }
    }

    pub fn is_gemma(&self) -> bool {
        self.name.starts_with("gemma")
    }

    /// Lists all names: "llama, mistral, …".
    pub fn names() -> String {
        FAMILIES.map(|family| family.name).join(", ")
    }

    /// Returns the table of all families in Markdown.
    pub fn table() -> String {
        let row = |family: &Family| {
            let gguf = family.gguf.map_or("no".to_string(), |name| format!("`{name}`"));
            format!("| {} | `{}` | {gguf} |\n", family.models, family.name)
        };
        let rows: String = FAMILIES.iter().map(row).collect();
        format!(
            "| models | `model_type` in `config.json` | architecture of GGUF files |\n|---|---|---|\n{rows}"
        )
    }
}
