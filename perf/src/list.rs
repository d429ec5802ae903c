//! `slipring list`: which devices there are to name: the system's NVMe controllers, and those of this process, which are made when they are named.
#![forbid(unsafe_code)]

use crate::error::Error;
use crate::report::{self, text_table};
use serde::Serialize;
use slipring::cuse::{DevCuse, path};
use slipring::transport::vfio::{PciController, Sysfs};
use std::process::ExitCode;

/// How to print the list.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  slipring list\n  slipring list --json")]
pub(crate) struct ListArgs {
    /// Print JSON instead of tables
    #[arg(long)]
    json: bool,
}

/// A key of an emulated device's address.
#[derive(Debug, Serialize)]
#[expect(clippy::struct_field_names, reason = "the names are the JSON's")]
struct Key {
    key: &'static str,
    example: &'static str,
    default: &'static str,
    meaning: &'static str,
}

const fn key(key: &'static str, example: &'static str, default: &'static str, meaning: &'static str) -> Key {
    Key { key, example, default, meaning }
}

const KEYS: [Key; 16] = [
    key("size", "size=1G", "1G", "bytes of each namespace in memory; K, M, G, T are powers of 1024"),
    key("lba", "lba=4096", "512", "logical block size in bytes: 512 or 4096"),
    key("namespaces", "namespaces=2", "1", "how many namespaces in memory"),
    key("image", "image=disk.img", "", "a namespace in a raw image file; once for each, from namespace 1 on"),
    key("readonly", "readonly", "no", "the images are write protected"),
    key("mdts", "mdts=5", "9", "largest transfer: a power of two, in units of 4 KiB; 0 is unlimited"),
    key("queues", "queues=4", "64", "I/O queue pairs"),
    key("mqes", "mqes=256", "1024", "entries of the largest queue"),
    key("dstrd", "dstrd=0", "3", "doorbells are 4 << dstrd bytes apart"),
    key(
        "kas",
        "kas=10",
        "0",
        "keep-alive granularity in units of 100 ms; 0 is a controller without keep-alive",
    ),
    key("crdt", "crdt=1/10/50", "0/0/0", "command retry delay times 1 to 3, in units of 100 ms"),
    key("nssr", "nssr", "no", "the controller has an NVM subsystem reset (CAP.NSSRS)"),
    key("latency_us", "latency_us=80", "0", "each I/O command takes that long at least"),
    key("admin_latency_us", "admin_latency_us=80", "0", "each admin command takes that long at least"),
    key(
        "faults",
        "faults=bad.txt",
        "",
        "a text file of what goes wrong, one fault a line; see docs/FAULTS.md",
    ),
    key("serial", "serial=A1", "SLIPRING0001", "the serial number"),
];

/// A kind of device, by how it is named.
#[derive(Debug, Serialize)]
#[expect(clippy::struct_field_names, reason = "the names are the JSON's")]
struct Kind {
    address: &'static str,
    kind: &'static str,
    description: &'static str,
    examples: [&'static str; 3],
    keys: &'static [Key],
}

const EMULATED: Kind = Kind {
    address: "emulated",
    kind: "emulated",
    description: "an NVMe controller in this process, made anew each time; what is in image files stays",
    examples: ["emulated", "emulated:size=64M,lba=4096,namespaces=2", "emulated:image=disk.img,lba=4096"],
    keys: &KEYS,
};

/// The list as JSON.
#[derive(Debug, Serialize)]
struct List {
    controllers: Vec<Controller>,
    devices: [Kind; 1],
    /// Paths of the nodes that are being served, by any process.
    nodes: Vec<String>,
}

/// An NVMe controller of the system.
#[derive(Debug, Serialize)]
struct Controller {
    address: String,
    vendor: String,
    device: String,
    model: Option<String>,
    driver: Option<String>,
    iommu_group: Option<u32>,
    is_ready: bool,
    /// Why it is not, and what to do.
    reason: Option<String>,
}

impl Controller {
    fn of(controller: &PciController) -> Self {
        Self {
            address: controller.address.to_string(),
            vendor: format!("{:04x}", controller.vendor),
            device: format!("{:04x}", controller.device),
            model: controller.model.clone(),
            driver: controller.driver.clone(),
            iommu_group: controller.iommu_group,
            is_ready: controller.not_ready.is_none(),
            reason: controller.not_ready.as_ref().map(ToString::to_string),
        }
    }
}

/// Prints the list.
pub(crate) fn run(args: &ListArgs) -> Result<ExitCode, Error> {
    let controllers: Vec<_> = Sysfs::default().controllers().iter().map(Controller::of).collect();
    let nodes: Vec<_> = DevCuse::served().iter().map(|name| path(name).display().to_string()).collect();
    let text = if args.json {
        report::to_json(&List { controllers, devices: [EMULATED], nodes })?
    } else {
        pci_table(&controllers) + &served_nodes(&nodes) + &tables()
    };
    crate::print(&text)?;
    Ok(ExitCode::SUCCESS)
}

fn pci_table(controllers: &[Controller]) -> String {
    if controllers.is_empty() {
        return "No NVMe controllers on this system's PCI buses.\n\n".into();
    }
    let or_dash = |text: Option<&str>| text.unwrap_or("-").to_owned();
    let rows = controllers.iter().map(|controller| {
        vec![
            controller.address.clone(),
            controller
                .model
                .clone()
                .unwrap_or_else(|| format!("{}:{}", controller.vendor, controller.device)),
            or_dash(controller.driver.as_deref()),
            controller.iommu_group.map_or_else(|| "-".to_owned(), |group| group.to_string()),
            controller.reason.clone().unwrap_or_else(|| "ready".to_owned()),
        ]
    });
    let table = text_table(&["address", "model", "driver", "IOMMU group", "ready for slipring"], rows);
    format!("{table}\n\n")
}

/// What `nvme list` cannot say, as it looks into sysfs for the kernel's own.
fn served_nodes(nodes: &[String]) -> String {
    if nodes.is_empty() {
        return String::new();
    }
    format!("Nodes that are being served (slipring cuse):\n  {}\n\n", nodes.join("\n  "))
}

fn tables() -> String {
    let devices =
        text_table(&["address", "what"], [vec![EMULATED.address.into(), EMULATED.description.into()]]);
    let rows = KEYS.iter().map(|key| vec![key.example.into(), key.default.into(), key.meaning.into()]);
    let keys = text_table(&["key", "default", "meaning"], rows);
    let examples = EMULATED.examples.join("\n  ");
    format!(
        "{devices}\n\nKeys after \"emulated:\", with commas between them:\n{keys}\n\nExamples:\n  {examples}\n"
    )
}

#[cfg(test)]
mod tests {
    use super::KEYS;
    use slipring::emulated::{ConfigError, address};

    #[test]
    fn lists_exactly_the_keys_that_addresses_have() {
        let Err(ConfigError::UnknownKey { known, .. }) = address::parse("emulated:nothing=1") else {
            panic!("an unknown key was accepted");
        };
        let listed: Vec<_> = KEYS.iter().map(|key| key.key).collect();
        assert_eq!(listed.join(", "), known);
        for key in &KEYS {
            let alone = format!("emulated:{}", key.example);
            // What needs something beside it, or a file, is refused for its absence.
            let is_complete = !matches!(key.key, "readonly" | "faults");
            assert_eq!(address::parse(&alone).is_ok(), is_complete, "{alone}");
        }
    }
}
