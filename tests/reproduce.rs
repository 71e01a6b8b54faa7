//! Tables of the paper, at tiny size with the real programs.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tandem_tests::{Tiny, adapters, expect_code, program};

fn reproduce(tiny: &Tiny, arguments: &[&str]) -> Command {
    let configs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs/paper");
    let mut command = program("tandem");
    command.arg("reproduce").args(arguments).arg("--configs").arg(configs);
    command.arg("--output").arg(tiny.path("tables"));
    command
}

fn read(path: PathBuf) -> String {
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// What makes rows of figure 2 tiny.
fn tiny_settings(tiny: &Tiny) -> Vec<String> {
    let path = |name: &str| tiny.path(name).display().to_string();
    let pairs = |split: &str, file: &str| {
        format!("data.{split}={{tsv: {{path: {}, source: 1, target: 2}}}}", path(file))
    };
    vec![
        pairs("train", "train.tsv"),
        pairs("valid", "valid.tsv"),
        pairs("test", "valid.tsv"),
        format!("run.folder={}", path("runs")),
        format!("model.encoder.bert.pretrained={}", path("bert-de/export")),
        format!("model.decoder.bert.pretrained={}", path("bert-en/export")),
        "model.decoder.bert.cross_attention.heads=2".into(),
        "model.objective.masked.length_classes=40".into(),
        "data.max_length=24".into(),
        "training.steps=6".into(),
        "training.max_tokens=200".into(),
        "training.schedule={constant: {rate: 0.005}}".into(),
        "evaluation.every=3".into(),
        "evaluation.sentences=4".into(),
        "cluster={workers: 1, threads: 1, device: cpu}".into(),
    ]
}

#[test]
fn two_rows_of_a_figure_are_run_and_told_beside_the_papers() {
    let tiny = Tiny::new();
    let settings = tiny_settings(&tiny);
    let mut arguments = vec!["figure-2", "--only", "adapters 64 ", "--only", "adapters 128 "];
    settings.iter().for_each(|setting| arguments.extend(["--set", setting]));
    let ended = expect_code(&mut reproduce(&tiny, &arguments), 0);
    let text = read(tiny.path("tables/figure-2.md"));
    assert!(ended.stdout.contains(&text));
    for (width, bleu) in [(64, "34.81"), (128, "–")] {
        let row = format!("| IWSLT14 De-En | adapters {width} wide | {bleu} | ");
        let line = text.lines().find(|line| line.starts_with(&row));
        let cells: Vec<&str> = line.unwrap_or_else(|| panic!("{text}")).split(" | ").collect();
        assert!(cells[3].parse::<f64>().is_ok(), "no BLEU in {text}");
        assert!(cells[7].ends_with('M') && cells[9].parse::<f64>().is_ok(), "{text}");
        assert!(tiny.path(&format!("runs/iwslt14-de-en-adapters-{width}/report.md")).is_file());
    }
    assert!(text.contains("Each run here made 6 updates."), "{text}");
    let [decisive, free] = ["Changed for all runs: ", "launched for this: "].map(|label| {
        text.lines().find(|line| line.contains(label)).unwrap_or_else(|| panic!("{text}"))
    });
    assert!(decisive.contains("training.steps=6") && !decisive.contains("cluster="), "{decisive}");
    assert!(free.contains("cluster="), "{free}");
    assert!(text.contains("](figure-2.svg)\n"), "{text}");
    let page = read(tiny.path("tables/figure-2.html"));
    assert!(page.contains("<circle") && page.contains("adapters 128 wide"), "{page}");
    assert!(page.contains(&read(tiny.path("tables/figure-2.svg"))), "the drawing is the page's");

    let again = expect_code(&mut reproduce(&tiny, &arguments), 0);
    let said = again.stderr;
    assert!(!said.contains("start "), "finished runs were launched again: {said}");
    assert!(again.stdout.contains(&text));

    // Rows that are not wanted are not launched, and stay what they are.
    arguments.drain(3..5);
    expect_code(&mut reproduce(&tiny, &arguments), 0);
    assert_eq!(read(tiny.path("tables/figure-2.md")), text);
    assert!(text.contains("| adapters 1024 wide |") && text.contains("has not started"), "{text}");
    let nothing = expect_code(&mut reproduce(&tiny, &["figure-2", "--only", "no such row"]), 2);
    nothing.assert_said("no row matches");
}

#[test]
fn a_run_of_other_settings_is_not_shown_as_a_rows() {
    let tiny = Tiny::new();
    let settings = tiny_settings(&tiny);
    let row = |more: &[&str], code: i32| {
        let mut arguments = vec!["figure-2", "--only", "adapters 64 "];
        settings.iter().for_each(|setting| arguments.extend(["--set", setting]));
        arguments.extend(more);
        let ended = expect_code(&mut reproduce(&tiny, &arguments), code);
        let row = ended.stdout.lines().find(|line| line.contains("| adapters 64 wide |"));
        (row.unwrap_or_else(|| panic!("{ended:?}")).to_owned(), ended.stderr)
    };
    let bleu = |row: &str| row.split(" | ").nth(3).and_then(|cell| cell.parse::<f64>().ok());
    assert!(bleu(&row(&[], 0).0).is_some());
    for (setting, reason) in [
        ("seed=7", "its run was trained with `seed` 1, not 7"),
        (
            "decoding.mask_predict.iterations=3",
            "its run was scored with `decoding.mask_predict.iterations` 10, not 3",
        ),
        ("training.steps=4", "its run made 6 updates, not 4"),
    ] {
        for (read, code) in [(&["--read"][..], 0), (&[], 2)] {
            let (row, said) = row(&[&["--set", setting], read].concat(), code);
            assert!(row.contains(reason) && bleu(&row).is_none(), "{row}");
            assert!(!said.contains("start "), "{said}");
        }
    }
    let (longer, _) = row(&["--set", "training.steps=9", "--read"], 0);
    assert!(longer.contains("its run made 6 of 9 updates") && bleu(&longer).is_some(), "{longer}");
    // Whoever asked for something else has changed nothing.
    assert!(bleu(&row(&["--read"], 0).0).is_some());
}

/// Rows that are the same run, translated in different ways: it is trained once.
#[test]
fn a_run_is_translated_in_several_ways() {
    let tiny = Tiny::new();
    tiny.ab_net("masked", 1, 0.1);
    std::fs::create_dir(tiny.path("tables")).expect("a folder");
    let row = |system: &str, iterations: usize| {
        format!(
            "  - {{data: De-En, system: {system}, run: masked, decode: \
             [decoding.mask_predict.iterations={iterations}, cluster.threads=1]}}\n"
        )
    };
    let table =
        format!("title: 'Ways: two'\nfigure: speed\nrows:\n{}{}", row("ten", 10), row("one", 1));
    tiny.write("tables/ways.yaml", &table);
    let reproduce = |more: &[&str]| {
        let mut command = program("tandem");
        command.args(["reproduce", "ways"]).args(more).arg("--configs").arg(tiny.path(""));
        command.arg("--output").arg(tiny.path("made"));
        command
    };
    let text = || read(tiny.path("made/ways.md"));
    let cells = |system: &str| -> Vec<String> {
        let text = text();
        let line = text.lines().find(|line| line.starts_with(&format!("| De-En | {system} |")));
        line.unwrap_or_else(|| panic!("{text}")).split(" | ").map(str::to_owned).collect()
    };
    expect_code(&mut reproduce(&["--read"]), 0);
    assert!(text().contains("its run has not started"), "{}", text());
    // One row's run, another way of translating it.
    expect_code(&mut reproduce(&["--only", "ten"]), 0);
    assert!(cells("ten")[3].parse::<f64>().is_ok(), "{}", text());
    assert!(text().contains("its run has not been translated in this way"), "{}", text());
    let weights = adapters(&tiny.path("masked"), 12);
    let said = expect_code(&mut reproduce(&[]), 0).stderr;
    assert!(!said.contains("step 1/12"), "the run is not trained again: {said}");
    assert!(adapters(&tiny.path("masked"), 12) == weights);
    assert!(cells("one")[3].parse::<f64>().is_ok(), "{}", text());
    let iterations = "test-average-decoding.mask_predict.iterations";
    for ways in ["10", "1"] {
        let folder = format!("masked/evaluation/{iterations}={ways}-cluster.threads=1");
        let scores = tiny.path(&format!("{folder}/scores.json"));
        let scores: serde_json::Value = serde_json::from_str(&read(scores)).expect("JSON");
        let passes = scores["figures"]["passes"].as_f64().expect("passes");
        assert!(if ways == "1" { passes == 1.0 } else { passes > 1.0 }, "{ways}: {passes}");
    }
    assert!(read(tiny.path("made/ways.svg")).contains("sentences/s"));
    // What is there is only read; a run that needs more steps is trained on, and translated anew.
    let said = expect_code(&mut reproduce(&[]), 0).stderr;
    assert_eq!(said, "", "nothing is left to do");
    expect_code(&mut reproduce(&["--only", "one", "--set", "training.steps=15"]), 0);
    assert!(cells("one")[3].parse::<f64>().is_ok(), "{}", text());
    adapters(&tiny.path("masked"), 15);
}

/// `tandem reproduce latency` of two tiny rows.
fn latency(tiny: &Tiny, more: &[&str]) -> Command {
    let path = |name: &str| tiny.path(name).display().to_string();
    let pairs = |split: &str| {
        format!("data.{split}={{tsv: {{path: {}, source: 1, target: 2}}}}", path("valid.tsv"))
    };
    let learnt = "{learn: {size: 110, lowercase: false}}";
    let settings = [
        pairs("train"),
        pairs("valid"),
        pairs("test"),
        format!("run.folder={}", path("runs")),
        format!("model.encoder.transformer.vocabulary={learnt}"),
        format!("model.decoder.transformer.vocabulary={learnt}"),
        "model.encoder.transformer.hidden=32".into(),
        "model.decoder.transformer.hidden=32".into(),
        "model.encoder.transformer.max_length=32".into(),
        "model.decoder.transformer.max_length=32".into(),
        "evaluation.latency_sentences=3".into(),
        "cluster={workers: 1, threads: 1, device: cpu}".into(),
    ];
    let mut arguments = vec!["latency", "--only", "12 and 1 layers"];
    settings.iter().for_each(|setting| arguments.extend(["--set", setting]));
    arguments.extend(more);
    let mut command = reproduce(tiny, &arguments);
    command.env("CUDA_VISIBLE_DEVICES", "");
    command
}

#[test]
fn the_speed_of_untrained_models_is_measured_once() {
    let tiny = Tiny::texts();
    expect_code(&mut latency(&tiny, &[]), 0);
    let text = read(tiny.path("tables/latency.md"));
    let rows: Vec<&str> = text.lines().filter(|line| line.contains("12 and 1 layers")).collect();
    let (on_cpu, on_gpu): (Vec<&str>, Vec<&str>) =
        rows.into_iter().partition(|row| row.starts_with("| WMT14 En-De on a CPU |"));
    assert_eq!((on_cpu.len(), on_gpu.len()), (2, 2), "{text}");
    for row in on_cpu {
        let cells: Vec<&str> = row.split(" | ").collect();
        let is_speed = |cell: &str| cell.parse::<f64>().is_ok_and(|speed| speed > 0.0);
        assert!(is_speed(cells[9]) && is_speed(cells[10]), "{row}");
        assert!(row.contains("on 1 thread of a CPU"), "{row}");
    }
    assert!(on_gpu.iter().all(|row| row.contains("this machine has no GPU")), "{on_gpu:?}");
    assert!(!text.contains("updates"), "{text}");
    assert!(read(tiny.path("tables/latency.html")).contains("milliseconds here"));

    let again = expect_code(&mut latency(&tiny, &[]), 0);
    assert!(again.stdout.contains(&text), "the same figures");
    assert!(again.stderr.is_empty(), "{}", again.stderr);
    expect_code(&mut latency(&tiny, &["--read"]), 0);
    let figures = |text: &str| {
        let rows = text.lines().filter(|line| line.contains("on 1 thread of a CPU"));
        rows.map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(figures(&read(tiny.path("tables/latency.md"))), figures(&text));
    let other = ["--set", "cluster.threads=2"];
    let said = expect_code(&mut latency(&tiny, &other), 2).stdout;
    assert!(said.contains("its speed was measured with `cluster.threads` 1, not 2"), "{said}");
}

#[test]
fn a_measurement_that_is_stopped_goes_on_with_the_rows_that_are_left() {
    let tiny = Tiny::texts();
    let mut command = latency(&tiny, &[]);
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("tandem");
    let mut said = BufReader::new(child.stderr.take().expect("a pipe")).lines();
    let begun = said.next().expect("a line").expect("text");
    assert!(begun.contains("12 and 1 layers"), "{begun}");
    // SAFETY: a signal to a child that has not been waited for.
    unsafe { libc::kill(child.id() as libc::pid_t, libc::SIGTERM) };
    assert_eq!(child.wait().expect("an end").code(), Some(75));
    expect_code(&mut latency(&tiny, &[]), 0).assert_said("12 and 1 layers");
}

#[test]
fn rows_that_cannot_be_launched_say_why() {
    let tiny = Tiny::texts();
    let text = expect_code(&mut reproduce(&tiny, &["1", "--read"]), 0).stdout;
    assert!(text.contains("| IWSLT14 De-En | AB-Net | 36.49 | – |"), "{text}");
    assert!(text.contains("there is no file"), "{text}");
    for table in ["1", "latency"] {
        let ended = expect_code(&mut reproduce(&tiny, &[table]), 2);
        assert!(ended.stdout.contains("there is no file"));
    }
    for read in [&["--read"][..], &[]] {
        let words = [&["1", "--set", "seed"], read].concat();
        let ended = expect_code(&mut reproduce(&tiny, &words), 2);
        ended.assert_said("--set seed: must be path.to.key=value");
    }
    expect_code(&mut reproduce(&tiny, &["5"]), 2);
    expect_code(&mut reproduce(&tiny, &["1", "--set", "run.name=x"]), 2);
}
