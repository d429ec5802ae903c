//! The fields of Identify Controller and Identify Namespace in their order on the wire, under nvme-cli's names.
#![forbid(unsafe_code)]

use serde::{Serialize, Serializer};
use serde_json::{Value, json};
use slipring::spec::identify::{IdentifyCtrlr, IdentifyNs};
use std::fmt::Write as _;

/// Names and values, in order.
#[derive(Debug)]
pub(super) struct Fields(pub(super) Vec<(&'static str, Value)>);

impl Serialize for Fields {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, value)| (name, value)))
    }
}

/// Numeric fields of a structure under their own names.
macro_rules! numbers {
    ($data:expr; $($name:ident)*) => {
        [$((stringify!($name), Value::from($data.$name))),*]
    };
}

pub(super) fn ctrlr(data: &IdentifyCtrlr) -> Fields {
    let mut fields = Vec::with_capacity(96);
    fields.extend(numbers!(data; vid ssvid));
    fields.extend([
        ("sn", data.serial().into()),
        ("mn", data.model().into()),
        ("fr", data.firmware().into()),
    ]);
    fields.extend(numbers!(data; rab));
    fields.push(("ieee", data.ieee_oui().into()));
    fields.extend(numbers!(data; cmic mdts cntlid ver rtd3r rtd3e oaes ctratt rrls cntrltype));
    fields.push(("fguid", hex(&data.fguid).into()));
    fields.extend(
        numbers!(data; crdt1 crdt2 crdt3 nvmsr vwci mec oacs acl aerl frmw lpa elpe npss avscc apsta),
    );
    fields.extend(numbers!(data; wctemp cctemp mtfa hmpre hmmin));
    fields.extend([("tnvmcap", wide(data.tnvmcap)), ("unvmcap", wide(data.unvmcap))]);
    fields
        .extend(numbers!(data; rpmbs edstt dsto fwug kas hctma mntmt mxtmt sanicap hmminds hmmaxd nsetidmax));
    fields.extend(numbers!(data; endgidmax anatt anacap anagrpmax nanagrpid pels domainid));
    fields.push(("megcap", wide(data.megcap)));
    fields.extend(
        numbers!(data; sqes cqes maxcmd nn oncs fuses fna vwc awun awupf icsvscc nwpc acwu ocfs sgls),
    );
    fields.extend(numbers!(data; mnan));
    fields.push(("maxdna", wide(data.maxdna)));
    fields.extend(numbers!(data; maxcna));
    fields.push(("subnqn", data.subsystem_nqn().into()));
    fields.extend(numbers!(data; ioccsz iorcsz icdoff fcatt msdbd ofcs));
    fields.push(("psds", power_states(data)));
    Fields(fields)
}

pub(super) fn namespace(data: &IdentifyNs) -> Fields {
    let mut fields = Vec::with_capacity(40);
    fields.extend(numbers!(data; nsze ncap nuse nsfeat nlbaf flbas mc dpc dps nmic rescap fpi dlfeat));
    fields.extend(numbers!(data; nawun nawupf nacwu nabsn nabo nabspf noiob));
    fields.push(("nvmcap", wide(data.nvmcap)));
    fields.extend(numbers!(data; npwg npwa npdg npda nows mssrl mcl msrc anagrpid nsattr nvmsetid endgid));
    fields.extend([("eui64", hex(&data.eui64).into()), ("nguid", hex(&data.nguid).into())]);
    let formats = data.lba_formats().iter();
    let formats = formats.map(|format| json!({ "ms": format.ms(), "ds": format.lbads(), "rp": format.rp() }));
    fields.push(("lbafs", formats.collect()));
    Fields(fields)
}

fn power_states(data: &IdentifyCtrlr) -> Value {
    let states = data.power_states().iter().map(|state| {
        json!({
            "max_power": state.mp, "max_power_scale": u8::from(state.flags.mxps()),
            "non-operational_state": u8::from(state.flags.nops()),
            "entry_lat": state.enlat, "exit_lat": state.exlat,
            "read_tput": state.rrt, "read_lat": state.rrl, "write_tput": state.rwt, "write_lat": state.rwl,
        })
    });
    states.collect()
}

/// A number of 128 bits: as a number where JSON's readers can take it, as its decimal digits where not.
fn wide(bytes: [u8; 16]) -> Value {
    let number = u128::from_le_bytes(bytes);
    u64::try_from(number).map_or_else(|_| number.to_string().into(), Value::from)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
