//! An HTTP/1 server with scripted replies.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};

#[derive(Debug, Clone)]
pub(crate) struct Asked {
    /// `GET /path HTTP/1.1`.
    pub(crate) line: String,
    /// The names are in lower case.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Asked {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(other, _)| other == name).map(|(_, value)| &**value)
    }

    pub(crate) fn path(&self) -> &str {
        self.line.split(' ').nth(1).unwrap()
    }
}

pub(crate) enum Reply {
    /// These bytes; then the connection ends.
    Whole(Vec<u8>),
    /// The first bytes, then the second ones forever.
    Endless(Vec<u8>, Vec<u8>),
    /// These bytes, then nothing. Sends on the channel when the client disconnects.
    Stall(Vec<u8>, mpsc::UnboundedSender<()>),
    /// These bytes, once something arrives on the channel.
    After(oneshot::Receiver<()>, Vec<u8>),
}

pub(crate) fn whole(text: impl Into<Vec<u8>>) -> Reply {
    Reply::Whole(text.into())
}

/// A response with a body and these headers, such as `x: y\r\n`.
pub(crate) fn response(status: &str, headers: &str, body: &[u8]) -> Reply {
    let head = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n{headers}\r\n", body.len());
    Reply::Whole([head.as_bytes(), body].concat())
}

pub(crate) struct Site {
    pub(crate) address: SocketAddr,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Site {
    pub(crate) async fn start(answer: impl Fn(&Asked) -> Reply + Send + Sync + 'static) -> Site {
        Site::start_at("127.0.0.1:0", answer).await
    }

    pub(crate) async fn start_at(
        address: &str,
        answer: impl Fn(&Asked) -> Reply + Send + Sync + 'static,
    ) -> Site {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let asked: Arc<Mutex<Vec<Asked>>> = Arc::default();
        let (noted, answer) = (Arc::clone(&asked), Arc::new(answer));
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (noted, answer) = (Arc::clone(&noted), Arc::clone(&answer));
                tokio::spawn(async move { serve(stream, &noted, &*answer).await });
            }
        });
        Site { address, asked }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }
}

/// Serves one request. Returns `None` if the client disconnects.
async fn serve(
    mut stream: TcpStream,
    noted: &Mutex<Vec<Asked>>,
    answer: &(dyn Fn(&Asked) -> Reply + Send + Sync),
) -> Option<()> {
    let mut read = Vec::new();
    let end = loop {
        if let Some(end) = read.windows(4).position(|four| four == b"\r\n\r\n") {
            break end;
        }
        if stream.read_buf(&mut read).await.ok()? == 0 {
            return None;
        }
    };
    let head = String::from_utf8_lossy(&read[..end]).into_owned();
    let mut body = read.split_off(end + 4);
    let mut lines = head.split("\r\n");
    let line = lines.next().unwrap().to_owned();
    let headers = lines.map(|line| line.split_once(':').unwrap());
    let headers = headers.map(|(name, value)| (name.to_lowercase(), value.trim().to_owned()));
    let mut asked = Asked { line, headers: headers.collect(), body: Vec::new() };
    if asked.header("transfer-encoding").is_some() {
        while !body.ends_with(b"0\r\n\r\n") {
            if stream.read_buf(&mut body).await.ok()? == 0 {
                return None;
            }
        }
        asked.body = unchunked(&body);
    } else {
        let length = asked.header("content-length").map_or(0, |length| length.parse().unwrap());
        while body.len() < length {
            if stream.read_buf(&mut body).await.ok()? == 0 {
                return None;
            }
        }
        asked.body = body;
    }
    let reply = answer(&asked);
    noted.lock().unwrap().push(asked);
    match reply {
        Reply::Whole(bytes) => stream.write_all(&bytes).await.ok()?,
        Reply::Endless(head, more) => {
            stream.write_all(&head).await.ok()?;
            while stream.write_all(&more).await.is_ok() {}
        }
        Reply::Stall(bytes, gone) => {
            stream.write_all(&bytes).await.ok()?;
            let mut rest = Vec::new();
            while !matches!(stream.read_buf(&mut rest).await, Ok(0) | Err(_)) {}
            let _ = gone.send(());
        }
        Reply::After(told, bytes) => {
            let _ = told.await;
            stream.write_all(&bytes).await.ok()?;
        }
    }
    stream.shutdown().await.ok()
}

fn unchunked(mut chunks: &[u8]) -> Vec<u8> {
    let mut all = Vec::new();
    loop {
        let end = chunks.windows(2).position(|two| two == b"\r\n").unwrap();
        let length =
            usize::from_str_radix(std::str::from_utf8(&chunks[..end]).unwrap(), 16).unwrap();
        if length == 0 {
            return all;
        }
        all.extend(&chunks[end + 2..end + 2 + length]);
        chunks = &chunks[end + 2 + length + 2..];
    }
}
