//! What several kinds of messages are made of.

use super::Seed;
use evoring_protocol::client::LeaderHint;
use evoring_protocol::codec::{self, HEADER_BYTES, Message};
use evoring_protocol::numerics::NumericsClass;
use evoring_protocol::work::{
    Assignment, Checkpoint, FailureCause, HeldRank, ItemOutcome, Kernel, Lease, LeasedItem,
    TrainingProgress, WorkError,
};
use evoring_protocol::{
    Attempt, DemandId, Digest, ItemIndex, JobId, Rank, RosterNumber, SlotIndex, Step, Term,
    WorkerId,
};

fn body<M: Message>(message: &M) -> Vec<u8> {
    let frame = codec::encode(message).expect("a seed fits into a frame");
    frame[HEADER_BYTES..].to_vec()
}

pub(super) fn bodies<M: Message, const COUNT: usize>(
    messages: [(&'static str, M); COUNT],
) -> Vec<Seed> {
    let seed = |(name, message)| (name, body(&message));
    messages.into_iter().map(seed).collect()
}

pub(super) fn worker() -> WorkerId {
    WorkerId::new("w-1").expect("a valid name")
}

pub(super) fn class() -> NumericsClass {
    NumericsClass("libtorch-2/cpu".to_owned())
}

pub(super) fn lease() -> Lease {
    let item = |index| LeasedItem {
        index: ItemIndex(index),
        attempt: Attempt(1),
    };
    Lease {
        job: JobId(300),
        demand: DemandId(2),
        items: vec![item(7), item(8)],
        worker: worker(),
        slot: SlotIndex(3),
        term: Term(4),
        number: 5,
        expiry_ms: 1_800_000_000_000,
        mac: [0xaa; 32],
    }
}

pub(super) fn assignment() -> Assignment {
    Assignment {
        job: JobId(300),
        demand: DemandId(2),
        stage: "search".to_owned(),
        kernel: Kernel::PruneEvaluate,
        payload: vec![1, 2, 3],
        inputs: vec![Digest([0xdd; 32])],
    }
}

pub(super) fn held() -> HeldRank {
    HeldRank {
        job: JobId(1),
        demand: DemandId(2),
        roster: RosterNumber(3),
        rank: Rank(4),
        slot: SlotIndex(5),
    }
}

pub(super) fn checkpoint() -> Checkpoint {
    Checkpoint {
        step: Step(1_000),
        digest: Digest([0xcc; 32]),
    }
}

pub(super) fn progress() -> TrainingProgress {
    TrainingProgress {
        step: 3,
        steps: 100,
        loss: 0.5,
    }
}

pub(super) fn work_error() -> WorkError {
    WorkError {
        message: "train-images: at byte 16: truncated".to_owned(),
        cause: FailureCause::Final,
    }
}

pub(super) fn outcomes() -> Vec<ItemOutcome> {
    let outcome = |index, result| ItemOutcome {
        index: ItemIndex(index),
        result,
    };
    vec![outcome(7, Ok(vec![1, 2])), outcome(8, Err(work_error()))]
}

pub(super) fn leader() -> LeaderHint {
    LeaderHint {
        name: "c2".to_owned(),
        address: "127.0.0.1:7001".to_owned(),
    }
}
