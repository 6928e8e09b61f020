//! What spaces without further rules ask of an architecture.

use nas_core::space::Architecture;
use nas_core::space::{ChoiceSpace, InvalidArchitecture};

/// Whether `arch` has one choice per decision of `space`, each in its range.
pub fn check_choices(space: &dyn ChoiceSpace, arch: &Architecture) -> Result<(), InvalidArchitecture> {
    let (choices, decisions) = (arch.choices(), space.decisions());
    if choices.len() != decisions.len() {
        return Err(invalid(space, arch, format!("{} choices, expected {}", choices.len(), decisions.len())));
    }
    let outside = choices.iter().zip(&decisions).position(|(choice, options)| choice >= options);
    outside.map_or(Ok(()), |i| {
        let reason = format!("decision {i} is {}, expected 0 to {}", choices[i], decisions[i] - 1);
        Err(invalid(space, arch, reason))
    })
}

/// The error of an architecture that is not of `space`.
pub fn invalid(space: &dyn ChoiceSpace, arch: &Architecture, reason: String) -> InvalidArchitecture {
    InvalidArchitecture { space: space.name().into(), arch: arch.to_string(), reason }
}
