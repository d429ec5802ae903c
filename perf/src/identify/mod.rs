//! `slipring identify`: what a controller and its namespaces say of themselves, under nvme-cli's names.
#![forbid(unsafe_code)]

mod fields;

use crate::device::{Address, Session};
use crate::error::Error;
use crate::report::{self, text_table, thousands};
use fields::Fields;
use serde::Serialize;
use serde_json::Value;
use slipring::ctrlr::{Namespace, admin};
use slipring::spec::identify::{IdentifyCtrlr, IdentifyNs};
use std::fmt::Write as _;
use std::process::ExitCode;
use std::time::Duration;

/// How long one Identify may take.
const TIMEOUT: Duration = Duration::from_secs(30);

/// What to identify.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  slipring identify emulated\n  \
    slipring identify emulated:size=64M,lba=4096,namespaces=2 --json")]
pub(crate) struct IdentifyArgs {
    /// Address of the device, as in `slipring list`
    #[arg(value_name = "ADDR")]
    address: String,
    /// Print JSON, with the names of nvme-cli's id-ctrl and id-ns, instead of tables
    #[arg(long)]
    json: bool,
}

/// Everything, as JSON: the controller's fields, and its namespaces in a list.
#[derive(Debug, Serialize)]
struct Report {
    #[serde(flatten)]
    ctrlr: Fields,
    namespaces: Vec<NamespaceReport>,
}

#[derive(Debug, Serialize)]
struct NamespaceReport {
    nsid: u32,
    #[serde(flatten)]
    fields: Fields,
}

/// Reads and prints it.
pub(crate) fn run(args: &IdentifyArgs) -> Result<ExitCode, Error> {
    let mut session =
        Session::open(&Address::parse(&args.address)?, None, slipring::ctrlr::CtrlrOptions::default())?;
    let ctrlr = session.poller.call(admin::identify_ctrlr(), TIMEOUT).map_err(Error::failed)?;
    let active = session.ctrlr.namespaces();
    let mut namespaces = Vec::with_capacity(active.len());
    for namespace in active.iter() {
        namespaces.push((*namespace, namespace_data(&mut session, namespace.nsid)?));
    }
    session.close()?;
    let text = if args.json { json(&ctrlr, &namespaces)? } else { tables(&ctrlr, &namespaces) };
    crate::print(&text)?;
    Ok(ExitCode::SUCCESS)
}

/// What namespace `nsid` says of itself.
pub(crate) fn namespace_data(session: &mut Session, nsid: u32) -> Result<Box<IdentifyNs>, Error> {
    session.poller.call(admin::identify_ns(nsid), TIMEOUT).map_err(Error::failed)
}

/// Whether it is write protected (NSATTR bit 0; NVMe Base 2.0, 5.17.2.8).
pub(crate) fn is_write_protected(data: &IdentifyNs) -> bool {
    data.nsattr & 1 != 0
}

fn json(ctrlr: &IdentifyCtrlr, namespaces: &[(Namespace, Box<IdentifyNs>)]) -> Result<String, Error> {
    let namespaces = namespaces.iter();
    let namespaces =
        namespaces.map(|(ns, data)| NamespaceReport { nsid: ns.nsid, fields: fields::namespace(data) });
    report::to_json(&Report { ctrlr: fields::ctrlr(ctrlr), namespaces: namespaces.collect() })
}

fn tables(ctrlr: &IdentifyCtrlr, namespaces: &[(Namespace, Box<IdentifyNs>)]) -> String {
    let mut text = format!("Controller\n{}\n", fields_table(&fields::ctrlr(ctrlr)));
    if namespaces.is_empty() {
        text += "\nNo active namespaces.\n";
    }
    for (namespace, data) in namespaces {
        let size = thousands(namespace.size_bytes());
        let what = namespace.unsupported.map_or(String::new(), |why| format!("; no I/O: {why}"));
        // Writing to a string cannot fail.
        let _ = write!(
            text,
            "\nNamespace {}: {size} bytes in {} blocks of {}{what}\n{}\n",
            namespace.nsid,
            thousands(namespace.size_blocks),
            namespace.block_bytes,
            fields_table(&fields::namespace(data))
        );
    }
    text
}

fn fields_table(fields: &Fields) -> comfy_table::Table {
    let rows = fields.0.iter().map(|(name, value)| {
        let hex = value.as_u64().map_or(String::new(), |number| format!("{number:#x}"));
        let shown = match value {
            Value::String(text) => text.clone(),
            Value::Array(list) => list.iter().map(entry).collect::<Vec<_>>().join("\n"),
            value => value.to_string(),
        };
        vec![(*name).to_owned(), shown, hex]
    });
    text_table(&["field", "value", "hex"], rows)
}

/// One entry of a list, on a line; what is zero is left out.
fn entry(value: &Value) -> String {
    let Value::Object(fields) = value else { return value.to_string() };
    let told = fields.iter().filter(|(_, value)| value.as_u64() != Some(0));
    told.map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ")
}
