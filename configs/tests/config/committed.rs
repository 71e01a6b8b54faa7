//! The files that are committed: all load, the example is complete, the paper's have its counts.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tandem_config::composition::{self, Beside, Composition, TransformerBase};
use tandem_config::parameters::estimate::{self, Inputs};
use tandem_config::parameters::{self, Parameter, trained_count};
use tandem_config::pretrained::PretrainedModel;
use tandem_config::pretrained::bert::{self, Bert, BertConfig, BertFolder};
use tandem_config::pretrained::family::Family;
use tandem_config::pretrained::gpt2::{self, Gpt2Config, Gpt2Folder};
use tandem_config::schema::data::Text;
use tandem_config::schema::decoding::Decoding;
use tandem_config::schema::json::{Choice, Rule, schema};
use tandem_config::schema::model::{Decoder, Encoder, Vocabulary};
use tandem_config::schema::transformer::Transformer;
use tandem_config::{RunConfig, read};

fn configs() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The run file, whose inputs need not be there.
fn run(path: &Path) -> RunConfig {
    let (run, problems) = read(path, &[]).unwrap_or_else(|problems| panic!("{problems}"));
    assert!(problems.only_missing_inputs(), "{problems}");
    run
}

fn yaml_files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> =
        entries.filter(|path| path.extension().is_some_and(|end| end == "yaml")).collect();
    files.sort();
    files
}

#[test]
fn every_run_file_is_right_and_names_its_schema() {
    let folders = ["", "paper", "demo", "proof"].map(|folder| configs().join(folder));
    let files: Vec<PathBuf> = folders.iter().flat_map(|folder| yaml_files(folder)).collect();
    assert!(files.len() >= 7, "{files:?}");
    for file in files {
        run(&file);
        let text = fs::read_to_string(&file).unwrap();
        let first = text.lines().next().unwrap();
        let schema = first
            .strip_prefix("# yaml-language-server: $schema=")
            .unwrap_or_else(|| panic!("{}: {first}", file.display()));
        assert!(file.with_file_name(schema).is_file(), "{}: {schema}", file.display());
    }
}

#[test]
fn every_key_and_choice_is_in_the_example() {
    fn words(rule: Rule, all: &mut Vec<String>) {
        for choice in rule.choices().into_iter().flatten() {
            all.push(choice.name().to_owned());
            if let Choice::Key(_, schema) = choice {
                words(Rule::of(schema), all);
            }
        }
        rule.alternatives().for_each(|rule| words(rule, all));
        for (key, schema) in rule.properties() {
            if rule.choices().is_none() {
                all.push(format!("{key}:"));
                words(Rule::of(schema), all);
            }
        }
    }
    let mut all = Vec::new();
    words(Rule::of(schema()), &mut all);
    assert!(all.len() > 100);
    let example = fs::read_to_string(configs().join("example.yaml")).unwrap();
    for word in all {
        assert!(example.contains(&word), "configs/example.yaml does not mention `{word}`");
    }
}

#[test]
fn the_example_shows_the_defaults() {
    fn check(value: &Value, rule: Rule, path: &str, checked: &mut usize) {
        if let Some(choices) = rule.choices() {
            for choice in choices {
                if let Choice::Key(key, schema) = choice
                    && let Some(value) = value.get(key)
                {
                    check(value, Rule::of(schema), &format!("{path}.{key}"), checked);
                }
            }
            return;
        }
        for (key, schema) in rule.properties() {
            let path = format!("{path}.{key}");
            let Some(value) = value.get(key) else { continue };
            if let Some(default) = schema.get("default") {
                assert_eq!(value, default, "{path}");
                *checked += 1;
            }
            check(value, Rule::of(schema), &path, checked);
        }
    }
    let text = fs::read_to_string(configs().join("example.yaml")).unwrap();
    let written: Value = serde_yaml::from_str(&text).unwrap();
    let resolved = serde_json::to_value(run(&configs().join("example.yaml"))).unwrap();
    let mut checked = 0;
    check(&resolved, Rule::of(schema()), "", &mut checked);
    assert!(checked > 40, "{checked}");
    // Not only by leaving it out.
    assert_eq!(written["cluster"]["deadlines"]["save"], resolved["cluster"]["deadlines"]["save"]);
}

/// Run files of the paper's tables, and how many parameters they train.
const PAPER: &[(&str, usize)] = &[
    ("iwslt14-de-en", 38_608_896),
    ("iwslt14-de-en-ab-net-enc", 52_666_368),
    ("iwslt14-de-en-ab-net-enc-no-adapters", 43_210_752),
    ("iwslt14-de-en-ab-net-fb", 256_613_946),
    ("iwslt14-de-en-ab-net-sc", 256_613_946),
    ("iwslt14-de-en-bert-decoder", 58_446_848),
    ("iwslt14-de-en-bert-distilled", 166_554_624),
    ("iwslt14-de-en-bert-fused", 91_403_264),
    ("iwslt14-de-en-bert-fused-autoregressive", 78_283_776),
    ("iwslt14-de-en-conditional-mlm", 177_974_523),
    ("iwslt14-de-en-gpt2", 37_822_464),
    ("iwslt14-de-en-mask-predict", 75_650_048),
    ("iwslt14-de-en-no-adapters", 786_432),
    ("iwslt14-de-en-no-decoder-adapters", 10_242_048),
    ("iwslt14-de-en-no-encoder-adapters", 29_153_280),
    ("iwslt14-de-en-released", 48_079_872),
    ("iwslt14-de-en-top-6-both", 19_697_664),
    ("iwslt14-de-en-top-6-decoder", 24_425_472),
    ("iwslt14-de-en-top-6-encoder", 33_881_088),
    ("iwslt14-de-en-transformer", 75_125_760),
    ("iwslt14-de-en-transformer-small", 62_530_560),
    ("iwslt14-en-de-ab-net-enc-autoregressive", 51_612_672),
    ("iwslt14-en-de-autoregressive", 37_822_464),
    ("iwslt14-en-de-transformer", 75_125_760),
    ("iwslt14-en-es", 38_608_896),
    ("iwslt14-en-es-mask-predict", 121_498_112),
    ("iwslt14-en-es-transformer", 120_973_824),
    ("iwslt14-en-it", 38_608_896),
    ("iwslt14-en-it-mask-predict", 121_498_112),
    ("iwslt14-en-it-transformer", 120_973_824),
    ("iwslt14-en-nl", 38_608_896),
    ("iwslt14-en-nl-mask-predict", 121_498_112),
    ("iwslt14-en-nl-transformer", 120_973_824),
    ("iwslt14-es-en", 38_608_896),
    ("iwslt14-es-en-mask-predict", 121_498_112),
    ("iwslt14-es-en-transformer", 120_973_824),
    ("iwslt14-it-en", 38_608_896),
    ("iwslt14-it-en-mask-predict", 121_498_112),
    ("iwslt14-it-en-transformer", 120_973_824),
    ("iwslt14-nl-en", 38_608_896),
    ("iwslt14-nl-en-mask-predict", 121_498_112),
    ("iwslt14-nl-en-transformer", 120_973_824),
    ("wmt14-de-en", 66_920_448),
    ("wmt14-de-en-ab-net-enc", 80_196_608),
    ("wmt14-de-en-bert-fused", 90_621_952),
    ("wmt14-de-en-mask-predict", 74_868_736),
    ("wmt14-de-en-released", 104_721_408),
    ("wmt14-de-en-transformer", 74_344_448),
    ("wmt14-de-en-transformer-big", 236_769_280),
    ("wmt14-en-de", 66_920_448),
    ("wmt14-en-de-ab-net-enc", 80_710_656),
    ("wmt14-en-de-ab-net-enc-autoregressive", 232_212_480),
    ("wmt14-en-de-bert-distilled", 166_554_624),
    ("wmt14-en-de-bert-fused", 90_621_952),
    ("wmt14-en-de-bert-fused-autoregressive", 287_150_080),
    ("wmt14-en-de-conditional-mlm", 177_974_523),
    ("wmt14-en-de-ct-nmt", 295_974_144),
    ("wmt14-en-de-mask-predict", 74_868_736),
    ("wmt14-en-de-transformer", 74_344_448),
    ("wmt14-en-de-transformer-big", 236_769_280),
    ("wmt14-en-fr-ab-net-enc-autoregressive", 323_908_608),
    ("wmt14-en-fr-bert-distilled", 166_554_624),
    ("wmt14-en-fr-bert-fused-autoregressive", 378_846_208),
    ("wmt14-en-fr-conditional-mlm", 177_974_523),
    ("wmt14-en-fr-ct-nmt", 364_746_240),
    ("wmt14-en-fr-transformer-big", 328_465_408),
    ("wmt16-ro-en", 66_920_448),
    ("wmt16-ro-en-ab-net-enc", 80_196_608),
    ("wmt16-ro-en-ab-net-enc-autoregressive", 165_093_376),
    ("wmt16-ro-en-bert-fused", 136_470_016),
    ("wmt16-ro-en-bert-fused-autoregressive", 372_554_752),
    ("wmt16-ro-en-mask-predict", 120_716_800),
    ("wmt16-ro-en-transformer", 120_192_512),
    ("wmt16-ro-en-transformer-big", 328_465_408),
];

/// A BERT of its published size that is not on this machine, with everything that it stores.
fn bert(name: &str) -> Bert {
    let vocab_size = match name {
        "bert-base-uncased" => 30_522,
        "bert-base-cased" | "bert-large-cased" => 28_996,
        "bert-base-german-cased" => 30_000,
        "bert-base-multilingual-cased" => 119_547,
        _ => panic!("unknown BERT {name}"),
    };
    let (width, layers) = if name.contains("large") { (1024, 24) } else { (768, 12) };
    let config: BertConfig = serde_json::from_value(serde_json::json!({
        "vocab_size": vocab_size, "hidden_size": width, "num_hidden_layers": layers,
        "num_attention_heads": width / 64, "intermediate_size": 4 * width,
        "max_position_embeddings": 512,
    }))
    .unwrap();
    let tensors = bert::tensors(&config).into_iter().chain(bert::mlm_head(&config));
    let folder = BertFolder {
        path: name.into(),
        family: Family::bert(),
        config: config.clone(),
        tensors: tensors.map(|tensor| (tensor.name, tensor.shape)).collect(),
        vocabulary: "vocab.txt".into(),
    };
    Bert { config, folder: Some(folder) }
}

/// The smallest GPT-2 of its publication, which is not on this machine.
fn gpt2() -> Gpt2Folder {
    let config: Gpt2Config = serde_json::from_value(serde_json::json!({
        "vocab_size": 50_257, "n_embd": 768, "n_layer": 12, "n_head": 12, "n_positions": 1024,
    }))
    .unwrap();
    let tensors = gpt2::tensors_of(&config).into_iter();
    Gpt2Folder {
        path: "gpt2".into(),
        tensors: tensors.map(|tensor| (tensor.name, tensor.shape)).collect(),
        config,
        vocabulary: "tokenizer.json".into(),
    }
}

fn transformer(config: &Transformer) -> TransformerBase {
    let Vocabulary::Bert(name) = &config.vocabulary else { panic!("{config:?}") };
    let Bert { config: BertConfig { vocab_size, .. }, folder } = bert(name);
    TransformerBase { config: config.clone(), vocab_size, vocabulary: folder }
}

/// What a run would open where its pre-trained models were on this machine.
fn composition(run: &RunConfig) -> Composition {
    use composition::{Decoder as OpenDecoder, Encoder as OpenEncoder};
    let encoder = match run.model.encoder.clone() {
        Encoder::Bert(encoder) => {
            OpenEncoder::Bert(bert(encoder.pretrained.as_deref().unwrap()), encoder)
        }
        Encoder::Transformer(config) => OpenEncoder::Transformer(transformer(&config)),
    };
    let decoder = run.model.decoder.clone().map(|decoder| match decoder {
        Decoder::Bert(decoder) => {
            OpenDecoder::Pretrained(PretrainedModel::Bert(bert(&decoder.pretrained)), decoder)
        }
        Decoder::Transformer(config) => OpenDecoder::Transformer(transformer(&config)),
        Decoder::Gpt2(decoder) => OpenDecoder::Pretrained(PretrainedModel::Gpt2(gpt2()), decoder),
    });
    let beside = run.model.besides().into_iter().next();
    let beside = beside.map(|(_, settings)| Beside { bert: bert(&settings.pretrained), settings });
    Composition::new(encoder, decoder, beside, &run.model.objective)
}

#[test]
fn the_papers_runs_train_the_papers_counts() {
    for (name, count) in PAPER {
        let name = *name;
        let run = run(&configs().join("paper").join(format!("{name}.yaml")));
        assert_eq!(run.run.name, name);
        let composition = composition(&run);
        let parameters = parameters::model(&composition);
        assert_eq!(trained_count(&parameters), *count, "{name}");
        let labels = run.model.soft_labels().map(|_| bert("bert-base-multilingual-cased"));
        let (composition, labels) = (&composition, labels.as_ref());
        let inputs = Inputs { composition, parameters: &parameters, labels, ranks: 1 };
        let estimate = estimate::estimate(&run, inputs);
        assert!(estimate.activations > 0, "{name}");
        assert_eq!(estimate.labels > 0, name.ends_with("bert-distilled"), "{name}");
        let path = configs().join("paper").join(format!("{name}.yaml"));
        let text = fs::read_to_string(path).unwrap();
        assert!(text.contains(&grouped(*count)), "{name} says another count");
    }
    let files = yaml_files(&configs().join("paper"));
    assert_eq!(files.len(), PAPER.len(), "every run of the paper has its count here");
}

#[test]
fn what_corrects_passes_over_its_decoder_twice() {
    let path = configs().join("paper/iwslt14-de-en-mask-predict.yaml");
    let activations = |set: &str| {
        let (run, problems) = read(&path, &[format!("model.objective.masked.{set}")])
            .unwrap_or_else(|problems| panic!("{problems}"));
        assert!(problems.only_missing_inputs(), "{problems}");
        let composition = &composition(&run);
        let inputs = Inputs { composition, parameters: &[], labels: None, ranks: 1 };
        estimate::estimate(&run, inputs).activations
    };
    let (plain, corrected) = (activations("correction=null"), activations("correction={}"));
    // The decoder, which has attention over the source besides, needs more than the encoder.
    assert!(corrected > plain * 3 / 2 && corrected < plain * 2, "{plain} and {corrected}");
}

#[test]
fn the_rows_of_figure_2_train_its_adapters() {
    let paper = configs().join("paper");
    let text = fs::read_to_string(paper.join("tables/figure-2.yaml")).unwrap();
    let table: Value = serde_yaml::from_str(&text).unwrap();
    let rows = table["rows"].as_array().unwrap().iter();
    let rows = rows.filter(|row| row.get("x").is_some()).map(|row| {
        let set = row["set"].as_array().into_iter().flatten();
        let set: Vec<String> = set.map(|set| set.as_str().unwrap().to_owned()).collect();
        let file = paper.join(row["run"].as_str().unwrap()).with_extension("yaml");
        let (run, _) = read(&file, &set).unwrap_or_else(|problems| panic!("{problems}"));
        let parameters = parameters::model(&composition(&run));
        let is_adapters = |name: &str| name.starts_with("encoder.") && name.contains("adapter");
        let adapters = parameters.iter().filter(|parameter| is_adapters(&parameter.name));
        (row["x"].as_u64().unwrap(), adapters.map(Parameter::count).sum::<usize>())
    });
    let counts =
        [(64, 1_198_080), (128, 2_377_728), (256, 4_737_024), (512, 9_455_616), (1024, 18_892_800)];
    assert_eq!(rows.collect::<Vec<_>>(), counts);
}

#[test]
fn the_papers_runs_read_what_its_recipes_make() {
    for file in yaml_files(&configs().join("paper")) {
        let run = run(&file);
        let splits: Vec<_> = run.data.splits().collect();
        // A teacher of soft labels translates nothing.
        let wanted = if run.model.decoder.is_some() { 3 } else { 2 };
        assert_eq!(splits.len(), wanted, "{}", file.display());
        for (name, text) in splits {
            let Text::Tsv { path, source, target } = text else {
                panic!("{}: {name} is not a table", file.display())
            };
            let folder = path.parent().unwrap();
            assert!(path.ends_with(format!("{name}.tsv")), "{}", path.display());
            assert!(folder.with_added_extension("yaml").is_file(), "{}", path.display());
            // `de-en` reads the first column of a table of `de-en`, the second of one of `en-de`.
            let stem = file.file_stem().unwrap().to_string_lossy().into_owned();
            let forth = stem.split('-').skip(1).take(2).collect::<Vec<_>>().join("-");
            let is_forth = folder.to_string_lossy().ends_with(&forth);
            let columns = if is_forth { (1, 2) } else { (2, 1) };
            assert_eq!((*source, *target), columns, "{}", file.display());
        }
    }
}

/// "tokenized case-insensitive scores for IWSLT14 tasks and tokenized case-sensitive scores for WMT
/// tasks"; 4 lengths and up to 10 iterations, or a beam of 5 (section 4.1 of the paper). Rivals whose
/// numbers are from their own papers search as these have it.
#[test]
fn the_papers_runs_decode_and_score_as_the_paper() {
    for file in yaml_files(&configs().join("paper")) {
        let (run, file) = (run(&file), file.display());
        if run.model.decoder.is_none() {
            continue; // a teacher that translates nothing
        }
        let is_iwslt = run.run.name.starts_with("iwslt14");
        assert_eq!(run.evaluation.lowercase, is_iwslt, "{file}");
        let is_copied =
            !is_iwslt && ["mask-predict", "ct-nmt"].iter().any(|end| run.run.name.ends_with(end));
        let is_as_the_papers = match &run.decoding {
            Decoding::MaskPredict(search) => {
                (search.length_candidates, search.iterations) == (4, 10)
            }
            Decoding::BeamSearch(search) => search.width == 5,
            Decoding::Ctc(_) => false,
        };
        assert!(is_as_the_papers || is_copied, "{file}: {:?}", run.decoding);
    }
}

/// A number with its thousands apart.
fn grouped(number: usize) -> String {
    let digits: Vec<char> = number.to_string().chars().rev().collect();
    let groups: Vec<String> = digits.chunks(3).map(|group| group.iter().collect()).collect();
    groups.join(",").chars().rev().collect()
}
