//! `audit witness` cosigns a single history of each stream of its hosts, also after it was killed.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use audit_evidence::{
    AddCheckpoint, Certificate, Checkpoint, CompactRange, Hash, KeyKind, Note, NoteSignature,
    Remembered, SignerKey, State, VerifierKey, origin,
};

use crate::support::{Ran, audit, command};

const HOST: &str = "example.com/api";
const STREAM: &str = "01M86YQH3BN92MTRKE2RS1CKJ5";

pub(super) struct Witness {
    process: Child,
    pub(super) address: String,
}

impl Drop for Witness {
    fn drop(&mut self) {
        // Every test kills the witness, since that is the worst way to end.
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

impl Witness {
    pub(super) fn start(directory: &Path, host: &VerifierKey) -> Witness {
        let mut command = command();
        command.args(["witness", "--listen", "127.0.0.1:0", "--host", &host.to_string()]);
        command.arg("--key").arg(directory.join("key"));
        command.arg("--state").arg(directory.join("state"));
        let mut process = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let line = lines.next().unwrap().unwrap();
        let address = line.strip_prefix("listening on http://").unwrap().to_owned();
        Witness { process, address }
    }

    fn post(&self, path: &str, body: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        let (length, address) = (body.len(), &self.address);
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\
             content-length: {length}\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).unwrap();
        // A request may be refused before it is read completely.
        let _ = stream.write_all(body.as_bytes());
        let mut response = Vec::new();
        let _ = stream.read_to_end(&mut response);
        let response = String::from_utf8(response).unwrap();
        let (head, body) = response.split_once("\r\n\r\n").unwrap();
        (head[9..12].parse().unwrap(), body.to_owned())
    }

    fn ask(&self, request: &AddCheckpoint) -> (u16, String) {
        self.post("/add-checkpoint", &request.to_string())
    }
}

struct Log {
    host: SignerKey,
    key: SignerKey,
}

impl Log {
    fn new(key_seed: u8) -> Log {
        let host = SignerKey::from_seed(HOST, KeyKind::Ed25519, &[1; 32]).unwrap();
        let origin = origin(HOST, STREAM);
        let key = SignerKey::from_seed(&origin, KeyKind::Ed25519, &[key_seed; 32]).unwrap();
        Log { host, key }
    }

    fn note(&self, size: u64, root: Hash) -> Note {
        let mut note = Checkpoint::new(self.key.verifier().name(), size, root).unwrap().to_note();
        note.sign(&self.key);
        note
    }

    /// A request to extend from one size to another; with `salt`, of another history.
    fn request(&self, old: u64, size: u64, salt: &str) -> AddCheckpoint {
        let range = |begin, end| {
            let mut range = CompactRange::new(begin);
            let leaf = |n: u64| Hash::leaf(&[format!("{salt}{n}").as_bytes()]);
            (begin..end).for_each(|n| range.push(leaf(n)));
            range
        };
        let mut note = self.note(size, range(0, size).root().unwrap());
        note.add(Certificate::issue(&self.host, self.key.verifier()).to_note_signature());
        let path = range(0, old).consistency(&range(old, size)).unwrap();
        AddCheckpoint::new(old, path, note).unwrap()
    }
}

async fn witness_key(directory: &Path) -> VerifierKey {
    make_witness_key(directory, "witness.example").await
}

pub(super) async fn make_witness_key(directory: &Path, name: &str) -> VerifierKey {
    let file: PathBuf = directory.join("key");
    let file = file.to_str().unwrap();
    let ran = audit(&[], &["key", file, "--make", name, "--witness"]).await;
    VerifierKey::parse(ran.lines()[0]).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn consistent_checkpoints_are_cosigned_across_kills() {
    let directory = tempfile::tempdir().unwrap();
    let key = witness_key(directory.path()).await;
    let log = Log::new(2);
    let mut latest = 0;
    for size in [3, 7, 8, 20] {
        // A new process each time, so it only knows what it made durable.
        let witness = Witness::start(directory.path(), log.host.verifier());
        if latest > 0 {
            let fork = log.request(latest, size, "other");
            assert_eq!(witness.ask(&fork).0, 422, "an other history of {size}");
            assert_eq!(witness.ask(&log.request(0, size, "")), (409, format!("{latest}\n")));
            let same_size = log.request(latest, latest, "other");
            assert_eq!(witness.ask(&same_size), (409, format!("{latest}\n")));
        }
        for request in [log.request(latest, size, ""), log.request(size, size, "")] {
            let (status, line) = witness.ask(&request);
            assert_eq!(status, 200, "{line}");
            let mut note = request.note().clone();
            note.add(NoteSignature::parse(line.trim_end()).unwrap());
            assert_eq!(note.verify(&key), Ok(true));
        }
        latest = size;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_get_no_cosignature() {
    let directory = tempfile::tempdir().unwrap();
    witness_key(directory.path()).await;
    let log = Log::new(2);
    let witness = Witness::start(directory.path(), log.host.verifier());
    assert_eq!(witness.ask(&log.request(0, 3, "")).0, 200);
    // A thief of the host's key makes another key for the stream.
    assert_eq!(witness.ask(&Log::new(3).request(3, 5, "")).0, 403);
    // No certificate, and one of another host.
    let bare = AddCheckpoint::new(3, Vec::new(), log.note(3, Hash::empty())).unwrap();
    assert_eq!(witness.ask(&bare).0, 403);
    let other = SignerKey::from_seed("example.com/other", KeyKind::Ed25519, &[1; 32]).unwrap();
    let origin = origin(other.verifier().name(), STREAM);
    let key = SignerKey::from_seed(&origin, KeyKind::Ed25519, &[2; 32]).unwrap();
    assert_eq!(witness.ask(&Log { host: other, key }.request(0, 3, "")).0, 404);
    // Invalid requests.
    assert_eq!(witness.post("/add-checkpoint", "old 3\n").0, 400);
    assert_eq!(witness.post("/add-checkpoint", &"x".repeat(70_000)).0, 413);
    assert_eq!(witness.post("/elsewhere", "").0, 404);
    // A second witness cannot use the same state.
    let mut second = command();
    second.args(["witness", "--listen", "127.0.0.1:0"]);
    second.args(["--host", &log.host.verifier().to_string()]);
    second.arg("--key").arg(directory.path().join("key"));
    second.arg("--state").arg(directory.path().join("state"));
    let output = second.output().unwrap();
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("in use"), "{output:?}");
}

/// The log of heads as `audit heads` shows it, with its exit code.
pub(super) async fn heads(directory: &Path, key: &VerifierKey, more: &[&str]) -> Ran {
    let (state, key) = (directory.join("state"), key.to_string());
    let arguments = ["heads", state.to_str().unwrap(), "--key", &key, "--json"];
    audit(&[], &[&arguments[..], more].concat()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_of_a_witness_is_shown() {
    let directory = tempfile::tempdir().unwrap();
    let key = witness_key(directory.path()).await;
    let log = Log::new(2);
    let host = log.host.verifier().to_string();
    let seen = directory.path().join("seen");
    let with = ["--host", &host, "--state", seen.to_str().unwrap()];
    let witness = Witness::start(directory.path(), log.host.verifier());
    let last = log.request(3, 7, "");
    assert_eq!(witness.ask(&log.request(0, 3, "")).0, 200);
    assert_eq!(witness.ask(&last).0, 200);
    assert_eq!(witness.ask(&log.request(7, 7, "")).0, 200, "what is known is not logged again");
    let ran = heads(directory.path(), &key, &with).await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let sizes: Vec<_> = ran.json().iter().map(|line| line["size"].as_u64().unwrap()).collect();
    assert_eq!(sizes, [3, 7]);
    // What the witness saw is written as a state with which buckets are verified.
    let state = State::parse(&std::fs::read_to_string(&seen).unwrap()).unwrap();
    let (root, has_ended) = (*last.checkpoint().root(), false);
    assert_eq!(state.get(STREAM), Some(Remembered { size: 7, root, has_ended }));

    // Contradictions are logged, each once.
    for _ in 0..2 {
        assert_eq!(witness.ask(&log.request(7, 7, "other")).0, 409);
        assert_eq!(witness.ask(&Log::new(3).request(7, 9, "")).0, 403);
    }
    drop(witness);
    let ran = heads(directory.path(), &key, &with).await;
    assert_eq!(ran.code, Some(1), "{ran:?}");
    let events: Vec<_> = ran.json().iter().map(|line| line["event"].clone()).collect();
    assert_eq!(events, ["cosigned", "cosigned", "fork", "other-key"]);

    // Heads that none of the hosts certified are wrong, and so is another root of a known size.
    let stranger = SignerKey::from_seed("example.com/other", KeyKind::Ed25519, &[9; 32]).unwrap();
    let ran = heads(directory.path(), &key, &["--host", &stranger.verifier().to_string()]).await;
    assert_eq!((ran.code, ran.json().len()), (Some(1), 4), "{ran:?}");
    let text = std::fs::read_to_string(&seen).unwrap();
    std::fs::write(&seen, text.replace(&root.to_string(), &Hash::empty().to_string())).unwrap();
    let ran = heads(directory.path(), &key, &with).await;
    assert!(ran.err.contains("another root for 7 records"), "{ran:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_log_of_heads_is_neither_shown_nor_extended() {
    let directory = tempfile::tempdir().unwrap();
    let key = witness_key(directory.path()).await;
    let log = Log::new(2);
    let state = directory.path().join("state");
    let (file, signed) = (state.join("heads"), state.join("heads.signed"));
    let ask = |old, size| {
        let witness = Witness::start(directory.path(), log.host.verifier());
        assert_eq!(witness.ask(&log.request(old, size, "")).0, 200);
    };
    drop(Witness::start(directory.path(), log.host.verifier()));
    let none_signed = std::fs::read(&signed).unwrap();
    ask(0, 3);
    let (old, old_signed) = (std::fs::read(&file).unwrap(), std::fs::read(&signed).unwrap());
    ask(3, 7);
    let (all, all_signed) = (std::fs::read(&file).unwrap(), std::fs::read(&signed).unwrap());

    // What a crash leaves at each of its steps is repaired: part of a line, a line that is not
    // signed yet, and a stream's file that is behind the log.
    let stream_file = || {
        let named = std::fs::read_dir(&state).unwrap().map(|entry| entry.unwrap().path());
        named.filter(|path| path.is_dir()).map(|path| path.join(STREAM)).next().unwrap()
    };
    let ahead = std::fs::read(stream_file()).unwrap();
    for content in [[&all[..], b"{\"at\":1"].concat(), all.clone()] {
        std::fs::write(&file, content).unwrap();
        std::fs::write(&signed, &old_signed).unwrap();
        std::fs::remove_file(stream_file()).unwrap();
        ask(7, 7);
        assert_eq!(std::fs::read(stream_file()).unwrap(), ahead);
        assert_eq!(std::fs::read(&file).unwrap(), all);
        assert_eq!(heads(directory.path(), &key, &[]).await.code, Some(0));
    }

    let altered = String::from_utf8(all.clone()).unwrap().replacen("cosigned", "fork", 1);
    for (content, signature, what) in [
        (Some(altered.as_bytes()), Some(&all_signed), "was altered"),
        (Some(&old[..]), Some(&all_signed), "was cut: 2 lines signed, 1 left"),
        (Some(b""), Some(&all_signed), "was cut"),
        (None, Some(&all_signed), "was cut"),
        (Some(&all[..]), Some(&Vec::new()), "is not signed by witness.example"),
        (Some(&all[..]), None, "is signed by no file heads.signed"),
        // The log and its signature were replaced by older copies, and the stream's file was not.
        (Some(&old[..]), Some(&old_signed), "was put together from copies"),
        // The copies are from before the stream was seen, or both files were removed.
        (Some(b""), Some(&none_signed), "it was cut or put back"),
        (None, None, "it was cut or put back"),
    ] {
        for (file, content) in [(&file, content), (&signed, signature.map(|text| &text[..]))] {
            let _ = std::fs::remove_file(file);
            if let Some(content) = content {
                std::fs::write(file, content).unwrap();
            }
        }
        let mut command = command();
        command.args(["witness", "--listen", "127.0.0.1:0"]);
        command.args(["--host", &log.host.verifier().to_string()]);
        command.arg("--key").arg(directory.path().join("key")).arg("--state").arg(&state);
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(3), "{what}: {output:?}");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains(what), "{what}: {said}");
        let ran = heads(directory.path(), &key, &[]).await;
        match (content, signature) {
            (None, None) => assert!(ran.err.contains("holds no log of a witness"), "{ran:?}"),
            // `audit heads` reads only the log, and an older copy of it is consistent.
            (Some(_), Some(signature)) if [&old_signed, &none_signed].contains(&signature) => {}
            (_, _) => assert!(ran.err.contains(what), "{what}: {ran:?}"),
        }
    }
    // The key of another witness is rejected.
    std::fs::write(&file, &all).unwrap();
    std::fs::write(&signed, &all_signed).unwrap();
    let other = SignerKey::from_seed("witness.example", KeyKind::Cosignature, &[1; 32]).unwrap();
    let ran = heads(directory.path(), other.verifier(), &[]).await;
    assert!(ran.err.contains("is not signed by"), "{ran:?}");
}

/// A log of heads may come from anyone, signed with any key at any time.
#[tokio::test(flavor = "multi_thread")]
async fn heads_are_shown_whenever_they_were_signed() {
    let directory = tempfile::tempdir().unwrap();
    let state = directory.path().join("state");
    std::fs::create_dir(&state).unwrap();
    let key = SignerKey::from_seed("witness.example", KeyKind::Cosignature, &[1; 32]).unwrap();
    let checkpoint = Checkpoint::new("witness.example/heads", 0, Hash::empty()).unwrap();
    let never = format!("{} ms", i64::MAX);
    for (seconds, shown) in [
        (0, "1970-01-01T00:00:00Z"),
        (1_700_000_000, "2023-11-14T22:13:20Z"),
        // In milliseconds, these exceed 63 and 64 bits.
        (i64::MAX as u64 / 1_000 + 1, &*never),
        (u64::MAX / 1_000 + 1, &*never),
        (i64::MAX as u64, &*never),
    ] {
        let mut note = checkpoint.to_note();
        note.add(checkpoint.cosign(&key, seconds));
        std::fs::write(state.join("heads.signed"), note.to_string()).unwrap();
        let verifier = key.verifier().to_string();
        let ran = audit(&[], &["heads", state.to_str().unwrap(), "--key", &verifier]).await;
        let says = format!("signed by witness.example at {shown};");
        assert!(ran.code == Some(0) && ran.out.contains(&says), "{seconds}: {ran:?}");
    }
}
