//! Mask-Predict against its definition, written down for one sentence and one length at a time.

use std::collections::BTreeSet;

use serde_json::json;
use tandem_config::schema::decoding::{MaskPredict, Score, Stop};
use tandem_trainer::inference::mask_predict::translate;
use tandem_trainer::inference::{Sources, TargetIds, Translation};
use tandem_trainer::model::{Encoded, Pass, Positions};
use tch::{Device, Kind, Tensor, no_grad};

use crate::support::{SOURCE_WORDS, Tiny, bert, fused, sharpened, sources, tiny, transformer};

const IDS: TargetIds = TargetIds { pad: 0, mask: 4, first: 2, end: 3 };
const WORDS: usize = 19;
const LENGTHS: [i64; 5] = [2, 7, 3, 12, 5];

fn models() -> Vec<Tiny> {
    let objective = || json!({ "masked": { "length_classes": 11 } });
    let source = || transformer(9, "sinusoidal");
    let fused = |words| fused(words, "learned");
    let models = [
        tiny(source(), transformer(WORDS, "learned"), objective(), 0, 1),
        tiny(source(), bert(&[0, 1]), objective(), WORDS, 2),
        tiny(fused(SOURCE_WORDS), fused(WORDS), objective(), 0, 3),
    ];
    models.into_iter().map(|tiny| sharpened(tiny, 1.5)).collect()
}

/// Log-probabilities of all words at all places: `[T, V]`.
fn log_probs(tiny: &Tiny, encoded: &Encoded, input: &[i64]) -> Tensor {
    let input = Tensor::from_slice(input).unsqueeze(0);
    let places = Tensor::arange(input.numel() as i64, (Kind::Int64, Device::Cpu));
    let (at, pass) = (Positions::new(&places, &input), Pass::eval());
    let real = Tensor::ones(input.size(), (Kind::Bool, Device::Cpu));
    let hidden = tiny.model.decoder.forward(&input, &real, encoded, &at, &pass);
    tiny.model.head.project(&tiny.model.head.transform(&hidden)).log_softmax(-1, Kind::Double)
}

/// One sentence's translation of one length after at most so many passes.
fn of_length(
    tiny: &Tiny,
    config: &MaskPredict,
    encoded: &Encoded,
    length: usize,
    most_passes: usize,
) -> (Vec<i64>, f64, usize) {
    let (mut tokens, mut certain) = (vec![IDS.mask; length], vec![f64::NEG_INFINITY; length]);
    let iterations = config.iterations;
    let threshold = config.threshold.map_or(f64::INFINITY, f64::ln);
    let most_steps = iterations + usize::from(config.stop == Stop::Released);
    let (mut passes, mut step) = (0, 0);
    while passes < most_passes
        && step < most_steps
        && certain.iter().any(|&log_prob| log_prob < threshold)
    {
        let mut places: Vec<usize> =
            (0..length).filter(|&place| certain[place] < threshold).collect();
        let again = |step: usize| (length * (iterations - step) / iterations).max(1);
        while again(step) > places.len() && step + 1 < most_steps {
            step += 1;
        }
        places.sort_by(|&a, &b| f64::total_cmp(&certain[a], &certain[b]));
        places.truncate(again(step));
        step += 1;
        let mut input = tokens.clone();
        for &place in &places {
            input[place] = IDS.mask;
        }
        let log_probs = log_probs(tiny, encoded, &input);
        let before = tokens.clone();
        let predicted = if config.correct { (0..length).collect() } else { places };
        for &place in &predicted {
            let (highest, word) = log_probs.get(place as i64).max_dim(0, false);
            tokens[place] = word.int64_value(&[]);
            certain[place] = highest.double_value(&[]);
        }
        passes += 1;
        if config.stop == Stop::Unchanged && passes > 1 && tokens == before {
            break;
        }
    }
    let (sum, length) = (certain.iter().sum::<f64>(), length as f64);
    let score = match config.score {
        Score::Average => sum / length,
        Score::LengthPenalty => sum / ((5.0 + length) / 6.0).powf(config.length_penalty),
    };
    (tokens, score, passes)
}

/// One sentence's translation: of all candidate lengths the one of the highest score, at the end or when
/// the others are pruned.
fn by_definition(tiny: &Tiny, config: &MaskPredict, source: &Sources) -> Translation {
    let encoded = tiny.model.encoder.forward(&source.ids, &source.real, &Pass::eval());
    let lengths = encoded.length_log_probs.as_ref().expect("a length prediction").get(0);
    let order = Vec::<i64>::try_from(lengths.argsort(0, true)).expect("lengths");
    let candidates: BTreeSet<usize> =
        order[..config.length_candidates].iter().map(|&length| length.max(2) as usize).collect();
    let most = config.iterations + usize::from(config.stop == Stop::Released);
    let together = config.prune_after.unwrap_or(most);
    let mut best = Translation { score: f64::NEG_INFINITY, ..Translation::empty() };
    let mut best_length = 0;
    for length in candidates {
        let (tokens, score, passes) = of_length(tiny, config, &encoded, length, together);
        best.passes = best.passes.max(passes);
        best.rows += passes;
        if score > best.score {
            best_length = length;
            best.score = score;
            best.ids = tokens.into_iter().map(|id| id as u32).collect();
        }
    }
    if together < most {
        let before = of_length(tiny, config, &encoded, best_length, together).2;
        let (tokens, score, passes) = of_length(tiny, config, &encoded, best_length, most);
        best.passes = best.passes.max(passes);
        best.rows += passes - before;
        best.score = score;
        best.ids = tokens.into_iter().map(|id| id as u32).collect();
    }
    best
}

fn search(tiny: &Tiny, config: &MaskPredict, sources: &Sources) -> Vec<Translation> {
    translate(&tiny.model, config, IDS, 32, sources, &mut || true).expect("no stop was asked for")
}

#[test]
fn translations_are_the_definitions_alone_and_in_batches() {
    let (mut early, mut late, mut certain) = (0, 0, 0);
    for (number, tiny) in models().iter().enumerate() {
        for (stop, score, threshold, prune_after, correct) in [
            (Stop::Unchanged, Score::LengthPenalty, None, None, false),
            (Stop::Unchanged, Score::Average, None, None, false),
            (Stop::Released, Score::LengthPenalty, None, None, false),
            (Stop::Released, Score::Average, None, None, false),
            (Stop::Unchanged, Score::LengthPenalty, Some(0.3), None, false),
            (Stop::Unchanged, Score::LengthPenalty, None, Some(1), false),
            (Stop::Released, Score::Average, Some(0.3), Some(1), false),
            (Stop::Unchanged, Score::Average, None, None, true),
        ] {
            // The most tokens of a batch: all hypotheses together, or in several batches.
            for (iterations, length_candidates, max_tokens) in
                [(1, 1, 4000), (2, 4, 4000), (4, 3, 30), (4, 1, 4000), (10, 5, 50)]
            {
                let config = MaskPredict {
                    iterations,
                    length_candidates,
                    stop,
                    score,
                    threshold,
                    prune_after,
                    correct,
                    max_tokens,
                    ..MaskPredict::default()
                };
                let together = search(tiny, &config, &sources(&LENGTHS));
                for (found, length) in together.iter().zip(LENGTHS) {
                    let source = sources(&[length]);
                    let expected = no_grad(|| by_definition(tiny, &config, &source));
                    let alone = &search(tiny, &config, &source)[0];
                    for found in [found, alone] {
                        let what = format!("model {number}, {length} tokens, {config:?}");
                        assert_eq!(found.ids, expected.ids, "{what}");
                        assert_eq!(found.passes, expected.passes, "{what}");
                        assert_eq!(found.rows, expected.rows, "{what}");
                        assert!((found.score - expected.score).abs() < 1e-4, "{what}");
                    }
                    if threshold.is_some() && iterations > 1 {
                        certain += usize::from(found.rows < length_candidates * iterations);
                    } else if stop == Stop::Unchanged && length_candidates == 1 && iterations > 1 {
                        early += usize::from(found.passes < iterations);
                        late += usize::from(found.passes == iterations);
                    }
                }
            }
        }
    }
    assert!(early > 0 && late > 0, "{early} stopped early and {late} did not");
    assert!(certain > 0, "no translation was certain");
}
