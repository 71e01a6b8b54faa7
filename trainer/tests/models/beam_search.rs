//! Beam search against its definition and an exhaustive search, and against itself in other batches.

use serde_json::{Value, json};
use tandem_config::schema::decoding::{BeamScore, BeamSearch};
use tandem_trainer::inference::beam_search::translate;
use tandem_trainer::inference::{Sources, TargetIds, Translation};
use tandem_trainer::model::{Encoded, Pass, Positions};
use tch::{Device, Kind, Tensor, no_grad};

use crate::support::{
    SOURCE_WORDS, Tiny, bert, bert_encoder, fused, gpt2, sharpened, sources, tiny, transformer,
};

const IDS: TargetIds = TargetIds { pad: 0, mask: 4, first: 2, end: 3 };
const WORDS: i64 = 7;
/// The most tokens of a translation: 1 to 3 words and [SEP].
const LONGEST: usize = 4;

fn config(width: usize, score: BeamScore, length_penalty: f64) -> BeamSearch {
    let exact = BeamSearch { max_len_a: 0.0, max_len_b: LONGEST, ..BeamSearch::default() };
    BeamSearch { width, score, length_penalty, ..exact }
}

/// By what hypotheses of `length` tokens are compared.
fn score(config: &BeamSearch, sum: f64, length: usize) -> f64 {
    let length = length as f64;
    match config.score {
        BeamScore::Fairseq => sum / length.powf(config.length_penalty),
        BeamScore::Gnmt => sum / ((5.0 + length) / 6.0).powf(config.length_penalty),
    }
}

/// Models of `WORDS` words.
fn models() -> Vec<Tiny> {
    (1..4)
        .flat_map(|seed| {
            let words = WORDS as usize;
            let source = || transformer(9, "sinusoidal");
            let target = transformer(words, "sinusoidal");
            let (fused_source, fused_target) =
                (fused(SOURCE_WORDS, "sinusoidal"), fused(words, "learned"));
            [
                sharpened(tiny(source(), target, objective(), 0, seed), 3.0),
                sharpened(tiny(source(), bert(&[0, 1]), objective(), words, seed), 3.0),
                // A rounding error grows in three stacks of layers.
                sharpened(tiny(fused_source, fused_target, objective(), 0, seed), 2.0),
            ]
        })
        .collect()
}

/// Those, and a GPT-2, which has more words.
fn all_models() -> Vec<Tiny> {
    let gpt2 = tiny(bert_encoder(), gpt2(), objective(), 0, 1);
    models().into_iter().chain([sharpened(gpt2, 3.0)]).collect()
}

fn objective() -> Value {
    json!({ "autoregressive": {} })
}

fn search(tiny: &Tiny, config: &BeamSearch, sources: &Sources) -> Vec<Translation> {
    translate(&tiny.model, config, IDS, 32, sources, &mut || true).expect("no stop was asked for")
}

/// All translations of at most `LONGEST` tokens.
fn all_translations() -> Vec<Vec<i64>> {
    let (mut beginnings, mut all) = (vec![Vec::new()], Vec::new());
    for _ in 1..LONGEST {
        let mut longer = Vec::new();
        for beginning in &beginnings {
            for word in (0..WORDS).filter(|&word| word != IDS.pad && word != IDS.end) {
                let longer_one = [&beginning[..], &[word]].concat();
                all.push([&longer_one[..], &[IDS.end]].concat());
                longer.push(longer_one);
            }
        }
        beginnings = longer;
    }
    all
}

/// The translation of the highest score, by running the decoder over all of them as a whole.
fn brute_force(tiny: &Tiny, config: &BeamSearch, source: &Sources) -> (Vec<u32>, f64) {
    let (model, pass) = (&tiny.model, Pass::eval());
    let encoded = model.encoder.forward(&source.ids, &source.real, &pass);
    let memory = model.decoder.memory(&encoded);
    let (mut best, mut best_score) = (Vec::new(), f64::NEG_INFINITY);
    let all = all_translations();
    for length in 2..=LONGEST {
        let some: Vec<&Vec<i64>> = all.iter().filter(|tokens| tokens.len() == length).collect();
        let count = some.len() as i64;
        let labels = Tensor::from_slice2(&some);
        let first = Tensor::full([count, 1], IDS.first, (Kind::Int64, Device::Cpu));
        let input = Tensor::cat(&[first, labels.narrow(1, 0, length as i64 - 1)], 1);
        let places = Tensor::arange(input.numel() as i64, (Kind::Int64, Device::Cpu));
        let at = Positions::new(&places, &input);
        let memory = memory.select(&Tensor::zeros([count], (Kind::Int64, Device::Cpu)));
        let hidden = model.decoder.forward(&input, &input.ones_like(), &memory, &at, &pass);
        let log_probs =
            model.head.project(&model.head.transform(&hidden)).log_softmax(-1, Kind::Double);
        let sums = log_probs
            .gather(1, &labels.view([-1, 1]), false)
            .view([count, -1])
            .sum_dim_intlist(1, false, Kind::Double);
        let sums = Vec::<f64>::try_from(sums).expect("sums");
        for (tokens, sum) in some.into_iter().zip(sums) {
            let score = score(config, sum, length);
            if score > best_score {
                best = tokens.iter().map(|&id| id as u32).collect();
                best_score = score;
            }
        }
    }
    (best, best_score)
}

#[test]
fn a_wide_beam_finds_the_best_translation_of_all() {
    let mut lengths = std::collections::BTreeSet::new();
    for tiny in models() {
        for (score, length_penalty) in [
            (BeamScore::Fairseq, 0.0),
            (BeamScore::Fairseq, 0.6),
            (BeamScore::Fairseq, 1.0),
            (BeamScore::Fairseq, 2.0),
            (BeamScore::Gnmt, 0.6),
            (BeamScore::Gnmt, 3.0),
        ] {
            let config = config(200, score, length_penalty);
            for length in [2, 5] {
                let source = sources(&[length]);
                let found = &search(&tiny, &config, &source)[0];
                let (best, score) = no_grad(|| brute_force(&tiny, &config, &source));
                assert_eq!(found.ids, best);
                assert!((found.score - score).abs() < 1e-4, "{} and {score}", found.score);
                lengths.insert(best.len());
            }
        }
    }
    assert!(lengths.len() > 1, "all translations have {lengths:?} tokens");
}

/// Log-probabilities of what may follow these tokens of one sentence's translation: `[V]`.
fn next(tiny: &Tiny, encoded: &Encoded, tokens: &[i64]) -> Vec<f64> {
    let input = Tensor::from_slice(&[&[IDS.first], tokens].concat()).unsqueeze(0);
    let at = Positions::new(&Tensor::from_slice(&[tokens.len() as i64]), &input);
    let decoder = &tiny.model.decoder;
    let hidden = decoder.forward(&input, &input.ones_like(), encoded, &at, &Pass::eval());
    let logits = tiny.model.head.project(&tiny.model.head.transform(&hidden));
    Vec::try_from(logits.get(0).log_softmax(0, Kind::Double)).expect("[V]")
}

/// fairseq's search for one sentence's translation, all of whose tokens are read anew each time;
/// perhaps until nothing lives, though nothing can become the best any more.
fn by_definition(
    tiny: &Tiny,
    config: &BeamSearch,
    source: &Sources,
    to_the_end: bool,
) -> Translation {
    let encoded = tiny.model.encoder.forward(&source.ids, &source.real, &Pass::eval());
    let longest = (config.max_len_a * source.ids.numel() as f64) as usize + config.max_len_b;
    let mut live = vec![(Vec::new(), 0.0)];
    let mut finished: Vec<(Vec<i64>, f64)> = Vec::new();
    let (mut passes, mut rows) = (0, 0);
    let best = |finished: &[(Vec<i64>, f64)]| {
        finished.iter().cloned().max_by(|(_, a), (_, b)| a.total_cmp(b)).unwrap_or_default()
    };
    while !live.is_empty() && finished.len() < config.width {
        let hope =
            live.iter().map(|&(_, sum)| score(config, sum, longest)).fold(f64::MIN, f64::max);
        if !to_the_end && !finished.is_empty() && best(&finished).1 >= hope {
            break;
        }
        passes += 1;
        rows += if passes == 1 { 1 } else { config.width };
        let mut candidates = Vec::new();
        for (tokens, sum) in &live {
            for (word, log_prob) in (0..).zip(next(tiny, &encoded, tokens)) {
                let ends = word == IDS.end;
                if word != IDS.pad && (ends || passes < longest) && !(ends && passes == 1) {
                    candidates.push(([&tokens[..], &[word]].concat(), sum + log_prob));
                }
            }
        }
        candidates.sort_by(|(_, a), (_, b)| f64::total_cmp(b, a));
        candidates.truncate(2 * config.width);
        live.clear();
        for (rank, (tokens, sum)) in candidates.into_iter().enumerate() {
            if tokens.last() != Some(&IDS.end) {
                live.push((tokens, sum));
            } else if rank < config.width && finished.len() < config.width {
                finished.push((tokens, score(config, sum, passes)));
            }
        }
        live.truncate(config.width);
    }
    let (tokens, score) = best(&finished);
    Translation { ids: tokens.into_iter().map(|id| id as u32).collect(), score, passes, rows }
}

#[test]
fn a_narrow_beam_is_fairseqs() {
    let (mut early, mut full) = (0, 0);
    for tiny in models().into_iter().take(6) {
        for (width, score, length_penalty) in [
            (2, BeamScore::Fairseq, 0.0),
            (2, BeamScore::Gnmt, 0.6),
            (3, BeamScore::Fairseq, 0.6),
            (3, BeamScore::Fairseq, 2.0),
            (5, BeamScore::Gnmt, 0.6),
            (5, BeamScore::Fairseq, 1.0),
        ] {
            let config = config(width, score, length_penalty);
            let config = BeamSearch { max_len_a: 2.0, max_len_b: 3, ..config };
            for length in [2, 5] {
                let source = sources(&[length]);
                let found = &search(&tiny, &config, &source)[0];
                let expected = no_grad(|| by_definition(&tiny, &config, &source, false));
                let what = format!("{length} tokens, {config:?}");
                assert_eq!((&found.ids, found.passes), (&expected.ids, expected.passes), "{what}");
                assert_eq!(found.rows, expected.rows, "{what}");
                assert!((found.score - expected.score).abs() < 1e-4, "{what}");

                let late = no_grad(|| by_definition(&tiny, &config, &source, true));
                assert_eq!(late.ids, found.ids, "an early finish misses a better one: {what}");
                assert!(found.passes <= late.passes, "{what}");
                early += usize::from(found.passes < late.passes);
                full += usize::from(found.passes == late.passes);
            }
        }
    }
    assert!(early > 9 && full > 9, "{early} searches finished early and {full} did not");
}

#[test]
fn what_is_read_does_not_depend_on_the_batch() {
    for tiny in all_models() {
        let read = |sources: &Sources| {
            no_grad(|| tiny.model.encoder.forward(&sources.ids, &sources.real, &Pass::eval()))
        };
        let lengths = [2, 7, 3, 12];
        let together = read(&sources(&lengths));
        for (row, &length) in lengths.iter().enumerate() {
            let alone = read(&sources(&[length]));
            let close = |together: &Tensor, alone: &Tensor| {
                let own = together.get(row as i64).narrow(0, 0, alone.size()[1]);
                own.allclose(&alone.get(0), 1e-4, 1e-4, false)
            };
            assert!(close(&together.memory, &alone.memory), "a sentence of {length} tokens");
            if let (Some(together), Some(alone)) = (&together.bert, &alone.bert) {
                assert!(
                    close(&together.hidden, &alone.hidden),
                    "a sentence of {length} tokens, by the BERT"
                );
            }
        }
    }
}

#[test]
fn translations_do_not_depend_on_the_batch() {
    for tiny in all_models() {
        for width in [1, 3, 5] {
            let config = BeamSearch {
                max_len_a: 2.0,
                max_len_b: 3,
                ..config(width, BeamScore::Fairseq, 1.0)
            };
            let lengths = [2, 7, 3, 12, 5, 2];
            let together = search(&tiny, &config, &sources(&lengths));
            for (found, &length) in together.iter().zip(&lengths) {
                let alone = &search(&tiny, &config, &sources(&[length]))[0];
                assert_eq!((&found.ids, found.passes), (&alone.ids, alone.passes));
                assert!((found.score - alone.score).abs() < 1e-4);
                assert!(found.ids.len() <= 2 * length as usize + 3);
                assert_eq!(found.ids.last(), Some(&(IDS.end as u32)));
            }
        }
    }
}

#[test]
fn a_beam_of_one_takes_the_most_probable_token_each_time() {
    for tiny in all_models() {
        let source = sources(&[6]);
        let found = &search(&tiny, &config(1, BeamScore::Fairseq, 1.0), &source)[0];
        let (model, pass) = (&tiny.model, Pass::eval());
        let mut tokens = Vec::new();
        no_grad(|| {
            let memory =
                model.decoder.memory(&model.encoder.forward(&source.ids, &source.real, &pass));
            while tokens.len() < LONGEST && tokens.last() != Some(&IDS.end) {
                let input = [&[IDS.first], &tokens[..]].concat();
                let input = Tensor::from_slice(&input).unsqueeze(0);
                let at = Positions::new(&Tensor::from_slice(&[tokens.len() as i64]), &input);
                let hidden = model.decoder.forward(&input, &input.ones_like(), &memory, &at, &pass);
                let mut logits = model.head.project(&model.head.transform(&hidden)).get(0);
                let _ = logits.get(IDS.pad).fill_(f64::NEG_INFINITY);
                if tokens.is_empty() {
                    let _ = logits.get(IDS.end).fill_(f64::NEG_INFINITY);
                }
                if tokens.len() + 1 == LONGEST {
                    logits = logits.zeros_like();
                    let _ = logits.get(IDS.end).fill_(1.0);
                }
                tokens.push(logits.argmax(-1, false).int64_value(&[]));
            }
        });
        let expected: Vec<u32> = tokens.into_iter().map(|id| id as u32).collect();
        assert_eq!(found.ids, expected);
    }
}

#[test]
fn a_stop_ends_the_search() {
    let tiny = &models()[0];
    let mut polls = 0;
    let mut poll = || {
        polls += 1;
        polls < 2
    };
    let found = translate(
        &tiny.model,
        &config(2, BeamScore::Fairseq, 1.0),
        IDS,
        32,
        &sources(&[4]),
        &mut poll,
    );
    assert!(found.is_none());
    assert_eq!(polls, 2);
}
