//! The guest's NVMe hardware as data: controllers, their namespaces and what is behind them, and how each is told to QEMU. Property names that have no
//! method of their own are QEMU's (`-device nvme,help`).
#![forbid(unsafe_code)]

use serde_json::{Map, Value, json};
use std::path::Path;
use std::time::Duration;

const MIB: u64 = 1 << 20;

/// What a namespace's blocks are kept in. Empty at each start of the guest.
#[derive(Clone, Debug)]
pub struct Media {
    size: u64,
    kind: Kind,
}

#[derive(Clone, Debug)]
enum Kind {
    File { errors: Vec<Value> },
    Slow { latency: Duration },
}

impl Media {
    /// A sparse file on the host.
    pub fn disk(mib: u64) -> Self {
        Self { size: mib * MIB, kind: Kind::File { errors: Vec::new() } }
    }

    /// Keeps nothing, reads zeroes, and takes this long for each command.
    pub fn slow(mib: u64, latency: Duration) -> Self {
        Self { size: mib * MIB, kind: Kind::Slow { latency } }
    }

    /// A disk on which reading (`"read"`) or writing (`"write"`) what touches this 512-byte sector fails with a medium error, every time.
    #[must_use]
    pub fn error_at(self, iotype: &str, sector: u64) -> Self {
        self.error(json!({"event": "none", "iotype": iotype, "errno": 5, "sector": sector}))
    }

    /// The same, but only the first time.
    #[must_use]
    pub fn error_once_at(self, iotype: &str, sector: u64) -> Self {
        self.error(json!({"event": "none", "iotype": iotype, "errno": 5, "sector": sector, "once": true}))
    }

    fn error(mut self, error: Value) -> Self {
        let Kind::File { errors } = &mut self.kind else {
            panic!("slow media have no sectors that could fail")
        };
        errors.push(error);
        self
    }

    /// The block device for QEMU. Makes the file anew in `folder`, in which QEMU runs.
    fn blockdev(&self, node: &str, folder: &Path) -> std::io::Result<Value> {
        Ok(match &self.kind {
            Kind::Slow { latency } => json!({"driver": "null-co", "node-name": node, "size": self.size,
                "latency-ns": u64::try_from(latency.as_nanos()).expect("below 500 years"), "read-zeroes": true}),
            Kind::File { errors } => {
                let name = format!("{node}.raw");
                std::fs::File::create(folder.join(&name))?.set_len(self.size)?;
                let mut file = json!({"driver": "file", "filename": name, "cache": {"no-flush": true}});
                if !errors.is_empty() {
                    file = json!({"driver": "blkdebug", "inject-error": errors, "image": file});
                }
                json!({"driver": "raw", "node-name": node, "file": file, "cache": {"no-flush": true}})
            }
        })
    }
}

/// One namespace of a controller.
#[derive(Clone, Debug)]
pub struct Namespace {
    nsid: u32,
    media: Media,
    properties: Map<String, Value>,
}

impl Namespace {
    /// With 512-byte blocks.
    pub fn new(nsid: u32, media: Media) -> Self {
        Self { nsid, media, properties: Map::new() }
    }

    /// Blocks of another size.
    #[must_use]
    pub fn lba_bytes(self, bytes: u32) -> Self {
        self.set("logical_block_size", bytes).set("physical_block_size", bytes)
    }

    /// Any property of QEMU's `nvme-ns`: `ms`, `pi`, `zoned`, `zoned.zone_size`, …
    #[must_use]
    pub fn set(mut self, property: &str, value: impl Into<Value>) -> Self {
        self.properties.insert(property.into(), value.into());
        self
    }
}

/// One NVMe controller. It has a root port of its own, unless it is a further function of another's.
#[derive(Clone, Debug)]
pub struct Controller {
    pub id: &'static str,
    media: Option<Media>,
    namespaces: Vec<Namespace>,
    /// Shares the slot (and the IOMMU group) of this controller.
    pub beside: Option<&'static str>,
    properties: Map<String, Value>,
}

impl Controller {
    /// `id` is QEMU's name of it, which `device_del` and the helpers of the inner tests take.
    pub fn new(id: &'static str) -> Self {
        let mut properties = Map::new();
        properties.insert("serial".into(), format!("SERIAL-{id}").into());
        Self { id, media: None, namespaces: Vec::new(), beside: None, properties }
    }

    #[must_use]
    pub fn serial(self, serial: &str) -> Self {
        self.set("serial", serial)
    }

    /// One namespace of 512-byte blocks, and no subsystem. Either this or `namespace`.
    #[must_use]
    pub fn media(mut self, media: Media) -> Self {
        self.media = Some(media);
        self
    }

    /// One more namespace. The controller is alone in a subsystem that outlives it: QEMU cannot plug namespaces, so they stay there while the
    /// controller is gone.
    #[must_use]
    pub fn namespace(mut self, namespace: Namespace) -> Self {
        self.namespaces.push(namespace);
        self
    }

    /// Any property of QEMU's `nvme`: `mdts`, `max_ioqpairs`, `msix_qsize`, …
    #[must_use]
    pub fn set(mut self, property: &str, value: impl Into<Value>) -> Self {
        self.properties.insert(property.into(), value.into());
        self
    }

    /// A further function in the slot of that controller, and so in its IOMMU group.
    #[must_use]
    pub fn beside(mut self, other: &'static str) -> Self {
        self.beside = Some(other);
        self
    }

    /// QEMU's name of a namespace of this controller.
    pub fn namespace_id(&self, nsid: u32) -> String {
        format!("{}n{nsid}", self.id)
    }

    /// What `-device` and `device_add` take.
    pub fn device(&self, place: Place) -> Value {
        let mut device = self.properties.clone();
        device.insert("driver".into(), "nvme".into());
        device.insert("id".into(), self.id.into());
        device.insert("bus".into(), format!("rp{}", place.port).into());
        device.insert("addr".into(), format!("0.{}", place.function).into());
        if place.shared {
            device.insert("multifunction".into(), true.into());
        }
        if self.media.is_some() {
            device.insert("drive".into(), format!("{}-media", self.id).into());
            // QEMU 7.2 keeps the memory of a controller that was pulled out with I/O in flight, and with it the medium; the next may have it all the same.
            device.insert("share-rw".into(), true.into());
        } else {
            device.insert("subsys".into(), format!("{}-subsys", self.id).into());
        }
        Value::Object(device)
    }

    /// QEMU's arguments for the controller and its namespaces; the media are made in `folder`.
    pub fn arguments(&self, place: Place, folder: &Path) -> std::io::Result<Vec<String>> {
        let mut arguments = Vec::new();
        if let Some(media) = &self.media {
            assert!(self.namespaces.is_empty(), "{}: either media or namespaces", self.id);
            let blockdev = media.blockdev(&format!("{}-media", self.id), folder)?;
            arguments.extend(["-blockdev".to_owned(), blockdev.to_string()]);
        } else {
            let subsystem =
                json!({"driver": "nvme-subsys", "id": format!("{}-subsys", self.id), "nqn": self.id});
            arguments.extend(["-device".to_owned(), subsystem.to_string()]);
        }
        for namespace in &self.namespaces {
            let node = format!("{}-media", self.namespace_id(namespace.nsid));
            let blockdev = namespace.media.blockdev(&node, folder)?;
            arguments.extend(["-blockdev".to_owned(), blockdev.to_string()]);
        }
        arguments.extend(["-device".to_owned(), self.device(place).to_string()]);
        for namespace in &self.namespaces {
            let id = self.namespace_id(namespace.nsid);
            let mut device = namespace.properties.clone();
            device.insert("driver".into(), "nvme-ns".into());
            device.insert("drive".into(), format!("{id}-media").into());
            device.insert("id".into(), id.into());
            device.insert("bus".into(), self.id.into());
            device.insert("nsid".into(), namespace.nsid.into());
            arguments.extend(["-device".to_owned(), Value::Object(device).to_string()]);
        }
        Ok(arguments)
    }
}

/// Where a controller is plugged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The root port, from 0. Port N is at 00:(4 + N).0 and its slot is bus N + 1.
    pub port: usize,
    /// The function in the slot.
    pub function: usize,
    /// Whether the slot has several functions.
    pub shared: bool,
}

impl Place {
    /// The PCI address of the controller, in sysfs' way of writing.
    pub fn address(self) -> String {
        format!("0000:{:02x}:00.{}", self.port + 1, self.function)
    }

    /// The PCI address of the root port.
    pub fn port_address(self) -> String {
        format!("0000:00:{:02x}.0", self.port + 4)
    }
}
