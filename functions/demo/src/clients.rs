//! Clients: over HTTP like curl, and over WebSocket like a page that subscribes to a query.

use std::error::Error;
use std::time::Duration;

use futures::{SinkExt, StreamExt};
use serde_json::{Value as Json, json};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use super::process::Host;

/// How long a client waits for a response. Generous, since the machine may be busy.
pub(super) const PATIENCE: Duration = Duration::from_secs(180);

/// A client with an address and a User-Agent of its own.
#[derive(Debug, Clone)]
pub(super) struct Client {
    http: reqwest::Client,
    url: String,
    operators: String,
    ip: String,
    user_agent: String,
}

#[derive(Debug, Clone)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: Json,
    pub(super) request_id: String,
}

impl Answer {
    pub(super) fn value(&self) -> Result<&Json, Box<dyn Error>> {
        match self.body.get("value") {
            Some(value) if self.body["status"] == "success" => Ok(value),
            Some(_) | None => Err(format!("a call failed: {} {}", self.status, self.body).into()),
        }
    }

    /// The message of a failure, or an empty string.
    pub(super) fn error(&self) -> &str {
        let message = self.body.get("errorMessage").or_else(|| self.body.get("message"));
        message.and_then(Json::as_str).unwrap_or_default()
    }

    pub(super) fn is_success(&self) -> bool {
        self.body["status"] == "success"
    }
}

impl Client {
    /// A client at this address, behind a proxy that the host trusts.
    pub(super) fn new(host: &Host, ip: impl Into<String>, user_agent: impl Into<String>) -> Client {
        let (ip, user_agent) = (ip.into(), user_agent.into());
        let (url, operators) = (host.url().to_owned(), host.operators().to_owned());
        // Ignore the proxy settings of the machine.
        let http = reqwest::Client::builder().no_proxy().build().unwrap_or_default();
        Client { http, url, operators, ip, user_agent }
    }

    pub(super) fn ip(&self) -> &str {
        &self.ip
    }

    pub(super) async fn query(&self, path: &str, args: Json) -> Result<Answer, Box<dyn Error>> {
        self.call("query", path, args).await
    }

    pub(super) async fn mutation(&self, path: &str, args: Json) -> Result<Answer, Box<dyn Error>> {
        self.call("mutation", path, args).await
    }

    pub(super) async fn action(&self, path: &str, args: Json) -> Result<Answer, Box<dyn Error>> {
        self.call("action", path, args).await
    }

    async fn call(&self, kind: &str, path: &str, args: Json) -> Result<Answer, Box<dyn Error>> {
        let request = self.http.post(format!("{}/api/{kind}", self.url)).timeout(PATIENCE);
        let request =
            request.header("x-forwarded-for", &self.ip).header("user-agent", &self.user_agent);
        let response =
            request.json(&json!({ "path": path, "args": args, "format": "json" })).send().await?;
        let status = response.status().as_u16();
        let request_id = response
            .headers()
            .get("x-request-id")
            .and_then(|id| id.to_str().ok())
            .unwrap_or_default();
        let request_id = request_id.to_owned();
        let text = response.text().await?;
        let body = serde_json::from_str(&text).unwrap_or(Json::String(text));
        Ok(Answer { status, body, request_id })
    }

    /// The value of a metric, summed over its labels. 0 if the metric is missing.
    pub(super) async fn metric(&self, name: &str) -> Result<f64, Box<dyn Error>> {
        let text = self
            .http
            .get(format!("{}/metrics", self.operators))
            .timeout(PATIENCE)
            .send()
            .await?
            .text()
            .await?;
        let of_name = text.lines().filter_map(|line| {
            let rest = line.strip_prefix(name)?;
            let rest = if rest.starts_with('{') { rest.split_once('}')?.1 } else { rest };
            rest.trim().parse::<f64>().ok().filter(|_| rest.starts_with(' '))
        });
        Ok(of_name.fold(0.0, |sum, number| sum + number))
    }

    pub(super) async fn follow(&self, path: &str, args: Json) -> Result<Follower, Box<dyn Error>> {
        let mut request =
            format!("{}/api/sync", self.url.replacen("http", "ws", 1)).into_client_request()?;
        let headers = request.headers_mut();
        headers.insert("x-forwarded-for", HeaderValue::from_str(&self.ip)?);
        headers.insert("user-agent", HeaderValue::from_str(&self.user_agent)?);
        let (mut socket, _) = connect_async(request).await?;
        let session = "6d4ff2b4-6a3c-4d3b-9f0a-0123456789ab";
        let connect = json!({ "type": "Connect", "sessionId": session, "connectionCount": 0, "lastCloseReason": null, "clientTs": 0 });
        let add = json!({ "type": "Add", "queryId": 0, "udfPath": path, "args": [args] });
        let follow = json!({ "type": "ModifyQuerySet", "baseVersion": 0, "newVersion": 1, "modifications": [add] });
        for message in [connect, follow] {
            socket.send(Message::text(message.to_string())).await?;
        }
        Ok(Follower { socket })
    }
}

#[derive(Debug)]
pub(super) struct Follower {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
}

impl Follower {
    pub(super) async fn next(&mut self) -> Result<Json, Box<dyn Error>> {
        loop {
            let message =
                timeout(PATIENCE, self.socket.next()).await.map_err(|_| "no result came")?;
            let message = message.ok_or("the host closed the connection")??;
            let Message::Text(text) = message else { continue };
            let message: Json = serde_json::from_str(&text)?;
            if message["type"] == "FatalError" {
                return Err(format!("the host refuses: {}", message["error"]).into());
            }
            let changes = message["modifications"].as_array().into_iter().flatten();
            if let Some(change) = changes.into_iter().find(|change| change["queryId"] == 0) {
                return match change.get("value") {
                    Some(value) => Ok(value.clone()),
                    None => Err(format!("the query failed: {}", change["errorMessage"]).into()),
                };
            }
        }
    }
}
