use std::sync::atomic::{AtomicUsize, Ordering};

use futures::FutureExt;
use tokio::sync::oneshot;

use super::*;

const MAX_BYTES: usize = 8 << 20;

impl Outcome for String {
    fn bytes(&self) -> usize {
        self.len()
    }
}

fn ready(text: &str) -> impl FnOnce() -> BoxFuture<'static, String> + use<> {
    let text = text.to_owned();
    move || async move { text }.boxed()
}

fn never() -> BoxFuture<'static, String> {
    unreachable!("a retry must not run")
}

#[tokio::test]
async fn calls_resent_on_a_new_connection_run_once() {
    let mutations = Arc::new(Mutations::new(MAX_BYTES));
    let connection = mutations.connect(1, Lane::HOST);
    let (release, held) = oneshot::channel();
    let call = move || held.map(|text: Result<String, _>| text.unwrap()).boxed();
    let answer = connection.run(7, 70, call).unwrap();
    let after = connection.run(8, 80, ready("after")).unwrap();
    drop((answer, after, connection));

    let again = mutations.connect(1, Lane::HOST);
    let answer = again.run(7, 70, never).unwrap();
    let after = again.run(8, 80, never).unwrap();
    release.send("done".to_owned()).unwrap();
    assert_eq!((answer.await, after.await), (Ok("done".to_owned()), Ok("after".to_owned())));
    assert_eq!(again.run(7, 70, never).unwrap().await, Ok("done".to_owned()));
    assert!(again.run(7, 71, never).is_err());
    // Another client has its own numbers.
    assert_eq!(
        mutations.connect(2, Lane::HOST).run(7, 71, ready("other")).unwrap().await,
        Ok("other".to_owned())
    );
}

#[tokio::test]
async fn mutations_run_one_at_a_time_in_order() {
    let mutations = Arc::new(Mutations::new(MAX_BYTES));
    let connection = mutations.connect(1, Lane::HOST);
    let running = Arc::new(AtomicUsize::new(0));
    let (ended, mut order) = mpsc::unbounded_channel();
    let answers: Vec<_> = (0..50)
        .map(|number: u32| {
            let (running, ended) = (Arc::clone(&running), ended.clone());
            let call = async move {
                assert_eq!(running.fetch_add(1, Ordering::SeqCst), 0);
                for _ in 0..number % 3 {
                    tokio::task::yield_now().await;
                }
                running.fetch_sub(1, Ordering::SeqCst);
                ended.send(number).unwrap();
                number.to_string()
            };
            connection.run(number, 0, move || call.boxed()).unwrap()
        })
        .collect();
    for (number, answer) in answers.into_iter().enumerate().rev() {
        assert_eq!(answer.await, Ok(number.to_string()));
    }
    for number in 0..50 {
        assert_eq!(order.recv().await, Some(number));
    }
}

#[tokio::test]
async fn a_panic_does_not_affect_other_mutations() {
    let mutations = Arc::new(Mutations::new(MAX_BYTES));
    let connection = mutations.connect(1, Lane::HOST);
    let lost = connection.run(1, 0, || async { panic!("as tests do") }.boxed()).unwrap();
    let next = connection.run(2, 0, ready("next")).unwrap();
    assert_eq!((lost.await, next.await), (Err(Lost::Panicked), Ok("next".to_owned())));
    assert_eq!(connection.run(1, 0, never).unwrap().await, Err(Lost::Panicked));
}

#[tokio::test(start_paused = true)]
async fn a_disconnected_client_is_forgotten_after_a_while() {
    let mutations = Arc::new(Mutations::new(MAX_BYTES));
    let connection = mutations.connect(1, Lane::HOST);
    assert_eq!(connection.run(1, 0, ready("first")).unwrap().await, Ok("first".to_owned()));
    drop(connection);
    tokio::time::advance(KEPT_FOR - Duration::from_millis(1)).await;
    let back = mutations.connect(1, Lane::HOST);
    assert_eq!(back.run(1, 0, never).unwrap().await, Ok("first".to_owned()));
    drop(back);
    // The first absence is over; the second has just begun.
    tokio::time::advance(Duration::from_millis(1)).await;
    let back = mutations.connect(1, Lane::HOST);
    assert_eq!(back.run(1, 0, never).unwrap().await, Ok("first".to_owned()));
    drop(back);
    tokio::time::advance(KEPT_FOR).await;
    let late = mutations.connect(1, Lane::HOST);
    assert_eq!(late.run(1, 0, ready("again")).unwrap().await, Ok("again".to_owned()));
}

#[tokio::test]
async fn outcomes_are_limited_and_mutations_never_rerun() {
    let mutations = Arc::new(Mutations::new(MAX_BYTES));
    let connection = mutations.connect(1, Lane::HOST);
    let remembered = MAX_REMEMBERED as u32;
    for number in 0..2 * remembered {
        connection.run(number, 0, ready("x")).unwrap().await.unwrap();
    }
    assert_eq!(connection.client.known.lock().calls.len(), MAX_REMEMBERED);
    // A client that received none of the responses retries all of its mutations.
    drop(connection);
    let connection = mutations.connect(1, Lane::HOST);
    for number in 0..2 * remembered {
        let outcome = if number < remembered { Err(Lost::Forgotten) } else { Ok("x".to_owned()) };
        assert_eq!(connection.run(number, 0, never).unwrap().await, outcome, "{number}");
    }
    let long = "x".repeat(MAX_CLIENT_BYTES / 4);
    for number in 10_000..10_010 {
        connection.run(number, 0, ready(&long)).unwrap().await.unwrap();
    }
    let bytes = |client: &Client<String>| {
        client.known.lock().calls.values().map(Known::bytes).sum::<usize>()
    };
    assert!(bytes(&connection.client) <= MAX_CLIENT_BYTES);
    assert_eq!(connection.run(10_001, 0, never).unwrap().await, Err(Lost::Forgotten));
    assert_eq!(connection.run(10_009, 0, never).unwrap().await, Ok(long.clone()));
    // An outcome larger than the limit is returned but not kept.
    let too_long = "x".repeat(MAX_BYTES);
    let answer = connection.run(20_000, 0, ready(&too_long)).unwrap().await;
    assert_eq!(answer.unwrap().len(), MAX_BYTES);
    assert_eq!(connection.run(20_000, 0, never).unwrap().await, Err(Lost::Forgotten));

    // The outcomes of all clients are limited together, and the oldest are forgotten first.
    let others: Vec<_> = (2..=100).map(|session| mutations.connect(session, Lane::HOST)).collect();
    for other in &others {
        other.run(1, 0, ready(&long)).unwrap().await.unwrap();
    }
    assert!(mutations.kept.outcomes.lock().bytes <= MAX_BYTES);
    assert_eq!(others[0].run(1, 0, never).unwrap().await, Err(Lost::Forgotten));
    assert_eq!(others[98].run(1, 0, never).unwrap().await, Ok(long));
    drop((connection, others));

    // Clients without mutations have nothing to remember.
    for session in 1_000..2_000 {
        drop(mutations.connect(session, Lane::HOST));
    }
    assert!(mutations.state.lock().clients.keys().all(|session| *session <= 100));
    for session in 1_000..1_000 + MAX_GONE as u128 {
        let gone = mutations.connect(session, Lane::HOST);
        gone.run(1, 0, ready("")).unwrap().await.unwrap();
    }
    let state = mutations.state.lock();
    assert_eq!((state.gone.len(), state.clients.len()), (MAX_GONE, MAX_GONE));
}

#[tokio::test]
async fn clients_that_come_and_go_make_no_others_forgotten() {
    let mutations = Arc::new(Mutations::new(MAX_BYTES));
    let (quiet, flood) = (Lane::unique(), Lane::unique());
    for session in 0..2 {
        let connection = mutations.connect(session, quiet);
        connection.run(0, 0, ready("done")).unwrap().await.unwrap();
    }
    for session in 2..500 + MAX_GONE as u128 {
        let connection = mutations.connect(session, flood);
        connection.run(0, 0, ready("")).unwrap().await.unwrap();
    }
    for session in 0..2 {
        let back = mutations.connect(session, quiet);
        assert_eq!(back.run(0, 0, never).unwrap().await, Ok("done".to_owned()));
    }
    assert!(mutations.state.lock().gone.len() <= MAX_GONE);
}
