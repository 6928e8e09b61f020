//! TorchScript's text, as libtorch writes a trace: assignments of calls, lists and constants to names, one after another.

use anyhow::{Context, Result, bail, ensure};

/// An expression.
#[derive(Clone, Debug, PartialEq)]
pub enum Expr {
    /// A name.
    Name(String),
    /// An integer.
    Int(i64),
    /// A number with a point or an exponent.
    Float(f64),
    /// `True` or `False`.
    Bool(bool),
    /// A text.
    Text(String),
    /// `None`.
    None,
    /// A list or tuple.
    List(Vec<Expr>),
    /// A call, its arguments, and those with names.
    Call(String, Vec<Expr>, Vec<(String, Expr)>),
}

/// `a, b = value`.
#[derive(Clone, Debug, PartialEq)]
pub struct Assignment {
    /// The names that are assigned.
    pub names: Vec<String>,
    /// What they are.
    pub value: Expr,
}

/// A function of a trace.
#[derive(Clone, Debug, PartialEq)]
pub struct Function {
    /// Names of the arguments, without `self`.
    pub arguments: Vec<String>,
    /// The body.
    pub body: Vec<Assignment>,
    /// What is returned.
    pub result: Expr,
}

/// Reads the method `name` in the text of a class.
pub fn parse_method(text: &str, name: &str) -> Result<Function> {
    let start = text.find(&format!("def {name}(")).with_context(|| format!("no method {name:?} in the script"))?;
    let mut parser = Parser { text: &text[start..], at: 0 };
    parser.function().with_context(|| format!("TorchScript, byte {}", start + parser.at))
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Parser<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn skip_blanks(&mut self) {
        self.at += self.rest().len() - self.rest().trim_start().len();
    }

    /// Takes `token` if it comes next.
    fn take(&mut self, token: &str) -> bool {
        self.skip_blanks();
        let found = self.rest().starts_with(token);
        self.at += if found { token.len() } else { 0 };
        found
    }

    fn expect(&mut self, token: &str) -> Result<()> {
        ensure!(self.take(token), "expected {token:?}, found {:?}", self.rest().chars().take(20).collect::<String>());
        Ok(())
    }

    fn word(&mut self, more: &str) -> Result<&'a str> {
        self.skip_blanks();
        let rest = self.rest();
        let end = rest.find(|c: char| !(c.is_alphanumeric() || c == '_' || more.contains(c))).unwrap_or(rest.len());
        ensure!(end > 0, "expected a name, found {:?}", rest.chars().take(20).collect::<String>());
        self.at += end;
        Ok(&rest[..end])
    }

    fn function(&mut self) -> Result<Function> {
        self.expect("def")?;
        self.word("")?;
        self.expect("(")?;
        let mut arguments = Vec::new();
        while !self.take(")") {
            let name = self.word("")?.to_string();
            self.expect(":")?;
            self.word(".")?;
            self.take(",");
            arguments.push(name);
        }
        let self_argument = arguments.first() == Some(&"self".to_string());
        ensure!(self_argument, "a method without self");
        self.expect("->")?;
        self.word(".")?;
        self.expect(":")?;
        let mut body = Vec::new();
        loop {
            if self.take("return ") {
                let result = self.expression()?;
                return Ok(Function { arguments: arguments.split_off(1), body, result });
            }
            let mut names = vec![self.word("")?.to_string()];
            while self.take(",") {
                if self.take("=") {
                    self.at -= 1;
                    break;
                }
                names.push(self.word("")?.to_string());
            }
            self.expect("=")?;
            body.push(Assignment { names, value: self.expression()? });
        }
    }

    fn expression(&mut self) -> Result<Expr> {
        self.skip_blanks();
        match self.rest().chars().next().context("the script ends early")? {
            '[' => self.list("[", "]"),
            '(' => self.list("(", ")"),
            '"' => self.string(),
            c if c == '-' || c.is_ascii_digit() => self.number(),
            _ => {
                let name = self.word(".")?.to_string();
                match name.as_str() {
                    "True" => Ok(Expr::Bool(true)),
                    "False" => Ok(Expr::Bool(false)),
                    "None" => Ok(Expr::None),
                    // The type of an empty list.
                    "annotate" => {
                        self.expect("(")?;
                        self.at += self.rest().find("], ").context("annotate without a type")? + 2;
                        let value = self.expression()?;
                        self.expect(")")?;
                        Ok(value)
                    }
                    _ if self.rest().starts_with('(') => self.call(name),
                    _ => Ok(Expr::Name(name)),
                }
            }
        }
    }

    fn list(&mut self, open: &str, close: &str) -> Result<Expr> {
        self.expect(open)?;
        let mut items = Vec::new();
        while !self.take(close) {
            items.push(self.expression()?);
            self.take(",");
        }
        Ok(Expr::List(items))
    }

    fn call(&mut self, name: String) -> Result<Expr> {
        self.expect("(")?;
        let (mut args, mut named) = (Vec::new(), Vec::new());
        while !self.take(")") {
            let before = self.at;
            match self.word("").map(str::to_string) {
                Ok(key) if self.rest().starts_with('=') => {
                    self.expect("=")?;
                    named.push((key, self.expression()?));
                }
                _ => {
                    self.at = before;
                    args.push(self.expression()?);
                }
            }
            self.take(",");
        }
        Ok(Expr::Call(name, args, named))
    }

    fn string(&mut self) -> Result<Expr> {
        self.expect("\"")?;
        let length = self.rest().find('"').context("a text without an end")?;
        let text = self.rest()[..length].to_string();
        self.at += length + 1;
        Ok(Expr::Text(text))
    }

    fn number(&mut self) -> Result<Expr> {
        let rest = self.rest();
        let end =
            rest[1..].find(|c: char| !(c.is_ascii_digit() || ".e+-".contains(c))).map_or(rest.len(), |end| end + 1);
        self.at += end;
        let text = &rest[..end];
        match text.parse::<i64>() {
            Ok(int) => Ok(Expr::Int(int)),
            Err(_) => match text.parse::<f64>() {
                Ok(float) => Ok(Expr::Float(float)),
                Err(_) => bail!("{text:?} is no number"),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_is_read() {
        let text = "class Net(Module):\n  training : bool\n  def forward(self: __torch__.Net,\n    x: Tensor,\n    w: Tensor) -> Tensor:\n    \
                    y = torch._convolution(x, w, None, [2, -2], 1e-05, True, alpha=1)\n    p, q, = torch.chunk(torch.relu_(y), 2)\n    \
                    z = torch.full(annotate(List[int], []), CONSTANTS.c0, mode=\"ij\")\n    return (p, q)\n";
        let function = parse_method(text, "forward").unwrap();
        assert_eq!(function.arguments, ["x", "w"]);
        let name = |name: &str| Expr::Name(name.into());
        let conv =
            vec![name("x"), name("w"), Expr::None, Expr::List(vec![Expr::Int(2), Expr::Int(-2)]), Expr::Float(1e-5)];
        let conv = [conv, vec![Expr::Bool(true)]].concat();
        let conv = Expr::Call("torch._convolution".into(), conv, vec![("alpha".into(), Expr::Int(1))]);
        assert_eq!(function.body[0], Assignment { names: vec!["y".into()], value: conv });
        assert_eq!(function.body[1].names, ["p", "q"]);
        let Expr::Call(_, args, named) = &function.body[2].value else { panic!("a call") };
        assert_eq!(args, &[Expr::List(Vec::new()), name("CONSTANTS.c0")]);
        assert_eq!(named, &[("mode".into(), Expr::Text("ij".into()))]);
        assert_eq!(function.result, Expr::List(vec![name("p"), name("q")]));
    }

    #[test]
    fn what_is_not_understood_is_an_error_with_its_place() {
        let error = parse_method("def forward(self: T) -> Tensor:\n  x = @", "forward").unwrap_err();
        assert!(format!("{error:#}").contains("byte"), "{error:#}");
        assert!(parse_method("", "forward").is_err());
    }
}
