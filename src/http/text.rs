//! Data as it may be shown to a person, on a terminal or in a page.

/// Data without what moves the cursor, changes colours or turns the direction of what follows: such characters are
/// shown as escapes.
pub fn shown(text: &str) -> String {
    escape(text, |_| false)
}

/// The same of text of several lines, whose line ends and tabs stay.
pub fn shown_lines(text: &str) -> String {
    escape(text, |c| matches!(c, '\n' | '\t'))
}

fn escape(text: &str, stays: impl Fn(char) -> bool) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if stays(c) || !is_hidden(c) {
            out.push(c);
        } else {
            out.extend(c.escape_default());
        }
    }
    out
}

/// Control characters, and those of the direction of text (Unicode standard annex 9), line and paragraph separators and
/// byte order marks.
fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_would_act_on_is_escaped_and_all_else_stays() {
        assert_eq!(shown("\u{1b}[2J\r\n\t\u{9b}x\u{7f}\u{0}"), "\\u{1b}[2J\\r\\n\\t\\u{9b}x\\u{7f}\\u{0}");
        assert_eq!(shown("a\u{202e}b\u{2028}"), "a\\u{202e}b\\u{2028}");
        for text in ["", "tea", "日本 👩‍👩‍👧 é \\ \"", "שלום"] {
            assert_eq!(shown(text), text);
        }
        assert_eq!(shown_lines("a\n\tb\r\u{1b}"), "a\n\tb\\r\\u{1b}");
    }
}
