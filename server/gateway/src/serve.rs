//! `ternd serve`: a configuration becomes a server, and what the configuration names is read again when it changes.

use std::sync::Arc;

use tracing::info;

use crate::config::{ConfigError, Loaded};
use crate::reload::{Looks, Reloader};
use crate::server::Setup;
use crate::tls::CurrentIdentity;

/// What a server needs, and what it watches while it runs.
pub struct Prepared {
    /// To be started.
    pub setup: Setup,
    /// To be run beside it.
    pub reloader: Reloader,
}

/// Reads everything that a configuration names.
///
/// # Errors
/// What is wrong, and where it was configured.
pub fn prepare(loaded: &Loaded) -> Result<Prepared, ConfigError> {
    let config = &loaded.config;
    let mut reloader = Reloader::default();

    let before = Looks::of([config.tls.certificate.clone(), config.tls.key.clone()]);
    let identity = CurrentIdentity::new(loaded.identity()?);
    let (again, current) = (loaded.clone(), Arc::clone(&identity));
    reloader.watch("Certificate", before, move || again.identity().map(|identity| current.replace(identity)));
    info!(certificate = %config.tls.certificate.display(), "certificate read");

    let setup = Setup {
        data: config.data.clone(),
        tcp: config.listen.clone(),
        quic: config.quic_addresses().to_vec(),
        shards: config.shard_count(),
        identity,
        verifier: loaded.verifier()?,
    };
    Ok(Prepared { setup, reloader })
}
