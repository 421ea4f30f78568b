//! Why something waits, in sentences.

use super::maps::MapWork;
use super::{Context, Now, Scheduler, Use, Worker};
use crate::state::{DemandState, GangState, Job, Phase, State};
use evoring_protocol::numerics::NumericsClass;
use evoring_protocol::{DemandId, JobId, WorkerId};
use std::collections::{BTreeMap, BTreeSet};

impl Scheduler {
    /// Why a job waits, or what it does; empty for an unknown job.
    pub fn explain(&self, id: JobId, state: &State, now: Now) -> Vec<String> {
        let context = Context { state, now };
        let Some(job) = state.jobs().get(&id) else {
            return Vec::new();
        };
        let work = match &job.phase {
            Phase::Active(work) => work,
            Phase::Finished { .. } => return vec![format!("job {id} has finished")],
            Phase::Failed { error } => return vec![format!("job {id} has failed: {error}")],
            Phase::Cancelled => return vec![format!("job {id} was cancelled")],
        };
        let mut sentences = Vec::new();
        if !self.is_writable {
            sentences
                .push("nothing new is granted: the coordinator's disk takes no writes".to_owned());
        }
        if self.in_grace {
            let known = state.workers().len();
            let back = state
                .workers()
                .keys()
                .filter(|worker| self.workers.is_connected(worker))
                .count();
            sentences.push(format!(
                "nothing is granted yet: the coordinator has just started and waits up to {} ms for its workers, {back} of {known} are back",
                super::GRACE_MS
            ));
        }
        if self.workers.connected().next().is_none() {
            sentences.push("no worker is connected".to_owned());
        }
        sentences.extend(self.quarantined(now));
        if let Some(sentence) = self.other_classes(job) {
            sentences.push(sentence);
        }
        for (&demand, wanted) in &work.demands {
            sentences.push(match wanted.gang() {
                Some(gang) => self.explain_gang(context, id, job, demand, wanted, gang),
                None => self.explain_map(id, demand, wanted),
            });
        }
        sentences
    }

    /// Whether a gang of `ranks` fits on the slots that are present; if not, why.
    pub fn fits(&self, ranks: u32) -> Result<(), String> {
        if ranks == 0 {
            Ok(())
        } else {
            self.shortage(None, ranks).map_or(Ok(()), Err)
        }
    }

    /// "needs 4 slots, 2 present", if it is so.
    fn shortage(&self, class: Option<&NumericsClass>, needed: u32) -> Option<String> {
        let mut places: BTreeMap<(&str, &NumericsClass), u32> = BTreeMap::new();
        for (_, worker) in self.workers.connected() {
            if class.is_none_or(|class| *class == worker.numerics) {
                *places.entry((&worker.host, &worker.numerics)).or_default() +=
                    worker.slots.len() as u32;
            }
        }
        let total: u32 = places.values().sum();
        let largest = places.values().copied().max().unwrap_or(0);
        if largest >= needed {
            None
        } else if total >= needed {
            Some(format!(
                "needs {needed} slots, {largest} present on one host ({total} in all): the ranks of a gang share \
                 memory, so they must be on one host and of one numerics class; a collective between hosts does not \
                 exist yet"
            ))
        } else {
            Some(format!("needs {needed} slots, {total} present"))
        }
    }

    fn quarantined(&self, now: Now) -> Option<String> {
        let resting = |(name, worker): (&WorkerId, &Worker)| {
            let until_ms = worker.failures.quarantined_until_ms?;
            let left_ms = until_ms.saturating_sub(now.mono_ms);
            Some(format!("{name} (for {left_ms} ms more)"))
        };
        let workers: Vec<String> = self.workers.connected().filter_map(resting).collect();
        (!workers.is_empty()).then(|| {
            format!(
                "not used for a while, because work failed there {} times in a row and more: {}; `evoring logs JOB` says why",
                super::table::FAILURES_IN_ROW,
                workers.join(", ")
            )
        })
    }

    fn other_classes(&self, job: &Job) -> Option<String> {
        let class = job.numerics.as_ref()?;
        let others: Vec<String> = self
            .workers
            .connected()
            .filter(|(_, worker)| worker.numerics != *class)
            .map(|(name, worker)| format!("{name} ({})", worker.numerics))
            .collect();
        (!others.is_empty()).then(|| {
            format!(
                "not used, because the job began on workers of class {class} and its numbers must repeat: {}",
                others.join(", ")
            )
        })
    }

    fn explain_gang(
        &self,
        context: Context<'_>,
        id: JobId,
        job: &Job,
        demand: DemandId,
        wanted: &DemandState,
        gang: &GangState,
    ) -> String {
        let what = format!("gang {demand} ({}, {})", wanted.stage, wanted.title);
        if let Some(roster) = &gang.roster {
            let members: Vec<String> = roster
                .members
                .iter()
                .map(|member| format!("{}/{}", member.worker, member.slot))
                .collect();
            let breaking = self
                .gangs
                .get(&(id, demand))
                .is_some_and(|work| work.is_breaking);
            let state = if breaking {
                "is being formed anew after"
            } else {
                "runs"
            };
            return format!(
                "{what} {state} roster {} on {}",
                roster.number,
                members.join(", ")
            );
        }
        if let Some(shortage) = self.shortage(job.numerics.as_ref(), gang.min) {
            return format!("{what} {shortage}");
        }
        let classes: Vec<NumericsClass> = match &job.numerics {
            Some(class) => vec![class.clone()],
            None => self
                .workers
                .connected()
                .map(|(_, worker)| worker.numerics.clone())
                .collect(),
        };
        let hosts: Vec<_> = classes
            .iter()
            .flat_map(|class| self.host_slots(class, 0, &BTreeSet::new()))
            .collect();
        let idle = hosts
            .iter()
            .map(|(_, slots)| slots.idle.len())
            .max()
            .unwrap_or(0);
        let held = self.count_slots(|does| matches!(does, Use::Rank(_) | Use::Promised(..)));
        let waited_ms = self.gangs.get(&(id, demand)).map_or(0, |work| {
            context.now.mono_ms.saturating_sub(work.waiting_since_ms)
        });
        format!(
            "{what} needs {} to {} slots of one host at once, {idle} idle; {held} run other gangs; waiting for {} ms",
            gang.min, gang.max, waited_ms
        )
    }

    fn explain_map(&self, id: JobId, demand: DemandId, wanted: &DemandState) -> String {
        let what = format!("map {demand} ({}, {})", wanted.stage, wanted.title);
        let total = wanted.map().map_or(0, |map| map.items.len());
        let open = wanted.map().map_or(0, |map| map.open as usize);
        let pending = self.maps.get(&(id, demand)).map_or(0, MapWork::waiting);
        let leases = self
            .leases
            .values()
            .filter(|lease| (lease.job, lease.demand) == (id, demand))
            .count();
        let done = total - open.min(total);
        let mut sentence = format!(
            "{what} has {done} of {total} results, {pending} items wait, {leases} slots run it"
        );
        if pending > 0 && leases == 0 {
            let held = self.count_slots(|does| matches!(does, Use::Rank(_) | Use::Promised(..)));
            let others = self.leases.len();
            sentence.push_str(&format!(
                "; {held} slots run gangs, {others} run items of other maps"
            ));
        }
        sentence
    }

    fn count_slots(&self, condition: impl Fn(&Use) -> bool) -> usize {
        self.workers
            .connected()
            .flat_map(|(_, worker)| &worker.slots)
            .filter(|slot| condition(&slot.does))
            .count()
    }
}
