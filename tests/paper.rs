//! Every row of every table and figure of the paper, at tiny size with the real programs: trained,
//! taken up from its checkpoint, decoded, scored, and told by `tandem reproduce`.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tandem_tests::{Tiny, expect_code, program};

/// Steps of a row's first launch; teachers make no more.
const STEPS: u64 = 2;
/// Steps of its second one.
const MORE_STEPS: u64 = 4;
/// How the names of runs end that are teachers and no rows.
const TEACHERS: [&str; 2] = ["de-en-transformer-big", "conditional-mlm"];
/// The BERTs of the run files by their names on the hub, and the tiny ones in their place.
const BERTS: [(&str, &str); 5] = [
    ("bert-base-german-cased", "bert-de/export"),
    ("bert-base-uncased", "bert-en/export"),
    ("bert-base-cased", "bert-en/export"),
    ("bert-large-cased", "bert-en/export"),
    ("bert-base-multilingual-cased", "bert-both/export"),
];
const TINY_GPT2: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/golden/gpt2/folder");

/// The run files and tables of the paper, shrunk, with texts and models at their places.
struct Paper {
    tiny: Tiny,
}

impl Paper {
    fn new() -> Self {
        let tiny = Tiny::texts();
        let mono = |side: &str| read(&tiny.path("mono").with_extension(side));
        tiny.write("mono.both", &(mono("de") + &mono("en")));
        for (side, positions) in [("de", 32), ("en", 32), ("both", 64)] {
            tiny.pre_train(side, positions);
        }
        let paper = Self { tiny };
        let berts = BERTS.map(|(name, folder)| (name, paper.tiny.path(folder)));
        for (name, folder) in berts.into_iter().chain([("gpt2", TINY_GPT2.into())]) {
            paper.add_to_hub_cache(name, &folder);
        }
        paper.shrink_run_files();
        paper.write_corpora();
        paper
    }

    /// Where a run would find a model that it has fetched from the hub.
    fn add_to_hub_cache(&self, name: &str, folder: &Path) {
        let model = self.tiny.path(&format!("hub/models--{name}"));
        fs::create_dir_all(model.join("refs")).expect("a folder");
        fs::create_dir_all(model.join("snapshots")).expect("a folder");
        fs::write(model.join("refs/main"), "tiny").expect("a file");
        std::os::unix::fs::symlink(folder, model.join("snapshots/tiny")).expect("a link");
    }

    fn configs(&self) -> PathBuf {
        self.tiny.path("configs/paper")
    }

    fn shrink_run_files(&self) {
        let tables = self.configs().join("tables");
        fs::create_dir_all(&tables).expect("a folder");
        for path in yaml_files(&committed()) {
            fs::write(self.configs().join(name(&path)), shrunk(&read(&path))).expect("a file");
        }
        for path in yaml_files(&committed().join("tables")) {
            fs::copy(&path, tables.join(name(&path))).expect("a file");
        }
    }

    /// Texts of each recipe, English where it has English and German where it has another language.
    fn write_corpora(&self) {
        for recipe in yaml_files(&committed().join("data")) {
            let corpus = recipe.file_stem().expect("a name").to_string_lossy().into_owned();
            let is_english_first = corpus.contains(".en-");
            let folder = self.configs().join("data").join(corpus);
            fs::create_dir_all(&folder).expect("a folder");
            for (split, from, count) in
                [("train", "train.tsv", 60), ("valid", "valid.tsv", 4), ("test", "valid.tsv", 4)]
            {
                let text = read(&self.tiny.path(from));
                let pairs = text.lines().take(count).map(|line| {
                    let (german, english) = line.split_once('\t').expect("two columns");
                    match is_english_first {
                        true => format!("{english}\t{german}\n"),
                        false => format!("{german}\t{english}\n"),
                    }
                });
                let text: String = pairs.collect();
                fs::write(folder.join(format!("{split}.tsv")), text).expect("a file");
            }
        }
        fs::copy(self.tiny.path("mono.en"), self.configs().join("data/mono.en")).expect("a file");
    }

    /// A table's rows, launched up to so many steps: the rows of its Markdown, and what was said.
    fn reproduce(&self, table: &str, steps: u64) -> (Vec<Vec<String>>, String) {
        let mut command = program("tandem");
        command.current_dir(self.tiny.path(""));
        command.env("HF_HUB_CACHE", self.tiny.path("hub")).env("HF_HUB_OFFLINE", "1");
        command.args(["reproduce", table, "--set", &format!("training.steps={steps}")]);
        command.arg("--output").arg(self.tiny.path("tables"));
        let ended = expect_code(&mut command, 0);
        let lines = ended.stdout.lines().filter(|line| line.starts_with("| ")).skip(1);
        let cells = |line: &str| line.split(" | ").map(|cell| cell.trim().to_owned()).collect();
        (lines.map(cells).collect(), ended.stderr)
    }
}

fn committed() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs/paper")
}

fn yaml_files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry"));
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    files.retain(|path| path.extension().is_some_and(|end| end == "yaml"));
    files.sort();
    files
}

fn name(path: &Path) -> String {
    path.file_name().expect("a name").to_string_lossy().into_owned()
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A run file with all its parts, each as small as the tiny BERTs, for one worker and a few steps.
fn shrunk(run: &str) -> String {
    let line = |line: &str| {
        if line == "cluster:" {
            return "cluster:\n  threads: 1\n  device: cpu\n".to_owned();
        }
        let (key, value) = line.split_once(": ").unwrap_or((line, ""));
        let number = value.split_whitespace().next().and_then(|word| word.parse::<u64>().ok());
        let tiny = match (key.trim_start(), number) {
            (_, None | Some(0)) => return inline(line) + "\n",
            ("layers" | "heads", _) => 2,
            ("hidden", _) => 32,
            ("feed_forward", _) => 64,
            ("dim", _) => 16,
            ("max_length", _) => 24,
            ("steps" | "every", _) => STEPS,
            ("max_tokens", _) => 512, // as many as a sentence may have
            ("micro_batches" | "workers", _) => 1,
            _ => return line.to_owned() + "\n",
        };
        format!("{key}: {tiny}\n")
    };
    run.lines().map(line).collect()
}

/// A line with the numbers inside of a value in braces shrunk.
fn inline(line: &str) -> String {
    let line = line.replace("{top: 6}", "{top: 1}");
    let Some((before, after)) = line.split_once("warmup: ") else { return line };
    format!("{before}warmup: 1{}", after.trim_start_matches(|letter: char| letter.is_ascii_digit()))
}

/// The attempts of a run that has finished: from which step to which.
fn attempts(run: &Path) -> Vec<(u64, u64)> {
    let state: Value = serde_json::from_str(&read(&run.join("state.json"))).expect("JSON");
    assert_eq!((&state["status"], &state["stage"]), (&"done".into(), &"finished".into()));
    let attempts = state["attempts"].as_array().expect("attempts").iter();
    let step = |attempt: &Value, key: &str| attempt[key].as_u64().expect("a step");
    attempts.map(|attempt| (step(attempt, "from"), step(attempt, "to"))).collect()
}

/// Every row of a table has a number when it has been launched up to so many steps.
fn check_rows(paper: &Paper, table: &Path, steps: u64) {
    let text = read(table);
    let table = table.file_stem().expect("a name").to_string_lossy().into_owned();
    let is_about_speed = text.contains("\nuntrained: true\n");
    if is_about_speed && steps > STEPS {
        return; // it has measured other runs
    }
    let rows = text.matches("\n  - data: ").count();
    assert!(rows > 2, "{table}");
    let (found, said) = paper.reproduce(&table, steps);
    assert_eq!(found.len(), rows, "{table}: {said}");
    // Tokenised BLEU, or milliseconds for a sentence.
    let column = if is_about_speed { 9 } else { 3 };
    for row in found {
        let last = row.last().map_or("", String::as_str);
        if is_about_speed && last.starts_with("this machine has no GPU") {
            continue;
        }
        assert!(row[column].parse::<f64>().is_ok(), "{table}: {row:?}\n{said}");
    }
}

#[test]
fn every_row_is_trained_resumed_decoded_and_scored() {
    let paper = Paper::new();
    // All tables make few steps before any makes more: some share runs, which do not go back.
    for steps in [STEPS, MORE_STEPS] {
        for table in yaml_files(&committed().join("tables")) {
            check_rows(&paper, &table, steps);
        }
    }
    let runs = fs::read_dir(paper.tiny.path("runs")).expect("a folder");
    let mut runs: Vec<PathBuf> = runs.map(|entry| entry.expect("an entry").path()).collect();
    runs.retain(|run| run.join("state.json").exists()); // none where only the speed was measured
    for run in &runs {
        let scores = run.join(format!("evaluation/test-step-{MORE_STEPS:08}/scores.json"));
        if scores.exists() {
            assert_eq!(attempts(run), [(0, STEPS), (STEPS, MORE_STEPS)], "{}", run.display());
            assert!(read(&scores).contains("bleu_13a"), "{}", scores.display());
        } else {
            let is_teacher = TEACHERS.iter().any(|teacher| name(run).ends_with(teacher));
            assert!(is_teacher, "{} is no row's and was not taken up", run.display());
            assert_eq!(attempts(run), [(0, STEPS)], "{}", run.display());
        }
    }
    for file in yaml_files(&committed()) {
        let is_covered = runs.iter().any(|run| run.file_name() == file.file_stem());
        assert!(is_covered, "no row needs the run {}", file.display());
    }
}
