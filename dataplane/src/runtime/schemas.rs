//! What the channels of an API validate payloads against.

use std::collections::BTreeMap;
use std::sync::Arc;

use sluice_config::channel::Payload;
use sluice_config::{Problem, StreamApiSpec};
use sluice_schema::{Schema, below};

/// The compiled `message.payload` of each channel that has one, by the channel's name.
#[derive(Default)]
pub(super) struct Schemas(BTreeMap<String, Arc<Schema>>);

impl Schemas {
    /// Compiles those of `spec`. What the API had `before`, or another channel has, is not compiled again.
    pub(super) fn compile(
        spec: &StreamApiSpec,
        before: Option<(&StreamApiSpec, &Self)>,
    ) -> Result<Self, Vec<Problem>> {
        let mut known: Vec<(&Payload, Arc<Schema>)> = Vec::new();
        if let Some((spec, schemas)) = before {
            let pairs = spec
                .channels
                .iter()
                .filter_map(|channel| Some((channel.message.payload.as_ref()?, schemas.of(&channel.name)?)));
            known.extend(pairs);
        }
        let (mut compiled, mut problems) = (BTreeMap::new(), Vec::new());
        for (index, channel) in spec.channels.iter().enumerate() {
            let Some(payload) = &channel.message.payload else { continue };
            let same = known.iter().find(|(other, _)| *other == payload).map(|(_, schema)| schema.clone());
            let schema = match same {
                Some(schema) => schema,
                None => match Schema::compile(payload) {
                    Ok(schema) => Arc::new(schema),
                    Err(found) => {
                        problems.extend(below(index, found));
                        continue;
                    }
                },
            };
            known.push((payload, schema.clone()));
            compiled.insert(channel.name.clone(), schema);
        }
        if problems.is_empty() { Ok(Self(compiled)) } else { Err(problems) }
    }

    /// That of `channel`, if it has one.
    pub(super) fn of(&self, channel: &str) -> Option<Arc<Schema>> {
        self.0.get(channel).cloned()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn spec(payloads: &[(&str, Value)]) -> StreamApiSpec {
        let channels = payloads.iter().map(|(name, payload)| {
            json!({"name": name, "server": "log", "address": "a", "message": {"payload": payload}})
        });
        let channels: Vec<Value> = channels.collect();
        serde_json::from_value(json!({"servers": [{"name": "log", "memory": {}}], "channels": channels}))
            .expect("a spec")
    }

    fn compiled(spec: &StreamApiSpec, before: Option<(&StreamApiSpec, &Schemas)>) -> Schemas {
        Schemas::compile(spec, before).unwrap_or_else(|problems| panic!("{problems:#?}"))
    }

    #[test]
    fn what_is_known_is_not_compiled_again() {
        let (order, note) = (json!({"type": "object"}), json!({"type": "string"}));
        let old = spec(&[("a", order.clone()), ("b", order.clone()), ("c", note)]);
        let before = compiled(&old, None);
        let of = |schemas: &Schemas, name: &str| schemas.of(name).expect("it has one");
        assert!(Arc::ptr_eq(&of(&before, "a"), &of(&before, "b")), "one for both");
        let new = spec(&[("c", json!({"type": "number"})), ("d", order)]);
        let after = compiled(&new, Some((&old, &before)));
        assert!(Arc::ptr_eq(&of(&before, "a"), &of(&after, "d")), "kept, under another name too");
        assert!(of(&after, "c").validate(b"1").is_ok() && of(&before, "c").validate(b"1").is_err());
        assert!(after.of("a").is_none());
    }

    /// An operator of another version may take what this build cannot compile.
    #[test]
    fn what_does_not_compile_is_a_problem_of_its_channel() {
        let new = spec(&[("a", json!({})), ("b", json!({"not": {"$ref": "https://example.com"}}))]);
        let problems = Schemas::compile(&new, None).err().expect("one does not compile");
        let places: Vec<_> = problems.iter().map(|problem| problem.at.as_str()).collect();
        assert_eq!(places, ["spec.channels[1].message.payload.not.$ref"]);
    }
}
