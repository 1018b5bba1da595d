//! The custom resources: StreamAPI, StreamGateway and StreamPolicy as Kubernetes knows them.
//!
//! The specs live in `sluice-config`; this crate adds kind, metadata and status ([`resource`]), turns
//! the Rust types into schemas that an API server takes ([`schema`]), and checks what a person wrote
//! against such a schema, every problem at once ([`shape`]). It does no I/O outside its tests, which
//! keep `crds/*.yaml` and `docs/REFERENCE.md` fresh.

pub mod reference;
pub mod resource;
pub mod schema;
pub mod shape;
pub mod yaml;

pub use resource::{
    ApiSpec, Condition, GatewaySpec, PolicySpec, StreamAPI, StreamApiStatus, StreamGateway,
    StreamGatewayStatus, StreamPolicy, StreamPolicyStatus,
};
pub use schema::crds;

/// Group of every resource.
pub const GROUP: &str = "sluice.dev";
/// The version that is served and stored.
pub const VERSION: &str = "v1alpha1";
/// The label without which no Secret is used.
pub const USE_LABEL: &str = "sluice.dev/use";
