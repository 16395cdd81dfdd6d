//! A configuration as TOML, each value with where it comes from. It holds names of files, never what is in them.

use std::fmt::Write;

use toml::Value;

use super::{Config, Loaded, Origins};

/// Behind a value that nobody has set.
const DEFAULT: &str = "default";

impl Loaded {
    /// What was set; with `defaults`, also what was not.
    pub fn show(&self, defaults: bool) -> String {
        let mut config = self.config.clone();
        if defaults {
            config.shards = Some(config.shard_count());
            config.listen_quic = Some(config.quic_addresses().to_vec());
            if let Some(cluster) = &mut config.cluster {
                cluster.advertise = Some(cluster.advertised());
                cluster.name = Some(cluster.name_or_host());
            }
        }
        let mut out = String::new();
        write_table(&mut out, &self.origins, "", &table(&config), defaults);
        out
    }
}

fn table(config: &Config) -> toml::Table {
    // Paths in UTF-8 and numbers below 2^63 have come from TOML and go back into it.
    toml::Table::try_from(config).unwrap_or_default()
}

fn write_table(out: &mut String, origins: &Origins, prefix: &str, table: &toml::Table, defaults: bool) {
    let key = |name: &str| if prefix.is_empty() { name.to_owned() } else { format!("{prefix}.{name}") };
    let (sections, values): (Vec<_>, Vec<_>) = table.iter().partition(|(_, value)| is_section(value));
    for (name, value) in values {
        let origin = origins.get(&key(name));
        if origin.is_some() || defaults {
            let origin = origin.map_or_else(|| DEFAULT.to_owned(), ToString::to_string);
            let _ = writeln!(out, "{:<48} # {origin}", format!("{name} = {value}"));
        }
    }
    for (name, value) in sections {
        let key = key(name);
        match value {
            Value::Table(inner) => {
                let _ = writeln!(out, "\n[{key}]");
                write_table(out, origins, &key, inner, defaults);
            }
            Value::Array(elements) => {
                for (i, element) in elements.iter().enumerate() {
                    let _ = writeln!(out, "\n[[{key}]]");
                    if let Value::Table(inner) = element {
                        write_table(out, origins, &format!("{key}[{i}]"), inner, defaults);
                    }
                }
            }
            _ => {}
        }
    }
}

fn is_section(value: &Value) -> bool {
    match value {
        Value::Table(_) => true,
        Value::Array(elements) => elements.first().is_some_and(Value::is_table),
        _ => false,
    }
}
