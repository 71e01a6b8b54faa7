//! This program computes what the authors' released code computed.

use std::path::Path;

use tandem_tests::{copy_folder, expect_code, program};

fn golden() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/golden/tiny-a"))
}

#[test]
fn every_quantity_agrees() {
    let text = expect_code(program("tandem-worker").arg("parity").arg(golden()), 0).stdout;
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
        copy_folder(&golden().join(side), &folder.path().join(side));
    }
    for file in ["case.json", "case.safetensors", "adapters.safetensors"] {
        std::fs::copy(golden().join(file), folder.path().join(file)).expect("a copy");
    }
    let path = folder.path().join("adapters.safetensors");
    let mut bytes = std::fs::read(&path).expect("adapters");
    let last = bytes.len() - 1;
    bytes[last] ^= 0x40; // the exponent of the last weight
    std::fs::write(&path, bytes).expect("a file");
    let ended = expect_code(program("tandem-worker").arg("parity").arg(folder.path()), 1);
    assert!(ended.stdout.contains("FAIL"));
}
