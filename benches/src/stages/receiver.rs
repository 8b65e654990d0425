//! A receiver of log streams that accepts everything.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

/// The path at which requests are never answered.
pub(super) const SILENT: &str = "/silent";

/// Answers requests after this delay, for as long as the process lives. Returns its URL.
pub(super) async fn serve(delay: Duration) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.expect("a connection");
            // A client that is killed ends its connections without notice.
            tokio::spawn(async move { drop(answer(stream, delay).await) });
        }
    });
    format!("http://{address}")
}

async fn answer(stream: TcpStream, delay: Duration) -> io::Result<()> {
    let (reader, mut writer) = stream.into_split();
    let mut reader = BufReader::new(reader);
    let (mut line, mut is_silent, mut length) = (String::new(), false, 0);
    while reader.read_line(&mut line).await? > 0 {
        let lower = line.trim_end().to_ascii_lowercase();
        line.clear();
        if lower.is_empty() {
            tokio::io::copy(&mut (&mut reader).take(length), &mut tokio::io::sink()).await?;
            if is_silent {
                return std::future::pending().await;
            }
            tokio::time::sleep(delay).await;
            writer.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await?;
        } else if let Some(path) = lower.strip_prefix("post ") {
            is_silent = path.starts_with(SILENT);
        } else if let Some(bytes) = lower.strip_prefix("content-length: ") {
            length = bytes.parse().map_err(io::Error::other)?;
        }
    }
    Ok(())
}
