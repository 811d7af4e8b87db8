//! An answer in plain characters: one kind of digit, dash, quotation mark and space, no markup.

use std::ops::Range;
use std::sync::LazyLock;

use regex::Regex;

/// A text in plain characters, each of which knows where it came from.
pub(super) struct Plain {
    /// Lower case; parts that are irrelevant for the verdict are blank.
    pub(super) text: String,
    /// For each byte of `text`, where its character began in the answer.
    origin: Vec<usize>,
    /// Text marked as the result: `\boxed{8}`, `[[8]]`, `<score>8</score>`.
    pub(super) results: Vec<Range<usize>>,
}

/// The zeros of decimal digits, which Unicode keeps in runs of ten.
const ZEROS: [u32; 12] = [
    0x0660, 0x06F0, 0x0966, 0x09E6, 0x0E50, 0x17E0, 0xFF10, 0x1D7CE, 0x1D7D8, 0x1D7E2, 0x1D7EC,
    0x1D7F6,
];

fn digit(c: char) -> Option<char> {
    let c = c as u32;
    let zero = ZEROS.iter().find(|&&zero| (zero..zero + 10).contains(&c))?;
    char::from_digit(c - zero, 10)
}

static RESULT_TAG: LazyLock<Regex> = LazyLock::new(|| {
    let names = "(?:final[ _-]?|overall[ _-]?)?(?:score|rating|grade|mark|answer|verdict|result|\
                 output|value|note|punkte)";
    Regex::new(&format!(r"<\s*{names}\s*>([^<>]*)<\s*/\s*{names}\s*>")).expect("a valid pattern")
});
static DOUBLE_BRACKETS: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"\[\[([^\[\]]*)\]\]").expect("a valid pattern"));
/// Marks around the question, repeated by the judge: not the judge's words.
static FENCED: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"(?s)\[\[begin \w+ [0-9a-f]+\]\].*?(?:\[\[end \w+ [0-9a-f]+\]\]|\z)|\[\[end \w+ [0-9a-f]+\]\]")
        .expect("a valid pattern")
});
static MARKUP: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(
        r"<\|[^|<>\n]{1,60}\|>|</?[a-z][^<>\n]{0,60}>|</?s>|```\w*|~~[^~\n]*~~|\\[()\[\]]|\\(?:text|math|bf|rm|displaystyle)[a-z]*|\\(?:left|right|,|;|!|quad)",
    )
    .expect("a valid pattern")
});
static DOLLARS: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"\$([^$\n]{1,60})\$").expect("a valid pattern"));
static FRACTION: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"\\[dt]?frac\s*\{([^{}]*)(\}\s*\{)([^{}]*)\}").expect("a valid pattern")
});
/// A quotation with words and numbers in it: somebody else's.
static QUOTED: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r#""[^"\n]{2,400}""#).expect("a valid pattern"));

impl Plain {
    /// The parts of `answer` that `kept` lists, in plain characters.
    pub(super) fn of(answer: &str, kept: &[Range<usize>]) -> Self {
        let (mut text, mut origin) = (String::new(), Vec::new());
        for (n, part) in kept.iter().enumerate() {
            if n > 0 {
                push(&mut text, &mut origin, part.start, "\n");
            }
            plain(&answer[part.clone()], part.start, &mut text, &mut origin);
        }
        let mut plain = Self { text, origin, results: Vec::new() };
        plain.clear();
        plain
    }

    /// Place in the answer of a character of `text`.
    pub(super) fn origin(&self, at: usize) -> usize {
        self.origin.get(at).copied().unwrap_or_default()
    }

    /// Makes a part blank.
    pub(super) fn blank(&mut self, part: Range<usize>) {
        let blanks: String = self.text[part.clone()]
            .bytes()
            .map(|byte| if byte == b'\n' { '\n' } else { ' ' })
            .collect();
        self.text.replace_range(part, &blanks);
    }

    fn blank_all(&mut self, pattern: &Regex) {
        let found: Vec<_> = pattern.find_iter(&self.text).map(|found| found.range()).collect();
        found.into_iter().for_each(|part| self.blank(part));
    }

    /// Blanks the markup, after what it marks as the result was noted.
    fn clear(&mut self) {
        self.blank_all(&FENCED);
        for pattern in [&RESULT_TAG, &DOUBLE_BRACKETS] {
            let inner = pattern.captures_iter(&self.text).filter_map(|c| c.get(1));
            self.results.extend(inner.map(|inner| inner.range()).collect::<Vec<_>>());
        }
        self.boxes();
        self.blank_all(&MARKUP);
        let dollars: Vec<_> =
            DOLLARS.captures_iter(&self.text).filter_map(|c| c.get(0)).map(|d| d.range()).collect();
        for part in dollars {
            self.blank(part.start..part.start + 1);
            self.blank(part.end - 1..part.end);
        }
        let fractions: Vec<_> = FRACTION
            .captures_iter(&self.text)
            .filter_map(|c| Some((c.get(0)?.range(), c.get(1)?.start(), c.get(2)?.range())))
            .collect();
        for (whole, top, between) in fractions {
            self.blank(whole.start..top);
            self.blank(between.clone());
            self.text.replace_range(between.start..between.start + 1, "/");
        }
        let braces: Vec<_> = self.text.match_indices(['{', '}']).map(|(at, _)| at).collect();
        braces.into_iter().for_each(|at| self.blank(at..at + 1));
        let quoted: Vec<_> = QUOTED.find_iter(&self.text).map(|found| found.range()).collect();
        let whole = self.text.trim().len();
        for part in quoted {
            let inner = &self.text[part.start + 1..part.end - 1];
            let spoken =
                inner.bytes().any(|b| b.is_ascii_digit()) && inner.chars().any(char::is_alphabetic);
            if spoken && part.len() < whole {
                self.blank(part);
            }
        }
        let quotes: Vec<_> = self.text.match_indices('"').map(|(at, _)| at).collect();
        quotes.into_iter().for_each(|at| self.blank(at..at + 1));
    }

    /// Records the content of `\boxed{..}`, and blanks the box.
    fn boxes(&mut self) {
        // An answer with more boxes, or with an unclosed one, is not searched.
        for name in ["\\boxed", "\\fbox"] {
            let mut from = 0;
            for _ in 0..16 {
                let Some(at) = self.text[from..].find(name).map(|at| from + at) else { break };
                let open = at + name.len();
                from = open;
                let gap = self.text[open..].len() - self.text[open..].trim_start().len();
                let inner = open + gap + 1;
                if !self.text[open + gap..].starts_with('{') {
                    continue;
                }
                let mut depth = 1;
                let end = self.text[inner..].find(|c| {
                    depth += i32::from(c == '{') - i32::from(c == '}');
                    depth == 0
                });
                let Some(end) = end.map(|end| inner + end) else { break };
                self.results.push(inner..end);
                self.blank(at..inner);
                self.blank(end..end + 1);
            }
        }
    }
}

fn push(text: &mut String, origin: &mut Vec<usize>, at: usize, what: &str) {
    text.push_str(what);
    origin.resize(text.len(), at);
}

/// Appends `part`, which begins at `start` of the answer, in plain characters.
fn plain(part: &str, start: usize, text: &mut String, origin: &mut Vec<usize>) {
    let mut chars = part.char_indices().peekable();
    let mut before = '\n';
    // Whether only marks of headings, quotes and lists stood on this line so far.
    let mut line_start = true;
    while let Some((at, c)) = chars.next() {
        let next = chars.peek().map_or('\n', |&(_, next)| next);
        let between_digits = before.is_ascii_digit() && next.is_ascii_digit();
        let mut one = [0; 4];
        let lower: String;
        let c = digit(c).unwrap_or(c);
        let what: &str = match c {
            '\u{200b}'..='\u{200f}'
            | '\u{202a}'..='\u{202e}'
            | '\u{2060}'..='\u{2064}'
            | '\u{2066}'..='\u{2069}'
            | '\u{feff}'
            | '\u{fe0f}'
            | '\u{20e3}'
            | '\u{ad}' => continue,
            '\n' | '\u{b}' | '\u{c}' | '\u{85}' | '\u{2028}' | '\u{2029}' => "\n",
            '\r' if next != '\n' => "\n",
            c if c.is_whitespace() || c.is_control() => " ",
            '\u{2212}' | '\u{2010}'..='\u{2013}' | '\u{fe63}' | '\u{ff0d}' => "-",
            '\u{2014}' | '\u{2015}' => "—",
            '\u{2018}' | '\u{2019}' | '\u{2bc}' => "'",
            '\u{201c}'..='\u{201f}' | '«' | '»' | '「' | '」' | '『' | '』' | '〝' | '〞' => {
                "\""
            }
            '【' | '［' => "[",
            '】' | '］' => "]",
            '。' | '｡' => ". ",
            '、' => ", ",
            '\u{66b}' => ".",
            '⁄' | '∕' | '÷' => "/",
            '〜' | '∼' => "~",
            '…' => " .. ",
            '\u{1f51f}' => "10",
            '½' => {
                if before.is_ascii_digit() {
                    ".5"
                } else {
                    "0.5"
                }
            }
            '¼' => {
                if before.is_ascii_digit() {
                    ".25"
                } else {
                    "0.25"
                }
            }
            '¾' => {
                if before.is_ascii_digit() {
                    ".75"
                } else {
                    "0.75"
                }
            }
            '*' if between_digits => "×",
            '*' | '`' => "",
            '_' if before.is_ascii_digit() || next.is_ascii_digit() => {
                if before.is_alphanumeric() && next.is_alphanumeric() { "_" } else { "" }
            }
            '_' => " ",
            '#' if line_start => "",
            '>' if line_start && next.is_whitespace() => "",
            '\u{ff01}'..='\u{ff5e}' => {
                let ascii = char::from_u32(c as u32 - 0xFEE0).unwrap_or(' ').to_ascii_lowercase();
                if ascii == ',' { ", " } else { ascii.encode_utf8(&mut one) }
            }
            c => {
                lower = c.to_lowercase().collect();
                &lower
            }
        };
        push(text, origin, start + at, what);
        line_start = what == "\n" || (line_start && what.trim().is_empty());
        before = what.chars().last().unwrap_or(before);
    }
}
