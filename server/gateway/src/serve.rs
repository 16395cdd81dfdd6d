//! `ternd serve`: a configuration becomes a server, and what the configuration names is read again when it changes.

use std::error::Error;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use time::{Date, OffsetDateTime};
use tokio::signal::unix::Signal;
use tracing::{info, warn};

use crate::auth::jwks::Published;
use crate::clock;
use crate::cluster::member::ClusterSetup;
use crate::config::{ConfigError, Loaded};
use crate::descriptors;
use crate::metrics::reloads::Source;
use crate::reload::{Looks, Reloader};
use crate::server::{Server, Setup};
use crate::store;
use crate::tls::CurrentIdentity;
use crate::transport::inherited::Inherited;

/// Certificates are renewed a month ahead; one with less than this left has been forgotten.
const RENEWAL_DAYS: i64 = 14;

/// Reads again what the configuration names while the server runs.
pub struct Upkeep {
    reloader: Reloader,
    published: Option<Published>,
}

impl Upkeep {
    /// For ever. A `hangup` has all files read at once.
    pub async fn run(self, hangup: Signal) {
        let reloads = Arc::clone(self.reloader.reloads());
        let published = async {
            match self.published {
                Some(published) => published.run(&reloads).await,
                None => std::future::pending().await,
            }
        };
        tokio::join!(self.reloader.run(hangup), published);
    }
}

/// Starts a server.
///
/// # Errors
/// What is wrong, and where it was configured.
pub async fn start(loaded: &Loaded) -> Result<(Server, Upkeep), Box<dyn Error>> {
    let (mut setup, upkeep) = prepare(loaded)?;
    tell_expiry(setup.identity.expires());
    setup.inherited = Inherited::from_environment()?;
    descriptors::warn_when_low(descriptors::raise());
    if let Some(published) = &upkeep.published {
        published.begin().await.map_err(|error| loaded.refuse("tokens.jwks.url", error))?;
    }
    Ok((Server::start(setup)?, upkeep))
}

/// Reads and fetches everything that a server would, tries the data directory, and leaves everything as it is.
///
/// # Errors
/// What is wrong, and where it was configured.
pub async fn check(loaded: &Loaded) -> Result<(), ConfigError> {
    let (setup, upkeep) = prepare(loaded)?;
    let mut mistakes = ConfigError::none();
    let expires = setup.identity.expires();
    if let Some((on, ..0)) = expires.map(left) {
        let certificate = loaded.config.tls.certificate.display();
        let problem =
            format!("{certificate} has expired on {on}: no client accepts it; put a new one in its place");
        mistakes.note::<()>(Err(loaded.refuse("tls.certificate", problem)));
    } else {
        tell_expiry(expires);
    }
    mistakes.note(try_directory(&loaded.config.data).map_err(|problem| loaded.refuse("data", problem)));
    mistakes.note(
        store::check(&setup.store).await.map_err(|problem| loaded.refuse("store.cluster_file", problem)),
    );
    if let Some(published) = &upkeep.published {
        let fetched = published.check().await;
        mistakes.note(fetched.map_err(|error| loaded.refuse("tokens.jwks.url", error)));
    }
    mistakes.or(())
}

/// Whether the data directory can be made, or written to if it is there.
fn try_directory(data: &Path) -> Result<(), String> {
    let is_there = data.is_dir();
    let tried = if is_there { data.join(format!(".check.{}", std::process::id())) } else { data.to_owned() };
    let made = DirBuilder::new().mode(0o700).create(&tried).and_then(|()| fs::remove_dir(&tried));
    let what = if is_there { "written to" } else { "made" };
    match made {
        // What manages services makes it for them, as a user that may.
        Err(error) if !is_there && error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        made => made.map_err(|error| {
            format!("{} cannot be {what} by this user: {error}; choose another directory, or make it for the server's user", data.display())
        }),
    }
}

fn prepare(loaded: &Loaded) -> Result<(Setup, Upkeep), ConfigError> {
    let config = &loaded.config;
    let mut reloader = Reloader::default();

    // Before the files are read, so that no change is missed.
    let tokens = &config.tokens;
    let files = |paths: &mut dyn Iterator<Item = &PathBuf>| Looks::of(paths.cloned().collect::<Vec<_>>());
    let certificate_before = files(&mut [&config.tls.certificate, &config.tls.key].into_iter());
    let keys_before = files(&mut tokens.keys.iter().map(|key| &key.file));
    let jwks_before = files(&mut tokens.jwks.iter().filter_map(|jwks| jwks.file.as_ref()));
    let revoked_before = files(&mut tokens.revoked.iter());

    let mut mistakes = ConfigError::none();
    let identity = mistakes.note(loaded.identity());
    let verifier = mistakes.note(loaded.verifier());
    let published = mistakes.note(loaded.jwks_fetcher());
    let node = mistakes.note(loaded.check_cluster_store().and_then(|()| loaded.link_identity()));
    let all = identity.zip(verifier).zip(published).zip(node);
    let (((identity, verifier), published), link_identity) = mistakes.or_all(all)?;

    let identity = CurrentIdentity::new(identity);
    let (again, current) = (loaded.clone(), Arc::clone(&identity));
    reloader.watch(Source::Certificate, certificate_before, move || {
        again.identity().map(|identity| {
            tell_expiry(identity.expires());
            current.replace(identity);
        })
    });

    let (again, ring) = (loaded.clone(), Arc::clone(verifier.keys()));
    reloader.watch(Source::TokenKeys, keys_before, move || {
        again.token_keys().map(|keys| ring.set_configured(keys))
    });
    let (again, ring) = (loaded.clone(), Arc::clone(verifier.keys()));
    reloader.watch(Source::KeySet, jwks_before, move || {
        again.jwks_file().map(|keys| keys.into_iter().for_each(|keys| ring.set_published(keys)))
    });
    let (again, revocations) = (loaded.clone(), Arc::clone(verifier.revocations()));
    reloader.watch(Source::Revocations, revoked_before, move || {
        again.revoked().map(|revoked| revoked.into_iter().for_each(|revoked| revocations.replace(revoked)))
    });
    let ring = verifier.keys();
    if published.is_some() {
        let ring = Arc::clone(ring);
        reloader.on_hangup(move || ring.fetch_soon());
    }
    let published =
        published.map(|(fetcher, refresh)| Published::new(fetcher, Arc::clone(ring), refresh, &config.data));
    let reloads = Arc::clone(reloader.reloads());

    let setup = Setup {
        data: config.data.clone(),
        store: config.store.place(),
        tcp: config.listen.clone(),
        quic: config.quic_addresses().to_vec(),
        inherited: Inherited::default(),
        proxies: config.proxy_protocol_from.clone(),
        admin: vec![config.admin.listen],
        shards: config.shard_count(),
        identity,
        verifier,
        limits: config.limits,
        reloads,
        cluster: config.cluster.as_ref().zip(link_identity).map(|(cluster, identity)| ClusterSetup {
            listen: cluster.listen,
            clients: cluster.advertise_clients.iter().cloned().collect(),
            advertise: cluster.advertise,
            name: cluster.name_or_host(),
            identity,
        }),
    };
    Ok((setup, Upkeep { reloader, published }))
}

/// The day on which a certificate ends, and how many whole days that is from now: below 0 once it has expired.
fn left(expires: OffsetDateTime) -> (Date, i64) {
    let now = i64::try_from(clock::wall().0 / 1000).unwrap_or(i64::MAX);
    (expires.date(), (expires.unix_timestamp() - now).div_euclid(24 * 3600))
}

/// Says in the log until when the certificate is good, loudly when that is soon or past.
fn tell_expiry(expires: Option<OffsetDateTime>) {
    let Some((on, days)) = expires.map(left) else { return };
    match days {
        ..0 => warn!(%on, "no client accepts the certificate, put a new one in its place: it has expired"),
        0..RENEWAL_DAYS => warn!(%on, days, "the certificate has to be renewed now: it expires"),
        _ => info!(%on, days, "the certificate expires"),
    }
}
