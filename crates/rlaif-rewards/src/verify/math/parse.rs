//! From tokens to an expression.

use super::{
    expr::Expr,
    lex::{Token, tokens},
    number::{Function, Rational},
};

/// Brackets within brackets.
const DEEPEST: usize = 120;
/// Longer texts are not an answer, but a solution.
const LONGEST: usize = 2_000;

/// The expression that a text is; `None` if it is something else.
pub(super) fn parse(text: &str) -> Option<Expr> {
    if text.len() > LONGEST {
        return None;
    }
    let tokens = tokens(text.trim())?;
    let mut parser = Parser { tokens: &tokens, at: 0, depth: 0, bars: 0 };
    let expr = parser.list()?;
    // A unit, in words.
    while matches!(parser.peek(), Some(Token::Text(_))) {
        parser.at += 1;
        parser.superscript();
    }
    (parser.at == tokens.len()).then_some(expr)
}

struct Parser<'a> {
    tokens: &'a [Token],
    at: usize,
    depth: usize,
    /// Open `|`s.
    bars: usize,
}

impl Parser<'_> {
    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.at)
    }

    fn symbol(&mut self, c: char) -> bool {
        let is = self.peek() == Some(&Token::Symbol(c));
        self.at += usize::from(is);
        is
    }

    fn close(&mut self, c: char) -> bool {
        let is = self.peek() == Some(&Token::Close(c));
        self.at += usize::from(is);
        is
    }

    /// Skips the exponent of a unit.
    fn superscript(&mut self) {
        if self.symbol('^') {
            let _ = self.atom();
        }
    }

    fn list(&mut self) -> Option<Expr> {
        let mut items = self.items()?;
        if items.len() == 1 { items.pop() } else { Some(Expr::List(items)) }
    }

    fn items(&mut self) -> Option<Vec<Expr>> {
        self.depth += 1;
        if self.depth > DEEPEST {
            return None;
        }
        let mut items = vec![self.chain()?];
        while self.symbol(',') {
            // `, and`.
            while self.symbol(',') {}
            if self.peek().is_none() {
                break;
            }
            items.push(self.chain()?);
        }
        self.depth -= 1;
        Some(items)
    }

    fn chain(&mut self) -> Option<Expr> {
        let first = self.union()?;
        let mut rest = Vec::new();
        while let Some(&Token::Relation(relation)) = self.peek() {
            self.at += 1;
            rest.push((relation, self.union()?));
        }
        if rest.is_empty() {
            return Some(first);
        }
        Some(Expr::Chain { first: Box::new(first), rest })
    }

    fn union(&mut self) -> Option<Expr> {
        let first = self.sum()?;
        let mut all = vec![first];
        while self.peek() == Some(&Token::Union) {
            self.at += 1;
            all.push(self.sum()?);
        }
        if all.len() == 1 { all.pop() } else { Some(Expr::Union(all)) }
    }

    fn sum(&mut self) -> Option<Expr> {
        let mut sum = if self.peek() == Some(&Token::PlusMinus) {
            self.at += 1;
            Expr::PlusMinus(Box::new(Expr::number(0)), Box::new(self.term()?))
        } else {
            self.term()?
        };
        loop {
            let left = Box::new(sum);
            sum = if self.symbol('+') {
                Expr::Sum(left, Box::new(self.term()?))
            } else if self.symbol('-') {
                Expr::Sum(left, Box::new(Expr::Negative(Box::new(self.term()?))))
            } else if self.peek() == Some(&Token::PlusMinus) {
                self.at += 1;
                Expr::PlusMinus(left, Box::new(self.term()?))
            } else {
                return Some(*left);
            };
        }
    }

    fn term(&mut self) -> Option<Expr> {
        if self.symbol('-') {
            self.depth += 1;
            if self.depth > DEEPEST {
                return None;
            }
            let term = self.term()?;
            self.depth -= 1;
            return Some(Expr::Negative(Box::new(term)));
        }
        self.symbol('+');
        let mut term = self.power()?;
        loop {
            let left = Box::new(term);
            term = if self.symbol('*') {
                Expr::Product(left, Box::new(self.signed()?))
            } else if self.symbol('/') {
                Expr::Quotient(left, Box::new(self.signed()?))
            } else if self.symbol(':') {
                // A ratio.
                Expr::Quotient(left, Box::new(self.signed()?))
            } else if !matches!(*left, Expr::Text(_)) && self.begins_atom() {
                let mixed = matches!(&*left, Expr::Number { value, .. } if value.is_whole())
                    && self.peek() == Some(&Token::Command("frac"));
                let right = self.power()?;
                let numbers = matches!(&right, Expr::Quotient(a, b)
                    if matches!((&**a, &**b), (Expr::Number { .. }, Expr::Number { .. })));
                if mixed && numbers {
                    // 1 1/2.
                    Expr::Sum(left, Box::new(right))
                } else {
                    Expr::Product(left, Box::new(right))
                }
            } else {
                if let (Expr::Number { .. } | Expr::Quotient(..), Some(Token::Text(_))) =
                    (&*left, self.peek())
                {
                    // A unit.
                    self.at += 1;
                    self.superscript();
                }
                return Some(*left);
            };
        }
    }

    fn signed(&mut self) -> Option<Expr> {
        if self.symbol('-') {
            return Some(Expr::Negative(Box::new(self.power()?)));
        }
        self.symbol('+');
        self.power()
    }

    fn begins_atom(&self) -> bool {
        match self.peek() {
            Some(Token::Number(_) | Token::Name(_) | Token::Open(_) | Token::Begin) => true,
            Some(Token::Command(name)) => !matches!(*name, "rfloor" | "rceil"),
            Some(Token::Symbol('|')) => self.bars == 0,
            _ => false,
        }
    }

    fn power(&mut self) -> Option<Expr> {
        let base = self.postfix()?;
        if !self.symbol('^') {
            return Some(base);
        }
        let exponent = self.exponent()?;
        let power = Expr::Power(Box::new(base), Box::new(exponent));
        Some(self.after(power))
    }

    fn exponent(&mut self) -> Option<Expr> {
        if self.symbol('-') {
            return Some(Expr::Negative(Box::new(self.argument()?)));
        }
        if let Some(Token::Name(name)) = self.peek()
            && matches!(name.as_str(), "prime")
        {
            self.at += 1;
            return Some(Expr::number(1));
        }
        self.argument()
    }

    fn postfix(&mut self) -> Option<Expr> {
        let atom = self.atom()?;
        if self.symbol('_') {
            let index = self.index()?;
            let name = match atom {
                Expr::Number { value, .. } => value.to_f64().to_string(),
                Expr::Variable(name) | Expr::Text(name) => name,
                _ => return None,
            };
            return Some(self.after(Expr::Variable(format!("{name}_{index}"))));
        }
        Some(self.after(atom))
    }

    /// `!` and `%` behind a number.
    fn after(&mut self, mut atom: Expr) -> Expr {
        loop {
            if self.symbol('!') {
                atom = Expr::Call(Function::Factorial, Box::new(atom));
            } else if self.symbol('%') {
                atom = Expr::Percent(Box::new(atom));
            } else {
                return atom;
            }
        }
    }

    /// The text of a subscript.
    fn index(&mut self) -> Option<String> {
        let token = self.peek()?.clone();
        self.at += 1;
        let word = |token: &Token| match token {
            Token::Number(text) | Token::Name(text) | Token::Text(text) => Some(text.clone()),
            Token::Symbol(c) => Some(c.to_string()),
            _ => None,
        };
        if token != Token::Open('{') {
            return word(&token);
        }
        let mut text = String::new();
        while !self.close('}') {
            text.push_str(&word(self.peek()?)?);
            self.at += 1;
        }
        Some(text)
    }

    /// The argument of a command or an exponent: a group, or one token; of a number, one digit.
    fn argument(&mut self) -> Option<Expr> {
        self.depth += 1;
        if self.depth > DEEPEST {
            return None;
        }
        let atom = self.atom()?;
        self.depth -= 1;
        Some(atom)
    }

    fn atom(&mut self) -> Option<Expr> {
        self.depth += 1;
        let atom = if self.depth > DEEPEST { None } else { self.atom_within() };
        self.depth -= 1;
        atom
    }

    fn atom_within(&mut self) -> Option<Expr> {
        let token = self.peek()?.clone();
        self.at += 1;
        Some(match token {
            Token::Number(digits) => {
                let decimal = digits.contains('.');
                match Rational::of_digits(&digits) {
                    Some(value) => Expr::Number { value, decimal },
                    None => Expr::Text(digits),
                }
            }
            Token::Name(name) if name == "i" => Expr::Imaginary,
            Token::Name(name) if name == "e" => Expr::Euler,
            Token::Name(name) => Expr::Variable(name),
            Token::Text(words) => self.words(words),
            Token::Open(open) => self.bracket(open)?,
            Token::Symbol('|') => {
                self.bars += 1;
                let inner = self.sum()?;
                self.bars -= 1;
                if !self.symbol('|') {
                    return None;
                }
                Expr::Call(Function::Abs, Box::new(inner))
            }
            Token::Begin => self.matrix()?,
            Token::Command(name) => self.command(name)?,
            _ => return None,
        })
    }

    /// Words and the words after them.
    fn words(&mut self, mut words: String) -> Expr {
        while let Some(Token::Text(more) | Token::Name(more)) = self.peek() {
            words = format!("{words} {more}");
            self.at += 1;
        }
        Expr::Text(words)
    }

    fn bracket(&mut self, open: char) -> Option<Expr> {
        let bars = std::mem::take(&mut self.bars);
        let end = |open: char| match open {
            '(' => ')',
            '[' => ']',
            other => other,
        };
        if open == 'S' && self.close('S') {
            self.bars = bars;
            return Some(Expr::Set(Vec::new()));
        }
        let mut items = self.items()?;
        self.bars = bars;
        if open == 'S' {
            return self.close('S').then_some(Expr::Set(items));
        }
        if open == '{' {
            if !self.close('}') {
                return None;
            }
            return if items.len() == 1 { items.pop() } else { Some(Expr::List(items)) };
        }
        let close = [')', ']'].into_iter().find(|close| self.close(*close))?;
        if items.len() == 1 && close == end(open) {
            return items.pop();
        }
        Some(Expr::Bracketed { open, items, close })
    }

    fn matrix(&mut self) -> Option<Expr> {
        let mut rows = vec![Vec::new()];
        loop {
            match self.peek()? {
                Token::End => {
                    self.at += 1;
                    break;
                }
                Token::Cell => self.at += 1,
                Token::Row => {
                    self.at += 1;
                    rows.push(Vec::new());
                }
                _ => {
                    let cell = self.chain()?;
                    rows.last_mut()?.push(cell);
                }
            }
        }
        rows.retain(|row| !row.is_empty());
        Some(Expr::Matrix(rows))
    }

    fn command(&mut self, name: &str) -> Option<Expr> {
        let call = |function| Some(function);
        let function = match name {
            "frac" => {
                let over = self.argument()?;
                return Some(Expr::Quotient(Box::new(over), Box::new(self.argument()?)));
            }
            "binom" => {
                let n = self.argument()?;
                return Some(Expr::Binomial(Box::new(n), Box::new(self.argument()?)));
            }
            "sqrt" => {
                let index = if self.peek() == Some(&Token::Open('[')) {
                    self.at += 1;
                    let index = self.sum()?;
                    if !self.close(']') {
                        return None;
                    }
                    index
                } else {
                    Expr::number(2)
                };
                let of = self.argument()?;
                return Some(Expr::Root { index: Box::new(index), of: Box::new(of) });
            }
            "log" => {
                let base = if self.symbol('_') { self.argument()? } else { Expr::number(10) };
                let of = Box::new(self.operand()?);
                return Some(Expr::Log { base: Box::new(base), of });
            }
            "pi" => return Some(Expr::Pi),
            "infty" | "oo" | "inf" | "infinity" => return Some(Expr::Infinity),
            "emptyset" => return Some(Expr::Set(Vec::new())),
            "lfloor" | "lceil" => {
                let inner = Box::new(self.sum()?);
                let (end, function) = match name {
                    "lfloor" => ("rfloor", Function::Floor),
                    _ => ("rceil", Function::Ceil),
                };
                let closed = matches!(self.peek(), Some(Token::Command(name)) if *name == end);
                self.at += 1;
                return closed.then_some(Expr::Call(function, inner));
            }
            "overline" | "hat" | "vec" | "bar" => {
                let inner = self.argument()?;
                return match inner {
                    Expr::Variable(letters) => Some(Expr::Variable(format!("{name} {letters}"))),
                    Expr::Product(..) => Some(Expr::Product(
                        Box::new(Expr::Variable(name.to_owned())),
                        Box::new(inner),
                    )),
                    _ => None,
                };
            }
            "sin" => call(Function::Sin),
            "cos" => call(Function::Cos),
            "tan" => call(Function::Tan),
            "cot" => call(Function::Cot),
            "sec" => call(Function::Sec),
            "csc" => call(Function::Csc),
            "arcsin" | "asin" => call(Function::Arcsin),
            "arccos" | "acos" => call(Function::Arccos),
            "arctan" | "atan" => call(Function::Arctan),
            "sinh" => call(Function::Sinh),
            "cosh" => call(Function::Cosh),
            "tanh" => call(Function::Tanh),
            "ln" => call(Function::Ln),
            "exp" => call(Function::Exp),
            "abs" => call(Function::Abs),
            _ => None,
        }?;
        // `\sin^2 x`.
        let exponent = if self.symbol('^') { Some(self.exponent()?) } else { None };
        let applied = Expr::Call(function, Box::new(self.operand()?));
        Some(match exponent {
            Some(exponent) => Expr::Power(Box::new(applied), Box::new(exponent)),
            None => applied,
        })
    }

    /// The argument of `\sin`: `2x` of `\sin 2x \cos y`.
    fn operand(&mut self) -> Option<Expr> {
        let negative = self.symbol('-');
        let mut operand = self.power()?;
        while let Some(Token::Number(_) | Token::Name(_) | Token::Command("pi")) = self.peek() {
            operand = Expr::Product(Box::new(operand), Box::new(self.power()?));
        }
        Some(if negative { Expr::Negative(Box::new(operand)) } else { operand })
    }
}
