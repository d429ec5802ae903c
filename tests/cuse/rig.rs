//! A served emulated controller, and the commands that tests send it.

use crate::kernel::{File, Kernel};
use crate::support::{DEADLINE, PollThread, Rig, wait_until};
use slipring::ctrlr::CtrlrOptions;
use slipring::cuse::ioctls::{ADMIN_CMD, IO_CMD, PassthruCmd};
use slipring::cuse::{ServeOptions, Served, Server};
use slipring::emulated::{Config, Latency, NamespaceConfig, QueueKind};
use slipring::spec::command::Command;
use std::time::Duration;

/// Everything there is: device, poller, server, and the system that the nodes are in.
pub struct Rack {
    pub kernel: Kernel,
    pub served: Served,
    pub server: Server,
    pub poll: PollThread,
    pub rig: Rig,
}

impl Rack {
    pub fn new(config: Config) -> Self {
        Self::with(config, &ServeOptions::default())
    }

    pub fn with(config: Config, options: &ServeOptions) -> Self {
        Self::attach(config, CtrlrOptions::default(), options)
    }

    pub fn attach(config: Config, ctrlr: CtrlrOptions, options: &ServeOptions) -> Self {
        let rig = Rig::attach_with(config, ctrlr);
        let poll = PollThread::spawn(rig.poller());
        let kernel = Kernel::default();
        let server = Server::start(kernel.clone()).expect("a server");
        let served = server.serve(&rig.ctrlr, options).expect("served");
        wait_until("the nodes are there", || kernel.names() == served.nodes());
        Self { kernel, served, server, poll, rig }
    }

    pub fn ctrlr(&self) -> File {
        self.kernel.open_node("nvme0")
    }

    pub fn namespace(&self, nsid: u32) -> File {
        self.kernel.open_node(&format!("nvme0n{nsid}"))
    }

    /// Ends all in the orderly way: withdraw, stop the server, detach.
    pub fn finish(self) {
        assert!(self.served.withdraw(DEADLINE), "withdrawn");
        drop(self.server);
        assert_eq!(self.kernel.names(), Vec::<String>::new(), "no node is left");
        self.rig.ctrlr.detach(DEADLINE).expect("detached");
        assert!(self.poll.stop().is_none(), "the poller has left");
        self.rig.finish();
    }
}

/// One namespace of 64 MiB.
pub fn small() -> Config {
    Config { namespaces: vec![namespace(64, 512)], ..Config::default() }
}

pub fn namespace(mib: u64, lba_bytes: u32) -> NamespaceConfig {
    NamespaceConfig { size_bytes: mib << 20, lba_bytes, ..NamespaceConfig::default() }
}

/// An admin command that takes this long.
pub fn slow_admin(opcode: u8, delay: Duration) -> Latency {
    Latency { queue: QueueKind::Admin, opcode: Some(opcode), delay }
}

/// The structure of a command.
pub fn passthru(command: Command) -> PassthruCmd {
    PassthruCmd {
        opcode: command.opcode,
        flags: command.flags,
        nsid: command.nsid,
        cdw2: command.cdw2,
        cdw3: command.cdw3,
        cdw10_15: [command.cdw10, command.cdw11, command.cdw12, command.cdw13, command.cdw14, command.cdw15],
        ..PassthruCmd::default()
    }
}

pub fn admin(file: &File, command: Command, data: &[u8]) -> Result<(i32, u32, Vec<u8>), i32> {
    file.command(ADMIN_CMD, passthru(command), data)
}

pub fn io(file: &File, command: Command, data: &[u8]) -> Result<(i32, u32, Vec<u8>), i32> {
    file.command(IO_CMD, passthru(command), data)
}

/// Bytes that differ from place to place.
pub fn pattern(len: usize, seed: u32) -> Vec<u8> {
    (0..len as u32).map(|i| (i.wrapping_mul(2_654_435_761).wrapping_add(seed) >> 13) as u8).collect()
}
