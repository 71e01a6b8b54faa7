//! Beam search: translations token by token, the best `width` beginnings of each sentence at once.
//!
//! The search is fairseq's: of a sentence's 2·W best continuations, those that end it and are among
//! the W best are finished, and the W best others live on; the log-probability with a length penalty
//! decides among the finished. A sentence is done when W are finished, when its longest length is
//! reached, or when nothing that lives can still become the best; then it leaves the batch.
//!
//! Other sentences of a batch have no part in a translation but by rounding: products of other shapes
//! add up in another order. That moves scores in their last digits, and may turn a near-tie.
//!
//! Shapes: B sentences, W hypotheses of each, R = B · W.

use tandem_config::schema::decoding::{BeamScore, BeamSearch};
use tch::{Device, Kind, Tensor, no_grad};

use super::{Sources, TargetIds, Translation};
use crate::model::decoder::KvCache;
use crate::model::memory::Memory;
use crate::model::{Pass, Seq2Seq};

/// Translates a batch; translations have at most `positions` tokens. `poll` is called before each
/// pass, and ends the work by answering false.
pub fn translate(
    model: &Seq2Seq,
    config: &BeamSearch,
    ids: TargetIds,
    positions: usize,
    sources: &Sources,
    poll: &mut dyn FnMut() -> bool,
) -> Option<Vec<Translation>> {
    no_grad(|| {
        let encoded = model.encoder.forward(&sources.ids, &sources.real, &Pass::eval());
        let mut memory = model.decoder.memory(&encoded);
        let mut cache = model.decoder.empty_cache();
        let tokens = sources.real.sum_dim_intlist(1, false, Kind::Int64).to_device(Device::Cpu);
        let tokens = Vec::<i64>::try_from(tokens).expect("token counts are [B]");
        let longest = |&tokens: &i64| longest(config, tokens as usize, positions);
        let mut searches: Vec<Search> =
            tokens.iter().map(|tokens| Search::new(config, longest(tokens))).collect();
        let mut active: Vec<usize> = (0..searches.len()).collect();
        while !active.is_empty() {
            if !poll() {
                return None;
            }
            let found = continuations(model, ids, &memory, &mut cache, &mut searches, &active);
            // The next pass's sentences, as places in this pass's.
            let (mut places, mut still_active) = (Vec::new(), Vec::new());
            for (place, (&sentence, found)) in active.iter().zip(found).enumerate() {
                let search = &mut searches[sentence];
                search.advance(found, ids.end);
                if !search.done() {
                    places.push(place as i64);
                    still_active.push(sentence);
                }
            }
            if still_active.len() < active.len() {
                let places = Tensor::from_slice(&places).to_device(memory.device());
                cache = cache.select(&places);
                memory = memory.select(&places);
            }
            active = still_active;
        }
        Some(searches.into_iter().map(Search::best).collect())
    })
}

/// The most tokens of a translation, with `[SEP]`.
fn longest(config: &BeamSearch, source: usize, positions: usize) -> usize {
    let wanted = (config.max_len_a * source as f64) as usize + config.max_len_b;
    wanted.clamp(2, positions.max(2))
}

/// The beginning of a translation.
#[derive(Debug, Clone)]
struct Hypothesis {
    tokens: Vec<i64>,
    /// `Σ log p`; minus infinity for one that only fills up the beam.
    log_prob: f32,
    /// Where the cache has its tokens, each where the pass that read it has put it; the last one is not
    /// read yet.
    columns: Vec<usize>,
}

/// One more token for a hypothesis.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Continuation {
    parent: usize,
    token: i64,
    log_prob: f32,
}

/// What can follow a sentence's hypotheses.
struct Continuations {
    /// The 2·W best ones of all, best first.
    best: Vec<Continuation>,
    /// Each hypothesis with `[SEP]` behind it.
    ends: Vec<Continuation>,
}

/// The search for one sentence's translation.
struct Search<'a> {
    config: &'a BeamSearch,
    live: Vec<Hypothesis>,
    finished: Vec<(Vec<i64>, f64)>,
    longest: usize,
    passes: usize,
    rows: usize,
}

impl<'a> Search<'a> {
    fn new(config: &'a BeamSearch, longest: usize) -> Self {
        let nothing = Hypothesis { tokens: Vec::new(), log_prob: 0.0, columns: Vec::new() };
        Self { config, live: vec![nothing], finished: Vec::new(), longest, passes: 0, rows: 0 }
    }

    /// Gives the last token of each live hypothesis the cache's next column, and says which columns each
    /// of them sees, its own included.
    fn read(&mut self) -> impl Iterator<Item = bool> {
        let first = self.rows;
        self.passes += 1;
        self.rows += self.live.len();
        for (row, live) in self.live.iter_mut().enumerate() {
            live.columns.push(first + row);
        }
        let all = self.rows;
        self.live.iter().flat_map(move |live| {
            let mut is_seen = vec![false; all];
            live.columns.iter().for_each(|&column| is_seen[column] = true);
            is_seen
        })
    }

    /// Finishes some hypotheses and continues others by one token.
    fn advance(&mut self, found: Continuations, end: i64) {
        let last = self.passes == self.longest;
        let mut candidates = if last { found.ends } else { found.best };
        candidates.retain(|candidate| candidate.log_prob > f32::NEG_INFINITY);
        candidates.sort_by(|a, b| {
            let place = |c: &Continuation| (c.parent, c.token);
            b.log_prob.total_cmp(&a.log_prob).then(place(a).cmp(&place(b)))
        });
        let mut live = Vec::new();
        for (rank, candidate) in candidates.into_iter().enumerate() {
            let Continuation { parent, token, log_prob } = candidate;
            let Hypothesis { mut tokens, columns, .. } = self.live[parent].clone();
            tokens.push(token);
            if token != end {
                live.push(Hypothesis { tokens, log_prob, columns });
            } else if rank < self.config.width && self.finished.len() < self.config.width {
                let score = self.score(log_prob, self.passes);
                self.finished.push((tokens, score));
            }
        }
        live.truncate(self.config.width);
        // All sentences of a batch have as many rows.
        if let Some(first) = live.first().cloned() {
            live.resize(self.config.width, Hypothesis { log_prob: f32::NEG_INFINITY, ..first });
        }
        self.live = live;
    }

    /// Whether no better translation can be found. What lives only gets less probable, and a score
    /// is highest at the longest length.
    fn done(&self) -> bool {
        let best = self.finished.iter().map(|(_, score)| *score).fold(f64::NEG_INFINITY, f64::max);
        let hope = self.live.iter().map(|live| live.log_prob).fold(f32::NEG_INFINITY, f32::max);
        self.finished.len() == self.config.width
            || self.live.is_empty()
            || best >= self.score(hope, self.longest)
    }

    fn score(&self, log_prob: f32, length: usize) -> f64 {
        let length = length as f64;
        let length = match self.config.score {
            BeamScore::Fairseq => length,
            BeamScore::Gnmt => (5.0 + length) / 6.0,
        };
        f64::from(log_prob) / length.powf(self.config.length_penalty)
    }

    /// The finished hypothesis of the highest score; of equal ones the first.
    fn best(self) -> Translation {
        let mut best = Translation { score: f64::NEG_INFINITY, ..Translation::empty() };
        for (tokens, score) in self.finished {
            if score > best.score {
                best.ids = tokens.into_iter().map(|id| id as u32).collect();
                best.score = score;
            }
        }
        Translation { passes: self.passes, rows: self.rows, ..best }
    }
}

/// Runs the decoder over the last token of every live hypothesis of the active sentences.
fn continuations(
    model: &Seq2Seq,
    ids: TargetIds,
    memory: &Memory,
    cache: &mut KvCache,
    searches: &mut [Search],
    active: &[usize],
) -> Vec<Continuations> {
    let mut is_seen = Vec::new();
    for &sentence in active {
        is_seen.extend(searches[sentence].read());
    }
    let live = || active.iter().flat_map(|&sentence| &searches[sentence].live);
    let last = |live: &Hypothesis| live.tokens.last().copied().unwrap_or(ids.first);
    let last: Vec<i64> = live().map(last).collect();
    let so_far: Vec<f32> = live().map(|live| live.log_prob).collect();
    let (sentences, rows) = (active.len() as i64, last.len() as i64);
    let device = memory.device();
    let last = Tensor::from_slice(&last).to_device(device).view([sentences, -1]);
    let so_far = Tensor::from_slice(&so_far).to_device(device).unsqueeze(1); // [R, 1]
    let is_seen = Tensor::from_slice(&is_seen).to_device(device);
    let is_seen = is_seen.view([sentences, rows / sentences, -1]); // [B, W, S]
    let hidden = model.decoder.step(&last, &is_seen, memory, cache).view([rows, -1]); // [R, D]
    let logits = model.head.project(&model.head.transform(&hidden)); // [R, V]
    let log_probs = logits.log_softmax(-1, Kind::Float) + so_far;
    // GPT-2 has one special token for everything.
    let mut never = if ids.pad == ids.end { Vec::new() } else { vec![ids.pad] };
    if searches[active[0]].passes == 1 {
        never.push(ids.end); // no translation is empty
    }
    for id in never {
        let _ = log_probs.select(1, id).fill_(f64::NEG_INFINITY);
    }
    let to_host = |values: &Tensor| {
        let flat = values.contiguous().view([-1]).to_device(Device::Cpu);
        Vec::<f32>::try_from(flat).expect("log-probabilities are f32")
    };
    let ends = to_host(&log_probs.select(1, ids.end));
    let vocabulary = log_probs.size()[1];
    let all = log_probs.view([sentences, -1]); // [B, W · V]
    let width = searches[active[0]].config.width as i64;
    let (best, places) = all.topk((2 * width).min(all.size()[1]), -1, true, true); // [B, 2 · W]
    let best = to_host(&best);
    let places = Vec::<i64>::try_from(places.contiguous().view([-1]).to_device(Device::Cpu))
        .expect("places are i64");
    let continuation = |(&log_prob, &place): (&f32, &i64)| Continuation {
        parent: (place / vocabulary) as usize,
        token: place % vocabulary,
        log_prob,
    };
    let end = |(parent, &log_prob)| Continuation { parent, token: ids.end, log_prob };
    let (candidates, rows) = (best.len() / active.len(), ends.len() / active.len());
    best.chunks(candidates)
        .zip(places.chunks(candidates))
        .zip(ends.chunks(rows))
        .map(|((best, places), ends)| Continuations {
            best: best.iter().zip(places).map(continuation).collect(),
            ends: ends.iter().enumerate().map(end).collect(),
        })
        .collect()
}
