//! The tensors of a layer, by the names that each family gives them.

use std::ops::Range;

use super::{
    FeedForward, LayerWeights, Linear, Mlp, Model,
    family::{Fused, QkNorm},
    weight::Weight,
};
use crate::error::Error;

impl Model {
    /// Returns the weights of one layer, in the mapped file.
    ///
    /// # Errors
    /// [`Error::Model`] when one is missing or of another shape.
    pub fn layer<'a>(&'a self, layer: usize) -> Result<LayerWeights<Weight<'a>>, Error> {
        let c = &self.config;
        let d_q = c.n_heads * c.head_dim;
        let d_kv = c.n_kv_heads * c.head_dim;
        let norm = |name: Option<&str>, width: usize| {
            name.map(|name| self.norm(&format!("layers.{layer}.{name}.weight"), width)).transpose()
        };
        let qk_norm = |name, width| match c.qk_norm {
            QkNorm::None => Ok(None),
            QkNorm::Heads => norm(Some(name), c.head_dim),
            QkNorm::Whole => norm(Some(name), width),
        };
        let linear = |name, n_out, n_in, has_bias| self.linear(layer, name, [n_out, n_in], has_bias);
        let qkv = |name, rows: Range<usize>| match c.fused {
            Fused::All => {
                Ok(linear("self_attn.qkv_proj", d_q + 2 * d_kv, c.hidden_size, c.qkv_bias)?.rows(rows))
            }
            _ => linear(name, rows.len(), c.hidden_size, c.qkv_bias),
        };
        let rotated = |linear: Linear<Weight<'a>>| match c.interleaved {
            true => linear.map(|weight| weight.deinterleaved(c.head_dim, c.rope.n_rotated)),
            false => linear,
        };
        Ok(LayerWeights {
            attention_norm: norm(c.norms.attention, c.hidden_size)?,
            query: rotated(qkv("self_attn.q_proj", 0..d_q)?),
            key: rotated(qkv("self_attn.k_proj", d_q..d_q + d_kv)?),
            value: qkv("self_attn.v_proj", d_q + d_kv..d_q + 2 * d_kv)?,
            query_norm: qk_norm("self_attn.q_norm", d_q)?,
            key_norm: qk_norm("self_attn.k_norm", d_kv)?,
            output: self.written(linear("self_attn.o_proj", c.hidden_size, d_q, c.output_bias)?),
            attention_post_norm: norm(c.norms.after_attention, c.hidden_size)?,
            mlp_norm: norm(c.norms.mlp, c.hidden_size)?,
            mlp: match &c.experts {
                Some(experts) if experts.in_layers[layer] => {
                    FeedForward::Experts(self.experts(layer, experts)?)
                }
                _ => FeedForward::Dense(self.mlp(layer)?),
            },
            mlp_post_norm: norm(c.norms.after_mlp, c.hidden_size)?,
        })
    }

    /// Returns the one feed-forward block of a layer.
    fn mlp(&self, layer: usize) -> Result<Mlp<Weight<'_>>, Error> {
        let c = &self.config;
        let inner = c.intermediate_size;
        let gate_up = |name, rows: Range<usize>| match c.fused {
            Fused::None => self.linear(layer, name, [inner, c.hidden_size], c.mlp_bias),
            _ => {
                let both = self.linear(layer, "mlp.gate_up_proj", [2 * inner, c.hidden_size], c.mlp_bias)?;
                Ok(both.rows(rows))
            }
        };
        let down = self.linear(layer, "mlp.down_proj", [c.hidden_size, inner], c.mlp_bias)?;
        Ok(Mlp {
            gate: gate_up("mlp.gate_proj", 0..inner)?,
            up: gate_up("mlp.up_proj", inner..2 * inner)?,
            down: self.written(down),
        })
    }

    /// Scales what is added to the hidden states.
    pub(super) fn written<'a>(&self, linear: Linear<Weight<'a>>) -> Linear<Weight<'a>> {
        linear.map(|weight| weight.times(self.config.residual_scale))
    }

    pub(super) fn linear(
        &self,
        layer: usize,
        name: &str,
        [n_out, n_in]: [usize; 2],
        has_bias: bool,
    ) -> Result<Linear<Weight<'_>>, Error> {
        let get = |kind: &str, shape: &[usize]| self.get(&format!("layers.{layer}.{name}.{kind}"), shape);
        let bias = has_bias.then(|| get("bias", &[n_out])).transpose()?;
        Ok(Linear { weight: get("weight", &[n_out, n_in])?, bias })
    }
}
