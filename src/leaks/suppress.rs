//! Suppression patterns, as LeakSanitizer users know them.

/// A pattern for function names.
///
/// It may occur anywhere in the name; `*` stands for any text, `^` at the
/// beginning and `$` at the end tie it to the name's ends. These are the rules
/// of the sanitizers' suppression files (`TemplateMatch` in compiler-rt), but for two: an
/// empty pattern, or `^` alone, which match all there, match nothing here, as an empty
/// line in a list means nothing; and text before `$` need not be the first of its kind in
/// the name. `*` alone matches every name, there and here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pattern {
    parts: Vec<String>,
    from_start: bool,
    to_end: bool,
}

impl Pattern {
    pub(super) fn new(pattern: &str) -> Self {
        let (from_start, rest) = match pattern.strip_prefix('^') {
            Some(rest) => (true, rest),
            None => (false, pattern),
        };
        let (to_end, rest) = match rest.strip_suffix('$') {
            Some(rest) => (true, rest),
            None => (false, rest),
        };
        Self {
            parts: rest.split('*').map(String::from).collect(),
            from_start,
            to_end,
        }
    }

    /// Whether the pattern matches `name`. One with neither text nor `*` matches nothing.
    pub(super) fn matches(&self, name: &str) -> bool {
        if self.parts.len() == 1 && self.parts.iter().all(String::is_empty) {
            return false;
        }
        let mut rest = name;
        let last = self.parts.len() - 1;
        for (i, part) in self.parts.iter().enumerate() {
            if i == last && self.to_end {
                return if i == 0 && self.from_start {
                    rest == part
                } else {
                    rest.ends_with(part.as_str())
                };
            }
            if i == 0 && self.from_start {
                match rest.strip_prefix(part.as_str()) {
                    Some(after) => rest = after,
                    None => return false,
                }
            } else {
                match rest.find(part.as_str()) {
                    Some(at) => rest = &rest[at + part.len()..],
                    None => return false,
                }
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::Pattern;

    #[test]
    fn patterns_match_as_in_a_suppression_file() {
        let table = [
            ("cache", "my::cache::fill", true),
            ("cache", "my::store", false),
            ("^my::", "my::cache", true),
            ("^cache", "my::cache", false),
            ("fill$", "my::cache::fill", true),
            ("cache$", "my::cache::fill", false),
            ("my::*::fill", "my::cache::deep::fill", true),
            ("^my::*fill$", "my::cache::fill", true),
            ("^my::*fill$", "your::my::fill", false),
            ("a*b*c", "xxaxxbxxcxx", true),
            ("a*b*c", "xxcxxbxxaxx", false),
            ("^exact$", "exact", true),
            ("^exact$", "exactly", false),
            // Ours only: there the first `fill` would have to be the last.
            ("fill$", "my::fill::fill", true),
            // Any text, and no other condition.
            ("*", "anything", true),
            ("**", "anything", true),
            ("^*", "anything", true),
            ("*$", "anything", true),
            ("^*$", "anything", true),
        ];
        for (pattern, name, expected) in table {
            assert_eq!(
                Pattern::new(pattern).matches(name),
                expected,
                "{pattern} on {name}"
            );
        }
    }

    /// Bug prevented: an empty line in a list of patterns that suppresses everything.
    #[test]
    fn an_empty_pattern_suppresses_nothing() {
        for pattern in ["", "^", "$", "^$"] {
            assert!(!Pattern::new(pattern).matches("anything"), "{pattern}");
        }
    }
}
