//! Shares out a layer's budget among its heads, by what a sample of its queries looks at.
//!
//! A head that looks at few keys needs few blocks; one that looks everywhere gains little from more. The
//! pairs go where they take most from the squares of what the sampled query blocks miss, summed over the
//! layer: so no head is left with little recall that could have more. The cost is that of sorting a hundred
//! steps for each head.

use rayon::prelude::*;

use super::{Candidates, sample::Histogram};
use crate::trace::{Blocks, Budgets, StreamConfig};

/// Times the mean that a head may have at most.
const MOST: usize = 8;

/// Blocks that a head may have at most, unless the mean is more: a GPU's search holds as many at a time.
const MOST_BLOCKS: usize = 3072;

/// Sampled query blocks of a layer, and the masses of their candidates for each head.
pub struct Survey {
    pub sample: Vec<usize>,
    /// `[n_heads][n_sampled]`
    pub heads: Vec<Vec<Histogram>>,
}

impl Survey {
    /// A survey of no query block.
    pub fn empty(n_heads: usize) -> Self {
        Survey { sample: Vec::new(), heads: vec![Vec::new(); n_heads] }
    }

    /// Returns the number of sampled query blocks, these, and the histograms of each head.
    pub fn to_bytes(&self) -> Vec<u8> {
        let numbers = [self.sample.len()].into_iter().chain(self.sample.iter().copied()).map(|n| n as u32);
        let of_histogram =
            |histogram: &Histogram| [histogram.counts, histogram.masses.map(f32::to_bits)].concat();
        let histograms = self.heads.iter().flatten().flat_map(of_histogram);
        numbers.chain(histograms).flat_map(u32::to_le_bytes).collect()
    }

    /// Reads what [`Survey::to_bytes`] wrote; `None` if it is something else.
    pub fn from_bytes(bytes: &[u8], n_heads: usize) -> Option<Self> {
        let numbers: Vec<u32> =
            bytes.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        let (&n, rest) = numbers.split_first()?;
        let (sample, rest) = rest.split_at_checked(n as usize)?;
        let histogram = |numbers: &[u32]| {
            let [counts, masses] = [0, Histogram::BINS].map(|at| std::array::from_fn(|i| numbers[at + i]));
            Histogram { counts, masses: masses.map(f32::from_bits) }
        };
        let histograms: Vec<Histogram> = rest.chunks_exact(2 * Histogram::BINS).map(histogram).collect();
        let heads = match n {
            0 => vec![Vec::new(); n_heads],
            n => histograms.chunks(n as usize).map(<[Histogram]>::to_vec).collect(),
        };
        let survey = Survey { sample: sample.iter().map(|&block| block as usize).collect(), heads };
        (survey.heads.len() == n_heads && survey.to_bytes().len() == bytes.len()).then_some(survey)
    }

    /// Adds the query blocks of another, which come after these.
    pub fn followed_by(mut self, next: Survey) -> Self {
        self.sample.extend(next.sample);
        self.heads.iter_mut().zip(next.heads).for_each(|(head, next)| head.extend(next));
        self
    }
}

/// What budgets cost, whatever the survey says: the candidates that all query blocks keep with them.
pub struct Costs {
    /// Of each query block the budget from which on it keeps all its candidates, ascending.
    whole: Vec<usize>,
    /// Candidates of the query blocks before each, and what those from each on always keep.
    candidates: Vec<u64>,
    always: Vec<u64>,
}

impl Costs {
    pub fn new(blocks: &Blocks, config: &StreamConfig) -> Self {
        let of_block = |query_block| {
            let split = Candidates::new(blocks, config, query_block, 0);
            let always = split.sinks.len() + split.local.len();
            (split.candidates.len() + always, always)
        };
        let mut of_blocks: Vec<(usize, usize)> = (0..blocks.n_query_blocks()).map(of_block).collect();
        of_blocks.sort_unstable();
        let (mut candidates, mut always) = (vec![0], vec![0]);
        for (whole, kept) in &of_blocks {
            candidates.push(candidates[candidates.len() - 1] + (whole - kept) as u64);
        }
        for (_, kept) in of_blocks.iter().rev() {
            always.push(always[always.len() - 1] + *kept as u64);
        }
        always.reverse();
        Costs { whole: of_blocks.into_iter().map(|(whole, _)| whole).collect(), candidates, always }
    }

    fn of(&self, top_k: usize) -> u64 {
        let i = self.whole.partition_point(|&whole| whole <= top_k);
        let others = ((self.whole.len() - i) * top_k) as u64;
        self.candidates[i] + others.saturating_sub(self.always[i])
    }
}

/// Budgets to choose from, with their cost.
struct Steps {
    /// Key blocks of a row, ascending, from those that are always kept to all.
    top_k: Vec<usize>,
    /// Candidates that all query blocks of a head keep with them.
    cost: Vec<u64>,
    /// Candidates that a sampled query block keeps with them. `[n_sampled][n_steps]`
    kept: Vec<Vec<usize>>,
}

impl Steps {
    fn new(costs: &Costs, survey: &Survey, blocks: &Blocks, config: &StreamConfig, most: usize) -> Self {
        let first = config.always_kept().max(1);
        let next =
            |k: &usize| (*k < most).then(|| most.min(first + ((k - first) * 12 / 11).max(k - first + 1)));
        let top_k: Vec<usize> = std::iter::successors(Some(first.min(most)), next).collect();
        let cost = top_k.iter().map(|&k| costs.of(k)).collect();
        let of_block = |&query_block: &usize| {
            let kept = |&top_k: &usize| Candidates::new(blocks, config, query_block, top_k).budget;
            top_k.iter().map(kept).collect()
        };
        let kept = survey.sample.iter().map(of_block).collect();
        Steps { top_k, cost, kept }
    }

    /// Returns what each step leaves unread in a head's sampled blocks: the sum over them of `loss`.
    fn losses(&self, head: &[Histogram], loss: impl Fn(f64) -> f64) -> Vec<f64> {
        let mut losses = vec![0.0; self.top_k.len()];
        for (kept, histogram) in self.kept.iter().zip(head) {
            losses.iter_mut().zip(histogram.missing(kept)).for_each(|(sum, missing)| *sum += loss(missing));
        }
        losses
    }
}

/// Returns the budgets of a layer's heads that keep no more pairs than `config.top_k` for each would.
pub fn shared_out(survey: &Survey, costs: &Costs, blocks: &Blocks, config: &StreamConfig) -> Budgets {
    let n_heads = survey.heads.len();
    let most = config.top_k.saturating_mul(MOST).min(MOST_BLOCKS.max(config.top_k));
    let most = most.min(blocks.n_key_blocks());
    let steps = Steps::new(costs, survey, blocks, config, most);
    let mut pairs = n_heads as u64 * costs.of(config.top_k);
    let mut room = (n_heads * room(config.top_k, blocks)).saturating_sub(n_heads * steps.top_k[0]);
    let mut gains: Vec<(f64, usize, usize)> = (0..n_heads)
        .into_par_iter()
        .flat_map_iter(|head| {
            let losses = steps.losses(&survey.heads[head], |missing| missing * missing);
            gains(&losses, &steps.cost).into_iter().enumerate().map(move |(i, gain)| (gain, head, i))
        })
        .collect();
    gains.sort_by(|a, b| b.0.total_cmp(&a.0));
    let mut top_k = vec![steps.top_k[0]; n_heads];
    for (_, head, i) in gains {
        let (more, price) = (steps.top_k[i + 1] - steps.top_k[i], steps.cost[i + 1] - steps.cost[i]);
        // The last step may be taken in part: its blocks cost about the same.
        let paid = (more as u64 * pairs).checked_div(price).map_or(more, |n| n.min(more as u64) as usize);
        let taken = paid.min(room);
        top_k[head] += taken;
        room -= taken;
        pairs -= (price * taken as u64).div_ceil(more as u64).min(pairs);
        if taken < more {
            break;
        }
    }
    Budgets::new(top_k)
}

/// Returns the smallest budgets that bring the recall of each head on the sample to `recall`.
pub fn for_recall(
    survey: &Survey,
    costs: &Costs,
    blocks: &Blocks,
    config: &StreamConfig,
    recall: f64,
) -> Budgets {
    let steps = Steps::new(costs, survey, blocks, config, blocks.n_key_blocks());
    let bound = (1.0 - recall) * survey.sample.len() as f64;
    let top_k = |head: usize| {
        let losses = steps.losses(&survey.heads[head], |missing| missing);
        let enough = losses.partition_point(|&loss| loss > bound).min(losses.len() - 1);
        let (Some(before), k) = (enough.checked_sub(1), steps.top_k[enough]) else { return steps.top_k[0] };
        let part = (losses[before] - bound) / (losses[before] - losses[enough]).max(f64::MIN_POSITIVE);
        let more = (k - steps.top_k[before]) as f64 * part.clamp(0.0, 1.0);
        steps.top_k[before] + more.ceil() as usize
    };
    Budgets::new((0..survey.heads.len()).into_par_iter().map(top_k).collect())
}

/// Returns what a pair takes from the losses at each step; a later step counts for those before it where it
/// is worth more, as they lead to it.
fn gains(losses: &[f64], cost: &[u64]) -> Vec<f64> {
    let gain = |(loss, cost): (&[f64], &[u64])| (loss[0] - loss[1]) / (cost[1] - cost[0]).max(1) as f64;
    let mut gains: Vec<f64> = losses.windows(2).zip(cost.windows(2)).map(gain).collect();
    for i in (1..gains.len()).rev() {
        gains[i - 1] = gains[i - 1].max(gains[i]);
    }
    gains
}

/// Returns the most blocks that a row may have, mean over the heads: a head with many has rows at the start
/// of the prompt that are not full.
pub fn room(top_k: usize, blocks: &Blocks) -> usize {
    let kept = top_k as f64 * blocks.block_size_k as f64 / blocks.n_tokens.max(1) as f64;
    (top_k as f64 * (1.0 + (4.0 * kept).min(0.25))).ceil() as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::search::sample::spread;

    const BLOCKS: Blocks = Blocks { n_tokens: 4096, block_size_q: 32, block_size_k: 8, window: None };

    /// Counts the candidates that all query blocks keep with a budget.
    fn cost(blocks: &Blocks, config: &StreamConfig, top_k: usize) -> u64 {
        let kept = |query_block| {
            let split = Candidates::new(blocks, config, query_block, top_k);
            split.candidates.len().min(split.budget) as u64
        };
        (0..blocks.n_query_blocks()).map(kept).sum()
    }

    #[test]
    fn costs_are_the_candidates_that_are_kept() {
        for (window, sink_blocks) in [(None, 1), (None, 3), (Some(700), 2), (Some(40), 0)] {
            let blocks = Blocks { window, ..BLOCKS };
            let config = StreamConfig { sink_blocks, ..config(40) };
            let costs = Costs::new(&blocks, &config);
            for top_k in [0, 4, 9, 10, 11, 40, 88, 300, 511, 512, 600] {
                let top_k = top_k.max(config.always_kept());
                assert_eq!(costs.of(top_k), cost(&blocks, &config, top_k), "{top_k} of {window:?}");
            }
        }
    }

    fn config(top_k: usize) -> StreamConfig {
        StreamConfig { top_k, ..StreamConfig::default() }
    }

    /// Masses that fall from key block to key block by a factor of its own for each head.
    fn survey(factors: &[f32]) -> Survey {
        let sample = spread(BLOCKS.n_query_blocks(), 16);
        let of_head = |&factor: &f32| {
            let of_block = |&query_block: &usize| {
                let seen = BLOCKS.visible(query_block).len();
                let masses: Vec<f32> = (0..seen).map(|i| factor.powi(i as i32)).collect();
                let sum: f32 = masses.iter().sum();
                let masses: Vec<f32> = masses.iter().map(|mass| mass / sum).collect();
                Histogram::of(&masses, Candidates::new(&BLOCKS, &config(0), query_block, 0).candidates)
            };
            sample.iter().map(of_block).collect()
        };
        Survey { heads: factors.iter().map(of_head).collect(), sample }
    }

    fn shared(survey: &Survey, config: &StreamConfig) -> Budgets {
        shared_out(survey, &Costs::new(&BLOCKS, config), &BLOCKS, config)
    }

    #[test]
    fn heads_that_look_far_get_the_blocks_of_those_that_do_not() {
        let config = config(40);
        let budgets = shared(&survey(&[0.5, 0.9, 0.99, 0.995]), &config);
        let top_k = budgets.as_slice();
        assert!(top_k.is_sorted() && top_k[0] < 20 && top_k[3] > 60, "{top_k:?}");
        let all = |top_k: &[usize]| top_k.iter().map(|&k| cost(&BLOCKS, &config, k)).sum::<u64>();
        let (spent, asked) = (all(top_k), all(&[40; 4]));
        assert!(spent <= asked && spent * 100 > asked * 98, "{spent} of {asked}");
        assert!(budgets.sum() <= 4 * room(40, &BLOCKS));
    }

    #[test]
    fn heads_that_look_alike_get_the_same() {
        let budgets = shared(&survey(&[0.97; 6]), &config(40));
        assert!(budgets.as_slice().iter().all(|k| (36..=44).contains(k)), "{budgets:?}");
    }

    #[test]
    fn a_budget_of_what_is_always_kept_is_shared_by_all() {
        let config = config(7);
        assert_eq!(shared(&survey(&[0.5, 0.99]), &config).as_slice(), [7, 7]);
        let all = StreamConfig { top_k: 512, ..config };
        assert_eq!(shared(&survey(&[0.5, 0.99]), &all).as_slice(), [512, 512]);
    }

    #[test]
    fn a_recall_takes_as_few_blocks_as_bring_it() {
        let survey = survey(&[0.5, 0.98, 0.999]);
        let budgets = for_recall(&survey, &Costs::new(&BLOCKS, &config(0)), &BLOCKS, &config(0), 0.9);
        for (head, &top_k) in budgets.as_slice().iter().enumerate() {
            let missing = |top_k: usize| {
                let kept = |&block: &usize| Candidates::new(&BLOCKS, &config(0), block, top_k).budget;
                let of_block =
                    |(block, histogram): (&usize, &Histogram)| histogram.missing(&[kept(block)]).sum::<f64>();
                let blocks = survey.sample.iter().zip(&survey.heads[head]);
                blocks.map(of_block).sum::<f64>() / survey.sample.len() as f64
            };
            assert!(missing(top_k) < 0.1001, "head {head}: {top_k} blocks miss {}", missing(top_k));
            assert!(top_k == 7 || missing(top_k * 9 / 10) > 0.0999, "head {head}: {top_k} are too many");
        }
        assert!(budgets.as_slice()[0] < 14 && budgets.as_slice()[2] > 200, "{budgets:?}");
    }
}
