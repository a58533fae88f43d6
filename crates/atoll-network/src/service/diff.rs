//! What has been applied, and the difference that a change makes to it.
//!
//! Two services may claim one address and port; the first keeps it, and the second
//! gets it when the first lets go.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;

use super::plan::{Chain, ElementKey, Value, plan};
use super::{Protocol, ServiceChange, ServicePort};
use crate::Error;

/// The service ports of the node, as applied.
#[derive(Debug, Default, Clone)]
pub(crate) struct Ledger {
    ports: BTreeMap<Arc<str>, ServicePort>,
    claims: HashMap<ElementKey, Vec<(Arc<str>, Value)>>,
}

/// Elements to delete, then to add.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Difference {
    pub(crate) delete: Vec<ElementKey>,
    pub(crate) add: Vec<(ElementKey, Value)>,
}

impl Difference {
    pub(crate) fn chains(&self) -> BTreeSet<Chain> {
        self.add
            .iter()
            .filter_map(|(_, value)| match value {
                Value::Pick(chain) => Some(*chain),
                _ => None,
            })
            .collect()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.delete.is_empty() && self.add.is_empty()
    }
}

/// UDP flows of a port that must go unless they lead to an endpoint it has now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StaleFlows {
    pub(crate) addresses: HashSet<Ipv4Addr>,
    pub(crate) port: u16,
    pub(crate) node_port: Option<u16>,
    pub(crate) endpoints: HashSet<SocketAddrV4>,
}

impl Ledger {
    /// A ledger of exactly these ports.
    pub(crate) fn of(ports: Vec<ServicePort>) -> Result<Self, Error> {
        let mut ledger = Self::default();
        for port in ports {
            ledger.set(port)?;
        }
        Ok(ledger)
    }

    /// Everything that must stand in the tables.
    pub(crate) fn all(&self) -> Difference {
        let effective = |(key, claims): (&ElementKey, &Vec<(Arc<str>, Value)>)| {
            claims.first().map(|(_, value)| (*key, *value))
        };
        Difference { delete: Vec::new(), add: self.claims.iter().filter_map(effective).collect() }
    }

    /// Makes the changes in order; what they touch is returned once, before and after.
    pub(crate) fn change(
        &mut self,
        changes: Vec<ServiceChange>,
    ) -> Result<(Difference, Vec<StaleFlows>), Error> {
        let mut before = HashMap::new();
        let mut stale = Vec::new();
        for change in changes {
            let key = match &change {
                ServiceChange::Set(port) => port.key.clone(),
                ServiceChange::Remove(key) => key.clone(),
            };
            let old = self.ports.get(key.as_str()).cloned();
            let new = match change {
                ServiceChange::Set(port) => Some(port),
                ServiceChange::Remove(_) => None,
            };
            if old == new {
                continue;
            }
            stale.extend(stale_flows(old.as_ref(), new.as_ref()));
            for port in old.iter().chain(&new) {
                for (element, _) in plan(port)? {
                    before.entry(element).or_insert_with(|| self.effective(&element));
                }
            }
            self.remove(&key)?;
            if let Some(port) = new {
                self.set(port)?;
            }
        }
        Ok((self.difference(before), stale))
    }

    fn difference(&self, before: HashMap<ElementKey, Option<Value>>) -> Difference {
        let mut difference = Difference::default();
        for (key, old) in before {
            let new = self.effective(&key);
            if old == new {
                continue;
            }
            if old.is_some() {
                difference.delete.push(key);
            }
            difference.add.extend(new.map(|value| (key, value)));
        }
        difference
    }

    fn effective(&self, key: &ElementKey) -> Option<Value> {
        self.claims.get(key).and_then(|claims| claims.first()).map(|(_, value)| *value)
    }

    fn set(&mut self, port: ServicePort) -> Result<(), Error> {
        let key: Arc<str> = port.key.as_str().into();
        self.remove(&key)?;
        for (element, value) in plan(&port)? {
            self.claims.entry(element).or_default().push((Arc::clone(&key), value));
        }
        self.ports.insert(key, port);
        Ok(())
    }

    fn remove(&mut self, key: &str) -> Result<(), Error> {
        let Some(port) = self.ports.remove(key) else {
            return Ok(());
        };
        for (element, _) in plan(&port)? {
            if let Some(claims) = self.claims.get_mut(&element) {
                claims.retain(|(owner, _)| owner.as_ref() != key);
                if claims.is_empty() {
                    self.claims.remove(&element);
                }
            }
        }
        Ok(())
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = &str> {
        self.ports.keys().map(|key| &**key)
    }

    /// All UDP ports, for the cleaning after a full synchronisation.
    pub(crate) fn udp_flows(&self) -> Vec<StaleFlows> {
        self.ports.values().filter_map(|port| stale_flows(None, Some(port))).collect()
    }
}

fn stale_flows(old: Option<&ServicePort>, new: Option<&ServicePort>) -> Option<StaleFlows> {
    let port = new.or(old)?;
    if port.protocol != Protocol::Udp {
        return None;
    }
    let both = || old.into_iter().chain(new);
    Some(StaleFlows {
        addresses: both()
            .flat_map(|port| port.cluster_addresses.iter().chain(&port.external_addresses))
            .copied()
            .collect(),
        port: port.port,
        node_port: both().find_map(|port| port.node_port),
        endpoints: new
            .into_iter()
            .flat_map(|port| port.endpoints.iter().map(|endpoint| endpoint.address))
            .collect(),
    })
}
