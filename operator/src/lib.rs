//! Turns resources into the [`Config`] of a data plane, and into workloads.
//!
//! The steps are pure: [`read`] (a document becomes an object, or every problem of it), then for all
//! objects together [`dereference`] (what refers to what) → [`validate`] (what may be served) →
//! [`build`] (config and material, policies merged). The operator and `sluice run` share them.
//!
//! In a cluster they go on: [`children`] (what an API or a [`gateway`] of many consists of) → [`compare`] (what of it
//! differs) → [`apply`] (writes) → [`report`] (conditions). [`world`] and [`observe`] see, [`control`]
//! puts the steps together, [`lease`] decides who may write. [`admission`] takes the pure steps before an
//! object is stored, and [`impact`] tells what a change would do. [`expose`] makes StreamAPIs of annotated Services.

use sluice_config::{Config, Material, Problem};

pub mod admission;
pub mod apply;
pub mod build;
pub mod children;
pub mod compare;
pub mod control;
pub mod dereference;
pub mod expose;
pub mod gateway;
pub mod impact;
pub mod lease;
pub mod merge;
pub mod metrics;
pub mod objects;
pub mod observe;
pub mod read;
pub mod report;
pub mod sidecars;
pub mod streams;
pub mod validate;
pub mod world;

pub use build::Note;
pub use impact::differences;
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

/// Everything wrong with an object, whether it could be read or not.
pub(crate) fn problems_of(
    objects: &Objects,
    rendered: &Rendered,
    kind: Kind,
    (namespace, name): &(String, String),
) -> Vec<Problem> {
    let refused = rendered
        .refused
        .iter()
        .filter(|refusal| refusal.kind == kind && refusal.namespace == *namespace && refusal.name == *name)
        .flat_map(|refusal| refusal.problems.clone());
    let unread = objects
        .unread
        .iter()
        .filter(|unread| {
            unread.kind == kind
                && unread.namespace.as_ref() == Some(namespace)
                && unread.name.as_ref() == Some(name)
        })
        .flat_map(|unread| unread.problems.clone());
    refused.chain(unread).collect()
}
