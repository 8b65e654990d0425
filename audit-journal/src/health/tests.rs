use std::io;
use std::sync::Arc;

use super::log::LOG_INTERVAL;
use super::*;

/// The log, without times.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Log {
    fn start() -> (Log, tracing::subscriber::DefaultGuard) {
        let log = Log::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_ansi(false)
            .without_time()
            .with_target(false)
            .with_writer(move || writer.clone())
            .finish();
        // Without a subscriber for all threads, a test on another thread that reaches a log line
        // first would make `tracing` remember, for all threads, that nobody is interested in the
        // line.
        let _ = tracing::subscriber::set_global_default(tracing_subscriber::registry());
        (log, tracing::subscriber::set_default(subscriber))
    }

    /// What was logged since the last call.
    fn take(&self) -> Vec<String> {
        let bytes = std::mem::take(&mut *self.0.lock().unwrap());
        let text = String::from_utf8(bytes).unwrap();
        text.lines().map(|line| line.trim().replace(" bucket=\"b\"", "")).collect()
    }
}

fn trouble(blocked_by: Option<&str>) -> Trouble {
    let blocked_by = blocked_by.map(str::to_owned);
    Trouble::Delivery(DeliveryTrouble { reason: "no answer within 7 ms".into(), blocked_by })
}

const RETRIED: &str = "WARN audit delivery is retried reason=\"no answer within 7 ms\"";
const DELIVERED: &str = "INFO audit logs are delivered again";

#[tokio::test(start_paused = true)]
async fn intermittent_troubles_are_logged_at_intervals() {
    let (log, _guard) = Log::start();
    let board = HealthBoard::new("b".to_owned());
    for _ in 0..3_377 {
        let watch = board.watch();
        watch.report(trouble(None));
        watch.over();
    }
    assert_eq!(log.take(), [format!("{RETRIED} held_back=0"), DELIVERED.to_owned()]);
    tokio::time::sleep(LOG_INTERVAL).await;
    assert_eq!(log.take(), [""; 0], "the log has already reported the end");
    let watch = board.watch();
    watch.report(trouble(None));
    assert_eq!(log.take(), [format!("{RETRIED} held_back=3376")]);
    watch.over();
    assert_eq!(log.take(), [DELIVERED]);
    assert_eq!(board.health(0).retries, 3_378, "each is counted");
}

#[tokio::test(start_paused = true)]
async fn a_suppressed_trouble_that_lasts_is_logged() {
    let (log, _guard) = Log::start();
    let board = HealthBoard::new("b".to_owned());
    let first = board.watch();
    first.report(trouble(None));
    first.over();
    assert_eq!(log.take().len(), 2);
    let second = board.watch();
    (0..1_000).for_each(|_| second.report(trouble(None)));
    assert_eq!(log.take(), [""; 0]);
    tokio::time::sleep(LOG_INTERVAL * 2).await;
    assert_eq!(log.take().len(), 1, "logged once, without any new event");
    second.over();
    assert_eq!(log.take(), [DELIVERED]);
}

#[tokio::test(start_paused = true)]
async fn blocked_deliveries_are_logged_at_once() {
    let (log, _guard) = Log::start();
    let board = HealthBoard::new("b".to_owned());
    let (object, disk) = (board.watch(), board.watch());
    object.report(trouble(None));
    object.report(trouble(Some("permission")));
    object.report(trouble(Some("permission")));
    let lines = log.take();
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(lines[1].starts_with("ERROR audit delivery is blocked until an operator acts"));
    disk.report(Trouble::disk("no plan", &io::Error::from(io::ErrorKind::StorageFull)));
    object.over();
    tokio::time::sleep(LOG_INTERVAL * 2).await;
    let lines = log.take();
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].starts_with("ERROR the journal of audit logs is blocked"), "{lines:?}");
    disk.over();
    assert_eq!(log.take(), ["INFO the journal of audit logs can use its disk again"]);
}

#[tokio::test(start_paused = true)]
async fn a_dropped_watch_reports_no_recovery() {
    let (log, _guard) = Log::start();
    let board = HealthBoard::new("b".to_owned());
    let watch = board.watch();
    watch.report(trouble(None));
    assert_eq!(log.take().len(), 1);
    drop(watch);
    assert_eq!(log.take(), [""; 0], "nothing was delivered");
    assert_eq!(board.health(0).state, HealthState::Ok);
}

#[test]
fn only_requests_to_the_bucket_count_as_retries() {
    let board = HealthBoard::new("b".to_owned());
    let watch = board.watch();
    watch.report(Trouble::journal_full(3, 3));
    watch.report(Trouble::disk("x", &io::Error::from(io::ErrorKind::StorageFull)));
    assert_eq!(board.health(0).retries, 0);
    assert!(!board.delivery_in_trouble());
    watch.report(trouble(None));
    assert_eq!(board.health(0).retries, 1);
    assert!(board.delivery_in_trouble());
}

/// Each sentence says what to do about its own cause.
#[test]
fn each_trouble_of_a_disk_has_its_own_advice() {
    let advice = |error: &io::Error| {
        let said = Trouble::disk("no plan", error).to_string();
        let advice = said.strip_prefix(&format!("no plan: {error} (")).unwrap();
        advice.strip_suffix(')').unwrap().to_owned()
    };
    for (kind, expected) in [
        (io::ErrorKind::StorageFull, "make room on its disk"),
        (io::ErrorKind::QuotaExceeded, "make room, or raise the quota"),
        (io::ErrorKind::ReadOnlyFilesystem, "mount its disk for writing"),
        (io::ErrorKind::PermissionDenied, "allow this process to write to the directory"),
        (io::ErrorKind::NotFound, "check the disk"),
        (io::ErrorKind::InvalidData, "check the disk"),
    ] {
        assert_eq!(advice(&kind.into()), expected);
        // The journal's disk puts the file's name before the message.
        assert_eq!(advice(&io::Error::new(kind, "a.object: x")), expected);
    }
    for (code, expected) in [
        (5, "check the disk"),
        (23, "raise the system's limit of open files: fs.file-max"),
        (24, "raise the limit of open files: ulimit -n, LimitNOFILE"),
        (27, "raise the limit of the size of files: ulimit -f, LimitFSIZE"),
    ] {
        assert_eq!(advice(&io::Error::from_raw_os_error(code)), expected);
    }
    let root = tempfile::tempdir().unwrap();
    for (removes, expected) in
        [(false, "move it back"), (true, "restart this process, which makes it again")]
    {
        let path = root.path().join("journal");
        std::fs::create_dir(&path).unwrap();
        let placed = audit_core::PlacedDirectory::open(path.clone()).unwrap();
        match removes {
            true => std::fs::remove_dir(&path).unwrap(),
            false => std::fs::rename(&path, root.path().join("moved")).unwrap(),
        }
        assert_eq!(advice(&placed.check("the journal").unwrap_err()), expected);
    }
}
