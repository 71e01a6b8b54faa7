//! `tandem serve`: what is asked over HTTP is translated as by `tandem translate`, whatever happens to the worker.

use std::fs;
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::net::TcpStream;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tandem_tests::launch::Launch;
use tandem_tests::live::{Run, eventually, send};
use tandem_tests::{Ended, Tiny, expect_code, program, python};
use ureq::http::Response;
use ureq::{Agent, Body};

/// On a busy machine, threads would wait for each other.
const ONE_THREAD: [&str; 2] = ["--set", "cluster.threads=1"];

/// What `tandem translate` makes of the lines of a file.
fn translate(run: &Path, lines: &Path) -> Vec<String> {
    let mut command = program("tandem");
    command.arg("translate").arg(run).arg("--input").arg(lines).args(ONE_THREAD);
    let output = expect_code(&mut command, 0);
    output.stdout.lines().map(str::to_owned).collect()
}

/// A trained model, and what `tandem translate` makes of lines.
struct Model {
    tiny: Arc<Tiny>,
    lines: Vec<String>,
    translations: Vec<String>,
}

impl Model {
    /// The one that the tests of this file share.
    fn shared() -> Arc<Self> {
        static SHARED: Mutex<Weak<Model>> = Mutex::new(Weak::new());
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        shared.upgrade().unwrap_or_else(|| {
            let model = Arc::new(Self::new());
            *shared = Arc::downgrade(&model);
            model
        })
    }

    fn new() -> Self {
        let tiny = Arc::new(Tiny::new());
        let mut command = program("tandem");
        command.arg("launch").arg(tiny.ab_net("model", 1, 0.0));
        // Long enough that different sentences have different translations.
        let sets = ["training.steps=300", "evaluation.every=0", "checkpoints.every=100"];
        for set in sets {
            command.args(["--set", set]);
        }
        expect_code(&mut command, 0);
        let text = fs::read_to_string(tiny.path("mono.de")).expect("a text");
        let lines: Vec<String> = text.lines().map(str::to_owned).collect();
        let translations = translate(&tiny.path("model"), &tiny.path("mono.de"));
        assert_eq!(translations.len(), lines.len());
        let different = translations.iter().collect::<std::collections::BTreeSet<_>>();
        assert!(different.len() > 20, "the model says the same of everything");
        Self { tiny, lines, translations }
    }
}

/// A server of the shared model, under a name of its own.
struct Server {
    launch: Launch,
    run: Run,
    url: String,
    agent: Agent,
}

impl Server {
    fn start(model: &Model, name: &str, options: &[&str]) -> Self {
        let run = Run::of(&model.tiny, model.tiny.path("model.yaml"), name, &[]);
        symlink(model.tiny.path("model"), run.folder()).expect("a link");
        let mut command = run.tandem(&["serve", "--bind", "127.0.0.1:0"]);
        command.arg(run.folder()).args(ONE_THREAD).args(options);
        let launch = run.spawn(command);
        let mut url = None;
        eventually("it listens", || {
            let said = launch.stderr();
            let rest = said.strip_prefix("serving on ").and_then(|rest| rest.split_once(','));
            url = rest.map(|(url, _)| url.to_owned());
            url.is_some()
        });
        let url = url.expect("it listens");
        let config = Agent::config_builder().http_status_as_error(false);
        let agent = config.timeout_global(Some(Duration::from_secs(120))).build().new_agent();
        let server = Self { launch, run, url, agent };
        eventually("the model is loaded", || server.get("/health").0 == 200);
        server
    }

    fn get(&self, path: &str) -> (u16, String) {
        let url = format!("{}{path}", self.url);
        answer(self.agent.get(url).call().expect("an answer"))
    }

    fn post(&self, path: &str, media_type: &str, body: &str) -> Response<Body> {
        let request = self.agent.post(format!("{}{path}", self.url));
        request.header("Content-Type", media_type).send(body).expect("an answer")
    }

    fn ask(&self, asked: &Value) -> (u16, Value) {
        let (status, text) =
            answer(self.post("/translate", "application/json", &asked.to_string()));
        (status, serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}")))
    }

    /// The translation of a text or a list.
    fn translate(&self, q: impl Into<Value>) -> Value {
        let (status, mut answer) = self.ask(&json!({ "q": q.into() }));
        assert_eq!(status, 200, "{answer}");
        answer["translatedText"].take()
    }

    /// The error of a request, which must have this status.
    fn error(&self, asked: &Value, expected: u16) -> String {
        let (status, answer) = self.ask(asked);
        assert_eq!(status, expected, "{answer}");
        answer["error"].as_str().expect("words").to_owned()
    }

    fn metrics(&self) -> Value {
        python::read("read_metrics.py", format!("{}/metrics", self.url))
    }

    /// The only sample of a metric.
    fn metric(&self, name: &str) -> f64 {
        let metrics = self.metrics();
        metrics[name][0][1].as_f64().unwrap_or_else(|| panic!("{name}: {metrics}"))
    }

    fn worker(&self) -> u32 {
        let mut found = Vec::new();
        eventually("there is a worker", || {
            found = self.run.workers();
            found.len() == 1
        });
        found[0]
    }

    /// A connection of its own, on which this has been sent.
    fn connect(&self, sent: &str) -> TcpStream {
        let address = self.url.strip_prefix("http://").expect("an address");
        let mut stream = TcpStream::connect(address).expect("a connection");
        stream.write_all(sent.as_bytes()).expect("room in a socket");
        stream
    }

    /// Asks it to stop, and waits for its end, of which no process may be left.
    fn stop(self) -> Ended {
        self.launch.signal("TERM");
        self.wait()
    }

    fn wait(self) -> Ended {
        let ended = self.launch.wait(0);
        self.run.assert_no_process();
        ended
    }
}

fn answer(mut response: Response<Body>) -> (u16, String) {
    let text = response.body_mut().read_to_string().expect("a body");
    (response.status().as_u16(), text)
}

#[test]
fn everybody_gets_the_translations_of_the_verb() {
    let model = Model::shared();
    let options = ["--max-chars", "50000", "--source", "de", "--target", "en"];
    let server = Server::start(&model, "everybody", &options);
    assert_eq!(server.translate(&*model.lines), json!(model.translations));
    // One sentence a request, 32 at a time.
    thread::scope(|scope| {
        for client in 0..32 {
            let (model, server) = (&model, &server);
            scope.spawn(move || {
                for place in (client..model.lines.len()).step_by(32) {
                    let translation = server.translate(&*model.lines[place]);
                    assert_eq!(translation, json!(model.translations[place]));
                }
            });
        }
    });
    // A text keeps its lines, also the empty ones; an empty text in a list stays empty.
    let [one, two] = [0, 1].map(|place| &model.lines[place]);
    let [first, second] = [0, 1].map(|place| &model.translations[place]);
    let text = json!([format!("{one}\n\n{two}\n"), "", two]);
    assert_eq!(server.translate(text), json!([format!("{first}\n\n{second}"), "", second]));
    // As LibreTranslate's clients ask.
    let form = format!("q={}&source=auto&target=en&format=text", one.replace(' ', "+"));
    let found = answer(server.post("/translate", "application/x-www-form-urlencoded", &form));
    assert_eq!(found, (200, json!({ "translatedText": first }).to_string()));
    let (status, languages) = server.get("/languages");
    assert_eq!(status, 200);
    let languages: Value = serde_json::from_str(&languages).expect("JSON");
    assert_eq!(languages[0], json!({ "code": "de", "name": "de", "targets": ["en"] }));
    let page = server.agent.get(&server.url).call().expect("a page");
    let policy = page.headers().get("content-security-policy").expect("a policy").to_str();
    assert!(policy.is_ok_and(|policy| policy.starts_with("default-src 'none';")));
    assert!(answer(page).1.contains("<textarea"));

    let sentences = 2.0 * model.lines.len() as f64 + 5.0;
    assert_eq!(server.metric("tandem_serve_sentences_total"), sentences);
    assert_eq!(server.metric("tandem_serve_queued_sentences"), 0.0);
    assert_eq!(server.metric("tandem_serve_ready"), 1.0);
    assert_eq!(server.metric("tandem_serve_batch_sentences_sum"), sentences);
    let batches = server.metric("tandem_serve_batch_sentences_count");
    assert!(batches < 0.7 * sentences, "{batches} batches: sentences are not gathered");
    let requests = server.metrics()["tandem_serve_requests_total"].clone();
    let asked = json!([{ "path": "/translate", "status": "200" }, model.lines.len() + 3]);
    assert!(requests.as_array().is_some_and(|found| found.contains(&asked)), "{requests}");
    server.stop().assert_said("everything was answered");
}

#[test]
fn what_cannot_be_translated_is_refused_with_the_reason() {
    let model = Model::shared();
    let options = "--max-chars 400 --queue 4 --timeout 2 --source de --target en";
    let options: Vec<&str> = options.split(' ').collect();
    let server = Server::start(&model, "refused", &options);
    let long = "eins ".repeat(30);
    let cases = [
        (json!([1]), 400, "the request is JSON, but no object"),
        (json!({}), 400, "the request has no q"),
        (json!({ "q": 7 }), 400, "q is neither a string nor a list of strings"),
        (json!({ "q": ["a", 7] }), 400, "q is a list of something else than strings"),
        (json!({ "q": " \n" }), 400, "q is empty"),
        (json!({ "q": [] }), 400, "q is empty"),
        (
            json!({ "q": "a".repeat(401) }),
            400,
            "401 characters, and the server takes at most 400 (--max-chars)",
        ),
        (
            json!({ "q": "a\n".repeat(5) }),
            400,
            "q has 5 lines, and the server takes at most 4 at a time (--queue)",
        ),
        (json!({ "q": long }), 400, "longer than the model's 24 tokens (data.max_length"),
        (
            json!({ "q": "eins", "source": "fr" }),
            400,
            "source is \"fr\", and this model translates from de to en",
        ),
        (json!({ "q": "eins", "target": "auto" }), 400, "target is \"auto\""),
        (json!({ "q": "eins", "format": "html" }), 400, "only \"text\" is translated"),
        (json!({ "q": "a".repeat(40_000) }), 413, "(--max-chars)"),
    ];
    for (asked, status, words) in cases {
        let error = server.error(&asked, status);
        assert!(error.contains(words), "{asked}: {error}");
    }
    let json_as_form = answer(server.post("/translate", "application/x-www-form-urlencoded", "{}"));
    assert!(json_as_form.1.contains("JSON needs the header Content-Type"), "{json_as_form:?}");
    let (status, broken) = answer(server.post("/translate", "application/json", "{\"q\": "));
    assert!(status == 400 && broken.contains("the request is no JSON: EOF"), "{broken}");
    let head = "POST /translate HTTP/1.1\r\nHost: here\r\nContent-Length: 9\r\n\r\n";
    let mut status = String::new();
    let mut answer_of_none = BufReader::new(server.connect(head));
    answer_of_none.read_line(&mut status).expect("an answer");
    assert_eq!(status.trim_end(), "HTTP/1.1 408 Request Timeout");
    assert_eq!(server.get("/nothing").0, 404);
    assert_eq!(server.get("/translate").0, 405);
    // A stream cannot refuse a line when it has begun: it translates the beginning, as the verb does.
    let lines = format!("{long}\n{}\n", model.lines[0]);
    let expected = translate(server.run.folder(), &model.tiny.write("long.txt", &lines));
    let (status, text) = answer(server.post("/translate/stream", "text/plain", &lines));
    assert_eq!(
        (status, text.lines().collect::<Vec<_>>()),
        (200, expected.iter().map(|s| &**s).collect())
    );
    assert_eq!(server.metric("tandem_serve_cut_sentences_total"), 2.0, "one was refused");

    // A worker that does not get on.
    let worker = server.worker();
    send(worker, "STOP");
    thread::scope(|scope| {
        let late = scope.spawn(|| server.error(&json!({ "q": ["a", "b", "c", "d"] }), 504));
        eventually("the queue is full", || server.metric("tandem_serve_queued_sentences") == 4.0);
        let body = json!({ "q": "eins" }).to_string();
        let full = server.post("/translate", "application/json", &body);
        assert_eq!(
            full.headers().get("retry-after").map(|value| value.as_bytes()),
            Some(&b"1"[..])
        );
        let (status, error) = answer(full);
        assert!(status == 503 && error.contains("(--queue 4)"), "{error}");
        let late = late.join().expect("an answer");
        assert_eq!(late, "there was no translation within 2 s (--timeout)");
    });
    send(worker, "CONT");
    eventually("there is room again", || server.metric("tandem_serve_queued_sentences") == 0.0);
    assert_eq!(server.translate(&*model.lines[0]), json!(model.translations[0]));
    server.stop();
}

#[test]
fn a_worker_that_is_killed_costs_no_answer_and_a_stop_neither() {
    let model = Model::shared();
    let options = ["--max-chars", "50000", "--set", "cluster.max_restarts=2"];
    let server = Server::start(&model, "killed", &options);
    // Lines come back in their order while the worker is killed.
    let repeated = 5;
    let lines = (model.lines.join("\n") + "\n").repeat(repeated);
    let first = server.worker();
    let stream = server.post("/translate/stream", "text/plain", &lines);
    assert_eq!(stream.status().as_u16(), 200);
    let mut found = Vec::new();
    for line in BufReader::new(stream.into_body().into_reader()).lines() {
        if found.len() == 100 {
            send(first, "KILL");
        }
        found.push(line.expect("a line"));
    }
    let expected = vec![model.translations.clone(); repeated].concat();
    assert!(found == expected, "other lines came back");
    assert_ne!(server.worker(), first);
    assert_eq!(server.metric("tandem_serve_worker_restarts_total"), 1.0);
    eventually("it is healthy again", || server.get("/health").0 == 200);

    // It is killed with a request in its hands, and is asked to stop before it is back.
    let second = server.worker();
    send(second, "STOP");
    let ended = thread::scope(|scope| {
        let asked = scope.spawn(|| server.translate(&*model.lines));
        let all = model.lines.len() as f64;
        eventually("it is queued", || server.metric("tandem_serve_queued_sentences") == all);
        send(second, "KILL");
        eventually("its death is noticed", || server.get("/health").0 == 503);
        server.launch.signal("TERM");
        eventually("nobody can connect", || {
            server.agent.get(format!("{}/health", server.url)).call().is_err()
        });
        asked.join().expect("an answer")
    });
    assert_eq!(ended, json!(model.translations));
    let ended = server.wait();
    for words in
        ["ended by signal 9", "starting the worker again in 0.5 s", "everything was answered"]
    {
        ended.assert_said(words);
    }
}

/// Only the server's own deadlines end what these clients do.
#[test]
fn who_neither_reads_nor_writes_holds_nothing_up() {
    let model = Model::shared();
    let server = Server::start(&model, "idle", &["--timeout", "3"]);
    let request = "GET /metrics HTTP/1.1\r\nHost: here\r\n\r\n";
    let mut connection = server.connect(request);
    connection.set_nonblocking(true).expect("a socket");
    let mut failure = None;
    eventually("the connection of who does not read is closed", || {
        while failure.is_none() {
            match connection.write(request.as_bytes()) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => failure = Some(error.kind()),
            }
        }
        failure.is_some()
    });
    server.stop();

    let server = Server::start(&model, "waiting", &["--timeout", "3000"]);
    let (line, translation) = (&model.lines[0], &model.translations[0]);
    let length = line.len() + 1;
    let head =
        "POST /translate/stream HTTP/1.1\r\nHost: here\r\nTransfer-Encoding: chunked\r\n\r\n";
    let stream = server.connect(&format!("{head}{length:x}\r\n{line}\n\r\n"));
    let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
    assert!(lines.any(|line| line == *translation), "its line is answered");
    let stopping = Instant::now();
    server.stop();
    // The deadline for stopping is 120 s.
    assert!(stopping.elapsed() < Duration::from_secs(60), "a stream without lines keeps it");
    assert!(lines.all(|line| line != "0"), "a stream that is cut off must not look complete");
}

#[test]
fn a_server_that_cannot_start_says_why() {
    let model = Model::shared();
    let run = model.tiny.path("model");
    let refused = |run: &Path, options: &[&str]| {
        let mut command = program("tandem");
        let output = expect_code(command.arg("serve").arg(run).args(options), 2);
        output.stderr
    };
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address").to_string();
    assert!(refused(&run, &["--bind", &address]).contains(&format!("cannot listen on {address}")));
    let two = ["--bind", "127.0.0.1:0", "--set", "cluster.workers=2"];
    assert!(refused(&run, &two).contains("with one worker: leave cluster.workers out"));
    let none = refused(&model.tiny.path("nothing"), &[]);
    assert!(none.contains("is not a run folder"), "{none}");
    let bert = refused(&model.tiny.path("bert-de"), &["--bind", "127.0.0.1:0"]);
    assert!(bert.contains("mlm objective cannot translate"), "{bert}");
}
