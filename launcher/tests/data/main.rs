//! `tandem data` with the real program, against a stand-in for the hosts of the corpora.

mod corpora;
mod server;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use corpora::{READ, USABLE, gzip, iwslt, iwslt_members, lines, sgm, sha256, tar, tgz};
use serde_json::Value;
use server::{Served, Server};
use tandem_tests::{expect_code, program};
use tempfile::TempDir;

const DE_EN: &str = "iwslt14-de-en.tgz";

/// A folder with recipes, and a host.
struct World {
    folder: TempDir,
    server: Server,
}

impl World {
    /// With the recipe `name` of the paper, in which texts may be replaced.
    fn new(name: &str, replace: &[(&str, &str)]) -> Self {
        let world = Self {
            folder: tempfile::tempdir().expect("a temporary folder"),
            server: Server::new(),
        };
        let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs/paper/data");
        let mut text = fs::read_to_string(shipped.join(format!("{name}.yaml"))).expect("a recipe");
        for (from, to) in replace {
            assert!(text.contains(from), "{name} has no {from}");
            text = text.replace(from, to);
        }
        fs::write(world.path(&format!("{name}.yaml")), text).expect("a file");
        world
    }

    /// German-English, which the host has.
    fn german() -> Self {
        let world = Self::new("iwslt14.de-en", &[]);
        world.server.serve(DE_EN, &iwslt("de", true));
        world
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self, name: &str, more: &[&str]) -> Command {
        let mut command = program("tandem");
        command.arg("data").arg(self.path(&format!("{name}.yaml"))).args(more);
        // Whatever proxy this machine has: the host is on this machine.
        command.env("NO_PROXY", "127.0.0.1").env("no_proxy", "127.0.0.1");
        command
    }

    /// What the program says, of which the exit code must be this.
    fn run(&self, name: &str, more: &[&str], code: i32) -> String {
        let ended = expect_code(&mut self.command(name, more), code);
        ended.stdout + &ended.stderr
    }

    /// The same, from the stand-in.
    fn fetch(&self, name: &str, code: i32) -> String {
        self.run(name, &["--from", &self.server.address], code)
    }

    fn rows(&self, table: &str) -> Vec<String> {
        let text = fs::read_to_string(self.path(table)).expect("a table");
        text.lines().map(str::to_owned).collect()
    }

    fn json(&self, name: &str) -> Value {
        serde_json::from_slice(&fs::read(self.path(name)).expect("a file")).expect("JSON")
    }

    /// Nothing under the final name, nothing half-made, nothing trusted.
    fn assert_nothing_made(&self, name: &str) {
        assert!(!self.path(name).exists());
        assert!(!self.path(&format!(".{name}.draft")).exists());
        assert!(!self.path("archives.lock").exists());
    }
}

#[test]
fn german_english_is_prepared_like_fairseqs_script_does() {
    let world = World::german();
    let said = world.fetch("iwslt14.de-en", 0);
    let archive = iwslt("de", true);
    let hash = sha256(&archive);
    assert!(said.contains(&hash) && said.contains("archives.lock"), "{said}");
    for warning in [
        format!("warning: train: {READ} pairs were read from the archives, 174443 were expected"),
        format!("train: {} pairs were kept, 160239 were expected", USABLE - 2),
        "valid: 2 pairs were kept, 7283 were expected".into(),
        "test: 10 pairs were kept, 6750 were expected".into(),
        format!("has {} bytes, the recipe says 19982877", archive.len()),
    ] {
        assert!(said.contains(&warning), "{warning}: {said}");
    }
    let train = world.rows("iwslt14.de-en/train.tsv");
    assert_eq!(train[0], "de: Titel 0\ten: Titel 0");
    assert_eq!(train[1], "de: Größe & Maß 0\ten: Größe & Maß 0");
    // Of 50 cleaned pairs the 23rd and the 46th; two titles and descriptions come before line 0.
    let valid = world.rows("iwslt14.de-en/valid.tsv");
    let line =
        |number: usize| format!("de Satz Nummer {} .\ten Satz Nummer {} .", number - 5, number - 5);
    assert_eq!(valid, [line(23), line(46)]);
    assert!(!train.contains(&valid[0]) && train.len() == USABLE - 2);
    let test = world.rows("iwslt14.de-en/test.tsv");
    assert_eq!(test.len(), 10);
    assert_eq!(test[0], "de TED.dev2010 it's A\ten TED.dev2010 it's A");
    assert_eq!(test[3], "de TEDX.dev2012 B & C\ten TEDX.dev2012 B & C");

    let manifest = world.json("iwslt14.de-en/manifest.json");
    assert_eq!(manifest["archives"][DE_EN]["sha256"], *hash);
    assert_eq!(manifest["archives"][DE_EN]["trust"], "first_use");
    assert_eq!(world.json("archives.lock")[DE_EN]["sha256"], *hash);
    let parts = &manifest["parts"];
    assert_eq!(parts["train"]["dropped"]["ratio of lengths"], 1);
    assert_eq!(parts["train"]["dropped"]["empty side"], 1);
    assert_eq!(parts["train"]["dropped"]["too long"], 1);
    for part in ["train", "valid", "test"] {
        let bytes = fs::read(world.path(&format!("iwslt14.de-en/{part}.tsv"))).expect("a table");
        assert_eq!(parts[part]["sha256"], *sha256(&bytes), "{part}");
    }
    let mut names: Vec<_> = fs::read_dir(world.path("iwslt14.de-en"))
        .expect("a folder")
        .map(|entry| entry.expect("an entry").file_name().into_string().expect("a name"))
        .collect();
    names.sort();
    assert_eq!(names, ["manifest.json", "test.tsv", "train.tsv", "valid.tsv"]);

    assert_eq!(world.server.requests().len(), 1);
    let said = world.fetch("iwslt14.de-en", 0);
    assert!(said.contains("already"), "{said}");
    assert!(world.server.requests().is_empty(), "nothing is fetched twice");
}

#[test]
fn the_other_pairs_of_iwslt_may_lack_a_test_set() {
    for (other, tedx, sentences) in [("it", true, 10), ("es", false, 8), ("nl", false, 8)] {
        let name = format!("iwslt14.en-{other}");
        let world = World::new(&name, &[]);
        world.server.serve(&format!("iwslt14-{other}-en.tgz"), &iwslt(other, tedx));
        let said = world.fetch(&name, 0);
        let told = format!("has no {other}-en/IWSLT14.TEDX.dev2012.{other}-en.en.xml");
        assert_eq!(said.contains(&told), !tedx, "{said}");
        assert_eq!(world.rows(&format!("{name}/test.tsv")).len(), sentences);
        let train = world.rows(&format!("{name}/train.tsv"));
        assert_eq!(train[0], format!("en: Titel 0\t{other}: Titel 0"));
        assert_eq!(world.rows(&format!("{name}/valid.tsv")).len(), 2);
    }

    // Half of a pair is an error.
    let world = World::new("iwslt14.en-it", &[]);
    let mut members = iwslt_members("it", true);
    members.retain(|(name, _)| !name.ends_with("TEDX.dev2012.it-en.en.xml"));
    world.server.serve("iwslt14-it-en.tgz", &tgz(&members));
    let said = world.fetch("iwslt14.en-it", 2);
    assert!(said.contains("has no it-en/IWSLT14.TEDX.dev2012.it-en.en.xml; it has"), "{said}");
}

#[test]
fn english_german_is_made_of_five_archives_with_their_checksums() {
    let dev = tgz(&lines("dev/newstest2013", ["de", "en"], 4));
    let test = tgz(&[
        ("test-full/newstest2014-deen-src.de.sgm".into(), sgm("src", "de", &["no", "not this"])),
        (
            "test-full/newstest2014-deen-ref.de.sgm".into(),
            sgm("ref", "de", &["&quot;Zeit&quot;", "gro\u{df}"]),
        ),
        (
            "test-full/newstest2014-deen-src.en.sgm".into(),
            sgm("src", "en", &["it\u{2019}s time", "big"]),
        ),
    ]);
    let marks = "\u{201e}Zeit\u{201c} \u{2013} wie geht\u{2019}s\u{2026}\n";
    let other = "\u{ab}time\u{bb}\u{2014}how\u{2019}s it\n";
    let news = ["de", "en"].map(|end| format!("training/news-commentary-v9.de-en.{end}"));
    let [german, english] = news;
    let news = tgz(&[(german, marks.into()), (english, other.into())]);
    let archives = [
        ("europarl-v7.tgz", tgz(&lines("training/europarl-v7.de-en", ["de", "en"], 5))),
        ("commoncrawl.tgz", tgz(&lines("commoncrawl.de-en", ["de", "en"], 3))),
        ("news-commentary-v9.tgz", news),
        ("wmt19-dev.tgz", dev),
        ("wmt14-test-full.tgz", test),
    ];
    let pinned = [
        "0224c7c710c8a063dfd893b0cc0830202d61f4c75c17eb8e31836103d27d96e7",
        "c7a74e2ea01ac6c920123108627e35278d4ccb5701e15428ffa34de86fa3a9e5",
        "cb8953f292298e6877ae433c98912b927cb0766b303f4540512ddd286c748485",
        "7a7deccf82ebb05ba508dba5eb21356492224e8f630ec4f992132b029b4b25e7",
        "md5: a8cd784e006feb32ac6f3d9ec7eb389a",
    ];
    let own: Vec<String> = archives.iter().map(|(_, bytes)| sha256(bytes)).collect();
    let mut replace: Vec<(&str, &str)> =
        pinned.iter().zip(&own).map(|(pinned, own)| (*pinned, own.as_str())).collect();
    replace[4].1 = "";
    let world = World::new("wmt14.en-de", &replace);
    for (name, bytes) in &archives {
        world.server.serve(name, bytes);
    }
    world.fetch("wmt14.en-de", 0);
    let train = world.rows("wmt14.en-de/train.tsv");
    assert_eq!(train.len(), 9);
    assert_eq!(train[0], "en europarl-v7.de-en 0 .\tde europarl-v7.de-en 0 .");
    assert_eq!(train[5], "en commoncrawl.de-en 0 .\tde commoncrawl.de-en 0 .");
    assert_eq!(train[8], "\"time\" - how's it\t\"Zeit\" - wie geht's...");
    assert_eq!(world.rows("wmt14.en-de/valid.tsv").len(), 4);
    let test = ["en it's time\tde \"Zeit\"", "en big\tde gro\u{df}"];
    assert_eq!(world.rows("wmt14.en-de/test.tsv"), test);
    let manifest = world.json("wmt14.en-de/manifest.json");
    assert_eq!(manifest["archives"]["commoncrawl.tgz"]["trust"], "pinned");
    assert_eq!(manifest["archives"]["wmt14-test-full.tgz"]["trust"], "first_use");

    // With the paper's own checksums, a stand-in is refused and not kept.
    let world = World::new("wmt14.en-de", &[]);
    for (name, bytes) in &archives {
        world.server.serve(name, bytes);
    }
    let said = world.fetch("wmt14.en-de", 2);
    assert!(said.contains(&format!("its SHA-256 is {}", own[1])), "{said}");
    assert!(said.contains(&format!("must be {}", pinned[1])), "{said}");
    world.assert_nothing_made("wmt14.en-de");
    assert_eq!(fs::read_dir(world.path("archives")).expect("a folder").count(), 0);
}

#[test]
fn an_md5_is_required_if_only_that_is_known() {
    let archive = iwslt("de", true);
    let md5 = "0123456789abcdef0123456789abcdef";
    let pin = format!("sha256: unknown\n    md5: {md5}");
    let world = World::new("iwslt14.de-en", &[("sha256: unknown", &pin)]);
    world.server.serve(DE_EN, &archive);
    let said = world.fetch("iwslt14.de-en", 2);
    assert!(said.contains("its MD5 is") && said.contains(&format!("must be {md5}")), "{said}");
    let (_, found) = said.split_once("its MD5 is ").expect("an MD5");
    let pin = pin.replace(md5, &found[..32]);
    let world = World::new("iwslt14.de-en", &[("sha256: unknown", &pin)]);
    world.server.serve(DE_EN, &archive);
    world.fetch("iwslt14.de-en", 0);
    let manifest = world.json("iwslt14.de-en/manifest.json");
    assert_eq!(manifest["archives"][DE_EN]["trust"], "pinned");
    // It does not replace the SHA-256 of the first use.
    let lock = fs::read_to_string(world.path("archives.lock")).expect("a lock");
    let lock = lock.replace(&sha256(&archive), &"0".repeat(64));
    fs::write(world.path("archives.lock"), lock).expect("a file");
    let said = world.run("iwslt14.de-en", &["--again"], 2);
    assert!(said.contains("archives.lock") && said.contains("its SHA-256 is"), "{said}");
}

#[test]
fn english_french_reads_compressed_members_of_a_plain_tar() {
    let pair = ["en", "fr"];
    let giga = lines("giga-fren.release2.fixed", pair, 3);
    let giga: Vec<_> = giga.into_iter().map(|(name, text)| (name + ".gz", gzip(&text))).collect();
    let fren = |kind, language| {
        let name = format!("test-full/newstest2014-fren-{kind}.{language}.sgm");
        (name, sgm(kind, language, &["un"]))
    };
    let archives = [
        ("europarl-v7.tgz", tgz(&lines("training/europarl-v7.fr-en", pair, 1))),
        ("commoncrawl.tgz", tgz(&lines("commoncrawl.fr-en", pair, 1))),
        ("news-commentary-v9.tgz", tgz(&lines("training/news-commentary-v9.fr-en", pair, 1))),
        ("undoc-2000.tgz", tgz(&lines("un/undoc.2000.fr-en", pair, 1))),
        ("giga-fren.tar", tar(&giga)),
        ("wmt19-dev.tgz", tgz(&lines("dev/newstest2013", pair, 1))),
        ("wmt14-test-full.tgz", tgz(&[fren("src", "en"), fren("ref", "fr")])),
    ];
    let unpinned = [
        "0224c7c710c8a063dfd893b0cc0830202d61f4c75c17eb8e31836103d27d96e7",
        "c7a74e2ea01ac6c920123108627e35278d4ccb5701e15428ffa34de86fa3a9e5",
        "cb8953f292298e6877ae433c98912b927cb0766b303f4540512ddd286c748485",
        "7a7deccf82ebb05ba508dba5eb21356492224e8f630ec4f992132b029b4b25e7",
    ];
    let mut replace: Vec<(&str, &str)> = unpinned.iter().map(|hash| (*hash, "unknown")).collect();
    replace.push(("md5: a8cd784e006feb32ac6f3d9ec7eb389a", ""));
    let world = World::new("wmt14.en-fr", &replace);
    for (name, bytes) in &archives {
        world.server.serve(name, bytes);
    }
    world.fetch("wmt14.en-fr", 0);
    let train = world.rows("wmt14.en-fr/train.tsv");
    assert_eq!(train.len(), 7);
    assert_eq!(train[6], "en giga-fren.release2.fixed 2 .\tfr giga-fren.release2.fixed 2 .");
    assert_eq!(world.rows("wmt14.en-fr/test.tsv"), ["en un\tfr un"]);
}

/// The hashes that the recipes of Romanian-English have.
const ROMANIAN_PINS: [&str; 3] = [
    "8917bd3bef3bc894c8519ca1f8a4c7c330aad08a1263655a9d99ee13d532e3c7",
    "56bfaa2a8c8bdfccb7b50cc926067e2291347d807004e81faab8762ddbf26302",
    "7a7deccf82ebb05ba508dba5eb21356492224e8f630ec4f992132b029b4b25e7",
];

/// The archives of Romanian-English, in the order of [`ROMANIAN_PINS`].
fn romanian() -> [(&'static str, Vec<u8>); 3] {
    let ep = [
        ("ro", "Şedinţa a început .\n\nŢara noastră\n"),
        ("en", "The session has begun .\nnothing\nThe country\n"),
    ];
    let ep = ep.map(|(language, text)| {
        (format!("training-parallel-ep-v8/europarl-v8.ro-en.{language}"), text.into())
    });
    let tmx = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<tmx version=\"1.4\"><body>\n\
        <tu><tuv xml:lang=\"en\"><seg>Europe &amp; us</seg></tuv>\
        <tuv xml:lang=\"ro\"><seg>Europa &amp; noi</seg></tuv></tu>\n</body></tmx>\n";
    let mut dev = Vec::new();
    for set in ["newsdev2016", "newstest2016"] {
        for (kind, language) in [("src", "ro"), ("ref", "en")] {
            let name = format!("dev/{set}-roen-{kind}.{language}.sgm");
            dev.push((name, sgm(kind, language, &["aşa", "b"])));
        }
    }
    [
        ("europarl-v8.tgz", tgz(&ep)),
        ("setimes2.en-ro.tmx.gz", gzip(tmx.as_bytes())),
        ("wmt19-dev.tgz", tgz(&dev)),
    ]
}

#[test]
fn back_translations_whose_languages_are_files_of_their_own_follow_the_pairs() {
    let unpinned = ROMANIAN_PINS.map(|pinned| (pinned, "unknown"));
    let world = World::new("wmt16-back.ro-en", &unpinned);
    for (name, bytes) in &romanian() {
        world.server.serve(name, bytes);
    }
    for (language, text) in [("ro", "înapoi şi\nal doilea\n"), ("en", "back and\nthe second\n")] {
        let name = format!("corpus.bt.ro-en.{language}.gz");
        world.server.serve(&name, &gzip(text.as_bytes()));
    }
    world.fetch("wmt16-back.ro-en", 0);
    let train = world.rows("wmt16-back.ro-en/train.tsv");
    assert_eq!(
        train[2..],
        ["Europa & noi\tEurope & us", "înapoi și\tback and", "al doilea\tthe second"]
    );

    let short = gzip(b"back and\n");
    world.server.serve("corpus.bt.ro-en.en.gz", &short);
    fs::remove_dir_all(world.path("archives")).expect("a folder");
    fs::remove_file(world.path("archives.lock")).expect("a file");
    let said = world.run("wmt16-back.ro-en", &["--again", "--from", &world.server.address], 2);
    let uneven = "corpus.bt.ro-en.ro.gz has 2 sentences and corpus.bt.ro-en.en.gz has 1";
    assert!(said.contains(uneven), "{said}");
}

#[test]
fn romanian_gets_its_own_letters() {
    let archives = romanian();
    let own: Vec<String> = archives.iter().map(|(_, bytes)| sha256(bytes)).collect();
    let replace: Vec<(&str, &str)> =
        ROMANIAN_PINS.iter().zip(&own).map(|(pinned, own)| (*pinned, own.as_str())).collect();
    let world = World::new("wmt16.ro-en", &replace);
    for (name, bytes) in &archives {
        world.server.serve(name, bytes);
    }
    let said = world.fetch("wmt16.ro-en", 0);
    assert!(
        said.contains("3 pairs were read with text on both sides, 610320 were expected"),
        "{said}"
    );
    let train = [
        "Ședința a început .\tThe session has begun .",
        "Țara noastră\tThe country",
        "Europa & noi\tEurope & us",
    ];
    assert_eq!(world.rows("wmt16.ro-en/train.tsv"), train);
    assert_eq!(world.rows("wmt16.ro-en/test.tsv")[0], "ro așa\ten așa");
}

#[test]
fn an_interrupted_download_is_resumed() {
    let world = World::german();
    world.server.change(DE_EN, |served| served.cuts = 2);
    world.fetch("iwslt14.de-en", 0);
    let size = iwslt("de", true).len();
    let (half, more) = (size / 2, (size - size / 2) / 2);
    let expected = ["".into(), format!(" bytes={half}-"), format!(" bytes={}-", half + more)];
    assert_eq!(world.server.requests(), expected.map(|range| format!("/{DE_EN}{range}")));
}

#[test]
fn a_download_that_is_always_interrupted_fails_and_the_next_command_resumes_it() {
    let world = World::german();
    world.server.change(DE_EN, |served| served.cuts = usize::MAX);
    let said = world.fetch("iwslt14.de-en", 1);
    assert!(
        said.contains("was interrupted after") && said.contains("command again to resume"),
        "{said}"
    );
    world.assert_nothing_made("iwslt14.de-en");
    let have = fs::metadata(world.path(&format!("archives/{DE_EN}.part"))).expect("a part").len();
    assert_eq!(world.server.requests().len(), 5);
    world.server.change(DE_EN, |served| served.cuts = 0);
    world.fetch("iwslt14.de-en", 0);
    assert_eq!(world.server.requests(), [format!("/{DE_EN} bytes={have}-")]);
}

#[test]
fn a_killed_command_is_resumed() {
    let world = World::german();
    world.server.change(DE_EN, |served| served.stalls = true);
    let mut command = world.command("iwslt14.de-en", &["--from", &world.server.address]);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("tandem");
    let part = world.path(&format!("archives/{DE_EN}.part"));
    let half = iwslt("de", true).len() as u64 / 2;
    while fs::metadata(&part).map_or(0, |part| part.len()) < half {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    let second = world.fetch("iwslt14.de-en", 1);
    assert!(second.contains("another `tandem data` is working in"), "{second}");
    child.kill().expect("a process");
    child.wait().expect("an end");
    world.server.requests();
    world.server.change(DE_EN, |served| served.stalls = false);
    world.fetch("iwslt14.de-en", 0);
    assert_eq!(world.server.requests(), [format!("/{DE_EN} bytes={half}-")]);

    // All bytes were here, but not yet under their name.
    let kept = world.path(&format!("archives/{DE_EN}"));
    fs::rename(&kept, &part).expect("a rename");
    let tag = "\"".to_owned() + &world_tag(&fs::read(&part).expect("a file")) + "\"";
    let of = format!("{}/{DE_EN}\n{tag}\n", world.server.address);
    fs::write(world.path(&format!("archives/{DE_EN}.part.of")), of).expect("a file");
    world.run("iwslt14.de-en", &["--from", &world.server.address, "--again"], 0);
    assert_eq!(world.server.requests(), [format!("/{DE_EN} bytes={}-", iwslt("de", true).len())]);
}

/// The tag that the stand-in gives.
fn world_tag(bytes: &[u8]) -> String {
    format!("{}-{}", bytes.len(), bytes.iter().map(|b| u64::from(*b)).sum::<u64>())
}

#[test]
fn a_file_that_changed_in_between_is_downloaded_from_the_start() {
    let world = World::german();
    world.server.change(DE_EN, |served| {
        served.cuts = usize::MAX;
        served.tag = "\"older\"".into();
        served.bytes = vec![7; served.bytes.len() * 2];
    });
    world.fetch("iwslt14.de-en", 1);
    world.server.serve(DE_EN, &iwslt("de", true));
    world.fetch("iwslt14.de-en", 0);
}

#[test]
fn an_archive_that_changed_since_its_first_use_is_refused() {
    let world = World::german();
    world.fetch("iwslt14.de-en", 0);
    let train = world.rows("iwslt14.de-en/train.tsv");
    let (first, second) = (iwslt("de", true), iwslt("de", false));
    fs::remove_file(world.path(&format!("archives/{DE_EN}"))).expect("the archive");
    world.server.serve(DE_EN, &second);
    let again = ["--from", &world.server.address, "--again"];
    let said = world.run("iwslt14.de-en", &again, 2);
    for part in ["archives.lock", &sha256(&first), &sha256(&second), "pin the new checksum"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert_eq!(world.rows("iwslt14.de-en/train.tsv"), train, "what was there stays");
    assert!(!world.path(&format!("archives/{DE_EN}")).exists());

    // Damage of the cached file is detected, too.
    world.server.serve(DE_EN, &first);
    world.run("iwslt14.de-en", &again, 0);
    let mut damaged = first.clone();
    damaged[100] ^= 1;
    fs::write(world.path(&format!("archives/{DE_EN}")), damaged).expect("a file");
    let said = world.run("iwslt14.de-en", &again, 2);
    assert!(said.contains("remove it to download it again"), "{said}");
    assert_eq!(world.json("iwslt14.de-en/manifest.json")["archives"][DE_EN]["trust"], "locked");
}

#[test]
fn an_unreachable_host_is_reported_with_what_to_do() {
    // A port without a listener.
    let port =
        std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("it");
    let url = format!("http://{port}/de-en.tgz");
    let world = World::new(
        "iwslt14.de-en",
        &[
            ("http://dl.fbaipublicfiles.com/fairseq/data/iwslt14/de-en.tgz", &url),
            ("https://wit3.fbk.eu/archive/2014-01/texts/de/en/de-en.tgz", &url),
        ],
    );
    let said = world.run("iwslt14.de-en", &[], 1);
    for part in [&*format!("cannot reach {port}"), &url, "--from FOLDER", "2014-01.tgz works"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    world.assert_nothing_made("iwslt14.de-en");
}

#[test]
fn the_next_address_is_tried_if_one_fails() {
    let server = Server::new();
    server.put("page.tgz", Served { bytes: b"<!DOCTYPE html>".to_vec(), ..Served::default() });
    server.serve("good/de-en.tgz", &iwslt("de", true));
    let urls =
        ["none.tgz", "page.tgz", "good/de-en.tgz"].map(|name| format!("{}/{name}", server.address));
    let listed = urls.join("\n      - ");
    let replace = [("https://wit3.fbk.eu/archive/2014-01/texts/de/en/de-en.tgz", &*listed)];
    let world = World::new("iwslt14.de-en", &replace);
    // Without the first address, which is not on this machine.
    let recipe = world.path("iwslt14.de-en.yaml");
    let text = fs::read_to_string(&recipe).expect("a recipe");
    let far = "      - http://dl.fbaipublicfiles.com/fairseq/data/iwslt14/de-en.tgz\n";
    fs::write(&recipe, text.replace(far, "")).expect("a file");
    world.run("iwslt14.de-en", &[], 0);
    assert_eq!(server.requests(), ["/none.tgz", "/page.tgz", "/good/de-en.tgz"]);
    let origin = &world.json("archives.lock")[DE_EN]["origin"];
    assert_eq!(*origin, *urls[2]);

    let world = World::new("iwslt14.de-en", &[]);
    let said = world.run("iwslt14.de-en", &["--from", &server.address], 1);
    assert!(said.contains(&format!("/{DE_EN} returned status 404")), "{said}");
    assert_eq!(server.requests(), [format!("/{DE_EN}"), "/de-en.tgz".into()]);
    world.server.serve(DE_EN, b"<html>moved</html>");
    let said = world.fetch("iwslt14.de-en", 1);
    assert!(said.contains("something that is not an archive"), "{said}");
    world.assert_nothing_made("iwslt14.de-en");
}

#[test]
fn unusable_archives_leave_nothing_behind() {
    let good = iwslt("de", true);
    let evil =
        [("../../evil".to_owned(), b"x".to_vec()), ("de-en/README".to_owned(), b"x".to_vec())];
    let mut uneven = lines("de-en/train.tags.de-en", ["de", "en"], 30);
    uneven[1].1 = b"one\n".to_vec();
    for set in ["TED.dev2010", "TEDX.dev2012", "TED.tst2010", "TED.tst2011", "TED.tst2012"] {
        for language in ["de", "en"] {
            let name = format!("de-en/IWSLT14.{set}.de-en.{language}.xml");
            uneven.push((name, sgm("src", language, &["a"])));
        }
    }
    for (archive, reason) in [
        (good[..good.len() / 2].to_vec(), "is damaged"),
        (tgz(&evil), "its member ../../evil lies outside of it"),
        (iwslt("fr", true), "has no de-en/IWSLT14.TED.dev2010.de-en.de.xml"),
        (iwslt("de", false), "has no de-en/IWSLT14.TEDX.dev2012.de-en.de.xml"),
        (tgz(&uneven), "train.tags.de-en.de has 30 sentences and"),
    ] {
        let world = World::new("iwslt14.de-en", &[]);
        world.server.serve(DE_EN, &archive);
        let said = world.fetch("iwslt14.de-en", 2);
        assert!(said.contains(reason), "{reason}: {said}");
        world.assert_nothing_made("iwslt14.de-en");
        assert!(!world.path("../evil").exists() && !world.path("evil").exists());
    }
}

#[test]
fn a_full_disk_is_an_error_and_loses_nothing() {
    let world = World::german();
    fs::create_dir(world.path("archives")).expect("a folder");
    let part = world.path(&format!("archives/{DE_EN}.part"));
    symlink("/dev/full", &part).expect("a link");
    let said = world.fetch("iwslt14.de-en", 1);
    assert!(said.contains("No space left on device") && said.contains(".part"), "{said}");
    world.assert_nothing_made("iwslt14.de-en");
    fs::remove_file(&part).expect("the link");
    world.fetch("iwslt14.de-en", 0);
}

#[test]
fn a_file_larger_than_expected_is_refused() {
    let world = World::new("iwslt14.de-en", &[("bytes: 19982877", "bytes: 1000")]);
    let large = vec![0x1f; 3 << 20];
    world.server.serve(DE_EN, &large);
    let said = world.fetch("iwslt14.de-en", 1);
    assert!(said.contains("sends more than"), "{said}");
    assert!(!world.path(&format!("archives/{DE_EN}.part")).exists());
}

#[test]
fn archives_are_taken_from_a_folder() {
    let archive = iwslt("de", true);
    let bundle = tgz(&[("2014-01/texts/de/en/de-en.tgz".into(), archive.clone())]);
    // With the host's name, with the recipe's, and inside of WIT3's archive of all pairs.
    for (name, bytes) in [("de-en.tgz", &archive), (DE_EN, &archive), ("2014-01.tgz", &bundle)] {
        let world = World::new("iwslt14.de-en", &[]);
        let usb = tempfile::tempdir().expect("a folder");
        fs::write(usb.path().join(name), bytes).expect("a file");
        let from = usb.path().to_str().expect("a path");
        world.run("iwslt14.de-en", &["--from", from], 0);
        assert_eq!(world.rows("iwslt14.de-en/test.tsv").len(), 10, "{name}");
        assert_eq!(world.json("archives.lock")[DE_EN]["sha256"], *sha256(&archive));
    }
    let world = World::new("iwslt14.de-en", &[]);
    let said = world.run("iwslt14.de-en", &["--from", "/nowhere"], 2);
    let looked = "is not in /nowhere: looked for iwslt14-de-en.tgz, de-en.tgz, 2014-01.tgz";
    assert!(said.contains(looked), "{said}");
}

#[test]
fn foreign_files_are_not_overwritten() {
    let world = World::german();
    fs::create_dir(world.path("iwslt14.de-en")).expect("a folder");
    fs::write(world.path("iwslt14.de-en/train.tsv"), "my own\tdata\n").expect("a file");
    let said = world.fetch("iwslt14.de-en", 2);
    assert!(said.contains("was not written by `tandem data`"), "{said}");
    assert_eq!(world.rows("iwslt14.de-en/train.tsv"), ["my own\tdata"]);
    fs::remove_dir_all(world.path("iwslt14.de-en")).expect("a folder");
    world.fetch("iwslt14.de-en", 0);

    fs::write(world.path("iwslt14.de-en/train.tsv"), "changed\n").expect("a file");
    let said = world.fetch("iwslt14.de-en", 2);
    assert!(
        said.contains("has a train.tsv that was changed since") && said.contains("--again"),
        "{said}"
    );
    let recipe = world.path("iwslt14.de-en.yaml");
    let text = fs::read_to_string(&recipe).expect("a recipe");
    fs::write(&recipe, text.replace("lowercase: false", "lowercase: true")).expect("a file");
    let said = world.fetch("iwslt14.de-en", 2);
    assert!(said.contains("another version of the recipe"), "{said}");
    let mine = world.path("iwslt14.de-en/mono.en");
    fs::write(&mine, "my own\n").expect("a file");
    let said = world.run("iwslt14.de-en", &["--again"], 2);
    assert!(said.contains("holds mono.en, which `tandem data` did not write"), "{said}");
    fs::remove_file(mine).expect("a file");
    world.run("iwslt14.de-en", &["--again"], 0);
    assert_eq!(world.rows("iwslt14.de-en/train.tsv")[0], "de: titel 0\ten: titel 0");

    // A folder without a manifest may be the user's own.
    fs::remove_file(world.path("iwslt14.de-en/manifest.json")).expect("a file");
    let said = world.run("iwslt14.de-en", &["--again"], 2);
    assert!(said.contains("was not written by `tandem data`"), "{said}");
}

#[test]
fn a_run_without_its_texts_names_the_command_that_prepares_them() {
    let paper = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs/paper");
    let world = World::new("iwslt14.de-en", &[]);
    world.server.serve(DE_EN, &iwslt("de", true));
    fs::create_dir(world.path("data")).expect("a folder");
    let recipe = world.path("data/iwslt14.de-en.yaml");
    fs::rename(world.path("iwslt14.de-en.yaml"), &recipe).expect("a rename");
    let run = world.path("run.yaml");
    fs::copy(paper.join("iwslt14-de-en.yaml"), &run).expect("a run file");
    let plan = || {
        let mut command = program("tandem");
        command.arg("plan").arg(&run).env("HF_HUB_OFFLINE", "1");
        let output = command.env("HF_HOME", world.path("hub")).output().expect("the program");
        assert!(!output.status.success(), "the BERTs are not here");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let said = plan();
    for split in ["train", "valid", "test"] {
        let told = format!("{split}.tsv, `tandem data {}` makes it", recipe.display());
        assert!(said.contains(&told), "{told}: {said}");
    }
    let name = "data/iwslt14.de-en";
    world.fetch(name, 0);
    let said = plan();
    assert!(!said.contains("there is no file"), "{said}");
}

#[test]
fn without_a_name_the_corpora_are_listed() {
    let list = |folder: &Path| {
        let mut command = program("tandem");
        let output = command.arg("data").current_dir(folder).output().expect("the program");
        String::from_utf8(output.stdout).expect("UTF-8")
    };
    let said = list(&Path::new(env!("CARGO_MANIFEST_DIR")).join(".."));
    assert_eq!(list(Path::new("/")), said, "from anywhere");
    for name in ["iwslt14.de-en", "iwslt14.en-nl", "wmt14.en-de", "wmt14.en-fr", "wmt16.ro-en"] {
        assert!(said.lines().any(|line| line.starts_with(name)), "{name}: {said}");
    }
    assert!(said.contains("over 1616.5 MiB from data.statmt.org"), "{said}");
}
