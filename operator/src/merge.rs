//! Merges the policies that target a channel into the one that is in force on it.
//!
//! Each top-level part is taken whole from the most specific policy that sets it; `limits` merges
//! limit by limit. Of equally specific ones the older wins; the input comes in that order.

use sluice_config::policy::{ChannelPolicy, Limits};

use crate::dereference::Policy;

/// What is in force on a channel, and who lost which part to whom.
pub struct Merged<'a> {
    /// The policy; nothing here closes the channel.
    pub policy: ChannelPolicy,
    /// Loser, part and winner.
    pub losers: Vec<(&'a str, &'static str, &'a str)>,
}

/// Merges those of `policies` (oldest first) that target `channel` of `api`.
pub fn merge<'a>(policies: &'a [Policy<'a>], namespace: &str, api: &str, channel: &str) -> Merged<'a> {
    let mut ranked: Vec<(u8, &Policy<'_>)> = policies
        .iter()
        .filter(|policy| policy.namespace == namespace)
        .filter_map(|policy| Some((rank(policy, api, channel)?, policy)))
        .collect();
    ranked.sort_by_key(|(rank, _)| *rank);
    let mut merged = Merged { policy: ChannelPolicy::default(), losers: Vec::new() };
    let mut winners: [Option<&str>; 5] = [None; 5];
    for (_, policy) in ranked {
        let spec = policy.spec;
        let limits = spec.limits.clone().unwrap_or_default();
        let sets = [
            ("authentication", spec.authentication.is_some()),
            ("cors", spec.cors.is_some()),
            ("limits.connections", limits.connections.is_some()),
            ("limits.maxMessageBytes", limits.max_message_bytes.is_some()),
            ("limits.publishRate", limits.publish_rate.is_some()),
        ];
        for ((part, _), winner) in sets.iter().zip(&mut winners).filter(|((_, sets), _)| *sets) {
            match winner {
                Some(winner) => merged.losers.push((policy.name, part, winner)),
                None => *winner = Some(policy.name),
            }
        }
        let in_force = &mut merged.policy;
        in_force.authentication = in_force.authentication.take().or_else(|| spec.authentication.clone());
        in_force.cors = in_force.cors.take().or_else(|| spec.cors.clone());
        in_force.limits = Limits::or(&in_force.limits, &limits);
    }
    merged
}

/// How specific the policy is for the channel: 0 names the channel, 1 its API; `None`: neither.
fn rank(policy: &Policy<'_>, api: &str, channel: &str) -> Option<u8> {
    let targets = policy.spec.target_refs.iter().filter(|target| target.name == api);
    targets
        .filter_map(|target| match &target.section_name {
            Some(section) => (section == channel).then_some(0),
            None => Some(1),
        })
        .min()
}
