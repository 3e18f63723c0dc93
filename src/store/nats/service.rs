//! The running program as a service of NATS: one instance a connection, which shows no more than what goes over it.
//!
//! * Nothing is sent at rest: five subscriptions, made again by the crate after each reconnect.
//! * A login without the permissions loses the service and nothing else. The server says so at any time after the
//!   subscription, as an error of its own; that is kept apart from the refusals that operations wait for (proxy/relay.rs).
//! * An answer that does not fit into a message is refused here: the server would close the connection.

use std::rc::{Rc, Weak};
use std::time::Instant;

use nats::Subscription;
use serde_json::json;

use super::client::Client;
use super::micro::{Call, EndpointStats, ServiceInstance, call, subscriptions};
use crate::format::time::Timestamp;
use crate::log;
use crate::store::service::{Endpoint, RequestError, ServiceDescription, ServiceRequest};

/// What the metadata and the data of an answer may take of the largest message.
const DESCRIPTION_SHARE: usize = 2;
/// Characters of the text of a refusal, which may repeat what was asked. It is sent twice, and an answer that is larger than a
/// message may be makes the server close the connection.
const MAX_ERROR: usize = 500;

pub struct ServiceListener {
    client: Weak<Client>,
    id: String,
    started: Timestamp,
    subscriptions: Vec<Subscription>,
    /// The connection in which the subscriptions were made, or refused.
    session: Option<u64>,
    stats: [EndpointStats; Endpoint::ALL.len()],
    /// It was said that there is no service, or that an answer was refused.
    told: (bool, bool),
}

/// Says what the program is, over this connection, in at most so many bytes.
pub type Describe<'a> = &'a dyn Fn(&str, usize) -> ServiceDescription;

impl ServiceListener {
    pub fn new(client: &Rc<Client>, started: Timestamp) -> ServiceListener {
        ServiceListener {
            client: Rc::downgrade(client),
            id: client.id().to_string(),
            started,
            subscriptions: Vec::new(),
            session: None,
            stats: Default::default(),
            told: (false, false),
        }
    }

    /// The ID of the connection.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Whether the connection is still in use.
    pub fn is_alive(&self) -> bool {
        self.client.strong_count() > 0
    }

    /// Answers those who look for services, and hands out the requests to the endpoints.
    pub fn poll(&mut self, now: Instant, describe: Describe<'_>) -> Vec<ServiceRequest> {
        let Some(client) = self.client.upgrade() else { return Vec::new() };
        self.subscribe(&client);
        self.note_refusals(&client);
        let mut requests = Vec::new();
        while let Some(message) = self.subscriptions.iter().find_map(Subscription::try_next) {
            let (Some(reply), Some(call)) = (message.reply, call(&message.subject, &self.id)) else { continue };
            match call {
                Call::Endpoint(endpoint) => requests.push(ServiceRequest {
                    endpoint,
                    payload: message.data,
                    connection: self.id.clone(),
                    since: now,
                    reply,
                }),
                Call::Ping | Call::Info | Call::Stats => self.answer_call(&client, call, &reply, describe),
            }
        }
        requests
    }

    fn subscribe(&mut self, client: &Client) {
        let session = client.session();
        if session.is_none() || session == self.session {
            return;
        }
        self.session = session;
        if self.subscriptions.is_empty() {
            let subscribe = |(subject, queue): &(String, Option<String>)| client.listen(subject, queue.as_deref());
            self.subscriptions = subscriptions(&self.id).iter().filter_map(subscribe).collect();
        }
    }

    /// Once a run each: with the next connection it is tried again.
    fn note_refusals(&mut self, client: &Client) {
        if let Some(text) = client.service_denied() {
            self.subscriptions.clear();
            if !std::mem::replace(&mut self.told.0, true) {
                log::info("not shown as a NATS service")
                    .field("server", client.server_address())
                    .field("reason", text)
                    .emit();
            }
        }
        if !self.told.1
            && let Some(text) = client.answer_denied()
        {
            self.told.1 = true;
            log::info("cannot answer requests").field("server", client.server_address()).field("reason", text).emit();
        }
    }

    fn answer_call(&self, client: &Client, call: Call, reply: &str, describe: Describe<'_>) {
        let description = describe(&self.id, client.max_payload() / DESCRIPTION_SHARE);
        let instance =
            ServiceInstance { id: &self.id, started: self.started, description: &description, stats: &self.stats };
        let answer = instance.answer(call).map(|answer| answer.to_string());
        if let Some(answer) = answer.filter(|answer| answer.len() <= client.max_payload()) {
            client.respond(reply, answer.as_bytes());
        }
    }

    /// Answers a request that was handed out.
    pub fn answer(&mut self, now: Instant, request: &ServiceRequest, answer: Result<String, RequestError>) {
        let Some(client) = self.client.upgrade() else { return };
        let fits = |text: String| match text.len() <= client.max_payload() {
            true => Ok(text),
            false => Err(RequestError::new(413, "the answer is larger than a message may be: ask about one database")),
        };
        let at = Endpoint::ALL.iter().position(|endpoint| *endpoint == request.endpoint).unwrap_or(0);
        let Some(stats) = self.stats.get_mut(at) else { return };
        stats.requests += 1;
        stats.processing_time += now.saturating_duration_since(request.since);
        match answer.and_then(fits) {
            Ok(text) => client.respond(&request.reply, text.as_bytes()),
            Err(RequestError { code, text }) => {
                let text: String = text.chars().take(MAX_ERROR).collect();
                stats.errors += 1;
                stats.last_error = format!("{code}:{text}");
                client.respond_error(&request.reply, code, &text, &json!({ "error": text, "code": code }).to_string());
            }
        }
    }
}
