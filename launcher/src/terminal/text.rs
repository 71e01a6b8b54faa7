//! Text that people hand over: lines in UTF-8.

use std::path::Path;

use crate::terminal::exit::Refused;

/// A word as the shell takes it.
pub(crate) fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-=:,+@%".contains(c);
    if word.chars().all(is_plain) && !word.is_empty() {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', "'\\''"))
    }
}

/// The names of the YAML files in a folder, without their extension, sorted.
pub(crate) fn yaml_names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let paths = entries.map(|entry| entry.path());
    let yaml = paths.filter(|path| path.extension().is_some_and(|extension| extension == "yaml"));
    let mut names: Vec<String> =
        yaml.filter_map(|path| Some(path.file_stem()?.to_str()?.to_owned())).collect();
    names.sort();
    names
}

/// Formats 1234567 as 1,234,567.
pub(crate) fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::with_capacity(digits.len() * 4 / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// Reads a file of UTF-8 text.
///
/// # Errors
/// A file that cannot be read, or the first line that is not UTF-8.
pub(crate) fn read(path: &Path) -> Result<String, Refused> {
    let origin = path.display().to_string();
    let bytes =
        std::fs::read(path).map_err(|error| Refused(format!("cannot read {origin}: {error}")))?;
    utf8(bytes, &origin)
}

/// Converts bytes to text; `origin` names them in the error.
///
/// # Errors
/// The first line that is not UTF-8.
pub(crate) fn utf8(bytes: Vec<u8>, origin: &str) -> Result<String, Refused> {
    String::from_utf8(bytes).map_err(|error| {
        let before = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = 1 + before.iter().filter(|&&byte| byte == b'\n').count();
        Refused(format!(
            "{origin}, line {line}: not UTF-8; convert it, for example with `iconv -f LATIN1 -t UTF-8`"
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_of_a_bad_byte_is_named() {
        assert_eq!(utf8("eins\nzwölf\n".into(), "input").unwrap(), "eins\nzwölf\n");
        let error = utf8(b"eins\nzw\xc3\xb6lf\nf\xfcnf\n".to_vec(), "input").unwrap_err();
        assert!(error.to_string().starts_with("input, line 3: not UTF-8"), "{error}");
    }
}
