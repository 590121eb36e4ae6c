//! Text for JSON, safe inside of a page too.

use core::fmt;

/// A string as JSON writes it, quotes included: `"a \"b\""`.
///
/// `<` is written as `\u003c`, so that no text can end the script that a page
/// carries it in, and so are the two line separators that JSON allows and old
/// script engines do not.
pub(crate) struct Quoted<'a>(pub(crate) &'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("\"")?;
        let mut plain = 0;
        for (at, c) in self.0.char_indices() {
            if !must_be_escaped(c) {
                continue;
            }
            f.write_str(&self.0[plain..at])?;
            plain = at + c.len_utf8();
            match c {
                '"' => f.write_str("\\\"")?,
                '\\' => f.write_str("\\\\")?,
                '\n' => f.write_str("\\n")?,
                '\r' => f.write_str("\\r")?,
                '\t' => f.write_str("\\t")?,
                // All of these lie below 0x10000, where four digits are enough.
                other => write!(f, "\\u{:04x}", u32::from(other))?,
            }
        }
        f.write_str(&self.0[plain..])?;
        f.write_str("\"")
    }
}

const fn must_be_escaped(c: char) -> bool {
    matches!(
        c,
        '"' | '\\' | '<' | '\0'..='\x1f' | '\x7f' | '\u{2028}' | '\u{2029}'
    )
}

#[cfg(test)]
mod tests {
    use super::Quoted;

    /// Bug prevented: a function's name that ends the page's script, or the string.
    #[test]
    fn what_json_or_a_page_would_read_as_more_than_text_is_escaped() {
        let table = [
            ("", r#""""#),
            ("plain::name<T>", r#""plain::name\u003cT>""#),
            ("</script>", r#""\u003c/script>""#),
            ("a\"b\\c", r#""a\"b\\c""#),
            ("1\n2\r3\t4\u{0}5\u{7f}", r#""1\n2\r3\t4\u00005\u007f""#),
            ("é\u{2028}\u{2029}🦀", "\"é\\u2028\\u2029🦀\""),
        ];
        for (text, json) in table {
            assert_eq!(Quoted(text).to_string(), json);
        }
    }

    /// Bug prevented: an escape that a reader turns into another text.
    #[test]
    fn a_reader_gives_back_every_character() {
        let text: String = ('\0'..='\u{300}')
            .chain("\u{2020}\u{2028}\u{2029}🦀".chars())
            .collect();
        let json = Quoted(&text).to_string();
        assert!(!json.contains('<'));
        assert_eq!(serde_json::from_str::<String>(&json).expect("JSON"), text);
    }
}
