use std::pin::Pin;
use std::sync::mpsc;
use std::task::{Context, Wake, Waker};

use futures::future::join_all;
use tokio::sync::oneshot;

use super::*;

fn start(threads: usize, overrun_after: Duration, max_stuck: usize) -> Workers {
    let longest_stretch = NEVER;
    let stretch_cpu_time = Duration::ZERO;
    let settings =
        WorkerSettings { threads, overrun_after, longest_stretch, stretch_cpu_time, max_stuck };
    Workers::start(settings, KeptEngines::new(0)).unwrap()
}

const NEVER: Duration = Duration::from_secs(100_000);

/// Blocks a thread until the sender is dropped. Returns once the thread is blocked.
async fn block(workers: &Arc<Workers>) -> (mpsc::Sender<()>, tokio::task::JoinHandle<()>) {
    block_in(workers, Lane::unique()).await
}

async fn block_in(
    workers: &Arc<Workers>,
    lane: Lane,
) -> (mpsc::Sender<()>, tokio::task::JoinHandle<()>) {
    let (release, held) = mpsc::channel::<()>();
    let (begin, begun) = oneshot::channel();
    let workers = Arc::clone(workers);
    let blocked = tokio::spawn(async move {
        let work = move |_: &Pulse| {
            begin.send(()).unwrap();
            held.recv().unwrap_err();
        };
        workers.run(lane, Presence::default(), work).await.unwrap();
    });
    begun.await.unwrap();
    (release, blocked)
}

#[tokio::test]
async fn a_client_precedes_the_next_round_of_a_flood() {
    let workers = Arc::new(start(1, NEVER, 1));
    // The second job is prompt, and blocks the thread for prompt jobs.
    let (release, blocked) = block(&workers).await;
    let (release_prompt, blocked_prompt) = block(&workers).await;
    let order = Arc::new(Mutex::new(Vec::new()));
    let job = |lane, name: &'static str| {
        let order = Arc::clone(&order);
        workers.run(lane, Presence::default(), move |_| lock(&order).push(name))
    };
    let floods = [Lane::unique(), Lane::unique(), Lane::unique()];
    let flooding = floods.into_iter().flat_map(|lane| std::iter::repeat_n(lane, 64));
    let mut jobs: Vec<_> = flooding.map(|lane| job(lane, "flood")).collect();
    jobs.push(job(Lane::unique(), "quiet"));
    // All jobs wait before the first one begins, and all run on one thread, so the recorded order
    // is the order of their turns.
    let (done, ()) = futures::join!(join_all(jobs), async { drop(release) });
    assert!(done.iter().all(Result::is_ok));
    let quiet = lock(&order).iter().position(|name| *name == "quiet");
    assert!(quiet.unwrap() <= floods.len(), "{quiet:?} jobs came before");
    blocked.await.unwrap();
    drop(release_prompt);
    blocked_prompt.await.unwrap();
}

#[tokio::test]
async fn a_prompt_job_does_not_wait_for_a_long_one() {
    let workers = Arc::new(start(2, NEVER, 1));
    let (first, one) = block_in(&workers, Lane::unique()).await;
    let (second, two) = block_in(&workers, Lane::unique()).await;
    // In separate lanes, since a short job may take long on a busy machine.
    for number in 0..2 {
        let ran = workers.run(Lane::unique(), Presence::default(), move |_| number).await;
        assert_eq!(ran, Ok(number));
    }
    drop((first, second));
    one.await.unwrap();
    two.await.unwrap();
}

#[tokio::test]
async fn a_turn_has_ended_when_its_caller_is_answered() {
    let workers = start(2, NEVER, 1);
    let lane = Lane::unique();
    for _ in 0..1_000 {
        workers.run(lane, Presence::default(), |_| ()).await.unwrap();
        assert!(workers.shared.state().running.is_empty(), "its next job would not be prompt");
    }
}

#[tokio::test]
async fn jobs_give_way_while_more_of_their_caller_wait() {
    let workers = Arc::new(start(1, NEVER, 1));
    let (release, blocked) = block(&workers).await;
    let job = || workers.run(Lane::HOST, Presence::default(), Pulse::gives_way);
    let (first, second, ()) = futures::join!(job(), job(), async { drop(release) });
    assert_eq!((first, second), (Ok(true), Ok(false)));
    blocked.await.unwrap();
}

#[tokio::test]
async fn jobs_pause_while_a_prompt_one_runs() {
    let workers = Arc::new(start(1, NEVER, 1));
    let urgent = &workers.shared.urgent;
    let (release, blocked) = block_in(&workers, Lane::HOST).await;
    assert_eq!(urgent.wait(NEVER), Duration::ZERO, "the host's jobs are not prompt");
    let (release_prompt, prompt) = block(&workers).await;
    assert!(urgent.wait(Duration::from_millis(1)) >= Duration::from_millis(1));
    drop(release_prompt);
    prompt.await.unwrap();
    assert_eq!(urgent.wait(NEVER), Duration::ZERO, "it has ended before its caller is answered");
    drop(release);
    blocked.await.unwrap();
}

#[tokio::test]
async fn calls_with_announced_successors_give_way() {
    let workers = Arc::new(start(1, NEVER, 1));
    let lane = Lane::unique();
    let expected = workers.expect(lane);
    assert_eq!(workers.run(lane, Presence::default(), Pulse::gives_way).await, Ok(true));
    drop(expected);
    assert_eq!(workers.run(lane, Presence::default(), Pulse::gives_way).await, Ok(false));
}

#[tokio::test]
async fn work_does_not_begin_after_its_caller_went_away() {
    let workers = Arc::new(start(1, NEVER, 1));
    let (release, blocked) = block(&workers).await;
    let began = Arc::new(Mutex::new(Vec::new()));
    // The host's jobs are never prompt, so they wait for the blocked thread.
    let lane = Lane::HOST;
    let job = |number: usize| {
        let began = Arc::clone(&began);
        Box::pin(workers.run(lane, Presence::default(), move |_| lock(&began).push(number)))
    };
    let mut jobs: Vec<_> = (0..4 * MIN_SWEEP).map(job).collect();
    for job in &mut jobs {
        assert!(futures::poll!(job).is_pending());
    }
    let stays = jobs.split_off(4 * MIN_SWEEP - 1).pop().unwrap();
    drop(jobs);
    // Unwanted jobs are removed before their turn if there are many.
    let more: Vec<_> = (0..4 * MIN_SWEEP).map(|_| job(usize::MAX)).collect();
    let mut waits = Vec::new();
    for mut job in more {
        assert!(futures::poll!(&mut job).is_pending());
        waits.push(workers.shared.state().turns.waiting_of(lane));
    }
    assert!(waits.iter().all(|waits| *waits <= 8 * MIN_SWEEP), "{waits:?}");
    drop(release);
    stays.await.unwrap();
    blocked.await.unwrap();
    assert_eq!(*lock(&began), [4 * MIN_SWEEP - 1]);
}

#[tokio::test]
async fn panics_are_returned_and_threads_survive() {
    let workers = start(1, NEVER, 1);
    let lane = Lane::unique();
    let broken = workers.run(lane, Presence::default(), |_| panic!("as tests do")).await;
    assert_eq!(broken, Err::<(), _>(Broken::Panicked("as tests do".to_owned())));
    assert_eq!(workers.run(lane, Presence::default(), |_| 7).await, Ok(7));
}

#[tokio::test]
async fn a_stuck_thread_is_replaced_and_counted() {
    let limit = Duration::from_millis(1);
    let workers = start(1, limit, 3);
    let mut exhausted = workers.exhausted();
    let mut held = Vec::new();
    for number in 1..=3 {
        let (release, hold) = mpsc::channel::<()>();
        held.push(release);
        let broken =
            workers.run(Lane::unique(), Presence::default(), move |_| hold.recv().is_ok()).await;
        assert_eq!(broken, Err(Broken::Overran(limit)), "{number}");
        assert_eq!(*exhausted.borrow_and_update(), number == 3);
    }
    // The replacement works, though on a busy machine it may be abandoned itself.
    let ran = workers.run(Lane::unique(), Presence::default(), |_| 7).await;
    assert!(matches!(ran, Ok(7) | Err(Broken::Overran(_))));
    drop(held);
}

#[tokio::test]
async fn unstoppable_javascript_is_abandoned() {
    let longest_stretch = Duration::from_millis(1);
    let settings = WorkerSettings {
        threads: 1,
        overrun_after: NEVER,
        longest_stretch,
        stretch_cpu_time: Duration::ZERO,
        max_stuck: 1,
    };
    let workers = Workers::start(settings, KeptEngines::new(0)).unwrap();
    let (release, hold) = mpsc::channel::<()>();
    let stuck = move |pulse: &Pulse| pulse.in_engine(|| hold.recv().is_ok());
    let broken = workers.run(Lane::unique(), Presence::default(), stuck).await;
    assert_eq!(broken, Err(Broken::Overran(longest_stretch)));
    drop(release);
}

/// A thread that a busy machine suspends must not be abandoned.
#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn javascript_that_got_no_time_is_only_slow() {
    let workers = Arc::new(start(1, NEVER, 1));
    let limits = |stretch_cpu_time, overrun_after| WorkerSettings {
        longest_stretch: Duration::ZERO,
        stretch_cpu_time,
        overrun_after,
        ..workers.shared.settings
    };
    let overran = |settings: WorkerSettings| {
        let mut state = workers.shared.state();
        let overran: Vec<_> =
            state.running.values_mut().map(|running| running.overran(&settings)).collect();
        assert_eq!(overran.len(), 1);
        overran[0]
    };
    let spins = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let (begin, begun) = oneshot::channel();
    let (release, held) = mpsc::channel::<()>();
    let (spinning, pool) = (Arc::clone(&spins), Arc::clone(&workers));
    let running = tokio::spawn(async move {
        let work = move |pulse: &Pulse| {
            pulse.in_engine(|| {
                begin.send(()).unwrap();
                held.recv().unwrap();
                while spinning.load(std::sync::atomic::Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            });
        };
        pool.run(Lane::unique(), Presence::default(), work).await
    });
    begun.await.unwrap();
    // The kernel counts a thread's time once the thread waits or is interrupted.
    let is_counted = |running: &Running| running.thread.cpu_time().is_some();
    while !workers.shared.state().running.values().all(is_counted) {
        tokio::task::yield_now().await;
    }
    let second = Duration::from_secs(1);
    for _ in 0..3 {
        assert_eq!(overran(limits(second, NEVER)), None, "it got no time");
    }
    assert_eq!(overran(limits(second, Duration::ZERO)), Some(Duration::ZERO), "the last bound");
    spins.store(true, std::sync::atomic::Ordering::Relaxed);
    release.send(()).unwrap();
    while overran(limits(Duration::from_millis(20), NEVER)).is_none() {
        tokio::task::yield_now().await;
    }
    spins.store(false, std::sync::atomic::Ordering::Relaxed);
    running.await.unwrap().unwrap();
}

/// A caller whose waker panics, and says so.
struct PanickyWaker(Mutex<mpsc::Sender<()>>);

impl Wake for PanickyWaker {
    fn wake(self: Arc<PanickyWaker>) {
        lock(&self.0).send(()).unwrap();
        std::panic::resume_unwind(Box::new("told to panic"));
    }
}

/// Begins a job of a caller whose waker panics. Returns a receiver for its call.
fn begin(job: &mut (impl Future<Output = Result<(), Broken>> + Unpin)) -> mpsc::Receiver<()> {
    let (wake, woken) = mpsc::channel();
    let waker = Waker::from(Arc::new(PanickyWaker(Mutex::new(wake))));
    assert!(Pin::new(job).poll(&mut Context::from_waker(&waker)).is_pending());
    woken
}

#[tokio::test]
async fn threads_survive_callers_that_panic() {
    let workers = start(1, NEVER, 1);
    for _ in 0..10 {
        let (release, held) = mpsc::channel::<()>();
        let work = move |_: &Pulse| {
            let _ = held.recv();
        };
        let mut job = Box::pin(workers.run(Lane::unique(), Presence::default(), work));
        let woken = begin(&mut job);
        drop(release);
        woken.recv().unwrap();
        assert_eq!(job.await, Ok(()));
    }
    // On the thread for prompt jobs, and on the other one.
    let (one, other) = futures::join!(
        workers.run(Lane::unique(), Presence::default(), |_| 1),
        workers.run(Lane::unique(), Presence::default(), |_| 2),
    );
    assert_eq!((one, other), (Ok(1), Ok(2)));
    assert_eq!(workers.stuck(), 0);
}

#[tokio::test]
async fn the_watchdog_survives_callers_that_panic() {
    let workers = start(1, Duration::from_millis(20), 100);
    let mut releases = Vec::new();
    for _ in 0..5 {
        let (release, held) = mpsc::channel::<()>();
        releases.push(release);
        let work = move |_: &Pulse| {
            let _ = held.recv();
        };
        let mut job = Box::pin(workers.run(Lane::unique(), Presence::default(), work));
        begin(&mut job).recv().unwrap();
        assert!(matches!(job.await, Err(Broken::Overran(_))));
    }
    assert_eq!(workers.stuck(), 5);
    drop(releases);
    let ran = workers.run(Lane::unique(), Presence::default(), |_| 1).await;
    assert_eq!(ran, Ok(1));
}
