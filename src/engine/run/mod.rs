//! One run of a model over a prompt: sparse for a trace, dense for a comparison, either to score an answer.

mod records;

use std::{sync::Arc, thread, time::Instant};

use super::{
    clock::Clock,
    decoder::{
        Decoder,
        resident::{AllWeights, Resident},
    },
    device::{Device, Purpose, Room, StageCosts},
    model::{Model, tokenizer::Encoding},
    peers::{Parts, Peers},
    probabilities::{argmax, log_probability},
    ranks::{Crew, PartRecord},
    search::budget,
    told::{Told, sampled_rows},
};
use crate::{
    error::Error,
    protocol::{MemoryPlan, Progress, Weights},
    trace::{
        AnswerScore, AnswerToken, Blocks, ExpertsInfo, LoadSeconds, ModelInfo, NextToken, Seconds, Span,
        StreamConfig, Summary, Trace, TraceWriter, recorded_sentences,
    },
    words::numbers::{count, format_bytes},
};
use records::{each_collected, while_written, write_layers};

/// A model on a device, ready to read.
pub(super) struct Run<'a, D: Device> {
    pub model: &'a Model,
    pub device: &'a D,
    pub resident: &'a Resident<D>,
    /// Most memory to take, in bytes.
    pub memory: Option<u64>,
    /// What loading the model took.
    pub load: LoadSeconds,
    /// All ranks, where they share out the rows of a trace; of the first one, its hold on the others.
    pub peers: Option<Arc<Peers>>,
    pub crew: Option<&'a Crew>,
    pub progress: &'a mut dyn FnMut(Progress),
}

impl<D: Device> Run<'_, D> {
    pub fn trace(&mut self, prompt: &str, config: &StreamConfig) -> Result<Trace, Error> {
        let start = Instant::now();
        let Encoding { ids, offsets } = self.model.tokenizer.encode(prompt)?;
        self.note_length(ids.len());
        self.share_with_others(ids.len(), config)?;
        let (mut decoder, plan) = self.decoder(&ids, config)?;
        let sentences = recorded_sentences(prompt, &offsets).into_iter();
        decoder.sentences = sentences.filter_map(|(span, counts)| counts.then_some(span)).collect();
        let writer = TraceWriter::new(&ids, &offsets, prompt)?;
        let clock = self.clock("trace", ids.len());
        let crew = self.crew;
        let progress = &mut self.progress;
        let (logits, (writer, told)) = thread::scope(|scope| {
            let others = crew.map(|crew| crew.trace(scope, &decoder, config, plan.limit));
            let (records, ends) = others.unzip();
            let own = while_written(
                &decoder,
                |layer, reached| clock.during(layer, reached).into_iter().for_each(&mut **progress),
                |pending| write_layers(writer, pending, records, &decoder),
            );
            match crew.zip(ends) {
                None => own,
                Some((crew, ends)) => {
                    let ((_, written), logits) = ends.after(crew, own)?;
                    Ok((vec![logits], written))
                }
            }
        })?;
        let n_rows = sampled_rows(&decoder.config, ids.len());
        let summary = Summary {
            n_tokens: ids.len(),
            focus: decoder.focus,
            next_token: self.next_token(&logits[0]),
            pruned: self.pruned(told.kept_pairs, ids.len()),
            recall: told.recall(n_rows),
            on_sinks: told.on_sinks(),
            experts: self.experts(&decoder.config),
            keys_read_per_query_block: self.keys_read(&told.costs, &decoder),
            seconds: self.seconds(&told.costs, start),
            config: told.settled(decoder.config),
            peak_memory_bytes: self.device.peak(),
            planned_memory_bytes: plan.total(),
            device: match self.n_ranks() {
                1 => self.device.name(),
                n => format!("{n} × {}", self.device.name()),
            },
            fidelity: None,
            version: env!("CARGO_PKG_VERSION").into(),
            model: self.model.info(),
        };
        writer.finish(summary, &logits[0])
    }

    /// Traces the rows of this rank; `on_record` gets the record of each layer. Returns the logits after the
    /// prompt's last row, if it is one of them.
    pub fn part(
        &mut self,
        tokens: &[u32],
        sentences: Arc<[Span]>,
        config: &StreamConfig,
        mut on_record: impl FnMut(PartRecord) -> Result<(), Error> + Send,
    ) -> Result<Vec<f32>, Error> {
        let (mut decoder, _) = self.decoder(tokens, config)?;
        decoder.sentences = sentences;
        let is_last = decoder.parts.own(tokens.len()).end == tokens.len();
        let record = |layer, record, costs| on_record(PartRecord { layer, record, costs });
        let (logits, ()) = while_written(&decoder, |_, _| {}, |pending| each_collected(pending, record))?;
        Ok(if is_last { logits.into_iter().flatten().collect() } else { Vec::new() })
    }

    /// Settles with other ranks how much memory each may take; leaves them out where there are too few rows.
    fn share_with_others(&mut self, n_tokens: usize, config: &StreamConfig) -> Result<(), Error> {
        let Some(crew) = self.crew else { return Ok(()) };
        let settled = with_budget(self, config, n_tokens)?;
        if n_tokens.div_ceil(settled.block_size_q) < crew.peers.n_ranks {
            (self.crew, self.peers) = (None, None);
            return Ok(());
        }
        let own = self.plan(n_tokens, &settled, Purpose::Trace)?.limit;
        self.memory = Some(own.min(crew.limit(n_tokens, config)?));
        Ok(())
    }

    pub fn score(
        &mut self,
        prompt: &str,
        answer: &str,
        config: &StreamConfig,
        dense: bool,
    ) -> Result<AnswerScore, Error> {
        let start = Instant::now();
        let (ids, answer_ids) = self.with_answer(prompt, answer)?;
        let (decoder, _) = self.decoder(&ids, config)?;
        let n_tokens = decoder.tokens.len();
        let mut told = Told::default();
        let clock = self.clock("trace", n_tokens);
        let logits = if dense {
            self.dense_logits(&ids, answer_ids.len(), config)?
        } else {
            let hidden = decoder.sparse(|layer, reached| {
                clock.during(layer, &reached).into_iter().for_each(&mut *self.progress);
                if let Some(record) = reached.end() {
                    let (record, costs) = record()?;
                    told.add(&record, costs);
                }
                Ok(())
            })?;
            decoder.last_logits(&hidden, answer_ids.len())?
        };
        let tokens = answer_ids.iter().zip(&logits).map(|(&id, logits)| AnswerToken {
            id,
            text: self.model.tokenizer.text(id),
            logprob: log_probability(logits, id),
            most_likely: argmax(logits),
            is_argmax: argmax(logits) == id,
        });
        Ok(AnswerScore {
            tokens: tokens.collect(),
            pruned: if dense { 0.0 } else { self.pruned(told.kept_pairs, n_tokens) },
            recall: told.recall(sampled_rows(&decoder.config, n_tokens)),
            keys_read_per_query_block: self.keys_read(&told.costs, &decoder),
            top_k: decoder.config.top_k,
            n_tokens,
            seconds: self.seconds(&told.costs, start),
        })
    }

    /// Returns the tokens of prompt and answer without the answer's last, and those of the answer.
    pub(super) fn with_answer(&self, prompt: &str, answer: &str) -> Result<(Vec<u32>, Vec<u32>), Error> {
        let n_prompt = self.model.tokenizer.encode(prompt)?.ids.len();
        let mut ids = self.model.tokenizer.encode(&format!("{prompt}{answer}"))?.ids;
        let answer_ids = ids[n_prompt.min(ids.len())..].to_vec();
        if answer_ids.is_empty() {
            return Err(Error::prompt(
                "an answer of at least one token",
                format!("{answer:?}"),
                "give the text that should follow the prompt",
            ));
        }
        ids.pop();
        Ok((ids, answer_ids))
    }

    /// Returns the logits of dense attention after the last `n` tokens. `[n][vocab_size]`
    pub(super) fn dense_logits(
        &mut self,
        tokens: &[u32],
        n: usize,
        config: &StreamConfig,
    ) -> Result<Vec<Vec<f32>>, Error> {
        let (decoder, _) = self.decoder(tokens, config)?;
        let clock = self.clock("dense", tokens.len());
        let on_layer =
            |layer, reached| clock.during(layer, &reached).into_iter().for_each(&mut *self.progress);
        let hidden = decoder.dense(|_| Ok(None), on_layer)?;
        decoder.last_logits(&hidden, n)
    }

    /// Returns the tokens of a trace, if it is of this model.
    pub(super) fn tokens_of(&mut self, trace: &Trace) -> Result<Vec<u32>, Error> {
        let (info, traced) = (self.model.info(), &trace.summary().model);
        if let Some([own, others]) = info.unlike(traced) {
            return Err(Error::setting(
                "trace",
                format!("a trace of {}, the model that is loaded, which has {own}", info.name),
                format!("a trace of {}, which has {others}", traced.name),
                "load the model that made the trace",
            ));
        }
        if let Some(note) = other_weights(&info, traced) {
            (self.progress)(Progress::Note(note));
        }
        let tokens = trace.tokens()?;
        match tokens.iter().find(|&&id| id as usize >= info.vocab_size) {
            None => Ok(tokens),
            Some(id) => Err(Error::trace(
                "to run again",
                format!("token ids below {}", info.vocab_size),
                format!("id {id}"),
                "the file is damaged: trace the prompt again",
            )),
        }
    }

    /// Reports a prompt that is longer than the model was made for, or than its windows.
    pub(super) fn note_length(&mut self, n_tokens: usize) {
        if let Some(note) = self.model.info().length_note(n_tokens) {
            (self.progress)(Progress::Note(note));
        }
    }

    pub(super) fn decoder<'t>(
        &mut self,
        tokens: &'t [u32],
        config: &StreamConfig,
    ) -> Result<(Decoder<'t, D>, MemoryPlan), Error>
    where
        Self: 't,
    {
        let config = with_budget(self, config, tokens.len())?;
        if config.always_kept() > config.top_k / 2
            && config.top_k < tokens.len().div_ceil(config.block_size_k)
        {
            let (always, top_k) = (config.always_kept(), count(config.top_k, "key block"));
            let note = format!(
                "{always} of the {top_k} kept are the first and the last before each query: prune less, or lower \
                 sink_blocks and local_blocks, to leave more to the search"
            );
            (self.progress)(Progress::Note(note));
        }
        let focus = focus(&config, tokens.len())?;
        self.planned(tokens, config, focus)
    }

    /// Returns a decoder that fits the available memory, and its plan.
    pub(super) fn planned<'t>(
        &mut self,
        tokens: &'t [u32],
        config: StreamConfig,
        focus: Span,
    ) -> Result<(Decoder<'t, D>, MemoryPlan), Error>
    where
        Self: 't,
    {
        let plan = self.plan(tokens.len(), &config, Purpose::Trace)?;
        plan.check()?;
        if let Some(why) = &plan.slower {
            let note = format!("slower, to fit in {}: {why}", format_bytes(plan.limit));
            (self.progress)(Progress::Note(note));
        }
        let resident = self.prepare(&plan)?;
        let Run { model, device, .. } = *self;
        let (sentences, mut layout) = (Arc::new([]), plan.layout);
        let parts = match &self.peers {
            Some(peers) => {
                let most = (tokens.len() / peers.n_ranks / config.block_size_q).max(1) * config.block_size_q;
                layout.chunk_rows = layout.chunk_rows.min(most);
                Parts::new(peers.clone(), tokens.len(), layout.chunk_rows)
            }
            None => Parts::default(),
        };
        Ok((Decoder { model, device, tokens, config, focus, sentences, parts, layout, resident }, plan))
    }

    /// Ranks that share out the rows of a trace.
    fn n_ranks(&self) -> usize {
        self.peers.as_ref().map_or(1, |peers| peers.n_ranks)
    }

    /// Returns the memory that a run will hold.
    pub fn plan(
        &self,
        n_tokens: usize,
        config: &StreamConfig,
        purpose: Purpose,
    ) -> Result<MemoryPlan, Error> {
        let room = Room { limit: self.memory, kept: self.resident.bytes(), n_ranks: self.n_ranks() };
        self.device.plan(&self.model.config, n_tokens, config, purpose, room)
    }

    /// Takes the memory of a plan; returns all weights, if it has them on the device together.
    pub(super) fn prepare(&self, plan: &MemoryPlan) -> Result<Option<Arc<AllWeights<D::Tensor>>>, Error> {
        if plan.layout.weights != Weights::Kept {
            self.resident.clear();
        }
        self.device.reserve(plan.total().saturating_sub(self.resident.bytes()))?;
        self.resident.weights(self.model, self.device, plan.layout, plan.weights())
    }

    pub(super) fn next_token(&self, logits: &[f32]) -> NextToken {
        let id = argmax(logits);
        NextToken { id, text: self.model.tokenizer.text(id), logprob: log_probability(logits, id) }
    }

    /// Returns the share of the causal pairs of all layers and heads that were not computed.
    pub(super) fn pruned(&self, kept_pairs: u64, n_tokens: usize) -> f64 {
        let config = &self.model.config;
        let causal = n_tokens as f64 * (n_tokens as f64 + 1.0) / 2.0;
        1.0 - kept_pairs as f64 / (causal * (config.n_layers * config.n_heads) as f64)
    }

    /// Returns the keys or nodes that the search read for a query block and head, on average over all; `None`
    /// where they are not counted.
    fn keys_read(&self, costs: &StageCosts, decoder: &Decoder<'_, D>) -> Option<f64> {
        let n_query_blocks = decoder.tokens.len().div_ceil(decoder.config.block_size_q);
        let n = self.model.config.n_layers * self.model.config.n_heads * n_query_blocks;
        costs.keys_read.map(|n_read| n_read as f64 / n as f64)
    }

    fn seconds(&self, costs: &StageCosts, start: Instant) -> Seconds {
        Seconds {
            load: self.load.total(),
            load_parts: Some(self.load),
            search: costs.search.as_secs_f64(),
            attention: costs.attention.as_secs_f64(),
            total: start.elapsed().as_secs_f64(),
        }
    }

    /// Returns the experts of the model, if they are recorded.
    fn experts(&self, config: &StreamConfig) -> Option<ExpertsInfo> {
        let experts = self.model.config.experts.as_ref().filter(|_| config.experts);
        experts.map(|experts| ExpertsInfo { n_experts: experts.n_experts, per_token: experts.routing.top_k })
    }

    pub(super) fn clock(&self, stage: &'static str, n_tokens: usize) -> Clock {
        Clock::start(stage, n_tokens, self.model.config.n_layers)
    }
}

/// Says that a trace may be of other weights than those of the model that is loaded, of the same sizes.
fn other_weights(loaded: &ModelInfo, traced: &ModelInfo) -> Option<String> {
    let [own, others] = [&loaded.name, &traced.name];
    match (&loaded.fingerprint, &traced.fingerprint) {
        (Some(a), Some(b)) if a != b => Some(format!(
            "the trace was made with {others}, whose weights differ from those of {own}, the model that is loaded, or \
             are stored in another format: the numbers are not those of the same run"
        )),
        (_, None) if own != others => Some(format!(
            "the trace was made with {others} by an older version, which did not record its weights: they may differ \
             from those of {own}, the model that is loaded"
        )),
        _ => None,
    }
}

/// Checks the settings and returns them with the `top_k` for a prompt of `n_tokens`.
pub(super) fn with_budget<D: Device>(
    run: &Run<D>,
    config: &StreamConfig,
    n_tokens: usize,
) -> Result<StreamConfig, Error> {
    config.validate()?;
    let model = run.model;
    if config.experts && model.config.experts.is_none() {
        let expected = "a model with experts, to record which a token took";
        let fix = "leave the setting out";
        return Err(Error::setting("experts", expected, &model.name, fix));
    }
    let mut settled = config.clone().with_blocks(n_tokens);
    if let Some(share) = config.pruned {
        let layers: Vec<Blocks> =
            (0..model.config.n_layers).map(|layer| blocks(model, &settled, n_tokens, layer)).collect();
        settled.top_k = budget::for_share(&layers, &settled, share)?;
    }
    settled.validate()?;
    // More blocks than there are means all blocks, be they fewer than are always kept.
    settled.top_k = settled.top_k.min(n_tokens.div_ceil(settled.block_size_k).max(1));
    Ok(settled)
}

fn blocks(model: &Model, config: &StreamConfig, n_tokens: usize, layer: usize) -> Blocks {
    let window = model.config.windows[layer];
    Blocks { n_tokens, block_size_q: config.block_size_q, block_size_k: config.block_size_k, window }
}

/// Returns the tokens that are recorded key by key.
pub(super) fn focus(config: &StreamConfig, n_tokens: usize) -> Result<Span, Error> {
    match &config.focus {
        None => Ok(Span::from(n_tokens.saturating_sub(StreamConfig::DEFAULT_FOCUS)..n_tokens)),
        Some(range) if range.start < range.end && range.end <= n_tokens => Ok(Span::from(range.clone())),
        Some(range) => Err(Error::setting(
            "focus",
            format!("a span of the prompt's {n_tokens} tokens"),
            format!("{range:?}"),
            "choose tokens of the prompt, or leave it out for the last ones",
        )),
    }
}
