//! A client of QEMU's monitor: commands, and the events that come in between.
#![forbid(unsafe_code)]

use serde_json::{Value, json};
use std::collections::VecDeque;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// No command takes longer, unless QEMU hangs.
const COMMAND_DEADLINE: Duration = Duration::from_secs(20);

/// The monitor of one guest.
#[derive(Debug)]
pub struct Qmp {
    stream: UnixStream,
    messages: Receiver<Value>,
    events: VecDeque<Value>,
}

impl Qmp {
    /// Shakes hands.
    pub fn new(stream: UnixStream) -> Result<Self, String> {
        let reader = stream.try_clone().map_err(|error| format!("QEMU's monitor: {error}"))?;
        let (sender, messages) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(reader).lines().map_while(Result::ok) {
                let Ok(message) = serde_json::from_str(&line) else { continue };
                if sender.send(message).is_err() {
                    return;
                }
            }
        });
        let mut qmp = Self { stream, messages, events: VecDeque::new() };
        qmp.execute("qmp_capabilities", &json!({}))?;
        Ok(qmp)
    }

    /// Runs a command. Events that come meanwhile are kept.
    pub fn execute(&mut self, command: &str, arguments: &Value) -> Result<Value, String> {
        let text = json!({"execute": command, "arguments": arguments}).to_string();
        writeln!(self.stream, "{text}").map_err(|error| format!("QEMU's monitor: {error}"))?;
        let deadline = Instant::now() + COMMAND_DEADLINE;
        loop {
            let message = self.receive(deadline, command)?;
            if let Some(value) = message.get("return") {
                return Ok(value.clone());
            }
            if let Some(error) = message.get("error") {
                return Err(format!("{command}: {}", error["desc"].as_str().unwrap_or("refused")));
            }
        }
    }

    /// Waits for an event, which is then forgotten.
    pub fn wait_event(
        &mut self,
        event: &str,
        device: Option<&str>,
        timeout: Duration,
    ) -> Result<Value, String> {
        let deadline = Instant::now() + timeout;
        loop {
            let is_it = |seen: &Value| {
                seen["event"] == event && device.is_none_or(|device| seen["data"]["device"] == device)
            };
            if let Some(at) = self.events.iter().position(is_it) {
                return Ok(self.events.remove(at).expect("it is there")["data"].take());
            }
            self.receive(deadline, event)?;
        }
    }

    /// Forgets what has happened.
    pub fn forget_events(&mut self) {
        self.events.extend(self.messages.try_iter());
        self.events.clear();
    }

    /// The next message; an event is kept as well.
    fn receive(&mut self, deadline: Instant, what: &str) -> Result<Value, String> {
        let left = deadline.saturating_duration_since(Instant::now());
        let message = self.messages.recv_timeout(left).map_err(|error| match error {
            RecvTimeoutError::Timeout => format!("no {what} from QEMU in time"),
            RecvTimeoutError::Disconnected => format!("QEMU ended while {what} was waited for"),
        })?;
        if message.get("event").is_some() {
            self.events.push_back(message.clone());
        }
        Ok(message)
    }
}
