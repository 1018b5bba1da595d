//! Turns resources into the [`Config`] of a data plane.
//!
//! The steps are pure: [`read`] (a document becomes an object, or every problem of it), then for all
//! objects together [`dereference`] (what refers to what) → [`validate`] (what may be served) →
//! [`build`] (config and material, policies merged). The operator and `sluice run` share them.

use sluice_config::{Config, Material, Problem};

pub mod build;
pub mod dereference;
pub mod merge;
pub mod objects;
pub mod read;
pub mod validate;

pub use build::Note;
pub use objects::{Kind, Objects, Unread};

/// What a data plane is to serve, and what it is not and why.
#[derive(Clone, Debug, Default)]
pub struct Rendered {
    /// The APIs; `sequence` has grown if anything differs from the config before.
    pub config: Config,
    /// The secret values that the config names.
    pub material: Material,
    /// Objects with problems. A StreamAPI among them is served as it last was good, if ever; a
    /// StreamPolicy among them closes what it targets.
    pub refused: Vec<Refusal>,
    /// What a policy sets and another one overrides.
    pub notes: Vec<Note>,
}

/// An object and everything wrong with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Its kind.
    pub kind: Kind,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Everything found, at least one.
    pub problems: Vec<Problem>,
}

/// All steps: `objects` as they are now, `last` as it was rendered before.
pub fn render(objects: &Objects, last: &Config) -> Rendered {
    let references = dereference::dereference(objects, last);
    let valid = validate::validate(&references);
    build::build(&references, valid, last)
}
