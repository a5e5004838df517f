//! The tensors of a layer's experts: one for each part of each expert, or one for all.

use safetensors::Dtype;

use super::{
    Experts, Linear, Mlp, Model, Shared,
    experts::ExpertsConfig,
    family::Routed,
    format::Format,
    rearranged::{Order, PAIRS},
    weight::{Stored, Weight},
};
use crate::error::Error;

/// How the experts of a layer lie in their files.
#[derive(Clone, Copy, PartialEq)]
enum Lie {
    /// Each part of each expert is a tensor.
    Apart,
    /// A part of all experts is a tensor. `[n_experts, n_out, n_in]`
    Stacked,
    /// So, and gate and up are one. `[n_experts, 2 · inner, hidden_size]`
    GateUp,
    /// As gpt-oss has them in plain numbers: rows of gate and up take turns. `[n_experts, n_in, n_out]`
    Turns,
    /// The same in MXFP4, row after row. `[n_experts, n_out, n_in / 32, 16]`, and exponents
    TurnsInBlocks,
}

/// A part of an expert.
#[derive(Clone, Copy)]
enum Part {
    Gate,
    Up,
    Down,
}

impl Model {
    /// Returns router, experts and shared block of a layer.
    pub(super) fn experts(&self, layer: usize, config: &ExpertsConfig) -> Result<Experts<Weight<'_>>, Error> {
        Tensors::new(self, layer, config).all()
    }

    /// Returns one expert of a layer that has experts.
    ///
    /// # Errors
    /// [`Error::Model`] when a tensor is missing, of another shape, or of a type that is not read.
    pub fn expert(&self, layer: usize, config: &ExpertsConfig, i: usize) -> Result<Mlp<Weight<'_>>, Error> {
        Tensors::new(self, layer, config).expert(i)
    }

    /// Returns the numbers that are added to the scores of a layer's experts where they are chosen; none if the
    /// layer has none. `[n_experts]`
    pub(super) fn read_correction(&self, layer: usize) -> Result<Vec<f32>, Error> {
        let Some(config) = self.config.experts.as_ref().filter(|experts| experts.in_layers[layer]) else {
            return Ok(Vec::new());
        };
        match config.tensors.correction {
            None => Ok(Vec::new()),
            Some(name) => {
                let name = Tensors::new(self, layer, config).name(name);
                self.get(&name, &[config.n_experts])?.numbers()
            }
        }
    }

    fn contains(&self, name: &str) -> bool {
        self.weights.contains(&format!("{}{name}", self.prefix))
    }
}

/// The tensors of a layer that has experts.
struct Tensors<'a, 'c> {
    model: &'a Model,
    config: &'c ExpertsConfig,
    layer: usize,
    /// The module that holds router and experts: the family's, or as transformers calls it since version 5.
    block: &'static str,
    lie: Lie,
}

impl<'a, 'c> Tensors<'a, 'c> {
    fn new(model: &'a Model, layer: usize, config: &'c ExpertsConfig) -> Self {
        let Routed { block, router, is_gpt_oss, .. } = config.tensors;
        let has = |name: String| model.contains(&format!("layers.{layer}.{name}"));
        let is_in = |block: &str| has(format!("{block}.{router}.weight"));
        let block = if !is_in(block) && is_in("mlp") { "mlp" } else { block };
        let has = |part: &str| has(format!("{block}.experts.{part}"));
        let lie = match () {
            () if has("gate_proj.weight") => Lie::Stacked,
            () if has("gate_up_proj_blocks") => Lie::TurnsInBlocks,
            () if is_gpt_oss => Lie::Turns,
            () if has("gate_up_proj") || has("gate_up_proj.weight") => Lie::GateUp,
            () => Lie::Apart,
        };
        Tensors { model, config, layer, block, lie }
    }

    /// Returns the name of a part of the module.
    fn name(&self, part: &str) -> String {
        format!("layers.{}.{}.{part}", self.layer, self.block)
    }

    fn linear(&self, part: &str, shape: [usize; 2], has_bias: bool) -> Result<Linear<Weight<'a>>, Error> {
        self.model.linear(self.layer, &format!("{}.{part}", self.block), shape, has_bias)
    }

    fn all(&self) -> Result<Experts<Weight<'a>>, Error> {
        let Routed { router, is_gpt_oss, .. } = self.config.tensors;
        let n_experts = self.config.n_experts;
        Ok(Experts {
            router: self.linear(router, [n_experts, self.model.config.hidden_size], is_gpt_oss)?,
            experts: (0..n_experts).map(|i| self.expert(i)).collect::<Result<_, Error>>()?,
            shared: self.shared()?,
        })
    }

    fn expert(&self, i: usize) -> Result<Mlp<Weight<'a>>, Error> {
        let down = self.model.written(self.part(i, Part::Down)?);
        Ok(Mlp { gate: self.part(i, Part::Gate)?, up: self.part(i, Part::Up)?, down })
    }

    /// Returns the block that every row takes.
    fn shared(&self) -> Result<Option<Shared<Weight<'a>>>, Error> {
        let (inner, hidden) = (self.config.shared, self.model.config.hidden_size);
        let Some(name) = self.config.tensors.shared.filter(|_| inner > 0) else { return Ok(None) };
        let part = |part: &str, shape| self.linear(&format!("{name}.{part}"), shape, false);
        let gate = |gate| self.model.get(&self.name(&format!("{gate}.weight")), &[1, hidden]);
        Ok(Some(Shared {
            mlp: Mlp {
                gate: part("gate_proj", [inner, hidden])?,
                up: part("up_proj", [inner, hidden])?,
                down: self.model.written(part("down_proj", [hidden, inner])?),
            },
            gate: self.config.tensors.shared_gate.map(gate).transpose()?,
        }))
    }

    /// Returns a part of expert `i`.
    fn part(&self, i: usize, part: Part) -> Result<Linear<Weight<'a>>, Error> {
        let (inner, hidden) = (self.config.inner, self.model.config.hidden_size);
        let shape = match part {
            Part::Down => [hidden, inner],
            Part::Gate | Part::Up => [inner, hidden],
        };
        match self.lie {
            Lie::Apart => {
                let name = self.config.tensors.parts[part as usize];
                self.linear(&format!("experts.{i}.{name}"), shape, false)
            }
            Lie::Stacked => {
                let name = ["gate_proj", "up_proj", "down_proj"][part as usize];
                let of_all = |what: &str, shape: &[usize]| self.item(&format!("{name}.{what}"), shape, i);
                let has_bias = self.config.tensors.is_gpt_oss;
                let bias = has_bias.then(|| of_all("bias", &shape[..1])).transpose()?;
                Ok(Linear { weight: of_all("weight", &shape)?, bias })
            }
            Lie::GateUp => Ok(Linear { weight: self.of_gate_up(i, part, shape)?, bias: None }),
            Lie::Turns | Lie::TurnsInBlocks => self.of_turns(i, part, shape),
        }
    }

    /// Returns the weight of expert `i` where gate and up of all experts are one tensor.
    fn of_gate_up(&self, i: usize, part: Part, [n_out, n_in]: [usize; 2]) -> Result<Weight<'a>, Error> {
        let suffix = if self.model.contains(&self.name("experts.down_proj")) { "" } else { ".weight" };
        match part {
            Part::Down => self.item(&format!("down_proj{suffix}"), &[n_out, n_in], i),
            Part::Gate | Part::Up => {
                let both = self.item(&format!("gate_up_proj{suffix}"), &[2 * n_out, n_in], i)?;
                Ok(both.rows(part as usize * n_out..(part as usize + 1) * n_out))
            }
        }
    }

    /// Returns a part of expert `i` of gpt-oss.
    fn of_turns(&self, i: usize, part: Part, [n_out, n_in]: [usize; 2]) -> Result<Linear<Weight<'a>>, Error> {
        let (name, n, first, step) = match part {
            Part::Down => ("down_proj", n_out, 0, 1),
            Part::Gate | Part::Up => ("gate_up_proj", 2 * n_out, part as usize, 2),
        };
        let turns = Order::Columns { n, first, step };
        let weight = if self.lie == Lie::TurnsInBlocks {
            let [pairs, exponents] = self.blocks(name, i, [n, n_in])?;
            let order = Order::Pairs { exponents: exponents.bytes(), first, step };
            let blocks = Weight::new(vec![n, n_in], pairs.bytes(), Stored::Quantized(Format::MXFP4));
            blocks.ordered(vec![n_out, n_in], order)
        } else {
            self.item(name, &[n_in, n], i)?.ordered(vec![n_out, n_in], turns)
        };
        let bias = self.item(&format!("{name}_bias"), &[n], i)?.ordered(vec![n_out], turns);
        Ok(Linear { weight, bias: Some(bias) })
    }

    /// Returns the pairs of MXFP4 numbers of expert `i`, `[n_out, n_in]`, and the exponents of their blocks.
    fn blocks(&self, part: &str, i: usize, [n_out, n_in]: [usize; 2]) -> Result<[Weight<'a>; 2], Error> {
        let weights = &self.model.weights;
        let name = format!("{}{}", self.model.prefix, self.name(&format!("experts.{part}")));
        if !n_in.is_multiple_of(2 * PAIRS) {
            let expected = format!("{name}_blocks of rows of a multiple of {} numbers", 2 * PAIRS);
            let fix = "the weights do not belong to this config.json";
            return Err(Error::model(weights.path().display(), expected, n_in.to_string(), fix));
        }
        let shape = [self.config.n_experts, n_out, n_in / (2 * PAIRS)];
        let of_pairs = [&shape[..], &[PAIRS]].concat();
        let blocks = weights.of_type(&format!("{name}_blocks"), &of_pairs, Dtype::U8)?;
        Ok([blocks.item(i), weights.of_type(&format!("{name}_scales"), &shape, Dtype::U8)?.item(i)])
    }

    /// Returns item `i`, of `shape`, of a tensor that has one of each expert.
    fn item(&self, part: &str, shape: &[usize], i: usize) -> Result<Weight<'a>, Error> {
        let shape = [&[self.config.n_experts], shape].concat();
        Ok(self.model.get(&self.name(&format!("experts.{part}")), &shape)?.item(i))
    }
}
