//! What the two sides say to each other: one JSON value a line. Between the host and the agent over the guest's second serial port; between the
//! agent and the test process (asks and answers only) over the socket that is the test's standard input.
#![forbid(unsafe_code)]

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// From the host to the agent.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToGuest {
    /// Run this test of this group. One at a time.
    Run { group: String, test: String },
    /// What came of the last ask.
    Answer(Answer),
    /// The running test is late: say where its threads are, and let the kernel print who is blocked.
    Diagnose,
}

/// From the agent to the host.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FromGuest {
    /// The guest is up.
    Ready,
    /// The test has begun as this process of the guest.
    Begin { pid: u32 },
    /// A line that the test printed.
    Output(String),
    /// A line that the kernel logged while the test ran.
    KernelLog(String),
    /// The test wants something done outside.
    Ask(Ask),
    /// The test has ended; everything it printed was sent before.
    End { code: Option<i32>, signal: Option<i32>, milliseconds: u64 },
    /// All that the agent knows about a late test was sent.
    Diagnosed,
}

/// What a test may ask of the host.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ask {
    /// A command of QEMU's monitor.
    Qmp { execute: String, arguments: Value },
    /// Wait for an event of QEMU's since the test began, of this device if one is named. Each event is given once.
    WaitEvent { event: String, device: Option<String>, timeout_ms: u64 },
}

/// The monitor's return value or the event's data; or what went wrong.
pub type Answer = Result<Value, String>;

/// A message as the line that carries it.
pub fn line(message: &impl Serialize) -> String {
    let mut line = serde_json::to_string(message).expect("messages are plain data");
    line.push('\n');
    line
}
