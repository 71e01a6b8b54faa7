//! The tokenizer of mteval-v13a.pl, WMT's scorer, as in sacreBLEU's default `13a`.
//!
//! It makes four substitutions in a fixed order. Each replaces non-overlapping matches from left to right.

use super::{is_space, words};

/// The tokens of `line`, joined by single spaces.
pub(super) fn tokenize_13a(line: &str) -> String {
    let mut line = line
        .trim_end_matches(is_space)
        .replace("<skipped>", "")
        .replace("-\n", "")
        .replace('\n', " ");
    if line.contains('&') {
        line = line
            .replace("&quot;", "\"")
            .replace("&amp;", "&")
            .replace("&lt;", "<")
            .replace("&gt;", ">");
    }
    let line = format!(" {line} ");
    let line = set_punctuation_apart(&line);
    let line = replace_pairs(&line, |a, b| !a.is_ascii_digit() && is_point(b), "{a} {b} ");
    let line = replace_pairs(&line, |a, b| is_point(a) && !b.is_ascii_digit(), " {a} {b}");
    let line = replace_pairs(&line, |a, b| a.is_ascii_digit() && b == '-', "{a} {b} ");
    words(&line).collect::<Vec<_>>().join(" ")
}

/// Whether `c` is a period or comma, which is part of a number and a token elsewhere.
fn is_point(c: char) -> bool {
    matches!(c, '.' | ',')
}

/// Puts spaces around all ASCII punctuation except `'`, `,`, `-` and `.`.
fn set_punctuation_apart(line: &str) -> String {
    let mut apart = String::with_capacity(line.len() * 2);
    for c in line.chars() {
        if matches!(c, '{'..='~' | '['..='`' | ' '..='&' | '('..='+' | ':'..='@' | '/') {
            apart.extend([' ', c, ' ']);
        } else {
            apart.push(c);
        }
    }
    apart
}

/// Replaces every pair of characters that `matches` with `template`, where `{a}` and `{b}` stand for them.
fn replace_pairs(line: &str, matches: impl Fn(char, char) -> bool, template: &str) -> String {
    let mut replaced = String::with_capacity(line.len() * 2);
    let mut rest = line.chars();
    while let Some(a) = rest.next() {
        match rest.clone().next() {
            Some(b) if matches(a, b) => {
                rest.next();
                let pair = template.replace("{a}", a.encode_utf8(&mut [0; 4]));
                replaced.push_str(&pair.replace("{b}", b.encode_utf8(&mut [0; 4])));
            }
            _ => replaced.push(a),
        }
    }
    replaced
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_are_kept_only_inside_numbers() {
        assert_eq!(tokenize_13a("1,000.50 m, i.e. far."), "1,000.50 m , i . e . far .");
    }

    #[test]
    fn a_hyphen_is_a_token_only_after_a_digit() {
        assert_eq!(tokenize_13a("well-known 3-4"), "well-known 3 - 4");
    }

    #[test]
    fn entities_are_decoded_before_tokenising() {
        assert_eq!(tokenize_13a("&quot;A&amp;B&quot;"), "\" A & B \"");
    }

    #[test]
    fn replacements_do_not_overlap() {
        assert_eq!(tokenize_13a("a..b ... 5.."), "a . . b . . . 5 . .");
    }
}
