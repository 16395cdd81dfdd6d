//! What the nodes share, and what each has of its own: keys, certificates, configurations, logs.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use tern_server::auth::Minter;
use tern_server::clock;
use tern_server::tls::DevIdentity;

use super::network::Host;
use super::{Parts, host};
use crate::Error;
use crate::link_keys::LinkAuthority;

const CLIENT_PORT: u16 = 7443;
const LINK_PORT: u16 = 7444;
const ADMIN_PORT: u16 = 7480;
const STORE_PORT: u16 = 4500;

/// The directory of a cluster.
#[derive(Debug)]
pub struct Files {
    root: PathBuf,
}

impl Files {
    /// Makes everything.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn make(root: &Path, parts: &Parts) -> Result<Self, Error> {
        let failed = |error: &dyn std::fmt::Display| Error::Server(format!("no keys can be made: {error}"));
        let files = Self { root: root.canonicalize().unwrap_or_else(|_| root.to_owned()) };
        for directory in [files.logs(), files.keys().to_owned(), files.store()] {
            fs::create_dir_all(&directory)
                .map_err(Error::io(format!("cannot make {}", directory.display())))?;
        }
        let addresses: Vec<_> = (1..=parts.nodes).map(|number| host(number).address().to_string()).collect();
        Minter::load_or_create(files.keys()).map_err(|error| failed(&error))?;
        DevIdentity::load_or_create(files.keys(), &addresses, clock::wall())
            .map_err(|error| failed(&error))?;

        let authority = LinkAuthority::new()?;
        files.write("links.pem", &authority.certificate)?;
        for number in 1..=parts.nodes {
            let (certificate, key) = authority.node()?;
            files.write(&format!("link-{number}.pem"), &certificate)?;
            files.write(&format!("link-{number}.key"), &key)?;
            // A client of FoundationDB writes its own when the coordinators change.
            files.write(&format!("fdb-{number}.cluster"), &cluster_file())?;
            files.write(&format!("node-{number}.toml"), &configuration(number, parts.shards))?;
        }
        files.write("fdb.cluster", &cluster_file())?;
        Ok(files)
    }

    fn write(&self, name: &str, text: &str) -> Result<(), Error> {
        let path = self.root.join(name);
        fs::write(&path, text).map_err(Error::io(format!("cannot write {}", path.display())))
    }

    /// Where the token key is.
    pub fn keys(&self) -> &Path {
        &self.root
    }

    /// The authority of the nodes' certificates for clients, PEM.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn authority(&self) -> Result<Vec<u8>, Error> {
        fs::read(self.root.join("ca.pem")).map_err(Error::io("cannot read the nodes' certificate"))
    }

    /// Where logs are.
    pub fn logs(&self) -> PathBuf {
        self.root.join("logs")
    }

    /// Where FoundationDB's data is.
    pub fn store(&self) -> PathBuf {
        self.root.join("fdb")
    }

    /// FoundationDB's cluster file, for its own tools.
    pub fn cluster_file(&self) -> PathBuf {
        self.root.join("fdb.cluster")
    }

    /// A node's configuration.
    pub fn configuration(&self, number: usize) -> PathBuf {
        self.root.join(format!("node-{number}.toml"))
    }

    /// Where clients come to a node.
    pub fn client_address(number: usize) -> SocketAddr {
        (host(number).address(), CLIENT_PORT).into()
    }

    /// Where a node says how it is.
    pub fn admin_address(number: usize) -> SocketAddr {
        (host(number).address(), ADMIN_PORT).into()
    }

    /// Where FoundationDB is.
    pub fn store_address() -> SocketAddr {
        (Host::Store.address(), STORE_PORT).into()
    }
}

fn cluster_file() -> String {
    format!("bench:cluster@{}\n", Files::store_address())
}

fn configuration(number: usize, shards: Option<usize>) -> String {
    let address = host(number).address();
    let shards = shards.map(|shards| format!("shards = {shards}\n")).unwrap_or_default();
    format!(
        "data = \"node-{number}\"\n\
         listen = [\"{address}:{CLIENT_PORT}\"]\n\
         {shards}\
         [store]\nkind = \"fdb\"\ncluster_file = \"fdb-{number}.cluster\"\n\
         [admin]\nlisten = \"{address}:{ADMIN_PORT}\"\nallow_remote = true\n\
         [tls]\ncertificate = \"server.pem\"\nkey = \"server.key\"\n\
         [cluster]\nlisten = \"{address}:{LINK_PORT}\"\nname = \"node-{number}\"\nca = \"links.pem\"\n\
         certificate = \"link-{number}.pem\"\nkey = \"link-{number}.key\"\n\
         # All clients come from one address.\n\
         [limits]\nbefore_login_per_address = 0\n\
         [[tokens.keys]]\nalgorithm = \"EdDSA\"\nfile = \"token.pub\"\n"
    )
}
