//! BERTs by their names on the hub, fetched from a stand-in for it on this machine.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tandem_tests::{expect_code, program};

/// Serves the models in a folder as the hub does: `/{model}/resolve/main/{file}`, with ranges.
struct Hub {
    endpoint: String,
    requests: Arc<AtomicUsize>,
}

impl Hub {
    fn new(models: &Path) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let endpoint = format!("http://{}", listener.local_addr().expect("an address"));
        let requests = Arc::new(AtomicUsize::new(0));
        let (counter, models) = (Arc::clone(&requests), models.to_path_buf());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                counter.fetch_add(1, Ordering::SeqCst);
                let models = models.clone();
                std::thread::spawn(move || answer(stream, &models));
            }
        });
        Self { endpoint, requests }
    }
}

/// Answers one request, and closes.
fn answer(mut stream: TcpStream, models: &Path) -> Option<()> {
    let mut lines = BufReader::new(stream.try_clone().ok()?).lines().map_while(Result::ok);
    let request = lines.next()?;
    let mut range = None;
    for line in lines.take_while(|line| !line.is_empty()) {
        if let Some((name, value)) = line.split_once(": bytes=")
            && name.eq_ignore_ascii_case("range")
        {
            range = value.split_once('-').map(|(from, to)| (from.to_owned(), to.to_owned()));
        }
    }
    if request.contains(" /api/models/") {
        let list = r#"{"siblings":[{"rfilename":"config.json"},{"rfilename":"pytorch_model.bin"}],"sha":"0"}"#;
        let length = list.len();
        let head =
            format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
        return stream.write_all((head + list).as_bytes()).ok();
    }
    let (model, file) = request.split(' ').nth(1)?.split_once("/resolve/main/")?;
    let path = models.join(model.trim_start_matches('/')).join(file);
    let Ok(bytes) = std::fs::read(path) else {
        let head = "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
        return stream.write_all(head.as_bytes()).ok();
    };
    let (from, to) = range.unwrap_or_default();
    let from: usize = from.parse().unwrap_or(0);
    let to = to.parse().map_or(bytes.len(), |to: usize| (to + 1).min(bytes.len()));
    let part = bytes.get(from..to).unwrap_or_default();
    let head = format!(
        "HTTP/1.1 206 Partial Content\r\nContent-Length: {}\r\nContent-Range: bytes {from}-{}/{}\r\n\
         ETag: \"{file}-1\"\r\nX-Repo-Commit: 0123456789abcdef\r\nConnection: close\r\n\r\n",
        part.len(),
        to.saturating_sub(1),
        bytes.len()
    );
    stream.write_all(head.as_bytes()).ok()?;
    stream.write_all(part).ok()
}

fn config(folder: &Path, encoder: &str) -> PathBuf {
    let text = format!(
        "run: {{ name: run, folder: {} }}
data:
  train: {{ tsv: {{ path: train.tsv, source: 1, target: 2 }} }}
  max_length: 12
model:
  encoder: {{ bert: {{ pretrained: {encoder}, adapters: {{ dim: 8 }} }} }}
  decoder: {{ bert: {{ pretrained: tandem/target_bert, cross_attention: {{ heads: 1 }} }} }}
  objective: {{ masked: {{ length_classes: 16 }} }}
training: {{ steps: 1, max_tokens: 64, micro_batches: 1, schedule: {{ constant: {{ rate: 0.001 }} }} }}
evaluation: {{ every: 0 }}
cluster: {{ engine: solo, workers: 1, threads: 1, device: cpu }}
",
        folder.display()
    );
    std::fs::write(folder.join("train.tsv"), "a b\ta b\n".repeat(4)).expect("a file");
    let path = folder.join("hub.yaml");
    std::fs::write(&path, text).expect("a file");
    path
}

#[test]
fn models_are_fetched_once_into_the_usual_cache() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let models = folder.path().join("hub/tandem");
    std::fs::create_dir_all(&models).expect("a folder");
    let golden = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/golden/tiny-a"));
    std::os::unix::fs::symlink(golden.join("source_bert"), models.join("source_bert"))
        .expect("a link");
    let target = models.join("target_bert");
    std::fs::create_dir(&target).expect("a folder");
    for file in ["config.json", "model.safetensors", "vocab.txt"] {
        let from = golden.join("target_bert").join(file);
        std::os::unix::fs::symlink(from, target.join(file)).expect("a link");
    }
    let casing = r#"{"do_lower_case": true, "strip_accents": false}"#;
    std::fs::write(target.join("tokenizer_config.json"), casing).expect("a file");
    let hub = Hub::new(&folder.path().join("hub"));
    let cache = folder.path().join("cache");
    let config = config(folder.path(), "tandem/source_bert");
    let run = |code: i32, offline: bool| {
        let mut command = program("tandem");
        command.arg("launch").arg(&config).env("HF_HOME", &cache).env("HF_ENDPOINT", &hub.endpoint);
        if offline {
            command.env("HF_HUB_OFFLINE", "1");
        }
        expect_code(&mut command, code).stderr
    };

    let said = run(1, true);
    assert!(
        said.contains("`tandem/source_bert` is neither a folder nor in the hub's cache"),
        "{said}"
    );
    assert_eq!(hub.requests.load(Ordering::SeqCst), 0, "offline means offline");

    run(0, false);
    let snapshot = cache.join("hub/models--tandem--source_bert/snapshots/0123456789abcdef");
    assert!(snapshot.join("model.safetensors").is_file());
    assert!(!snapshot.join("tokenizer_config.json").exists(), "the hub has none");
    let snapshot = cache.join("hub/models--tandem--target_bert/snapshots/0123456789abcdef");
    let fetched = std::fs::read_to_string(snapshot.join("tokenizer_config.json"));
    assert_eq!(fetched.expect("the file beside the vocabulary"), casing);
    let requests = hub.requests.load(Ordering::SeqCst);
    run(0, true);
    assert_eq!(hub.requests.load(Ordering::SeqCst), requests, "the cache serves");

    // The model is used with another cache, which has its BERTs or fetches them by their names.
    let input = folder.path().join("input");
    std::fs::write(&input, "a b\n").expect("a file");
    let translate = |cache: &Path, offline: &str, code: i32| {
        let mut command = program("tandem");
        command.arg("translate").arg(folder.path().join("run")).arg("--input").arg(&input);
        command.env("HF_HOME", cache).env("HF_ENDPOINT", &hub.endpoint);
        let ended = expect_code(command.env("HF_HUB_OFFLINE", offline), code);
        (ended.stdout, ended.stderr)
    };
    let (before, _) = translate(&cache, "1", 0);
    let moved = folder.path().join("moved");
    std::fs::rename(&cache, &moved).expect("one file system");
    assert_eq!(translate(&moved, "1", 0).0, before);
    let empty = folder.path().join("empty");
    let (_, said) = translate(&empty, "1", 1);
    assert!(said.contains("`tandem/source_bert` is neither a folder nor in the hub's"), "{said}");
    let (after, said) = translate(&empty, "0", 0);
    assert_eq!(after, before);
    assert!(said.contains("fetching `tandem/target_bert` from the hub"), "{said}");
}

#[test]
fn a_model_that_the_hub_lacks_is_named() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let hub = Hub::new(folder.path());
    let config = config(folder.path(), "tandem/nothing");
    let mut command = program("tandem");
    command.arg("launch").arg(&config).env("HF_ENDPOINT", &hub.endpoint);
    command.env("HF_HOME", folder.path().join("cache"));
    let said = expect_code(&mut command, 1).stderr;
    assert!(said.contains("cannot fetch config.json of `tandem/nothing`"), "{said}");
    assert!(said.contains("404"), "{said}");
    assert!(!folder.path().join("run/logs").exists(), "nothing started");
}

#[test]
fn a_model_that_the_hub_has_as_a_pickle_is_told_with_the_way_out() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let model = folder.path().join("hub/tandem/pickled");
    std::fs::create_dir_all(&model).expect("a folder");
    let golden = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/golden/tiny-a/source_bert"));
    for file in ["config.json", "vocab.txt"] {
        std::fs::copy(golden.join(file), model.join(file)).expect("a file");
    }
    let hub = Hub::new(&folder.path().join("hub"));
    let config = config(folder.path(), "tandem/pickled");
    let launch = |variable: &str, code: i32| {
        let mut command = program("tandem");
        command.arg("launch").arg(&config).env("HF_ENDPOINT", &hub.endpoint).env(variable, "1");
        command.env("HF_HOME", folder.path().join("cache"));
        expect_code(&mut command, code).stderr
    };
    let said = launch("TRANSFORMERS_OFFLINE", 1);
    assert!(said.contains("and TRANSFORMERS_OFFLINE is set; unset it"), "{said}");
    let said = launch("TANDEM_NOTHING", 2);
    assert!(
        said.contains("only as pytorch_model.bin, which Tandem does not load; convert"),
        "{said}"
    );
    assert!(said.contains("M.from_pretrained(\"tandem/pickled\")"), "{said}");
}
