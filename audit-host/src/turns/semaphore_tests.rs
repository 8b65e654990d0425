use std::collections::{HashMap, VecDeque};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use proptest::prelude::*;

use super::*;

type Acquiring = Pin<Box<dyn Future<Output = Result<Permit, Busy>>>>;

fn acquire(semaphore: &FairSemaphore, lane: Lane) -> Acquiring {
    let semaphore = semaphore.clone();
    Box::pin(async move { semaphore.acquire(lane).await })
}

fn poll(acquiring: &mut Acquiring) -> Option<Result<Permit, Busy>> {
    match acquiring.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(ended) => Some(ended),
        Poll::Pending => None,
    }
}

const LIMITS: FairLimits =
    FairLimits { permits: 1, has_prompt_permit: false, max_waiting_of_client: 3, max_waiting: 4 };

#[tokio::test]
async fn too_many_are_refused_from_the_client_with_the_most() {
    let semaphore = FairSemaphore::new("tests", LIMITS);
    let (flood, other, quiet) = (Lane::unique(), Lane::unique(), Lane::unique());
    let held = semaphore.acquire(Lane::unique()).await.unwrap();
    let waits = |lane| {
        let mut acquiring = acquire(&semaphore, lane);
        (poll(&mut acquiring), acquiring)
    };
    let mut floods: Vec<_> = (0..3).map(|_| waits(flood).1).collect();
    let refused = waits(flood).0.unwrap().unwrap_err();
    assert_eq!((refused, refused.http_status()), (Busy::Client { limit: 3 }, 429));
    let (_, first) = waits(other);
    // The newest request of the flood is refused to make room.
    let (_, second) = waits(quiet);
    let refused = poll(&mut floods.pop().unwrap()).unwrap().unwrap_err();
    assert_eq!((refused, refused.http_status()), (Busy::All { limit: 4 }, 503));
    // If several clients have the most waiting requests, the newcomer's is refused.
    let refused = waits(other).0.unwrap().unwrap_err();
    assert_eq!(refused, Busy::All { limit: 4 });
    drop(held);
    floods.extend([first, second]);
    while !floods.is_empty() {
        let before = floods.len();
        floods.retain_mut(|acquiring| poll(acquiring).map(Result::unwrap).is_none());
        assert!(floods.len() < before, "a permit is free");
    }
    assert_eq!(semaphore.waiting(), 0);
}

#[tokio::test]
async fn there_is_always_a_permit() {
    let semaphore = FairSemaphore::new("tests", FairLimits { permits: 0, ..LIMITS });
    let mut acquiring = acquire(&semaphore, Lane::unique());
    drop(poll(&mut acquiring).unwrap().unwrap());
}

#[tokio::test]
async fn a_prompt_request_waits_for_no_long_one() {
    let semaphore = FairSemaphore::new("tests", FairLimits { has_prompt_permit: true, ..LIMITS });
    let (flood, quiet) = (Lane::unique(), Lane::unique());
    let first = semaphore.acquire(flood).await.unwrap();
    let mut second = acquire(&semaphore, flood);
    assert!(poll(&mut second).is_none(), "a flood is not prompt");
    let prompt = semaphore.acquire(quiet).await.unwrap();
    let mut other = acquire(&semaphore, Lane::unique());
    assert!(poll(&mut other).is_none(), "one at a time");
    drop(prompt);
    drop(poll(&mut other).unwrap());
    drop(first);
    drop(poll(&mut second).unwrap());
}

#[tokio::test]
async fn a_client_with_one_request_at_a_time_has_every_second_turn() {
    let limits = FairLimits { max_waiting_of_client: 64, max_waiting: 200, ..LIMITS };
    let semaphore = FairSemaphore::new("tests", limits);
    let mut held = semaphore.acquire(Lane::unique()).await.ok();
    let floods: [Lane; 3] = std::array::from_fn(|_| Lane::unique());
    let mut waiting: Vec<_> = (0..60)
        .map(|n| {
            let mut acquiring = acquire(&semaphore, floods[n % 3]);
            assert!(poll(&mut acquiring).is_none());
            (n % 3, acquiring)
        })
        .collect();
    let (quiet, mut of_floods) = (Lane::unique(), [0; 3]);
    let mut next_of_floods = || {
        let mut granted = waiting.iter_mut().enumerate();
        let granted = granted.find_map(|(at, (_, it))| Some((at, poll(it)?.unwrap())));
        let (at, permit) = granted.unwrap();
        of_floods[waiting.remove(at).0] += 1;
        Some(permit)
    };
    for _ in 0..12 {
        drop(held.take());
        held = next_of_floods();
    }
    for _ in 0..20 {
        drop(held.take());
        held = next_of_floods();
        let mut own = acquire(&semaphore, quiet);
        assert!(poll(&mut own).is_none());
        drop(held.take());
        held = poll(&mut own).and_then(Result::ok);
        assert!(held.is_some(), "it waits for the request that has the permit alone");
    }
    // The quiet client takes its turns evenly from the floods.
    let (least, most) = (of_floods.iter().min().unwrap(), of_floods.iter().max().unwrap());
    assert!(*least > 5 && most - least <= 1, "{of_floods:?}");
    // Once the quiet client has a queue too, its many earlier turns do not count against it.
    let mut queue: Vec<_> = (0..2).map(|_| acquire(&semaphore, quiet)).collect();
    assert!(queue.iter_mut().all(|it| poll(it).is_none()));
    for _ in 0..16 {
        drop(held.take());
        queue.retain_mut(|it| poll(it).map(|permit| held = permit.ok()).is_none());
        waiting.retain_mut(|(_, it)| poll(it).map(|permit| held = permit.ok()).is_none());
    }
    assert!(queue.is_empty());
}

#[derive(Debug, Clone)]
enum Event {
    Acquire(usize),
    Cancel(usize),
    Free(usize),
    /// Also cancels the first or the last waiting request, which may just have got the permit.
    FreeAndCancel(usize),
    Pass(u64),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        5 => (0..6usize).prop_map(Event::Acquire),
        1 => any::<usize>().prop_map(Event::Cancel),
        4 => any::<usize>().prop_map(Event::Free),
        1 => any::<usize>().prop_map(Event::FreeAndCancel),
        2 => (0..3_000u64).prop_map(Event::Pass),
    ]
}

/// A waiting request. If it is the first of a new lane, `began` counts the requests of each other
/// lane that began since.
struct Waits {
    lane: usize,
    acquiring: Acquiring,
    began: Option<HashMap<usize, u32>>,
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever clients queue, hold and cancel: no more permits are held than there are, none is
    /// free while a request waits, each lane keeps its order, a cancelled request gets none, and a
    /// new client waits for at most one request of each other one.
    #[test]
    fn clients_take_turns(
        events in prop::collection::vec(event(), 0..200),
        permits in 1..4usize,
        has_prompt_permit: bool,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(async {
            let limits = FairLimits {
                permits,
                has_prompt_permit,
                max_waiting_of_client: 5,
                max_waiting: 12,
            };
            let semaphore = FairSemaphore::new("tests", limits);
            let mut lanes: Vec<Lane> = (0..6).map(|_| Lane::unique()).collect();
            let mut is_new = [true; 6];
            let mut waiting: VecDeque<Waits> = VecDeque::new();
            let mut held: Vec<(usize, Permit)> = Vec::new();
            for event in events {
                match event {
                    Event::Acquire(lane) => {
                        if !waiting.iter().any(|waits| waits.lane == lane)
                            && !held.iter().any(|(of, _)| *of == lane)
                        {
                            // A lane without requests is taken over by a new client.
                            (lanes[lane], is_new[lane]) = (Lane::unique(), true);
                        }
                        let of_lane = waiting.iter().filter(|waits| waits.lane == lane).count();
                        let began = is_new[lane].then(HashMap::new);
                        is_new[lane] = false;
                        let acquiring = acquire(&semaphore, lanes[lane]);
                        waiting.push_back(Waits { lane, acquiring, began });
                        let last = waiting.back_mut().unwrap();
                        match poll(&mut last.acquiring) {
                            Some(Err(Busy::Client { .. })) => {
                                prop_assert_eq!(of_lane, 5);
                                waiting.pop_back();
                            }
                            Some(Err(Busy::All { .. })) => {
                                prop_assert_eq!(waiting.len(), 13);
                                waiting.pop_back();
                            }
                            Some(Ok(permit)) => {
                                waiting.pop_back();
                                held.push((lane, permit));
                            }
                            None => prop_assert!(of_lane < 5),
                        }
                    }
                    Event::Cancel(_) if waiting.is_empty() => {}
                    Event::Cancel(which) => {
                        waiting.remove(which % waiting.len());
                    }
                    Event::Free(_) | Event::FreeAndCancel(_) if held.is_empty() => {}
                    Event::Free(which) => drop(held.swap_remove(which % held.len())),
                    Event::FreeAndCancel(which) => {
                        drop(held.swap_remove(which % held.len()));
                        let cancelled = if which % 2 == 0 { 0 } else { waiting.len() };
                        waiting.remove(cancelled.min(waiting.len().saturating_sub(1)));
                    }
                    Event::Pass(ms) => tokio::time::advance(Duration::from_millis(ms)).await,
                }
                let mut began = Vec::new();
                let mut still = VecDeque::new();
                let longest = |waiting: &VecDeque<Waits>, lane: usize| {
                    waiting.iter().filter(|waits| waits.lane == lane).count()
                };
                while let Some(mut waits) = waiting.pop_front() {
                    match poll(&mut waits.acquiring) {
                        None => still.push_back(waits),
                        Some(Ok(permit)) => {
                            let is_first = still.iter().all(|other| other.lane != waits.lane);
                            prop_assert!(is_first, "out of order");
                            began.push(waits.lane);
                            held.push((waits.lane, permit));
                        }
                        Some(Err(refused)) => {
                            prop_assert_eq!(refused, Busy::All { limit: 12 });
                            let of_lane = longest(&still, waits.lane) + 1;
                            for lane in 0..6 {
                                let of_other = longest(&still, lane) + longest(&waiting, lane);
                                prop_assert!(of_other <= of_lane, "not the longest");
                            }
                        }
                    }
                }
                waiting = still;
                prop_assert_eq!(semaphore.waiting(), waiting.len());
                prop_assert!(held.len() <= permits + usize::from(has_prompt_permit));
                prop_assert!(waiting.is_empty() || held.len() >= permits);
                // With a prompt permit, requests may also begin out of turn.
                for waits in waiting.iter_mut().filter(|_| !has_prompt_permit) {
                    let Some(counts) = &mut waits.began else { continue };
                    for lane in &began {
                        let count = counts.entry(*lane).or_default();
                        *count += 1;
                        prop_assert!(*count <= 1, "{} requests of lane {}", count, lane);
                    }
                }
            }
            Ok::<_, TestCaseError>(())
        })?;
    }
}
