use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn a_waiting_client_precedes_the_next_round_of_a_flood() {
    // With several threads, jobs begin while others run.
    for threads in 1..=4 {
        let mut turns = Turns::default();
        let floods: Vec<_> = (0..3).map(|_| Lane::unique()).collect();
        for lane in &floods {
            for _ in 0..64 {
                turns.push(*lane, "flood");
            }
        }
        let mut running = VecDeque::new();
        for _ in 0..20 {
            while running.len() < threads {
                running.push_back(turns.pop().unwrap().1);
            }
            turns.end(running.pop_front().unwrap(), Some(SECOND));
        }
        turns.push(Lane::unique(), "quiet");
        let before = std::iter::from_fn(|| turns.pop()).position(|(job, _)| job == "quiet");
        assert!(before.unwrap() <= floods.len(), "{before:?} jobs came before");
    }
}

#[test]
fn lanes_share_time_regardless_of_the_number_of_jobs() {
    let mut turns = Turns::default();
    let (long, short) = (Lane::unique(), Lane::unique());
    for _ in 0..10_000 {
        turns.push(long, Duration::from_millis(100));
        turns.push(short, Duration::from_millis(5));
    }
    let mut used: HashMap<Lane, Duration> = HashMap::new();
    for _ in 0..2_000 {
        let (took, turn) = turns.pop().unwrap();
        *used.entry(turn.lane).or_default() += took;
        turns.end(turn, Some(took));
    }
    assert!(used[&long].abs_diff(used[&short]) <= SECOND, "{used:?}");
}

#[test]
fn the_host_keeps_a_quarter_of_the_time() {
    let mut turns = Turns::default();
    for _ in 0..100 {
        let lane = Lane::unique();
        for _ in 0..50 {
            turns.push(lane, false);
        }
    }
    for _ in 0..1_000 {
        turns.push(Lane::HOST, true);
    }
    let mut hosts = 0;
    for _ in 0..400 {
        let (is_host, turn) = turns.pop().unwrap();
        hosts += u32::from(is_host);
        turns.end(turn, Some(SECOND));
    }
    assert!((95..=105).contains(&hosts), "{hosts} of 400");
}

#[test]
fn prompt_jobs_are_those_of_idle_callers_with_short_jobs() {
    let mut turns = Turns::default();
    let (flood, long, quiet) = (Lane::unique(), Lane::unique(), Lane::unique());
    for _ in 0..20 {
        turns.push(long, "long");
        let (_, turn) = turns.pop().unwrap();
        turns.end(turn, Some(SECOND));
    }
    for _ in 0..3 {
        turns.push(flood, "flood");
    }
    let (_, first) = turns.pop().unwrap();
    turns.push(long, "long");
    turns.push(Lane::HOST, "host");
    assert!(turns.pop_prompt().is_none(), "neither queued, nor long, nor the host's jobs");
    turns.push(quiet, "quiet");
    turns.push(quiet, "next");
    let (job, turn) = turns.pop_prompt().unwrap();
    assert_eq!(job, "quiet");
    assert!(turns.pop_prompt().is_none(), "one at a time");
    turns.end(turn, Some(LEAST));
    turns.end(first, Some(LEAST));
    let rest: Vec<_> = std::iter::from_fn(|| turns.pop()).map(|(job, _)| job).collect();
    assert_eq!(rest.len(), 5, "{rest:?}");
}

#[test]
fn lanes_that_expect_more_are_not_prompt() {
    let mut turns = Turns::default();
    let lane = Lane::unique();
    turns.expect(lane);
    turns.expect(lane);
    turns.expect_no_more(lane);
    turns.push(lane, "first");
    assert!(turns.pop_prompt().is_none() && turns.prompt() == 0);
    let (_, turn) = turns.pop().unwrap();
    assert!(turns.has_more(lane));
    turns.end(turn, Some(LEAST));
    turns.expect_no_more(lane);
    assert!(!turns.has_more(lane));
    turns.push(lane, "last");
    assert_eq!(turns.prompt(), 1);
    let (_, turn) = turns.pop_prompt().unwrap();
    assert_eq!(turns.prompt(), 1, "it runs");
    turns.end(turn, Some(LEAST));
    assert_eq!(turns.prompt(), 0);
}

#[test]
fn idle_lanes_are_forgotten() {
    let mut turns = Turns::default();
    for _ in 0..10 * MAX_IDLE {
        turns.push(Lane::unique(), ());
        let ((), turn) = turns.pop().unwrap();
        turns.end(turn, Some(SECOND));
    }
    assert!(turns.lanes.len() <= MAX_IDLE + 1, "{}", turns.lanes.len());
}

#[test]
fn clients_of_one_ipv6_network_share_a_lane() {
    let runtime = audit_runtime::AuditRuntime::new(std::sync::Arc::new(
        audit_core::testing::MemorySink::new(),
    ));
    let lane = |ip: &str| Lane::of(&runtime.new_request().with_ip(ip.parse().unwrap()));
    assert_eq!(lane("2001:db8::1"), lane("2001:db8::ffff:2"));
    assert_ne!(lane("2001:db8::1"), lane("2001:db8:0:1::1"));
    assert_eq!(lane("::ffff:192.0.2.1"), lane("192.0.2.1"));
    assert_ne!(lane("192.0.2.1"), lane("192.0.2.2"));
}

#[derive(Debug, Clone)]
enum Event {
    Push(usize),
    Pop { is_wanted: bool },
    PopPrompt,
    End { which: usize, took_ms: u64 },
    Cancel { lane: usize, number: usize },
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => (0..6usize).prop_map(Event::Push),
        3 => prop::bool::weighted(0.8).prop_map(|is_wanted| Event::Pop { is_wanted }),
        1 => Just(Event::PopPrompt),
        3 => (any::<usize>(), 0..3_000u64)
            .prop_map(|(which, took_ms)| Event::End { which, took_ms }),
        1 => (0..6usize, 0..200usize).prop_map(|(lane, number)| Event::Cancel { lane, number }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever ran before and however long it took, no job is lost, each lane keeps its order, and
    /// at most one job of each other lane runs before the first job of a lane that owes nothing.
    #[test]
    fn no_lane_waits_for_more_than_one_job_of_each_other(
        events in prop::collection::vec(event(), 0..200),
    ) {
        let lanes: Vec<_> = (0..6).map(|_| Lane::unique()).collect();
        let mut turns = Turns::default();
        let mut running = Vec::new();
        let mut queues: Vec<VecDeque<usize>> = vec![VecDeque::new(); 6];
        // For each lane with a waiting first job: how many jobs of each other lane began since.
        let mut began: HashMap<usize, [u32; 6]> = HashMap::new();
        for (number, event) in events.into_iter().enumerate() {
            match event {
                Event::Push(lane) => {
                    let known = turns.lanes.get(&lanes[lane]);
                    let owes_nothing = known.is_none_or(|known| known.used <= turns.floor);
                    if queues[lane].is_empty() && owes_nothing {
                        began.insert(lane, [0; 6]);
                    }
                    queues[lane].push_back(number);
                    turns.push(lanes[lane], number);
                }
                Event::Pop { is_wanted } => {
                    let Some((number, turn)) = turns.pop() else {
                        prop_assert!(queues.iter().all(VecDeque::is_empty));
                        continue;
                    };
                    let lane = lanes.iter().position(|lane| *lane == turn.lane).unwrap();
                    prop_assert_eq!(queues[lane].pop_front(), Some(number));
                    began.remove(&lane);
                    if !is_wanted {
                        turns.end(turn, None);
                        continue;
                    }
                    began.values_mut().for_each(|others| others[lane] += 1);
                    let most = began.values().flatten().max();
                    prop_assert!(most.is_none_or(|most| *most <= 1), "{:?}", began);
                    running.push(turn);
                }
                // A prompt job runs on a thread of its own, so it delays no other lane.
                Event::PopPrompt => {
                    let Some((number, turn)) = turns.pop_prompt() else { continue };
                    let lane = lanes.iter().position(|lane| *lane == turn.lane).unwrap();
                    prop_assert_eq!(queues[lane].pop_front(), Some(number));
                    let is_alone = running.iter().all(|other: &Turn| other.lane != turn.lane);
                    prop_assert!(is_alone);
                    began.remove(&lane);
                    running.push(turn);
                }
                Event::End { .. } if running.is_empty() => {}
                Event::End { which, took_ms } => {
                    let turn = running.swap_remove(which % running.len());
                    turns.end(turn, Some(Duration::from_millis(took_ms)));
                    // The job may have taken longer than charged, so the lane may owe time now.
                    began.retain(|lane, _| lanes[*lane] != turn.lane);
                }
                Event::Cancel { lane, number } => {
                    queues[lane].retain(|waiting| *waiting != number);
                    turns.retain(lanes[lane], |waiting| *waiting != number);
                    if queues[lane].is_empty() {
                        began.remove(&lane);
                    }
                }
            }
            prop_assert_eq!(turns.waiting(), queues.iter().map(VecDeque::len).sum::<usize>());
        }
    }
}
