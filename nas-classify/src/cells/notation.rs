//! Reader of the Python notation of genotypes.

use nas_core::nn::Op;

use super::genotype::{Cell, Edge};

/// Names and cells of `Genotype(name=[(operator, state), ...], name_concat=[state, ...] or range(from, to), ...)`.
pub(super) fn parse(text: &str) -> Result<Vec<(String, Cell)>, String> {
    let mut reader = Reader { rest: text };
    reader.expect("Genotype")?;
    reader.expect("(")?;
    let (mut nodes, mut concats) = (Vec::new(), Vec::new());
    while !reader.take(")") {
        let key = reader.word()?;
        reader.expect("=")?;
        match key.strip_suffix("_concat") {
            Some(name) => concats.push((name.to_string(), reader.states()?)),
            None => nodes.push((key.to_string(), reader.edges()?)),
        }
        if !reader.take(",") {
            reader.expect(")")?;
            break;
        }
    }
    if !reader.peek().is_empty() {
        return Err(format!("{:?} after the end", reader.peek()));
    }
    let cell = |(name, edges): (String, Vec<Edge>)| {
        let (pairs, rest) = edges.as_chunks::<2>();
        if !rest.is_empty() {
            return Err(format!("{name}: {} edges, expected two for each node", edges.len()));
        }
        let concat = concats.iter().find(|(other, _)| *other == name);
        let (_, concat) = concat.ok_or_else(|| format!("no {name}_concat"))?;
        Ok((name, Cell { nodes: pairs.to_vec(), concat: concat.clone() }))
    };
    let cells: Vec<_> = nodes.into_iter().map(cell).collect::<Result<_, _>>()?;
    match cells.is_empty() {
        true => Err("no cell".to_string()),
        false => Ok(cells),
    }
}

struct Reader<'a> {
    rest: &'a str,
}

impl<'a> Reader<'a> {
    fn peek(&self) -> &'a str {
        self.rest.trim_start()
    }

    fn take(&mut self, token: &str) -> bool {
        let rest = self.peek().strip_prefix(token);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    fn expect(&mut self, token: &str) -> Result<(), String> {
        let found: String = self.peek().chars().take(20).collect();
        if self.take(token) { Ok(()) } else { Err(format!("found {found:?}, expected {token:?}")) }
    }

    fn word(&mut self) -> Result<&'a str, String> {
        let text = self.peek();
        let end = text.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(text.len());
        let (word, rest) = text.split_at(end);
        self.rest = rest;
        let found = || text.chars().take(20).collect::<String>();
        if word.is_empty() { Err(format!("found {:?}, expected a word", found())) } else { Ok(word) }
    }

    fn number(&mut self) -> Result<usize, String> {
        let word = self.word()?;
        word.parse::<u16>().map(usize::from).map_err(|_| format!("{word:?} is not a number of a state"))
    }

    /// What `item` reads, in brackets.
    fn list<T>(&mut self, mut item: impl FnMut(&mut Self) -> Result<T, String>) -> Result<Vec<T>, String> {
        self.expect("[")?;
        let mut items = Vec::new();
        while !self.take("]") {
            items.push(item(self)?);
            if !self.take(",") {
                self.expect("]")?;
                break;
            }
        }
        Ok(items)
    }

    fn edges(&mut self) -> Result<Vec<Edge>, String> {
        self.list(|reader| {
            reader.expect("(")?;
            let quote = if reader.take("\"") { "\"" } else { "'" };
            if quote == "'" {
                reader.expect(quote)?;
            }
            let name = reader.word()?;
            reader.expect(quote)?;
            reader.expect(",")?;
            let state = reader.number()?;
            reader.expect(")")?;
            let op = Op::from_name(name).ok_or_else(|| {
                let known = Op::ALL.map(Op::name).join(", ");
                format!("unknown operator {name:?}, expected one of {known}")
            })?;
            Ok(Edge { state, op })
        })
    }

    fn states(&mut self) -> Result<Vec<usize>, String> {
        if !self.take("range") {
            return self.list(Self::number);
        }
        self.expect("(")?;
        let start = self.number()?;
        self.expect(",")?;
        let end = self.number()?;
        self.expect(")")?;
        Ok((start..end).collect())
    }
}
