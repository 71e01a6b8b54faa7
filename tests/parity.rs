//! This program computes what the authors' released code computed.

use std::path::Path;

use tandem_tests::{expect_code, program};

fn golden() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/golden/tiny-a"))
}

#[test]
fn every_quantity_agrees() {
    let output = expect_code(program("tandem-worker").arg("parity").arg(golden()), 0);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.ends_with("all quantities agree\n"), "{text}");
    for quantity in ["encoder output", "logits", "total loss", "decoded ids, one by one"] {
        assert!(text.contains(&format!("ok   {quantity}")), "{quantity} is not compared:\n{text}");
    }
    assert_eq!(text.matches("gradient of ").count(), 61, "{text}");
}

#[test]
fn other_adapters_are_told_apart() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for side in ["source_bert", "target_bert"] {
        std::fs::create_dir(folder.path().join(side)).expect("a folder");
        for file in ["config.json", "model.safetensors", "vocab.txt"] {
            let name = format!("{side}/{file}");
            std::fs::copy(golden().join(&name), folder.path().join(&name)).expect("a copy");
        }
    }
    for file in ["case.json", "case.safetensors", "adapters.safetensors"] {
        std::fs::copy(golden().join(file), folder.path().join(file)).expect("a copy");
    }
    let path = folder.path().join("adapters.safetensors");
    let mut bytes = std::fs::read(&path).expect("adapters");
    let last = bytes.len() - 1;
    bytes[last] ^= 0x40; // the exponent of the last weight
    std::fs::write(&path, bytes).expect("a file");
    let output = expect_code(program("tandem-worker").arg("parity").arg(folder.path()), 1);
    assert!(String::from_utf8_lossy(&output.stdout).contains("FAIL"));
}
