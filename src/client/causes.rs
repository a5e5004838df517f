//! Tests of cause: a traced prompt runs again without some of its attention.

use super::tracer::{Tracer, ask};
use crate::{
    analysis::{CausalConfig, CausalTest, Routes, Sentence, SentenceMatrix, SuppressionMeasure},
    error::Error,
    protocol::{Effect, Intervention, Payload, Reply, Request, unexpected},
    trace::{Span, Trace},
};

impl Tracer {
    /// Runs a traced prompt again on the same blocks, once without each intervention's attention; returns the
    /// effect on the next token, and on the tokens of `answer`, a span of the prompt, if there is one.
    ///
    /// All interventions run together, each from its first changed query on.
    ///
    /// ```no_run
    /// # use streamtrace::prelude::*;
    /// # let tracer = Tracer::load("models/needle-6m")?;
    /// let trace = tracer.trace("A long prompt.")?;
    /// let without = Intervention::without_heads("layer 3, head 0", &[(3, 0)]);
    /// let effect = tracer.knock_out(&trace, &[without], None)?.remove(0);
    /// println!("the next token loses {:.2} nats", effect.drop());
    /// # Ok::<(), Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Setting`] for another model's trace or an intervention that hides nothing; [`Error::Missing`]
    /// for layers, heads and tokens that the trace does not have; [`Error::Memory`], [`Error::NotFinite`],
    /// [`Error::Engine`].
    pub fn knock_out(
        &self,
        trace: &Trace,
        interventions: &[Intervention],
        answer: impl Into<Option<Span>>,
    ) -> Result<Vec<Effect>, Error> {
        let request = Request::KnockOut { interventions: interventions.to_vec(), answer: answer.into() };
        ask!(self, request, KnockedOut, Payload::Trace(trace.clone()))
    }

    /// Hides each sentence in turn from all that follows it, and measures the change in each later sentence:
    /// the causal check of thought anchors. The trace's own blocks are kept.
    ///
    /// # Errors
    /// As [`Tracer::knock_out`].
    pub fn suppress_sentences(
        &self,
        trace: &Trace,
        sentences: &[Sentence],
        measure: SuppressionMeasure,
    ) -> Result<SentenceMatrix, Error> {
        let suppressions = SentenceMatrix::suppressions(sentences);
        let effects = self.knock_out(trace, &suppressions, SentenceMatrix::asked(sentences))?;
        let matrix = SentenceMatrix::of_effects(sentences, &effects, measure, &self.model.name);
        Ok(SentenceMatrix { note: trace.summary().length_note(), ..matrix })
    }

    /// Tests whether a route carries the next token: how much less likely the token becomes when the route is
    /// cut, compared with cutting each of 20 random routes through the same layers and query blocks.
    ///
    /// # Errors
    /// As [`Tracer::knock_out`].
    pub fn test_routes(&self, trace: &Trace, routes: &Routes) -> Result<CausalTest, Error> {
        self.test_routes_with(trace, routes, &CausalConfig::default())
    }

    /// Tests as [`Tracer::test_routes`], for an answer that stands in the traced prompt, or with other random
    /// routes.
    ///
    /// # Errors
    /// As [`Tracer::knock_out`].
    pub fn test_routes_with(
        &self,
        trace: &Trace,
        routes: &Routes,
        config: &CausalConfig,
    ) -> Result<CausalTest, Error> {
        let mut interventions = vec![routes.intervention()];
        interventions.extend(routes.controls(trace, config.n_random, config.seed)?);
        let effects = self.knock_out(trace, &interventions, config.answer)?;
        let test = CausalTest::of_effects(&effects[0], &effects[1..], &self.model.name);
        Ok(CausalTest { note: trace.summary().length_note(), ..test })
    }
}
