//! Reading CTC's one pass: the most probable word or blank at each position, or a prefix beam search
//! (Graves and Jaitly 2014; Hannun et al. 2014), which adds up all predictions that stand for the same
//! translation.
//!
//! Shapes: B sentences, S source tokens, T decoder positions, N real ones of all.

use std::collections::HashMap;

use tandem_config::schema::decoding::CtcSearch;
use tch::{Device, Kind, Tensor, no_grad};

use super::language_model::{Context, Ngrams};
use super::{Sources, TargetIds, Translation};
use crate::model::ctc::{CtcHead, Predictions};
use crate::model::{Pass, Positions, Seq2Seq};
use crate::objective::alignment::collapse;

/// Translates a batch. `poll` is called before the pass and each search, and ends the work by answering
/// false.
///
/// # Panics
/// If the model predicts no blanks.
pub(super) fn translate(
    model: &Seq2Seq,
    config: &CtcSearch,
    language_model: Option<&Ngrams>,
    ids: TargetIds,
    sources: &Sources,
    poll: &mut dyn FnMut() -> bool,
) -> Option<Vec<Translation>> {
    if !poll() {
        return None;
    }
    let ctc = model.ctc.as_ref().expect("the ctc objective's model predicts blanks");
    no_grad(|| {
        let encoded = model.encoder.forward(&sources.ids, &sources.real, &Pass::eval());
        let upsampling = ctc.upsampling as i64;
        let real = sources.real.repeat_interleave_self_int(upsampling, 1, None::<i64>); // [B, T]
        let masks = Tensor::full(real.size(), ids.mask, (Kind::Int64, real.device()));
        let input = masks.masked_fill(&real.logical_not(), ids.pad);
        let positions = real.view([-1]).nonzero().view([-1]); // [N]
        let at = Positions::new(&positions, &input);
        let states = model.decoder.forward(&input, &real, &encoded, &at, &Pass::eval());
        let transformed = model.head.transform(&states);
        let lengths = real.sum_dim_intlist(1, false, Kind::Int64).to_device(Device::Cpu);
        let lengths = Vec::<i64>::try_from(lengths).expect("lengths are [B]");
        let found = match config.width {
            1 => most_probable(model, ctc, &transformed, &lengths),
            _ => {
                let scoring = Scoring::new(config, language_model, ids.end);
                search(model, ctc, config, &scoring, &transformed, &lengths, poll)?
            }
        };
        let translation = |(words, score): (Vec<i64>, f64)| {
            let words = words.into_iter().filter(|&word| word != ids.end);
            let ids = words.chain([ids.end]).map(|id| id as u32).collect();
            Translation { ids, score, passes: 1, rows: 1 }
        };
        Some(found.into_iter().map(translation).collect())
    })
}

/// Of sentences with so many positions, what the most probable predictions collapse to, and their
/// log-probability.
fn most_probable(
    model: &Seq2Seq,
    ctc: &CtcHead,
    transformed: &Tensor,
    lengths: &[i64],
) -> Vec<(Vec<i64>, f64)> {
    let chunks = model.head.chunks(transformed.size()[0]);
    let best: Vec<(Option<i64>, f32)> = chunks
        .flat_map(|(start, count)| {
            ctc.predict(&model.head, &transformed.narrow(0, start, count)).best()
        })
        .collect();
    let sentences = cut(&best, lengths).map(|positions| {
        let words: Vec<Option<i64>> = positions.iter().map(|&(word, _)| word).collect();
        let score = positions.iter().map(|&(_, log_prob)| f64::from(log_prob)).sum();
        (collapse(&words), score)
    });
    sentences.collect()
}

/// Of sentences with so many positions, the best translation that a prefix beam search finds, and its score.
fn search(
    model: &Seq2Seq,
    ctc: &CtcHead,
    config: &CtcSearch,
    scoring: &Scoring,
    transformed: &Tensor,
    lengths: &[i64],
    poll: &mut dyn FnMut() -> bool,
) -> Option<Vec<(Vec<i64>, f64)>> {
    let chunks = model.head.chunks(transformed.size()[0]);
    let frames: Vec<Frame> = chunks
        .flat_map(|(start, count)| {
            let states = transformed.narrow(0, start, count);
            Frame::of(&ctc.predict(&model.head, &states), config.candidates)
        })
        .collect();
    let search =
        |frames: &[Frame]| poll().then(|| prefix_beam_search(frames, config.width, scoring));
    cut(&frames, lengths).map(search).collect()
}

/// The positions of each sentence.
fn cut<'a, T>(positions: &'a [T], lengths: &'a [i64]) -> impl Iterator<Item = &'a [T]> {
    let mut rest = positions;
    lengths.iter().map(move |&length| {
        let (own, others) = rest.split_at(length as usize);
        rest = others;
        own
    })
}

/// What a position predicts: log-probabilities.
#[derive(Debug, Clone)]
struct Frame {
    blank: f64,
    /// Its most probable words.
    words: Vec<(i64, f64)>,
}

impl Frame {
    /// Those of C positions with so many words each.
    fn of(predictions: &Predictions, words: usize) -> Vec<Self> {
        let words = (words as i64).min(predictions.logits.size()[1]);
        let (highest, ids) = predictions.logits.topk(words, -1, true, true);
        let log_probs = (highest - predictions.log_sum.unsqueeze(1)).to_device(Device::Cpu);
        let blanks = (&predictions.blank - &predictions.log_sum).to_device(Device::Cpu);
        let blanks = Vec::<f32>::try_from(blanks).expect("[C]");
        let ids = Vec::<Vec<i64>>::try_from(ids.to_device(Device::Cpu)).expect("[C, words]");
        let log_probs = Vec::<Vec<f32>>::try_from(log_probs).expect("[C, words]");
        let words = ids.into_iter().zip(log_probs).map(|(ids, log_probs)| {
            ids.into_iter().zip(log_probs.into_iter().map(f64::from)).collect()
        });
        blanks
            .into_iter()
            .map(f64::from)
            .zip(words)
            .map(|(blank, words)| Self { blank, words })
            .collect()
    }
}

/// What a search adds to the log-probability that the predictions stand for a translation.
struct Scoring<'a> {
    /// For each token.
    bonus: f64,
    language_model: Option<Weighted<'a>>,
}

/// A language model, and what its log-probabilities are multiplied by.
struct Weighted<'a> {
    ngrams: &'a Ngrams,
    weight: f64,
    /// The word that ends a sentence.
    end: u32,
}

impl<'a> Scoring<'a> {
    /// As `config` says, with the language model that it asks for, of which `end` ends a sentence.
    ///
    /// # Panics
    /// If there is no such model.
    fn new(config: &CtcSearch, ngrams: Option<&'a Ngrams>, end: i64) -> Self {
        let language_model = config.language_model.as_ref().map(|config| Weighted {
            ngrams: ngrams.expect("whoever asks for a language model has opened it"),
            weight: config.weight,
            end: end as u32,
        });
        Self { bonus: config.token_bonus, language_model }
    }

    /// Of the empty beginning.
    fn begin(&self) -> Extra {
        let context = self.language_model.as_ref().map(|model| model.ngrams.begin());
        Extra { score: 0.0, context: context.unwrap_or_default() }
    }

    /// Of a beginning with one more word.
    fn with(&self, before: &Extra, word: i64) -> Extra {
        let (score, context) = match &self.language_model {
            None => (0.0, before.context),
            Some(model) => {
                let (log_prob, context) = model.ngrams.next(&before.context, word as u32);
                (model.weight * log_prob, context)
            }
        };
        Extra { score: before.score + self.bonus + score, context }
    }

    /// What the end of a sentence adds.
    fn end(&self, extra: &Extra) -> f64 {
        let score =
            |model: &Weighted| model.weight * model.ngrams.next(&extra.context, model.end).0;
        self.language_model.as_ref().map_or(0.0, score)
    }
}

/// What a search adds for a beginning.
#[derive(Debug, Clone, Copy)]
struct Extra {
    score: f64,
    /// The language model's, for the word behind it.
    context: Context,
}

/// The beginnings of translations as a tree: each is one word behind another.
struct Prefixes<'a> {
    scoring: &'a Scoring<'a>,
    nodes: Vec<Prefix>,
    children: HashMap<(usize, i64), usize>,
}

/// The beginning of a translation.
struct Prefix {
    before: usize,
    /// The last word; -1 of the empty one.
    word: i64,
    extra: Extra,
}

/// The beginning without words.
const EMPTY: usize = 0;

impl<'a> Prefixes<'a> {
    fn new(scoring: &'a Scoring<'a>) -> Self {
        let empty = Prefix { before: EMPTY, word: -1, extra: scoring.begin() };
        Self { scoring, nodes: vec![empty], children: HashMap::new() }
    }

    fn with(&mut self, prefix: usize, word: i64) -> usize {
        *self.children.entry((prefix, word)).or_insert_with(|| {
            let extra = self.scoring.with(&self.nodes[prefix].extra, word);
            self.nodes.push(Prefix { before: prefix, word, extra });
            self.nodes.len() - 1
        })
    }

    fn words(&self, mut prefix: usize) -> Vec<i64> {
        let mut words = Vec::new();
        while prefix != EMPTY {
            let Prefix { before, word, .. } = self.nodes[prefix];
            words.push(word);
            prefix = before;
        }
        words.reverse();
        words
    }
}

/// The log-probability that the predictions so far stand for a beginning: those that end with a blank,
/// and those that end with its last word.
#[derive(Debug, Clone, Copy)]
struct Mass {
    blank: f64,
    word: f64,
}

impl Mass {
    const NONE: Self = Self { blank: f64::NEG_INFINITY, word: f64::NEG_INFINITY };

    fn total(self) -> f64 {
        log_add(self.blank, self.word)
    }
}

fn log_add(a: f64, b: f64) -> f64 {
    let (high, low) = if a > b { (a, b) } else { (b, a) };
    if low == f64::NEG_INFINITY { high } else { high + (low - high).exp().ln_1p() }
}

/// The best of the `width` beginnings that are followed from position to position, and its score: its
/// log-probability, and what `scoring` adds. While they are followed, they are compared without their ends.
fn prefix_beam_search(frames: &[Frame], width: usize, scoring: &Scoring) -> (Vec<i64>, f64) {
    let mut prefixes = Prefixes::new(scoring);
    let mut beam = vec![(EMPTY, Mass { blank: 0.0, word: f64::NEG_INFINITY })];
    for Frame { blank, words } in frames {
        let mut next: HashMap<usize, Mass> = HashMap::new();
        for &(prefix, mass) in &beam {
            let (last, total) = (prefixes.nodes[prefix].word, mass.total());
            let same = next.entry(prefix).or_insert(Mass::NONE);
            same.blank = log_add(same.blank, total + blank);
            for &(word, log_prob) in words {
                if word == last {
                    // Merged with the word before, unless a blank stands between them.
                    let same = next.entry(prefix).or_insert(Mass::NONE);
                    same.word = log_add(same.word, mass.word + log_prob);
                }
                let before = if word == last { mass.blank } else { total };
                if before > f64::NEG_INFINITY {
                    let longer = next.entry(prefixes.with(prefix, word)).or_insert(Mass::NONE);
                    longer.word = log_add(longer.word, before + log_prob);
                }
            }
        }
        beam = next.into_iter().collect();
        let score =
            |&(prefix, mass): &(usize, Mass)| mass.total() + prefixes.nodes[prefix].extra.score;
        // Ties are decided by the order in which beginnings were found, and so by nothing random.
        beam.sort_by(|a, b| score(b).total_cmp(&score(a)).then(a.0.cmp(&b.0)));
        beam.truncate(width);
    }
    let whole = |&(prefix, mass): &(usize, Mass)| {
        let extra = &prefixes.nodes[prefix].extra;
        (prefix, mass.total() + extra.score + scoring.end(extra))
    };
    // Of equals the first one.
    let ahead =
        |best: (usize, f64), other: (usize, f64)| if other.1 > best.1 { other } else { best };
    let (best, score) = beam.iter().map(whole).reduce(ahead).expect("a beam is never empty");
    (prefixes.words(best), score)
}

#[cfg(test)]
mod tests {
    use super::super::language_model::kneser_ney;
    use super::*;
    use crate::random::{Purpose, Rng, stream};

    /// Positions with so many words, whose probabilities and the blank's add up to 1.
    fn frames(rng: &mut Rng, positions: usize, words: usize) -> Vec<Frame> {
        let frame = |_| {
            let weights: Vec<f64> = (0..=words).map(|_| rng.uniform().powi(3)).collect();
            let log_probs: Vec<f64> =
                weights.iter().map(|weight| (weight / weights.iter().sum::<f64>()).ln()).collect();
            let words = log_probs[1..].iter().enumerate();
            let words = words.map(|(word, &log_prob)| (word as i64 + 1, log_prob)).collect();
            Frame { blank: log_probs[0], words }
        };
        (0..positions).map(frame).collect()
    }

    /// The probability of every translation, by adding up all predictions.
    fn all(frames: &[Frame]) -> HashMap<Vec<i64>, f64> {
        let mut paths = vec![(Vec::new(), 1.0)];
        for frame in frames {
            let choices = frame.words.iter().map(|&(word, log_prob)| (Some(word), log_prob));
            let choices: Vec<_> = choices.chain([(None, frame.blank)]).collect();
            let longer = paths.iter().flat_map(|(path, probability)| {
                choices.iter().map(move |&(choice, log_prob)| {
                    let path: Vec<Option<i64>> = path.iter().copied().chain([choice]).collect();
                    (path, probability * f64::exp(log_prob))
                })
            });
            paths = longer.collect();
        }
        let mut sums = HashMap::new();
        for (path, probability) in paths {
            *sums.entry(collapse(&path)).or_insert(0.0) += probability;
        }
        sums
    }

    /// A model of sentences of the words 1 to 3, whose ends are 0.
    fn ngrams() -> Ngrams {
        let sentences: [&[u32]; 5] = [&[1, 2, 0], &[1, 2, 3, 0], &[3, 1, 2, 0], &[2, 0], &[0]];
        let folder = tempfile::tempdir().unwrap();
        let levels = kneser_ney::estimate(sentences.into_iter(), 3, 4).unwrap();
        Ngrams::write(&folder.path().join("ngrams"), &[0; 32], &levels).unwrap();
        Ngrams::open(&folder.path().join("ngrams")).unwrap().unwrap()
    }

    /// With a bonus, and perhaps a language model and its weight.
    fn scoring<'a>(bonus: f64, model: Option<(&'a Ngrams, f64)>) -> Scoring<'a> {
        let model = model.map(|(ngrams, weight)| Weighted { ngrams, weight, end: 0 });
        Scoring { bonus, language_model: model }
    }

    #[test]
    fn a_wide_beam_finds_the_best_translation() {
        let mut rng = stream(7, Purpose::Order, &[]);
        let ngrams = ngrams();
        let log_prob = |words: &[i64]| {
            let mut context = ngrams.begin();
            let with_end = words.iter().map(|&word| word as u32).chain([0]);
            let log_probs = with_end.map(|word| {
                let (log_prob, next) = ngrams.next(&context, word);
                context = next;
                log_prob
            });
            log_probs.sum::<f64>()
        };
        let (mut differs_from_greedy, mut differs_with_bonus, mut differs_with_model) = (0, 0, 0);
        for _ in 0..50 {
            let frames = frames(&mut rng, 5, 3);
            let all = all(&frames);
            let best = |bonus: f64, weight: f64| {
                let score = |(words, probability): (&Vec<i64>, &f64)| {
                    let extra = bonus * words.len() as f64 + weight * log_prob(words);
                    (words.clone(), probability.ln() + extra)
                };
                all.iter().map(score).max_by(|(_, a), (_, b)| a.total_cmp(b)).expect("some")
            };
            for (bonus, weight) in [(0.0, 0.0), (0.7, 0.0), (0.0, 0.5), (0.7, 1.5)] {
                let model = (weight > 0.0).then_some((&ngrams, weight));
                let (found, score) = prefix_beam_search(&frames, 1000, &scoring(bonus, model));
                let (expected, of_expected) = best(bonus, weight);
                assert_eq!(found, expected, "bonus {bonus}, weight {weight}");
                assert!((score - of_expected).abs() < 1e-9, "bonus {bonus}, weight {weight}");
            }
            differs_with_bonus += usize::from(best(0.0, 0.0).0 != best(0.7, 0.0).0);
            differs_with_model += usize::from(best(0.7, 0.0).0 != best(0.7, 1.5).0);
            let greedy: Vec<Option<i64>> = frames
                .iter()
                .map(|frame| {
                    let best =
                        frame.words.iter().max_by(|a, b| a.1.total_cmp(&b.1)).expect("words");
                    (best.1 > frame.blank).then_some(best.0)
                })
                .collect();
            differs_from_greedy += usize::from(collapse(&greedy) != best(0.0, 0.0).0);
        }
        assert!(differs_from_greedy > 0, "else the search is good for nothing here");
        assert!(differs_with_bonus > 0, "else the bonus is");
        assert!(differs_with_model > 0, "else the language model is");
    }

    #[test]
    fn a_narrow_beam_never_overstates_a_probability() {
        let mut rng = stream(8, Purpose::Order, &[]);
        for _ in 0..50 {
            let frames = frames(&mut rng, 5, 3);
            let all = all(&frames);
            for width in [1, 2, 4] {
                let (found, score) = prefix_beam_search(&frames, width, &scoring(0.0, None));
                assert!(score.exp() <= all[&found] + 1e-9, "{width}");
            }
        }
    }

    #[test]
    fn no_positions_are_the_empty_translation() {
        assert_eq!(prefix_beam_search(&[], 4, &scoring(1.0, None)), (vec![], 0.0));
        let ngrams = ngrams();
        let (words, score) = prefix_beam_search(&[], 4, &scoring(1.0, Some((&ngrams, 0.5))));
        // Of the model, the end is left.
        assert_eq!((words, score), (vec![], 0.5 * ngrams.next(&ngrams.begin(), 0).0));
    }
}
