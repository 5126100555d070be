//! Which policy, with which constants, as it is written in scenarios and on the command line.

use std::fmt::Write as _;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

use crate::error::{Error, Result};

use super::central::{ByArrival, Central, ShortestFirst};
use super::room::FreeBlocks;
use super::{Policy, registry};

/// A policy by name, with the options that differ from its defaults.
///
/// Before the name may stand `queued:` or `queued-shortest:`, which put the policy behind the central queue in order of
/// arrival or of predicted work; the options are the policy's own. In JSON either the name alone, or
/// `{"name": "central_shortest", "options": {"ageing": 0.05}}`, with a `label` where a report is to call it something else.
/// The name is only looked up by [`PolicySpec::build`], so that a caller may have names of its own.
#[derive(Clone, Debug, PartialEq)]
pub struct PolicySpec {
    name: String,
    options: Map<String, Value>,
    label: Option<String>,
}

/// The long form in JSON.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Named {
    name: String,
    #[serde(default)]
    options: Map<String, Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    label: Option<String>,
}

impl PolicySpec {
    /// The policy of that name with its default options.
    pub fn named(name: impl Into<String>) -> Self {
        Self { name: name.into(), options: Map::new(), label: None }
    }

    /// The same with one option set.
    #[must_use]
    pub fn with_option(mut self, option: impl Into<String>, value: impl Into<Value>) -> Self {
        self.options.insert(option.into(), value.into());
        self
    }

    /// Reads a name, or a JSON object with `name` and `options`.
    ///
    /// # Errors
    /// [`Error::Schema`] for text that begins with a brace and is not such an object.
    pub fn parse(text: &str) -> Result<Self> {
        let text = text.trim();
        if !text.starts_with('{') {
            return Ok(Self::named(text));
        }
        serde_json::from_str(text)
            .map_err(|error| Error::Schema { what: "policy".into(), message: error.to_string() })
    }

    /// The name of the policy.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Options that differ from the defaults.
    pub fn options(&self) -> &Map<String, Value> {
        &self.options
    }

    /// What a report calls it: the label given, or the name and, in parentheses, the options, which tells two settings of
    /// one policy apart.
    pub fn label(&self) -> String {
        if let Some(label) = &self.label {
            return label.clone();
        }
        let mut label = self.name.clone();
        for (index, (option, value)) in self.options.iter().enumerate() {
            let separator = if index == 0 { '(' } else { ',' };
            // Writing to a string cannot fail.
            let _ = write!(label, "{separator}{option}={value}");
        }
        if !self.options.is_empty() {
            label.push(')');
        }
        label
    }

    /// Builds the policy; `seed` is that of its random choices.
    ///
    /// # Errors
    /// [`Error::Unknown`] for a name or an option that does not exist, with the nearest that does; [`Error::Schema`] and
    /// [`Error::Field`] for a bad value.
    pub fn build(&self, seed: u64) -> Result<Box<dyn Policy>> {
        if let Some(rule) = self.behind("queued:") {
            return Ok(Box::new(Central::around(rule.build(seed)?, ByArrival, FreeBlocks::default())));
        }
        if let Some(rule) = self.behind("queued-shortest:") {
            return Ok(Box::new(Central::around(
                rule.build(seed)?,
                ShortestFirst::default(),
                FreeBlocks::default(),
            )));
        }
        registry::find(&self.name)?.build(&self.options, seed)
    }

    /// The policy behind a queue, when the name begins with that queue's prefix.
    fn behind(&self, queue: &str) -> Option<Self> {
        let name = self.name.strip_prefix(queue)?.to_owned();
        Some(Self { name, options: self.options.clone(), label: None })
    }
}

impl Serialize for PolicySpec {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        if self.options.is_empty() && self.label.is_none() {
            return serializer.serialize_str(&self.name);
        }
        let Self { name, options, label } = self.clone();
        Named { name, options, label }.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for PolicySpec {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        // By hand: the message of an untagged enum does not say which field is wrong.
        match Value::deserialize(deserializer)? {
            Value::String(name) => Ok(Self::named(name)),
            value @ Value::Object(_) => {
                let Named { name, options, label } =
                    serde_json::from_value(value).map_err(D::Error::custom)?;
                Ok(Self { name, options, label })
            }
            other => {
                Err(D::Error::custom(format!("policy {other}: expected a name or an object with `name`")))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::Effort;

    #[test]
    fn a_spec_survives_json_in_both_forms() {
        for (text, label) in [
            ("\"round_robin\"", "round_robin"),
            (r#"{"name":"central_shortest","options":{"ageing":0.5}}"#, "central_shortest(ageing=0.5)"),
        ] {
            let spec: PolicySpec = serde_json::from_str(text).unwrap();
            assert_eq!(
                (serde_json::to_string(&spec).unwrap().as_str(), spec.label().as_str()),
                (text, label)
            );
        }
        assert_eq!(PolicySpec::parse(" random ").unwrap(), PolicySpec::named("random"));
        let spec = PolicySpec::parse(r#"{"name": "central_fcfs", "options": {"lookahead_requests": 4}}"#);
        assert_eq!(spec.unwrap(), PolicySpec::named("central_fcfs").with_option("lookahead_requests", 4));
    }

    #[test]
    fn a_label_is_what_reports_say() {
        let text = r#"{"name":"random","options":{},"label":"dice"}"#;
        let spec: PolicySpec = serde_json::from_str(text).unwrap();
        assert_eq!((spec.label().as_str(), spec.name()), ("dice", "random"));
        assert_eq!(serde_json::to_string(&spec).unwrap(), text);
    }

    #[test]
    fn a_queue_is_put_before_any_policy_with_its_own_options() {
        let spec = PolicySpec::named("queued:dynamo_kv").with_option("temperature", 0.5);
        assert!(spec.build(0).unwrap().needs().twin, "a central queue looks for room");
        let order = |name: &str| {
            let request = crate::policy::testing::request(1, 1);
            PolicySpec::named(name)
                .build(0)
                .unwrap()
                .order_key(&request, Effort { work_seconds: 7.0, occupancy_seconds: 1.0 })
        };
        assert!(order("queued:random") < 1e-9 && order("queued-shortest:random") > 6.9);
        let message = PolicySpec::named("queued:randon").build(0).err().unwrap().to_string();
        assert!(message.contains("did you mean `random`"), "{message}");
    }

    #[test]
    fn what_is_no_spec_is_refused_by_its_field() {
        let message = |text: &str| PolicySpec::parse(text).unwrap_err().to_string();
        assert!(message(r#"{"name":"random","option":{}}"#).contains("unknown field `option`"));
        assert!(message(r#"{"options":{}}"#).contains("missing field `name`"));
        let error = serde_json::from_str::<PolicySpec>("7").unwrap_err().to_string();
        assert!(error.contains("policy 7"), "{error}");
    }

    #[test]
    fn an_unknown_name_or_option_suggests_the_nearest() {
        let message = |spec: PolicySpec| spec.build(0).err().unwrap().to_string();
        assert_eq!(
            message(PolicySpec::named("round-robin")),
            "unknown policy `round-robin`; did you mean `round_robin`?"
        );
        assert_eq!(
            message(PolicySpec::named("central_shortest").with_option("aging", 1.0)),
            "unknown policy option `aging`; did you mean `ageing`?"
        );
        let message = message(PolicySpec::named("central_shortest").with_option("ageing", "old"));
        assert!(message.contains("central_shortest") && message.contains("invalid type"), "{message}");
    }
}
