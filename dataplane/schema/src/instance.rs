//! A payload as the validator sees it: every look costs a step, and who has none left sees nothing more. So a
//! validation ends, whatever the schema asks for and whatever the payload repeats. What errors are given in
//! place of a value is nothing, for nobody is told values.

use std::borrow::Cow;
use std::cell::Cell;
use std::collections::HashSet;
use std::hash::{Hash, Hasher};

use jsonschema::JsonType;
use jsonschema::json::{Array, Json, Node, NodeIdentity, Object, cmp};
use serde_json::{Map, Number, Value};

/// Errors that one validation collects; few of them are told.
const MAX_ERRORS: u32 = 1000;
/// Bytes that are read in one step, and states of a pattern that are.
const PER_STEP: u64 = 64;

/// What is seen once no step is left.
static NOTHING: Value = Value::Null;

/// What the patterns of a schema make texts cost.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Costs {
    /// States of the largest pattern.
    pub text: u64,
    /// States of all patterns, and schemas that names of properties are validated against.
    pub names: u64,
}

impl Costs {
    const fn text(self, text: &str) -> u64 {
        1 + (text.len() as u64).saturating_mul(self.text) / PER_STEP
    }

    const fn name(self, name: &str) -> u64 {
        1 + (name.len() as u64).saturating_mul(self.names) / PER_STEP
    }
}

/// One validation: what it may still do.
pub(crate) struct Run {
    steps: Cell<u64>,
    errors: Cell<u32>,
    costs: Costs,
}

impl Run {
    pub(crate) const fn new(steps: u64, costs: Costs) -> Self {
        Self { steps: Cell::new(steps), errors: Cell::new(0), costs }
    }

    pub(crate) fn is_exhausted(&self) -> bool {
        self.steps.get() == 0
    }

    /// Takes steps; `false` if none is left then.
    fn spend(&self, steps: u64) -> bool {
        let left = self.steps.get().saturating_sub(steps);
        self.steps.set(left);
        left > 0
    }

    fn count_error(&self) {
        let errors = self.errors.get() + 1;
        self.errors.set(errors);
        if errors >= MAX_ERRORS {
            self.steps.set(0);
        }
    }
}

/// A value of a payload, or the name of one of its properties, which is of no run.
#[derive(Clone, Copy)]
pub(crate) struct Instance<'a> {
    value: &'a Value,
    run: Option<&'a Run>,
}

impl<'a> Instance<'a> {
    pub(crate) const fn new(value: &'a Value, run: &'a Run) -> Self {
        Self { value, run: Some(run) }
    }

    /// The value, for so many steps.
    fn look(&self, steps: u64) -> &'a Value {
        match self.run {
            Some(run) if !run.spend(steps) => &NOTHING,
            _ => self.value,
        }
    }

    /// The value if it is a text, for what reading it takes.
    fn read(&self, cost: impl FnOnce(&Run, &str) -> u64) -> Option<&'a str> {
        let text = self.value.as_str()?;
        self.look(self.run.map_or(1, |run| cost(run, text))).as_str()
    }
}

/// Whether an error with this instance came when nothing was seen any more: it says nothing.
pub(crate) fn is_late(instance: &Value) -> bool {
    instance.is_boolean()
}

/// The representation that [`Instance`]s are of.
pub(crate) struct Bounded;

impl Json for Bounded {
    type Node<'a> = Instance<'a>;
    type PreparedKey = String;
    type StringBuffer = Value;

    // As for `serde_json`'s own values, whose objects are trees too.
    const KEYS_PER_LOOKUP: usize = 2;

    fn prepare_key(key: &str) -> String {
        key.to_owned()
    }

    fn with_string_node<T>(buffer: &mut Value, string: &str, f: impl FnOnce(Self::Node<'_>) -> T) -> T {
        *buffer = Value::String(string.to_owned());
        f(Instance { value: buffer, run: None })
    }
}

impl<'a> Node<'a, Bounded> for Instance<'a> {
    type Object = Members<'a>;
    type Array = Items<'a>;
    type Number = &'a Number;

    fn as_object(&self) -> Option<Members<'a>> {
        let members = self.look(1).as_object()?;
        Some(Members { members, run: self.run })
    }

    fn as_array(&self) -> Option<Items<'a>> {
        let items = self.look(1).as_array()?;
        Some(Items { items, run: self.run })
    }

    fn as_string(&self) -> Option<Cow<'a, str>> {
        self.read(|run, text| run.costs.text(text)).map(Cow::Borrowed)
    }

    fn as_number(&self) -> Option<&'a Number> {
        self.look(1).as_number()
    }

    fn as_boolean(&self) -> Option<bool> {
        self.look(1).as_bool()
    }

    fn is_null(&self) -> bool {
        self.look(1).is_null()
    }

    fn json_type(&self) -> JsonType {
        JsonType::from(self.look(1))
    }

    fn string_length(&self) -> Option<u64> {
        let text = self.read(|_, text| 1 + text.len() as u64 / PER_STEP)?;
        Some(text.chars().count() as u64)
    }

    fn equals_value(&self, expected: &Value) -> bool {
        let left = self.run.map_or(0, |run| run.steps.get());
        cmp::equal(self.look(comparison(self.value, expected, left)), expected)
    }

    fn to_value(&self) -> Cow<'a, Value> {
        let Some(run) = self.run else { return Cow::Owned(Value::Null) };
        let late = run.is_exhausted();
        run.count_error();
        Cow::Owned(if late { Value::Bool(true) } else { Value::Null })
    }

    fn identity(&self) -> Option<NodeIdentity> {
        Some(NodeIdentity::new(std::ptr::from_ref(self.value) as usize))
    }

    fn container_identity(&self) -> Option<NodeIdentity> {
        // Not a look: what is remembered of a value keeps the rest of a validation short.
        if self.value.is_object() || self.value.is_array() { self.identity() } else { None }
    }
}

/// What a comparison of the two takes, as far as that is no more than `most`: it ends where their shapes differ.
fn comparison(one: &Value, other: &Value, most: u64) -> u64 {
    let mut steps = 1;
    match (one, other) {
        (Value::String(one), Value::String(other)) => steps += one.len().min(other.len()) as u64 / PER_STEP,
        (Value::Array(one), Value::Array(other)) if one.len() == other.len() => {
            for (one, other) in one.iter().zip(other) {
                if steps >= most {
                    break;
                }
                steps += comparison(one, other, most - steps);
            }
        }
        (Value::Object(one), Value::Object(other)) if one.len() == other.len() => {
            for ((name, one), other) in one.iter().zip(other.values()) {
                if steps >= most {
                    break;
                }
                steps += name.len() as u64 / PER_STEP + comparison(one, other, most - steps);
            }
        }
        _ => {}
    }
    steps
}

/// What a walk through all of `value` takes, as far as that is no more than `most`.
fn walk(value: &Value, most: u64) -> u64 {
    let text = |text: &str| text.len() as u64 / PER_STEP;
    let mut steps = 1;
    match value {
        Value::String(value) => steps += text(value),
        Value::Array(items) => {
            for item in items {
                if steps >= most {
                    break;
                }
                steps += walk(item, most - steps);
            }
        }
        Value::Object(members) => {
            for (name, value) in members {
                if steps >= most {
                    break;
                }
                steps += text(name) + walk(value, most - steps);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
    steps
}

/// The members of an object.
#[derive(Clone, Copy)]
pub(crate) struct Members<'a> {
    members: &'a Map<String, Value>,
    run: Option<&'a Run>,
}

impl<'a> Object<'a, Bounded> for Members<'a> {
    type Node = Instance<'a>;
    type MemberName = &'a str;
    type MembersIter = MembersIter<'a>;

    fn len(&self) -> usize {
        self.members.len()
    }

    fn get(&self, key: &String) -> Option<Instance<'a>> {
        if self.run.is_some_and(|run| !run.spend(1)) {
            return None;
        }
        self.members.get(key).map(|value| Instance { value, run: self.run })
    }

    fn members(&self) -> MembersIter<'a> {
        MembersIter { members: self.members.iter(), run: self.run }
    }
}

/// The members of an object, one after the other.
pub(crate) struct MembersIter<'a> {
    members: serde_json::map::Iter<'a>,
    run: Option<&'a Run>,
}

impl<'a> Iterator for MembersIter<'a> {
    type Item = (&'a str, Instance<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        let (name, value) = self.members.next()?;
        if self.run.is_some_and(|run| !run.spend(run.costs.name(name))) {
            return None;
        }
        Some((name.as_str(), Instance { value, run: self.run }))
    }
}

/// The items of a list.
#[derive(Clone, Copy)]
pub(crate) struct Items<'a> {
    items: &'a [Value],
    run: Option<&'a Run>,
}

impl<'a> Array<'a, Bounded> for Items<'a> {
    type Node = Instance<'a>;
    type ElementsIter = ItemsIter<'a>;

    fn len(&self) -> usize {
        self.items.len()
    }

    fn elements(&self) -> ItemsIter<'a> {
        ItemsIter { items: self.items.iter(), run: self.run }
    }

    fn is_unique(&self) -> bool {
        // Every item is read to its leaves.
        if let Some(run) = self.run {
            for item in self.items {
                if !run.spend(walk(item, run.steps.get())) {
                    return true;
                }
            }
        }
        let mut seen = HashSet::with_capacity(self.items.len());
        self.items.iter().all(|item| seen.insert(ByValue(item)))
    }
}

/// The items of a list, one after the other.
pub(crate) struct ItemsIter<'a> {
    items: std::slice::Iter<'a, Value>,
    run: Option<&'a Run>,
}

impl<'a> Iterator for ItemsIter<'a> {
    type Item = Instance<'a>;

    fn next(&mut self) -> Option<Instance<'a>> {
        let value = self.items.next()?;
        if self.run.is_some_and(|run| !run.spend(1)) {
            return None;
        }
        Some(Instance { value, run: self.run })
    }
}

/// Equal as JSON Schema has it (1 is 1.0). Hashed with its shape, under a key of chance: whoever writes
/// payloads cannot make values meet, as they can with lists of empty lists in `jsonschema`'s own hash.
struct ByValue<'a>(&'a Value);

impl PartialEq for ByValue<'_> {
    fn eq(&self, other: &Self) -> bool {
        cmp::equal(self.0, other.0)
    }
}

impl Eq for ByValue<'_> {}

impl Hash for ByValue<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        match self.0 {
            Value::Null => state.write_u8(0),
            Value::Bool(value) => state.write_u8(1 + u8::from(*value)),
            Value::Number(number) => {
                state.write_u8(3);
                // To add nothing makes 0.0 of -0.0, its equal.
                state.write_u64((number.as_f64().unwrap_or_default() + 0.0).to_bits());
            }
            Value::String(text) => {
                state.write_u8(4);
                text.hash(state);
            }
            Value::Array(items) => {
                state.write_u8(5);
                state.write_usize(items.len());
                items.iter().for_each(|item| ByValue(item).hash(state));
            }
            Value::Object(members) => {
                state.write_u8(6);
                state.write_usize(members.len());
                // In the order of their names.
                for (name, value) in members {
                    name.hash(state);
                    ByValue(value).hash(state);
                }
            }
        }
    }
}
