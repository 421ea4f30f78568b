//! The barrier: a count of arrivals and a round number that waiting members sleep on.
//!
//! The last one to arrive resets the count, raises the round and wakes the others. Whoever waits
//! spins for a moment, then sleeps in the kernel: with more ranks than cores, spinning would take
//! the time of the very rank that is waited for.

use super::CollectiveError;
use super::layout::{WORD_ABORT, WORD_ARRIVED, WORD_ROUND};
use super::mapping::Header;
use rustix::io::Errno;
use rustix::thread::futex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Looks at the round before going to sleep; about 5 µs, less than sleeping and waking costs.
const SPINS: u32 = 200;
/// Longest sleep before the flags are looked at again. Wake-ups come at once; this bounds the
/// reaction to a stop, and to an abort that came between looking and falling asleep.
const SLICE: Duration = Duration::from_millis(50);

/// One member's view of the barrier.
#[derive(Debug)]
pub struct Barrier {
    header: Arc<Header>,
    world_size: u32,
    patience: Duration,
    stop: Arc<AtomicBool>,
}

impl Barrier {
    /// A barrier that waits for at most `patience` and ends early when `stop` is set.
    pub fn new(
        header: Arc<Header>,
        world_size: u32,
        patience: Duration,
        stop: Arc<AtomicBool>,
    ) -> Self {
        Self {
            header,
            world_size,
            patience,
            stop,
        }
    }

    /// Returns when all members have arrived. All that they wrote before is then visible.
    pub fn wait(&self) -> Result<(), CollectiveError> {
        let (arrived, round) = (self.header.word(WORD_ARRIVED), self.header.word(WORD_ROUND));
        let current = round.load(Ordering::Acquire);
        // Also before arriving: whoever is told to stop must not complete the others' round.
        self.look()?;
        if arrived.fetch_add(1, Ordering::AcqRel) + 1 == self.world_size {
            arrived.store(0, Ordering::Relaxed);
            round.store(current.wrapping_add(1), Ordering::Release);
            wake_all(&self.header);
            return Ok(());
        }
        for _ in 0..SPINS {
            if round.load(Ordering::Acquire) != current {
                return Ok(());
            }
            std::hint::spin_loop();
        }
        self.sleep(current)
    }

    fn sleep(&self, current: u32) -> Result<(), CollectiveError> {
        let round = self.header.word(WORD_ROUND);
        let begin = Instant::now();
        let slice = futex::Timespec {
            tv_sec: 0,
            tv_nsec: SLICE.subsec_nanos().into(),
        };
        loop {
            // The round first: a member may go as soon as it has passed the barrier, and that does
            // not undo the round.
            if round.load(Ordering::Acquire) != current {
                return Ok(());
            }
            self.look()?;
            if begin.elapsed() >= self.patience {
                let what = "the other members to arrive at a barrier".to_owned();
                return Err(CollectiveError::TimedOut {
                    what,
                    waited: begin.elapsed(),
                });
            }
            match futex::wait(round, futex::Flags::empty(), current, Some(&slice)) {
                Ok(()) | Err(Errno::AGAIN | Errno::TIMEDOUT | Errno::INTR) => {}
                Err(error) => return Err(CollectiveError::io("wait at a barrier")(error)),
            }
        }
    }

    /// Whether to give up.
    fn look(&self) -> Result<(), CollectiveError> {
        let reason = match self.header.word(WORD_ABORT).load(Ordering::Acquire) {
            _ if self.stop.load(Ordering::Acquire) => "told to stop".to_owned(),
            0 => return Ok(()),
            gone => format!("rank {} is gone", gone - 1),
        };
        Err(CollectiveError::Aborted { reason })
    }
}

/// Says to all members that `gone` is gone; the first one to be named stays.
pub fn abort(header: &Header, gone: u32) {
    let _ = header.word(WORD_ABORT).compare_exchange(
        0,
        gone.saturating_add(1),
        Ordering::AcqRel,
        Ordering::Relaxed,
    );
    wake_all(header);
}

fn wake_all(header: &Header) {
    // Without `PRIVATE`: the others are in other processes. It fails for a wrong address only.
    let _ = futex::wake(
        header.word(WORD_ROUND),
        futex::Flags::empty(),
        i32::MAX as u32,
    );
}
