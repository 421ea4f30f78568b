//! Members are threads here, each with a mapping of its own and real connections; processes, and
//! one that is killed, are tested with the real executor in `tests/executor.rs`.

use super::shm::{Settings, Shm};
use super::{Collective, CollectiveError, meeting};
use evoring_jobs::tree::tree_sum;
use std::io::{Read as _, Write as _};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

/// A secret that no other test, and no other run of the tests, uses at the same time.
fn secret() -> [u8; 32] {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let name = format!(
        "{} {}",
        std::process::id(),
        NEXT.fetch_add(1, Ordering::Relaxed)
    );
    evoring_protocol::Digest::of(name.as_bytes()).0
}

fn settings(rank: u32, world_size: u32, shards: u32, length: usize, secret: [u8; 32]) -> Settings {
    let patience = Duration::from_secs(20);
    Settings {
        rank,
        world_size,
        join_time: Duration::from_secs(10),
        patience,
        ..Settings::new(shards, length, secret)
    }
}

/// Runs `member` on every rank at once and returns what they return, by rank.
fn gang<T: Send>(
    world_size: u32,
    shards: u32,
    length: usize,
    member: impl Fn(Shm) -> T + Sync,
) -> Vec<T> {
    let secret = secret();
    let run =
        |rank| member(Shm::join(&settings(rank, world_size, shards, length, secret)).unwrap());
    thread::scope(|scope| {
        let run = &run;
        let threads: Vec<_> = (0..world_size)
            .map(|rank| scope.spawn(move || run(rank)))
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    })
}

/// Value of one element; sums of these depend on their order.
fn value(round: u32, shard: u32, element: usize) -> f32 {
    let mixed = (round.wrapping_mul(2_654_435_761) ^ shard.wrapping_mul(40_503))
        .wrapping_add(element as u32 * 977);
    let scale = [1e-3, 1.0, 1e4, 1e8][(mixed % 4) as usize];
    scale * ((mixed % 2003) as f32 - 1000.0)
}

fn expected(round: u32, shards: u32, length: usize) -> Vec<f32> {
    let part = |shard| {
        (0..length)
            .map(|element| value(round, shard, element))
            .collect()
    };
    let parts: Vec<Vec<f32>> = (0..shards).map(part).collect();
    let parts: Vec<&[f32]> = parts.iter().map(Vec::as_slice).collect();
    let mut sum = vec![0.0; length];
    tree_sum(&parts, 0..length, &mut sum);
    sum
}

fn write_shards(member: &mut Shm, round: u32) {
    for shard in member.shards() {
        for (element, out) in member.shard_buffer(shard).iter_mut().enumerate() {
            *out = value(round, shard, element);
        }
    }
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// Claim (COLLECTIVE-1): sums equal the one-process tree sum bit for bit, for each number of ranks
/// and shards, round after round without a pause between reading and writing again.
/// Method: 50 rounds of both sums each; lengths around slices and cache lines.
#[test]
fn sums_have_the_bits_of_one_process() {
    for shards in [1, 2, 4, 8] {
        for world_size in (1..=4).filter(|world_size| *world_size <= shards) {
            let length = [1, 17, 1000, 4099][(shards + world_size) as usize % 4];
            gang(world_size, shards, length, |mut member| {
                for round in 0..50 {
                    let expected = expected(round, shards, length);
                    write_shards(&mut member, round);
                    if round % 2 == 0 {
                        assert_eq!(
                            bits(member.all_reduce().unwrap()),
                            bits(&expected),
                            "{world_size} ranks, {shards} shards"
                        );
                    } else {
                        let (slice, values) = member.reduce_scatter().unwrap();
                        assert_eq!(
                            bits(values),
                            bits(&expected[slice]),
                            "{world_size} ranks, {shards} shards"
                        );
                    }
                }
            });
        }
    }
}

/// Claim: slices of all ranks follow each other and cover everything, also when there are fewer
/// elements than ranks.
#[test]
fn slices_cover_all_elements() {
    for length in [1, 15, 16, 17, 64, 1001] {
        let slices = gang(4, 4, length, |mut member| {
            member.reduce_scatter().unwrap().0
        });
        assert_eq!(
            slices.into_iter().flatten().collect::<Vec<usize>>(),
            (0..length).collect::<Vec<usize>>()
        );
    }
}

/// Claim: gathering and broadcasting bring the right values to everybody, in pieces if there are
/// more than fit into the result area, and also none; operations may follow each other.
#[test]
fn gathers_and_broadcasts() {
    gang(3, 4, 20, |mut member| {
        let rank = member.rank();
        for (round, length) in [0, 1, 5, 10, 100].into_iter().enumerate() {
            let own: Vec<f32> = (0..length)
                .map(|element| (100 * rank + element) as f32)
                .collect();
            let mut all = vec![0.0; 3 * length as usize];
            member.all_gather(&own, &mut all).unwrap();
            let expected: Vec<f32> = (0..3)
                .flat_map(|rank| (0..length).map(move |element| (100 * rank + element) as f32))
                .collect();
            assert_eq!(all, expected);
            let root = round as u32 % 3;
            let mut values = own;
            member.broadcast(root, &mut values).unwrap();
            assert_eq!(
                values,
                expected[(root * length) as usize..][..length as usize]
            );
            member.barrier().unwrap();
            write_shards(&mut member, round as u32);
            member.all_reduce().unwrap();
        }
    });
}

/// Claim: nobody passes a barrier before everybody is there.
#[test]
fn a_barrier_waits_for_all() {
    let arrived = AtomicU32::new(0);
    gang(4, 4, 1, |mut member| {
        for round in 1..=200 {
            arrived.fetch_add(1, Ordering::SeqCst);
            member.barrier().unwrap();
            assert!(arrived.load(Ordering::SeqCst) >= 4 * round);
        }
    });
}

/// Claim (COLLECTIVE-2, COLLECTIVE-3): when any member vanishes, all others' operations are aborted
/// within 2 s although they sleep at a barrier, and stay so.
#[test]
fn a_vanished_member_aborts_all_others() {
    for vanishing in 0..4 {
        let ends = gang(4, 4, 100, |mut member| {
            write_shards(&mut member, 0);
            member.all_reduce().unwrap();
            if member.rank() == vanishing {
                return None;
            }
            let begin = Instant::now();
            let error = member.all_reduce().map(|_| ()).unwrap_err();
            assert!(matches!(&error, CollectiveError::Aborted { .. }), "{error}");
            assert!(member.barrier().is_err());
            Some((begin.elapsed(), error.to_string()))
        });
        let ends: Vec<(Duration, String)> = ends.into_iter().flatten().collect();
        assert_eq!(ends.len(), 3);
        assert!(
            ends.iter().all(|(time, _)| *time < Duration::from_secs(2)),
            "{ends:?}"
        );
        // The first to notice may leave before the others have looked; the cause is named all the same.
        assert!(
            ends.iter()
                .all(|(_, message)| message.contains(&format!("rank {vanishing} is gone"))),
            "{ends:?}"
        );
    }
}

/// Claim: a member may leave as soon as its last operation is complete; the others complete it too.
#[test]
fn leaving_after_the_last_operation_harms_nobody() {
    for round in 0..100 {
        let sums = gang(4, 4, 33, |mut member| {
            write_shards(&mut member, round);
            member.all_reduce().map(bits).unwrap()
        });
        assert!(sums.iter().all(|sum| *sum == bits(&expected(round, 4, 33))));
    }
}

/// Claim: a stop ends a wait at a barrier and a wait for members that never come.
#[test]
fn a_stop_ends_every_wait() {
    let secret = secret();
    let alone = settings(0, 2, 2, 10, secret);
    let stop = alone.stop.clone();
    let waiting = thread::spawn(move || Shm::join(&alone).unwrap_err());
    stop.store(true, Ordering::Release);
    assert!(matches!(
        waiting.join().unwrap(),
        CollectiveError::Aborted { .. }
    ));

    let (first, second) = (settings(0, 2, 2, 10, secret), settings(1, 2, 2, 10, secret));
    let stop = first.stop.clone();
    let (joined, is_joined) = channel();
    let waiting = thread::spawn(move || {
        let mut member = Shm::join(&first).unwrap();
        joined.send(()).unwrap();
        member.barrier().unwrap_err()
    });
    let mut member = Shm::join(&second).unwrap();
    is_joined.recv().unwrap();
    stop.store(true, Ordering::Release);
    assert!(waiting.join().unwrap().to_string().contains("told to stop"));
    assert!(member.barrier().unwrap_err().can_retry());
}

/// Claim: members that live but do not come are not waited for without end.
#[test]
fn patience_ends() {
    let patience = Duration::from_millis(100);
    let secret = secret();
    let error = Shm::join(&Settings {
        join_time: patience,
        ..settings(0, 2, 2, 1, secret)
    })
    .unwrap_err();
    assert!(
        matches!(&error, CollectiveError::TimedOut { waited, .. } if *waited >= patience),
        "{error}"
    );
    let error = Shm::join(&Settings {
        join_time: patience,
        ..settings(1, 2, 2, 1, secret)
    })
    .unwrap_err();
    assert!(
        matches!(&error, CollectiveError::TimedOut { .. }),
        "{error}"
    );
    let first = thread::spawn(move || {
        Shm::join(&Settings {
            patience,
            ..settings(0, 2, 2, 1, secret)
        })
        .unwrap()
    });
    let _late = Shm::join(&settings(1, 2, 2, 1, secret)).unwrap();
    let error = first.join().unwrap().barrier().unwrap_err();
    assert!(
        matches!(&error, CollectiveError::TimedOut { .. }),
        "{error}"
    );
}

/// Claim: who does not know the secret gets nothing but the end of the connection, does not keep
/// the members from meeting, and cannot take the place of one.
/// Method: strangers come first: one with another secret's hello, one with a rank that is not its
/// proof's, one with random bytes, one that is silent.
#[test]
fn a_stranger_gets_nothing() {
    let (secret, wrong) = (secret(), secret());
    assert_ne!(
        meeting::address(&secret).unwrap().as_abstract_name(),
        meeting::address(&wrong).unwrap().as_abstract_name()
    );
    let first = thread::spawn(move || {
        Shm::join(&settings(0, 2, 2, 10, secret)).map(|mut member| member.barrier())
    });
    let connect = || loop {
        match UnixStream::connect_addr(&meeting::address(&secret).unwrap()) {
            Ok(stream) => return stream,
            Err(_) => thread::yield_now(),
        }
    };
    let _silent = connect();
    let mut forged = meeting::hello(&secret, 0);
    forged[4..8].copy_from_slice(&1u32.to_le_bytes());
    for bytes in [
        meeting::hello(&wrong, 1),
        forged,
        [0x5a; meeting::HELLO_BYTES],
    ] {
        let mut stranger = connect();
        stranger.write_all(&bytes).unwrap();
        stranger
            .set_read_timeout(Some(Duration::from_secs(5)))
            .unwrap();
        let mut rest = Vec::new();
        stranger.read_to_end(&mut rest).unwrap();
        assert!(rest.is_empty());
    }
    let mut second = Shm::join(&settings(1, 2, 2, 10, secret)).unwrap();
    second.barrier().unwrap();
    first.join().unwrap().unwrap().unwrap();
}

/// Claim: whoever holds the meeting point without knowing the secret is not trusted.
#[test]
fn a_false_first_rank_is_refused() {
    let secret = secret();
    let listener =
        std::os::unix::net::UnixListener::bind_addr(&meeting::address(&secret).unwrap()).unwrap();
    let member = thread::spawn(move || Shm::join(&settings(1, 2, 2, 10, secret)).unwrap_err());
    let (stream, _) = listener.accept().unwrap();
    let file = rustix::fs::memfd_create("evoring-test", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    meeting::send_answer(&stream, &[0; 32], std::os::fd::AsFd::as_fd(&file)).unwrap();
    let error = member.join().unwrap();
    assert!(matches!(&error, CollectiveError::Refused(_)), "{error}");
}

/// Claim: members that do not agree about the gang do not join, and operations that do not agree
/// fail on all members instead of mixing values.
#[test]
fn disagreement_is_refused() {
    let secret = secret();
    let first = thread::spawn(move || {
        Shm::join(&settings(0, 2, 2, 100, secret)).and_then(|mut member| member.barrier())
    });
    let error = Shm::join(&settings(1, 2, 2, 101, secret)).unwrap_err();
    assert!(matches!(&error, CollectiveError::Refused(_)), "{error}");
    assert!(matches!(
        first.join().unwrap().unwrap_err(),
        CollectiveError::Aborted { .. }
    ));

    let errors = gang(2, 2, 10, |mut member| {
        let mut values = vec![0.0; 4 + member.rank() as usize];
        member.broadcast(0, &mut values).unwrap_err()
    });
    assert!(
        errors
            .iter()
            .any(|error| matches!(error, CollectiveError::Refused(_))),
        "{errors:?}"
    );
    for (world_size, shards, length) in [
        (0, 1, 1),
        (2, 1, 1),
        (1, 3, 1),
        (1, 1, 0),
        (1, 1, usize::MAX),
        (1, 1 << 31, 1 << 40),
    ] {
        let error = Shm::join(&settings(0, world_size, shards, length, secret)).unwrap_err();
        assert!(matches!(&error, CollectiveError::Refused(_)), "{error}");
    }
}
