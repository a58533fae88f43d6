//! What a command of the process runtime may do, taken on just before it runs.

use std::io;

use super::{ShimConfig, command, launch::read_filter};

#[derive(Debug)]
pub(crate) struct Rights {
    /// A bit for each capability number; `None` leaves what the user has.
    capabilities: Option<u64>,
    no_new_privileges: bool,
    filter: Option<Vec<u8>>,
}

impl Rights {
    pub(crate) fn of(config: &ShimConfig) -> Result<Rights, String> {
        Ok(Rights {
            capabilities: config.confinement.as_ref().and_then(|own| own.capabilities),
            no_new_privileges: config.no_new_privileges,
            filter: read_filter(config)?,
        })
    }

    /// For good. The filter comes first, as loading it may take a capability.
    pub(crate) fn take_on(&self) -> io::Result<()> {
        if self.no_new_privileges {
            rustix::thread::set_no_new_privs(true)?;
        }
        if let Some(filter) = &self.filter {
            command::load_filter(filter)?;
        }
        let Some(granted) = self.capabilities else { return Ok(()) };
        drop_bounding(granted)?;
        set_capabilities(granted & own_capabilities())
    }
}

pub(crate) fn set_capabilities(granted: u64) -> io::Result<()> {
    use rustix::thread::{CapabilitySet, CapabilitySets};
    let set = CapabilitySet::from_bits_retain(granted);
    rustix::thread::set_capabilities(
        None,
        CapabilitySets { effective: set, permitted: set, inheritable: CapabilitySet::empty() },
    )?;
    Ok(())
}

pub(crate) fn own_capabilities() -> u64 {
    rustix::thread::capabilities(None).map_or(0, |sets| sets.permitted.bits())
}

pub(crate) fn drop_bounding(granted: u64) -> io::Result<()> {
    for number in 0..crate::bundle::all_capabilities().len() {
        if granted & (1 << number) != 0 {
            continue;
        }
        let bit = rustix::thread::CapabilitySet::from_bits_retain(1 << number);
        match rustix::thread::remove_capability_from_bounding_set(bit) {
            Ok(()) => {}
            // An older kernel does not know it.
            Err(rustix::io::Errno::INVAL) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
