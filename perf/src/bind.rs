//! `slipring bind` and `slipring unbind`: who drives a PCI controller, this program or the kernel.
#![forbid(unsafe_code)]

use crate::device::Address;
use crate::error::Error;
use slipring::transport::vfio::Sysfs;
use std::process::ExitCode;

/// Which controller to give to user space.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  sudo slipring bind 0000:01:00.0\n  sudo slipring bind 0000:01:00.0 --force"
)]
pub(crate) struct BindArgs {
    /// The controller's PCI address
    #[arg(value_name = "ADDR")]
    address: String,
    /// Even if its namespaces are mounted or otherwise in use: what was not written yet is lost
    #[arg(long)]
    force: bool,
}

/// Which controller to give back to the kernel.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  sudo slipring unbind 0000:01:00.0")]
pub(crate) struct UnbindArgs {
    /// The controller's PCI address
    #[arg(value_name = "ADDR")]
    address: String,
}

/// Gives a controller to vfio-pci.
pub(crate) fn bind(args: &BindArgs) -> Result<ExitCode, Error> {
    let address = Address::parse_pci(&args.address)?;
    let before = Sysfs::default().bind(address, args.force).map_err(Error::input)?;
    crate::print(&format!("{address}: {} -> vfio-pci\n", before.as_deref().unwrap_or("no driver")))?;
    Ok(ExitCode::SUCCESS)
}

/// Gives a controller back to the kernel's driver.
pub(crate) fn unbind(args: &UnbindArgs) -> Result<ExitCode, Error> {
    let address = Address::parse_pci(&args.address)?;
    let before = Sysfs::default().unbind(address).map_err(Error::input)?;
    crate::print(&format!("{address}: {} -> nvme\n", before.as_deref().unwrap_or("no driver")))?;
    Ok(ExitCode::SUCCESS)
}
