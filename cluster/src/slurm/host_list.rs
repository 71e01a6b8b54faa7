//! Slurm's short forms: `n[1-3,07],login` for names, `2(x3),1` for numbers.

/// The names of a list, in order; none if it is no list.
pub(super) fn names(list: &str) -> Option<Vec<String>> {
    let mut names = Vec::new();
    for part in split(list)? {
        names.extend(expand(part)?);
    }
    Some(names)
}

/// At commas outside of brackets.
fn split(list: &str) -> Option<Vec<&str>> {
    let (mut parts, mut start, mut depth) = (Vec::new(), 0, 0_i32);
    for (index, letter) in list.char_indices() {
        match letter {
            '[' => depth += 1,
            ']' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&list[start..index]);
                start = index + 1;
            }
            _ => {}
        }
        if !(0..=1).contains(&depth) {
            return None;
        }
    }
    parts.push(&list[start..]);
    (depth == 0 && parts.iter().all(|part| !part.is_empty())).then_some(parts)
}

/// `rack[1-2]n[01-03]` has more than one bracket, of which the last changes fastest.
fn expand(part: &str) -> Option<Vec<String>> {
    let Some((head, rest)) = part.split_once('[') else { return Some(vec![part.to_owned()]) };
    let (ranges, tail) = rest.split_once(']')?;
    let tails = expand(tail)?;
    let mut names = Vec::new();
    for range in ranges.split(',') {
        for number in numbers_of(range)? {
            names.extend(tails.iter().map(|tail| format!("{head}{number}{tail}")));
        }
    }
    Some(names)
}

/// `08-11`, with its zeros.
fn numbers_of(range: &str) -> Option<Vec<String>> {
    let (first, last) = range.split_once('-').unwrap_or((range, range));
    let width = first.len();
    let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
    (first <= last).then(|| (first..=last).map(|number| format!("{number:0width$}")).collect())
}

/// The numbers of a list such as `2(x3),1`; none if it is no list.
pub(super) fn counts(list: &str) -> Option<Vec<usize>> {
    let mut counts = Vec::new();
    for part in list.split(',') {
        let (count, times) = match part.split_once("(x") {
            Some((count, times)) => (count, times.strip_suffix(')')?.parse().ok()?),
            None => (part, 1),
        };
        let count: usize = count.parse().ok()?;
        counts.extend(std::iter::repeat_n(count, times));
    }
    Some(counts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_written_out() {
        let written_out = |list: &str| names(list).map(|names| names.join(" "));
        assert_eq!(written_out("n1").unwrap(), "n1");
        assert_eq!(written_out("n[1-3,07],login").unwrap(), "n1 n2 n3 n07 login");
        assert_eq!(written_out("a[08-11]b").unwrap(), "a08b a09b a10b a11b");
        assert_eq!(written_out("r[1-2]n[1-2]").unwrap(), "r1n1 r1n2 r2n1 r2n2");
        for broken in ["", "n[1-", "n[2-1]", "n1,,n2", "n]1[", "n[[1]]", "n[x]"] {
            assert_eq!(names(broken), None, "{broken}");
        }
    }

    #[test]
    fn numbers_are_written_out() {
        assert_eq!(counts("4"), Some(vec![4]));
        assert_eq!(counts("2(x3),1"), Some(vec![2, 2, 2, 1]));
        for broken in ["", "2(x3", "x", "2(x)", "2,"] {
            assert_eq!(counts(broken), None, "{broken}");
        }
    }
}
