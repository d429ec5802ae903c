//! The textual form of faults: what is read, how it is written, what is refused and in which line.

use std::time::Duration;

use super::super::{Effect, Fault, Faults, OnQueue, address};
use crate::spec::command::{AdminOpcode, NvmOpcode};
use crate::spec::status::Status;

#[test]
fn every_effect_and_condition_is_read_and_written() {
    let lines = [
        ("hang queue=3", Fault { queue: OnQueue::Id(3), ..Fault::new(Effect::Hang) }),
        (
            "drop queue=admin opcode=asynchronous-event-request nth=2",
            Fault {
                queue: OnQueue::Admin,
                opcode: Some(AdminOpcode::ASYNC_EVENT_REQUEST.0),
                nth: 2..=2,
                ..Fault::new(Effect::Drop)
            },
        ),
        (
            "delay=50000us queue=io opcode=write nsid=2 lba=100..199 chance=10000/1000000 seed=7",
            Fault {
                queue: OnQueue::Io,
                opcode: Some(NvmOpcode::WRITE.0),
                nsid: Some(2),
                lbas: Some(100..=199),
                chance_ppm: 10_000,
                seed: 7,
                ..Fault::new(Effect::Delay(Duration::from_millis(50)))
            },
        ),
        ("wrong-cid opcode=0xc1", Fault { opcode: Some(0xc1), ..Fault::new(Effect::WrongCid) }),
        ("repeat nth=3..", Fault { nth: 3..=u64::MAX, ..Fault::new(Effect::Repeat) }),
        ("stale-phase nth=1..4", Fault { nth: 1..=4, ..Fault::new(Effect::StalePhase) }),
        ("wrong-sqhd", Fault::new(Effect::WrongSqHead)),
        ("status=0x281", Fault::new(Effect::Status(Status::UNRECOVERED_READ_ERROR))),
        ("status=0x1281", Fault::new(Effect::Status(Status::UNRECOVERED_READ_ERROR.with_crd(2)))),
        ("status=0x4280", Fault::new(Effect::Status(Status::WRITE_FAULT.with_dnr()))),
        ("corrupt=77", Fault::new(Effect::Corrupt(77))),
        ("fatal", Fault::new(Effect::Fatal)),
        ("remove", Fault::new(Effect::Remove)),
        ("registers=ones", Fault::new(Effect::RegistersOnes)),
        ("registers=zero", Fault::new(Effect::RegistersZero)),
        ("never-ready nth=2", Fault { nth: 2..=2, ..Fault::new(Effect::NeverReady) }),
        ("never-stops", Fault::new(Effect::NeverStops)),
        ("never-shuts-down", Fault::new(Effect::NeverShutsDown)),
        ("slow-registers=20us", Fault::new(Effect::SlowRegisters(Duration::from_micros(20)))),
    ];
    for (line, fault) in &lines {
        assert_eq!(line.parse::<Fault>().as_ref(), Ok(fault), "{line}");
        assert_eq!(fault.to_string(), *line);
    }
    let all: Faults = lines.iter().map(|(_, fault)| fault.clone()).collect::<Vec<_>>().into();
    assert_eq!(all.to_string().parse(), Ok(all));
}

#[test]
fn there_are_shorter_ways_to_write_some() {
    let same = [
        ("status=unrecovered-read-error opcode=read", "status=0x281 queue=io opcode=0x02"),
        ("status=unrecovered-read-error/crd2", "status=0x1281"),
        ("status=0x281/crd2", "status=0x1281"),
        ("status=write-fault/dnr", "status=0x4280"),
        ("status=internal-error/crd1/dnr", "status=0x4806"),
        ("drop opcode=identify", "drop queue=admin opcode=0x06"),
        ("drop queue=2 opcode=read", "drop opcode=0x02 queue=2"),
        ("hang chance=1%", "hang chance=1/100"),
        ("hang lba=..9", "hang lba=1..9"),
        ("corrupt", "corrupt=0"),
        ("delay=2s", "delay=2000ms"),
    ];
    for (short, long) in same {
        assert_eq!(short.parse::<Fault>(), long.parse(), "{short}");
    }
    let text = "# nothing\n\n  drop nth=2   # the second\n";
    let only = Fault { nth: 2..=2, ..Fault::new(Effect::Drop) };
    assert_eq!(text.parse(), Ok(Faults::default().with(only)));
}

#[test]
fn what_is_wrong_is_named_with_its_line() {
    let wrong = [
        ("drip", &["drip", "no effect", "wrong-cid"][..]),
        ("registers=two", &["registers=two", "no effect"]),
        ("delay", &["delay needs a value"]),
        ("delay=5", &["\"5\"", "us, ms or s"]),
        ("delay=99999999999999s", &["no time"]),
        ("hang=1", &["hang has no value"]),
        ("status=0", &["\"0\"", "no status"]),
        ("status=internal-error/crd4", &["internal-error/crd4", "/crd3"]),
        ("status=unheard-of", &["unheard-of", "no status"]),
        ("hang opcode=wrote", &["wrote", "no opcode", "read"]),
        ("hang opcode=256", &["256", "2^8"]),
        ("hang queue=one", &["one", "admin, io"]),
        ("hang nth=0", &["nth=0"]),
        ("hang lba=9..3", &["9..3", "empty range"]),
        ("hang chance=200%", &["200%", "at most 100%"]),
        ("hang chance=1/0", &["1/0"]),
        ("hang seed=1", &["seed=", "chance="]),
        ("hang nth=1 nth=2", &["nth", "twice"]),
        ("hang often", &["often", "KEY=VALUE"]),
        ("hang when=now", &["when", "queue, opcode"]),
        ("never-ready queue=admin", &["queue=", "never-ready"]),
        ("slow-registers=1ms nth=1", &["nth=", "slow-registers"]),
    ];
    for (line, words) in wrong {
        let text = format!("# first\ndrop\n{line}\n");
        let error = text.parse::<Faults>().expect_err(line);
        assert_eq!(error.line, 3, "{line}");
        for word in words {
            assert!(error.to_string().contains(word), "{line}: {error}");
        }
    }
}

#[test]
fn an_address_names_a_file_of_faults() {
    let path = std::env::temp_dir().join(format!("slipring-faults-{}", std::process::id()));
    let address = format!("emulated:faults={}", path.display());
    let missing = address::parse(&address).expect_err("no such file").to_string();
    assert!(missing.contains("cannot be read") && missing.contains("one fault a line"), "{missing}");
    std::fs::write(&path, "drop opcode=read\n").expect("written");
    let parsed = address::parse(&address).map(|config| config.faults.to_string());
    std::fs::write(&path, "\nbanana\n").expect("written");
    let wrong = address::parse(&address).expect_err("no effect").to_string();
    std::fs::remove_file(&path).expect("removed");
    assert_eq!(parsed.expect("a file that can be read"), "drop queue=io opcode=read\n");
    assert!(wrong.contains("line 2") && wrong.contains("banana"), "{wrong}");
}
