//! Counted warnings: how often something happened, and where first.

/// A count with the first place.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    number: usize,
    first: String,
}

impl Tally {
    /// One more, at a place.
    pub fn add(&mut self, place: impl FnOnce() -> String) {
        if self.number == 0 {
            self.first = place();
        }
        self.number += 1;
    }

    /// Adds a sentence such as "3 boxes have no size (first: PLACE)" if there was any; `what` follows the number.
    pub fn report(self, what: &str, warnings: &mut Vec<String>) {
        if self.number > 0 {
            warnings.push(format!("{} {what} (first: {})", self.number, self.first));
        }
    }
}
