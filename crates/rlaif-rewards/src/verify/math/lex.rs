//! LaTeX and plain notation as tokens.

use super::expr::Relation;

/// A piece of notation.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Token {
    Number(String),
    /// A variable, a Greek letter or a command that is not known.
    Name(String),
    /// A command that takes arguments, without its backslash.
    Command(&'static str),
    Text(String),
    Symbol(char),
    /// `(`, `[`, `{` of a group or `\{` of a set, as the last is written.
    Open(char),
    Close(char),
    Relation(Relation),
    PlusMinus,
    Union,
    /// `&` and `\\` of a matrix.
    Cell,
    Row,
    Begin,
    End,
}

/// Commands that the parser knows.
const COMMANDS: [&str; 36] = [
    "frac", "sqrt", "sin", "cos", "tan", "cot", "sec", "csc", "arcsin", "arccos", "arctan", "sinh",
    "cosh", "tanh", "ln", "log", "exp", "binom", "pi", "infty", "emptyset", "lfloor", "rfloor",
    "lceil", "rceil", "abs", "asin", "acos", "atan", "oo", "inf", "infinity", "overline", "hat",
    "vec", "bar",
];

/// Words of plain notation that mean what the command means.
const WORDS: [&str; 22] = [
    "sqrt", "sin", "cos", "tan", "cot", "sec", "csc", "arcsin", "arccos", "arctan", "sinh", "cosh",
    "tanh", "ln", "log", "exp", "pi", "abs", "asin", "acos", "atan", "infinity",
];

/// Looks and spaces, which say nothing.
const SILENT: [&str; 26] = [
    "left",
    "right",
    "displaystyle",
    "textstyle",
    "quad",
    "qquad",
    "big",
    "Big",
    "bigg",
    "Bigg",
    "bigl",
    "bigr",
    "Bigl",
    "Bigr",
    "limits",
    "nolimits",
    "circ",
    "degree",
    "hfill",
    "hspace",
    "middle",
    "mathstrut",
    "ldots",
    "dots",
    "cdots",
    "nonumber",
];

/// Tokens of an answer; `None` for more than an answer can be.
pub(super) fn tokens(text: &str) -> Option<Vec<Token>> {
    let chars: Vec<char> = text.chars().collect();
    let mut found = Vec::new();
    let mut at = 0;
    while at < chars.len() {
        if found.len() > 500 {
            return None;
        }
        at = token(&chars, at, &mut found)?;
    }
    Some(found)
}

fn token(chars: &[char], at: usize, found: &mut Vec<Token>) -> Option<usize> {
    let next = |by: usize| chars.get(at + by).copied();
    let c = chars[at];
    let digit = |c: Option<char>| c.is_some_and(|c| c.is_ascii_digit());
    let (token, length) = match c {
        c if c.is_whitespace() || matches!(c, '~' | '$' | '€' | '£' | '°' | '′') => {
            return Some(at + 1);
        }
        '\\' => return command(chars, at, found),
        c if c.is_ascii_digit() || c == '.' && digit(next(1)) => {
            let (number, end) = number(chars, at);
            found.push(Token::Number(number));
            return Some(end);
        }
        // The full stop of a sentence.
        '.' | '?' => return Some(at + 1),
        ';' => (Token::Symbol(','), 1),
        '<' if next(1) == Some('=') => (Token::Relation(Relation::LessEqual), 2),
        '>' if next(1) == Some('=') => (Token::Relation(Relation::GreaterEqual), 2),
        '!' if next(1) == Some('=') => (Token::Relation(Relation::NotEqual), 2),
        '=' => (Token::Relation(Relation::Equal), 1 + usize::from(next(1) == Some('='))),
        '<' => (Token::Relation(Relation::Less), 1),
        '>' => (Token::Relation(Relation::Greater), 1),
        '≤' => (Token::Relation(Relation::LessEqual), 1),
        '≥' => (Token::Relation(Relation::GreaterEqual), 1),
        '≠' => (Token::Relation(Relation::NotEqual), 1),
        '≈' => (Token::Relation(Relation::Approximately), 1),
        '∈' => (Token::Relation(Relation::In), 1),
        '±' => (Token::PlusMinus, 1),
        '∪' => (Token::Union, 1),
        '*' if next(1) == Some('*') => (Token::Symbol('^'), 2),
        '·' | '×' | '*' => (Token::Symbol('*'), 1),
        '÷' | '/' => (Token::Symbol('/'), 1),
        '−' | '–' | '-' => (Token::Symbol('-'), 1),
        'π' => (Token::Command("pi"), 1),
        '∞' => (Token::Command("infty"), 1),
        '√' => (Token::Command("sqrt"), 1),
        '²' | '³' => {
            found.push(Token::Symbol('^'));
            (Token::Number(if c == '²' { "2" } else { "3" }.to_owned()), 1)
        }
        '+' | '^' | '_' | ',' | '!' | '|' | '%' | ':' => (Token::Symbol(c), 1),
        '&' => (Token::Cell, 1),
        '(' | '[' | '{' => (Token::Open(c), 1),
        ')' | ']' | '}' => (Token::Close(c), 1),
        c if c.is_alphabetic() => return Some(word(chars, at, found)),
        _ => return None,
    };
    found.push(token);
    Some(at + length)
}

/// A number with its point, and without commas between groups of three digits.
fn number(chars: &[char], start: usize) -> (String, usize) {
    let mut number = String::new();
    let mut at = start;
    let digit = |at: usize| chars.get(at).is_some_and(char::is_ascii_digit);
    while let Some(&c) = chars.get(at) {
        if c.is_ascii_digit() {
            number.push(c);
            at += 1;
            continue;
        }
        if c == '.' && digit(at + 1) && !number.contains('.') {
            number.push('.');
            at += 1;
            continue;
        }
        // `14{,}916` and `16,\!386`.
        let separators: [&[char]; 4] =
            [&['{', ',', '}'], &[',', '\\', '!', ' '], &[',', '\\', '!'], &['\\', ',']];
        let three = |at: usize| (0..3).all(|by| digit(at + by)) && !digit(at + 3);
        let separator = separators
            .iter()
            .find(|separator| chars[at..].starts_with(separator) && three(at + separator.len()));
        match separator {
            Some(separator) if !number.contains('.') => at += separator.len(),
            _ => break,
        }
    }
    if number.starts_with('.') {
        number.insert(0, '0');
    }
    (number, at)
}

/// A word of plain notation, or one letter, which is a variable.
fn word(chars: &[char], at: usize, found: &mut Vec<Token>) -> usize {
    let word: String = chars[at..].iter().take_while(|c| c.is_alphabetic()).collect();
    let length = word.chars().count();
    let lower = word.to_lowercase();
    if let Some(command) = WORDS.iter().find(|known| **known == lower) {
        found.push(Token::Command(command));
        return at + length;
    }
    match lower.as_str() {
        "and" | "or" => found.push(Token::Symbol(',')),
        "percent" | "pct" | "percentage" => found.push(Token::Symbol('%')),
        "cup" => found.push(Token::Union),
        _ if length > 2 => found.push(Token::Text(word)),
        _ => {
            let letter = chars[at];
            found.push(Token::Name(letter.to_string()));
            return at + 1;
        }
    }
    at + length
}

fn command(chars: &[char], at: usize, found: &mut Vec<Token>) -> Option<usize> {
    let name: String = chars[at + 1..].iter().take_while(|c| c.is_ascii_alphabetic()).collect();
    if name.is_empty() {
        let c = *chars.get(at + 1)?;
        match c {
            '{' => found.push(Token::Open('S')),
            '}' => found.push(Token::Close('S')),
            '\\' => found.push(Token::Row),
            '%' => found.push(Token::Symbol('%')),
            '|' => found.push(Token::Symbol('|')),
            // Spaces, a dollar, display mathematics within an answer.
            ',' | '!' | ';' | ':' | ' ' | '$' | '(' | ')' | '[' | ']' | '\n' => {}
            _ => return None,
        }
        return Some(at + 2);
    }
    let end = at + 1 + name.len();
    let token = match name.as_str() {
        name if SILENT.contains(&name) => {
            if matches!(name, "circ" | "degree") {
                // `^\circ`, `^{\circ}`: the unit of the number before it.
                while matches!(found.last(), Some(Token::Symbol('^') | Token::Open('{'))) {
                    let braces = found.pop() == Some(Token::Open('{'));
                    if braces {
                        found.pop();
                        let close = chars[end..].iter().position(|c| *c == '}')?;
                        return Some(end + close + 1);
                    }
                }
            }
            return Some(end);
        }
        "dfrac" | "tfrac" | "cfrac" | "frac" => {
            found.push(Token::Command("frac"));
            return Some(digits(chars, end, found));
        }
        "dbinom" | "tbinom" | "binom" => Token::Command("binom"),
        "text" | "mbox" | "textbf" | "textit" | "mathrm" | "mathbf" | "textnormal"
        | "operatorname" | "mathit" | "textrm" | "bf" | "rm" | "mathcal" | "mathbb" => {
            let (inner, end) = group(chars, end)?;
            text(&inner, found);
            return Some(end);
        }
        "boxed" | "fbox" => {
            let (inner, end) = group(chars, end)?;
            found.push(Token::Open('{'));
            found.extend(tokens(&inner)?);
            found.push(Token::Close('}'));
            return Some(end);
        }
        "begin" | "end" => {
            let (_, end) = group(chars, end)?;
            // The columns of an array.
            let columns = name == "begin" && chars.get(end) == Some(&'{');
            let end = if columns { group(chars, end)?.1 } else { end };
            found.push(if name == "begin" { Token::Begin } else { Token::End });
            return Some(end);
        }
        "cdot" | "times" | "ast" => Token::Symbol('*'),
        "div" => Token::Symbol('/'),
        "pm" => Token::PlusMinus,
        "cup" => Token::Union,
        "le" | "leq" | "leqslant" => Token::Relation(Relation::LessEqual),
        "ge" | "geq" | "geqslant" => Token::Relation(Relation::GreaterEqual),
        "lt" => Token::Relation(Relation::Less),
        "gt" => Token::Relation(Relation::Greater),
        "ne" | "neq" => Token::Relation(Relation::NotEqual),
        "approx" | "simeq" | "sim" => Token::Relation(Relation::Approximately),
        "in" => Token::Relation(Relation::In),
        "mid" | "vert" | "lvert" | "rvert" => Token::Symbol('|'),
        "lbrace" => Token::Open('S'),
        "rbrace" => Token::Close('S'),
        "lbrack" => Token::Open('['),
        "rbrack" => Token::Close(']'),
        other => match COMMANDS.iter().find(|known| **known == other) {
            Some(known) => Token::Command(known),
            None => Token::Name(other.to_owned()),
        },
    };
    found.push(token);
    Some(end)
}

/// The digits of `\frac13`, each of which is an argument.
fn digits(chars: &[char], start: usize, found: &mut Vec<Token>) -> usize {
    let mut at = start;
    for _ in 0..2 {
        let spaces = chars[at..].iter().take_while(|c| c.is_whitespace()).count();
        match chars.get(at + spaces) {
            Some(c) if c.is_ascii_digit() => {
                found.push(Token::Number(c.to_string()));
                at += spaces + 1;
            }
            _ => break,
        }
    }
    at
}

/// The contents of `{..}` after any space, and the place behind it.
fn group(chars: &[char], start: usize) -> Option<(String, usize)> {
    let open = start + chars[start..].iter().take_while(|c| c.is_whitespace()).count();
    if chars.get(open) != Some(&'{') {
        return None;
    }
    let mut depth = 0;
    for (at, c) in chars.iter().enumerate().skip(open) {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return Some((chars[open + 1..at].iter().collect(), at + 1));
        }
    }
    None
}

/// Words within mathematics: a conjunction, a unit, or an answer in words.
fn text(inner: &str, found: &mut Vec<Token>) {
    match inner.trim() {
        "and" | "or" | "," | ", and" | ", or" => found.push(Token::Symbol(',')),
        "" => {}
        "%" | "percent" => found.push(Token::Symbol('%')),
        letter @ ("e" | "i") => found.push(Token::Name(letter.to_owned())),
        words => found.push(Token::Text(words.to_owned())),
    }
}
