//! Linearizable reads that wait for the others' word that this node still leads.
//!
//! `raft` forgets a request when its leader has committed nothing in its term yet, and when the
//! answers of the others are lost; so a request that is not answered is made again, under another
//! name.

use super::NodeConfig;
use std::collections::BTreeMap;

/// Requests on their way; reads that come meanwhile share the next one.
const IN_FLIGHT: usize = 2;
/// A request that is not answered after this many ticks (100 ms) is made again.
const PATIENCE_TICKS: u64 = 5;

/// The reads of one node.
#[derive(Debug)]
pub(super) struct Reads {
    config: NodeConfig,
    /// Reads that no request on its way covers.
    waiting: Vec<u64>,
    in_flight: BTreeMap<u64, Request>,
    next_number: u64,
    ticks: u64,
}

#[derive(Debug)]
struct Request {
    since: u64,
    tokens: Vec<u64>,
}

impl Reads {
    pub(super) fn new(config: NodeConfig) -> Self {
        Self {
            config,
            waiting: Vec::new(),
            in_flight: BTreeMap::new(),
            next_number: 1,
            ticks: 0,
        }
    }

    pub(super) fn add(&mut self, token: u64) {
        self.waiting.push(token);
    }

    /// Takes back what was asked long ago.
    pub(super) fn tick(&mut self) {
        self.ticks += 1;
        let overdue: Vec<u64> = self
            .in_flight
            .iter()
            .filter(|(_, request)| self.ticks - request.since > PATIENCE_TICKS)
            .map(|(number, _)| *number)
            .collect();
        for number in overdue {
            let request = self.in_flight.remove(&number);
            self.waiting
                .extend(request.into_iter().flat_map(|request| request.tokens));
        }
    }

    /// The next request's context, if one shall be made: unique among all requests ever.
    pub(super) fn begin(&mut self) -> Option<Vec<u8>> {
        if self.waiting.is_empty() || self.in_flight.len() >= IN_FLIGHT {
            return None;
        }
        let number = self.next_number;
        self.next_number += 1;
        let tokens = std::mem::take(&mut self.waiting);
        let since = self.ticks;
        self.in_flight.insert(number, Request { since, tokens });
        Some(self.context(number))
    }

    fn context(&self, number: u64) -> Vec<u8> {
        let parts = [self.config.id, self.config.boot, number];
        parts.iter().flat_map(|part| part.to_le_bytes()).collect()
    }

    /// The reads that an answered request covers.
    pub(super) fn answered(&mut self, context: &[u8]) -> impl Iterator<Item = u64> + use<> {
        let number = context.get(16..).and_then(|bytes| bytes.first_chunk::<8>());
        let number = number.map(|bytes| u64::from_le_bytes(*bytes));
        let number = number.filter(|number| self.context(*number) == context);
        let request = number.and_then(|number| self.in_flight.remove(&number));
        request.into_iter().flat_map(|request| request.tokens)
    }

    /// Forgets all reads and gives them.
    pub(super) fn abandon(&mut self) -> impl Iterator<Item = u64> + use<> {
        let in_flight = std::mem::take(&mut self.in_flight).into_values();
        let waiting = std::mem::take(&mut self.waiting).into_iter();
        waiting.chain(in_flight.flat_map(|request| request.tokens))
    }
}
