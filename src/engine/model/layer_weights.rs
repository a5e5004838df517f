//! The weights of one decoder layer.

use super::{
    feed_forward::{Experts, FeedForward},
    linear::Linear,
};

/// The weights of one decoder layer, each a `W`: a view of the file, or a tensor on a device.
pub struct LayerWeights<W> {
    pub attention_norm: Option<W>,
    pub query: Linear<W>,
    pub key: Linear<W>,
    pub value: Linear<W>,
    pub query_norm: Option<W>,
    pub key_norm: Option<W>,
    pub output: Linear<W>,
    /// The norm of the attention's output.
    pub attention_post_norm: Option<W>,
    pub mlp_norm: Option<W>,
    pub mlp: FeedForward<W>,
    /// The norm of the feed-forward block's output.
    pub mlp_post_norm: Option<W>,
}

impl<W> LayerWeights<W> {
    /// Iterates over all weights, in the same order for every layer of a model.
    pub fn all(&mut self) -> impl Iterator<Item = &mut W> {
        let linears = [&mut self.query, &mut self.key, &mut self.value, &mut self.output];
        let some = [
            &mut self.query_norm,
            &mut self.key_norm,
            &mut self.attention_post_norm,
            &mut self.mlp_post_norm,
        ];
        let norms = [&mut self.attention_norm, &mut self.mlp_norm];
        norms
            .into_iter()
            .flatten()
            .chain(some.into_iter().flatten())
            .chain(linears.into_iter().flat_map(Linear::all))
            .chain(self.mlp.all())
    }

    /// Whether each weight has its counterpart in another layer of the same model.
    pub fn is_like<V>(&self, other: &LayerWeights<V>) -> bool {
        match (&self.mlp, &other.mlp) {
            (FeedForward::Dense(_), FeedForward::Dense(_)) => true,
            (FeedForward::Experts(a), FeedForward::Experts(b)) => a.experts.len() == b.experts.len(),
            _ => false,
        }
    }

    /// Leaves out the experts, which are loaded when rows have chosen them.
    pub fn without_experts(self) -> Self {
        match self.mlp {
            FeedForward::Dense(_) => self,
            FeedForward::Experts(experts) => {
                let mlp = FeedForward::Experts(Experts { experts: Vec::new(), ..experts });
                LayerWeights { mlp, ..self }
            }
        }
    }

    /// Maps each weight by `f`, for example to a copy on a device.
    pub fn try_map<V, E>(&self, mut f: impl FnMut(&W) -> Result<V, E>) -> Result<LayerWeights<V>, E> {
        Ok(LayerWeights {
            attention_norm: self.attention_norm.as_ref().map(&mut f).transpose()?,
            query: self.query.try_map(&mut f)?,
            key: self.key.try_map(&mut f)?,
            value: self.value.try_map(&mut f)?,
            query_norm: self.query_norm.as_ref().map(&mut f).transpose()?,
            key_norm: self.key_norm.as_ref().map(&mut f).transpose()?,
            output: self.output.try_map(&mut f)?,
            attention_post_norm: self.attention_post_norm.as_ref().map(&mut f).transpose()?,
            mlp_norm: self.mlp_norm.as_ref().map(&mut f).transpose()?,
            mlp: self.mlp.try_map(&mut f)?,
            mlp_post_norm: self.mlp_post_norm.as_ref().map(&mut f).transpose()?,
        })
    }
}
