//! `tandem init`: writes a commented run file from a few answers.

use std::io::{self, BufRead, IsTerminal, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;
use tandem_config::pretrained::bert::Bert;
use tandem_config::pretrained::hub::locate;
use tandem_config::schema::run::Run;

use crate::terminal::exit::{Exit, Refused};
use crate::terminal::output;

/// Write a commented run file for an AB-Net. At a terminal, what no option says is asked for.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The run file to write; the run is named after it.
    file: PathBuf,
    /// The BERT of the source language: a Hugging Face folder or a name on the hub.
    #[arg(long, value_name = "MODEL")]
    encoder: Option<String>,
    /// The BERT of the target language.
    #[arg(long, value_name = "MODEL")]
    decoder: Option<String>,
    /// Pairs to train on: a tab-separated file, or two files as SOURCE,TARGET.
    #[arg(long, value_name = "TEXT")]
    train: Option<String>,
    /// Pairs that decide which checkpoint is best.
    #[arg(long, value_name = "TEXT")]
    valid: Option<String>,
    /// Pairs on which the finished model is scored.
    #[arg(long, value_name = "TEXT")]
    test: Option<String>,
    /// Optimizer steps.
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u64).range(1..))]
    steps: u64,
}

/// What a run file is made of.
struct Answers {
    encoder: String,
    decoder: String,
    train: String,
    valid: String,
    test: String,
}

const QUESTIONS: [(&str, &str); 5] = [
    ("encoder", "BERT of the source language (a folder, or a name on the hub)"),
    ("decoder", "BERT of the target language"),
    ("train", "Pairs to train on (a tab-separated file, or SOURCE,TARGET)"),
    ("valid", "Pairs that decide which checkpoint is best"),
    ("test", "Pairs on which the finished model is scored"),
];

impl Args {
    pub(super) fn run(self) -> anyhow::Result<Exit> {
        let name = run_name(&self.file)?;
        if self.file.exists() {
            return Err(Refused(format!("{} exists already", self.file.display())).into());
        }
        let given = [&self.encoder, &self.decoder, &self.train, &self.valid, &self.test];
        let answers = if io::stdin().is_terminal() {
            ask(given, &mut io::stdin().lock(), &mut io::stderr().lock())?
        } else {
            given.map(Clone::clone)
        };
        let answers = complete(answers)?;
        let text = run_file(&name, &answers, self.steps, &Paths::of(&self.file))?;
        let failed = || format!("cannot write {}", self.file.display());
        let mut file = std::fs::File::create_new(&self.file).with_context(failed)?;
        file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).with_context(failed)?;
        output::print(format_args!(
            "{file} is written; `tandem plan {file}` checks it, `tandem launch {file}` trains",
            file = self.file.display()
        ))?;
        Ok(Exit::Done)
    }
}

fn run_name(file: &Path) -> Result<String, Refused> {
    let name = file.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
    let is_yaml = file.extension().is_some_and(|it| it == "yaml" || it == "yml");
    if !is_yaml || !Run::is_name(name) {
        return Err(Refused(format!(
            "{} must be called NAME.yaml, with a name of letters, digits, `.`, `_` and `-` that begins with \
             a letter or digit",
            file.display()
        )));
    }
    Ok(name.to_owned())
}

/// Asks for what is not given; an empty line leaves it open.
fn ask(
    given: [&Option<String>; 5],
    input: &mut impl BufRead,
    prompt: &mut impl Write,
) -> io::Result<[Option<String>; 5]> {
    let mut answers = given.map(Clone::clone);
    for (answer, (_, question)) in answers.iter_mut().zip(QUESTIONS) {
        if answer.is_none() {
            write!(prompt, "{question}: ")?;
            prompt.flush()?;
            let mut line = String::new();
            input.read_line(&mut line)?;
            *answer = Some(line.trim().to_owned()).filter(|line| !line.is_empty());
        }
    }
    Ok(answers)
}

fn complete(answers: [Option<String>; 5]) -> Result<Answers, Refused> {
    let open = answers.iter().zip(QUESTIONS).filter(|(answer, _)| answer.is_none());
    let open: Vec<String> = open.map(|(_, (name, _))| format!("--{name}")).collect();
    let [Some(encoder), Some(decoder), Some(train), Some(valid), Some(test)] = answers else {
        return Err(Refused(format!("{} must be given", open.join(", "))));
    };
    Ok(Answers { encoder, decoder, train, valid, test })
}

/// How paths are written into the file, to which they are relative when it is read.
struct Paths {
    is_here: bool,
}

impl Paths {
    fn of(file: &Path) -> Self {
        Self { is_here: file.parent().is_none_or(|folder| folder.as_os_str().is_empty()) }
    }

    fn path(&self, path: &str) -> String {
        let path = match self.is_here || path.starts_with(['~', '$']) {
            true => path.to_owned(),
            false => std::path::absolute(path).map_or(path.into(), |it| it.display().to_string()),
        };
        scalar(&path)
    }

    /// A folder is written so that it cannot be taken for a name on the hub.
    fn model(&self, model: &str) -> String {
        let is_marked = model.starts_with(['/', '.', '~', '$']);
        match (is_marked, Path::new(model).is_dir()) {
            (false, true) => self.path(&format!("./{model}")),
            (true, _) => self.path(model),
            (false, false) => scalar(model),
        }
    }

    fn text(&self, text: &str) -> Result<String, Refused> {
        match text.split(',').collect::<Vec<_>>()[..] {
            [pairs] => {
                Ok(format!("{{ tsv: {{ path: {}, source: 1, target: 2 }} }}", self.path(pairs)))
            }
            [source, target] => Ok(format!(
                "{{ files: {{ source: {}, target: {} }} }}",
                self.path(source),
                self.path(target)
            )),
            _ => Err(Refused(format!("`{text}` must be one tab-separated file, or SOURCE,TARGET"))),
        }
    }
}

/// A string as YAML, quoted where it would be read as something else.
fn scalar(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-~$".contains(c);
    let is_string = serde_yaml::from_str::<serde_yaml::Value>(text).is_ok_and(|it| it.is_string());
    if is_string && text.chars().all(is_plain) {
        text.to_owned()
    } else {
        serde_json::Value::from(text).to_string()
    }
}

/// The decoder's own number of attention heads, which divides its width; that of BERT-base where its folder
/// is not on this machine yet.
fn heads(model: &str) -> usize {
    let folder = if Path::new(model).is_dir() { Some(model.into()) } else { locate(model) };
    let bert = folder.and_then(|folder| Bert::open(&folder).ok());
    bert.map_or(12, |bert| bert.config.num_attention_heads)
}

fn run_file(name: &str, answers: &Answers, steps: u64, paths: &Paths) -> Result<String, Refused> {
    let Answers { encoder, decoder, train, valid, test } = answers;
    let (warmup, every) = ((steps / 10).clamp(1, 4000), (steps / 20).max(1));
    Ok(format!(
        "# An AB-Net (Guo et al. 2020): two frozen BERTs and trained adapters, decoded by Mask-Predict.
# configs/example.yaml in Tandem's repository has every key with its default.
run: {{ name: {run} }} # everything is written to runs/{name}
seed: 1

data: # paths are relative to this file; .gz, .xz and .zst are unpacked
  train: {train}
  valid: {valid} # decides which checkpoint is best
  test: {test} # what the finished model is scored on

model:
  encoder:
    bert:
      pretrained: {encoder}
      train: adapters # the BERT stays frozen
      adapters: {{ dim: 512 }} # width of the bottlenecks; the paper has 512 for IWSLT, 2048 for WMT
  decoder:
    bert:
      pretrained: {decoder}
      train: adapters
      cross_attention: {{ heads: {heads} }} # must divide the BERT's width
  objective: {{ masked: {{ length_loss: 0.1, label_smoothing: 0.1 }} }}

training:
  steps: {steps}
  max_tokens: 2048 # padded tokens of a micro-batch: lower it if memory runs out
  micro_batches: 8 # of a step, shared by all workers: raise it rather than the number of steps
  schedule: {{ inverse_sqrt: {{ peak: 5.0e-4, warmup: {warmup} }} }}
  clip_norm: 1.0
  # precision: bf16 # on GPUs: faster, and half the memory for the BERTs

decoding: {{ mask_predict: {{ iterations: 10, length_candidates: 4 }} }}
evaluation: {{ every: {every}, sentences: 500 }} # so many are translated for BLEU
checkpoints: {{ every: {every}, keep_last: 5, average: 5 }} # the finished model is an average of the newest
cluster: {{ device: auto }} # all GPUs of the machine or of the job; `workers: 2` on CPUs uses two processes
",
        run = scalar(name),
        train = paths.text(train)?,
        valid = paths.text(valid)?,
        test = paths.text(test)?,
        encoder = paths.model(encoder),
        decoder = paths.model(decoder),
        heads = heads(decoder),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_given_is_asked_for() {
        let (encoder, none) = (Some("bert-de".to_owned()), None);
        let mut prompt = Vec::new();
        let mut input = &b"bert-en\ntrain.tsv\n\n test.tsv \n"[..];
        let given = [&encoder, &none, &none, &none, &none];
        let answers = ask(given, &mut input, &mut prompt).unwrap();
        let open = complete(answers.clone()).err().unwrap();
        assert_eq!(open.to_string(), "--valid must be given");
        let [_, decoder, train, _, test] = answers;
        assert_eq!(
            [decoder, train, test].map(Option::unwrap),
            ["bert-en", "train.tsv", "test.tsv"]
        );
        let prompt = String::from_utf8(prompt).unwrap();
        assert!(
            !prompt.contains("source language") && prompt.contains("target language"),
            "{prompt}"
        );
    }

    #[test]
    fn strings_stay_strings() {
        let hard =
            ["true", "12", "1e3", "~", "null", "a: b", "a,b", "{a}", "ä b", "#", "'", "\"", "a\\"];
        for text in hard.into_iter().chain(["bert-base-uncased", "/a/b.tsv", "$HOME/a"]) {
            let yaml = format!("{{ key: {} }}", scalar(text));
            let value: serde_yaml::Value = serde_yaml::from_str(&yaml).unwrap();
            assert_eq!(value["key"].as_str(), Some(text), "{yaml}");
        }
    }

    #[test]
    fn names_and_paths_are_read_back_as_they_were_meant() {
        let answers = Answers {
            encoder: "org/bert-de".into(),
            decoder: "src".into(),
            train: "true".into(),
            valid: "a b.de,c.en".into(),
            test: "/x/test.tsv".into(),
        };
        let read = |file: &str| -> serde_yaml::Value {
            let text = run_file("1e3", &answers, 7, &Paths::of(Path::new(file))).unwrap();
            serde_yaml::from_str(&text).unwrap()
        };
        let here = read("1e3.yaml");
        assert_eq!(here["run"]["name"], "1e3");
        assert_eq!(here["model"]["encoder"]["bert"]["pretrained"], "org/bert-de", "on the hub");
        assert_eq!(here["model"]["decoder"]["bert"]["pretrained"], "./src", "a folder");
        assert_eq!(here["data"]["train"]["tsv"]["path"], "true");
        assert_eq!(here["data"]["valid"]["files"]["source"], "a b.de");
        // Paths are relative to the run file, and those that were given to the working directory.
        let elsewhere = read("folder/1e3.yaml");
        let absolute = std::path::absolute("true").unwrap();
        assert_eq!(elsewhere["data"]["train"]["tsv"]["path"], absolute.to_str().unwrap());
        assert_eq!(elsewhere["data"]["test"]["tsv"]["path"], "/x/test.tsv");
    }

    #[test]
    fn a_file_is_named_like_a_run() {
        for name in ["a", "a.yaml.txt", "a b.yaml", ".yaml", "-a.yaml", "ü.yaml"] {
            assert!(run_name(Path::new(name)).is_err(), "{name}");
        }
        assert_eq!(run_name(Path::new("x/de-en.yml")).unwrap(), "de-en");
    }
}
