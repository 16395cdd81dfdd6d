//! A day with several nodes on one FoundationDB, while one after the other is killed, paused, cut off or restarted.

use std::path::PathBuf;
use std::time::Duration;

use crate::Error;
use crate::args::{ClusterArgs, Common};
use crate::cluster::course::{Course, until_whole};
use crate::cluster::{Cluster, Parts};
use crate::mixed::service::Service;
use crate::run::{Run, Scenario};
use crate::server::beside_this_program;

impl ClusterArgs {
    fn parts(&self) -> Result<Parts, Error> {
        let ternd = self.common.ternd.clone().map_or_else(beside_this_program, Ok)?;
        let fdbcli = self.fdbcli.clone().unwrap_or_else(|| self.fdbserver.with_file_name("fdbcli"));
        Ok(Parts {
            ternd: there("--ternd", ternd)?,
            fdbserver: there("--fdbserver", self.fdbserver.clone())?,
            fdbcli: there("--fdbcli", fdbcli)?,
            nodes: self.nodes,
            shards: self.common.shards,
            directory: self.common.data.clone(),
        })
    }

    fn course(&self) -> Course {
        Course {
            faults: self.faults.clone(),
            lasts: self.lasts.map(Duration::from_secs_f64),
            every: Duration::from_secs_f64(self.every),
        }
    }
}

/// The program that an option names.
fn there(option: &str, program: PathBuf) -> Result<PathBuf, Error> {
    match program.is_file() {
        true => Ok(program),
        false => Err(Error::Arguments(format!(
            "there is no {}: name the program with {option}, as a path",
            program.display()
        ))),
    }
}

impl Scenario for ClusterArgs {
    const NAME: &'static str = "cluster";
    const STARTS_ITS_OWN: bool = true;

    fn common(&self) -> &Common {
        &self.common
    }

    fn load(&self) -> String {
        let faults: Vec<_> = self.faults.iter().map(|fault| fault.name()).collect();
        format!(
            "{}; {} nodes, every {} s one of {}",
            self.day.load(),
            self.nodes,
            self.every,
            faults.join(", ")
        )
    }

    fn rate(&self) -> Option<f64> {
        Some(self.day.rate)
    }

    fn check(&self) -> Result<(), Error> {
        if self.common.server.is_some() {
            return Err(Error::Arguments("`cluster` starts its own nodes: leave --server out".into()));
        }
        self.day.check(&self.common)
    }

    fn run(&self, run: &mut Run<'_>) -> Result<(), Error> {
        let mut cluster = Cluster::start(&self.parts()?)?;
        run.use_server(cluster.server()?);
        let lived = self.live(run, &mut cluster);
        let healthy = cluster.check().and_then(|()| cluster.check_logs());
        if lived.is_err() || healthy.is_err() || run.has_ended_early() || !run.faults.is_none() {
            eprintln!("tern-bench: what the nodes have said is in {}", cluster.keep_logs()?.display());
        }
        lived.and(healthy)
    }
}

impl ClusterArgs {
    fn live(&self, run: &mut Run<'_>, cluster: &mut Cluster) -> Result<(), Error> {
        until_whole(run, cluster)?;
        let service = Service::new(self.common.connections);
        let course = self.course();
        let (nodes, store) = cluster.cpu();
        self.day.live(run, Some(service.clone()), |run, fleet| course.take(run, fleet, cluster, &service))?;
        let (nodes_later, store_later) = cluster.cpu();
        let seconds = run.used().time.as_secs_f64().max(1e-9);
        run.figure("nodes_cores", nodes_later.saturating_sub(nodes).as_secs_f64() / seconds);
        let pushed_again = run.sampler().whole().counts.get("pushed_again").copied();
        run.figure("pushed_again", pushed_again.unwrap_or(0) as f64);
        run.figure("store_ended_by_itself", f64::from(cluster.store_fell()));
        run.figure("store_cores", store_later.saturating_sub(store).as_secs_f64() / seconds);
        Ok(())
    }
}
