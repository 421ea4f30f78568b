//! A network of namespaces, each with one address, joined by a router that can drop what comes from
//! one or goes to it: without a word, as a broken switch does.
//!
//! Needs `unshare` and `nsenter` (package util-linux), `ip` (package iproute2), a kernel with virtual
//! Ethernet and policy routing, and user namespaces or the rights of root.

use crate::namespace::NotAllowed;
use crate::process::Process;
use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader};
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{ChildStdin, Command, Stdio};

/// Options of `unshare` that lead to a network namespace, and of `nsenter` that lead into it: for
/// everybody where user namespaces are allowed, and for root where they are not.
const WAYS: [Way; 2] = [
    Way {
        unshare: &["--user", "--map-root-user", "--net"],
        nsenter: &["--user", "--preserve-credentials", "--net"],
    },
    Way {
        unshare: &["--net"],
        nsenter: &["--net"],
    },
];
/// Says that it is there, and stays until its input ends, which is when this process does.
const HOLDER: &str = "echo here && exec cat";

#[derive(Debug, Clone, Copy)]
struct Way {
    unshare: &'static [&'static str],
    nsenter: &'static [&'static str],
}

/// What a namespace cannot do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// Nothing that it sends arrives.
    Sends,
    /// Nothing that is sent to it arrives.
    Receives,
    /// Neither.
    Both,
}

/// A process that keeps a namespace in being.
#[derive(Debug)]
struct Namespace {
    // The input's end ends it at once.
    _input: ChildStdin,
    holder: Process,
    way: Way,
}

/// The namespaces, gone when dropped (with the last process in them).
#[derive(Debug)]
pub struct Network {
    names: Vec<String>,
    nodes: Vec<Namespace>,
    router: Namespace,
}

impl Network {
    /// Makes a namespace for each name.
    ///
    /// # Errors
    /// If the machine does not allow that.
    pub fn new(names: &[&str]) -> Result<Self, NotAllowed> {
        let mut tried = Vec::new();
        for way in WAYS {
            match Self::try_new(names, way) {
                Ok(network) => return Ok(network),
                Err(said) => tried.push(format!("`unshare {}`: {said}", way.unshare.join(" "))),
            }
        }
        Err(NotAllowed::network(tried))
    }

    fn try_new(names: &[&str], way: Way) -> Result<Self, String> {
        let mut unshare = Command::new("unshare");
        let router = Namespace::hold(unshare.args(way.unshare), way)?;
        let mut nodes = Vec::new();
        for _ in names {
            // Within the router's user namespace, so that one side may give the other its end of a wire.
            let mut command = router.enter(Path::new("unshare"));
            nodes.push(Namespace::hold(command.arg("--net"), way)?);
        }
        let network = Self {
            names: names.iter().map(|name| (*name).to_owned()).collect(),
            nodes,
            router,
        };
        network.wire()?;
        Ok(network)
    }

    fn wire(&self) -> Result<(), String> {
        let mut script = "ip link set lo up && echo 1 > /proc/sys/net/ipv4/ip_forward".to_owned();
        for (index, node) in self.nodes.iter().enumerate() {
            let _ = write!(
                script,
                " && ip link add to{index} type veth peer name wire netns {} \
                 && ip address add {}/24 dev to{index} && ip link set to{index} up",
                node.holder.id(),
                gateway(index),
            );
        }
        self.router.shell(&script)?;
        for (index, node) in self.nodes.iter().enumerate() {
            node.shell(&format!(
                "ip link set lo up && ip address add {}/24 dev wire && ip link set wire up \
                 && ip route add default via {}",
                address(index),
                gateway(index),
            ))?;
        }
        Ok(())
    }

    /// A command that becomes `program` in a namespace, with the arguments that are added.
    pub fn enter(&self, name: &str, program: &Path) -> Command {
        self.nodes[self.index(name)].enter(program)
    }

    /// The same for a process that is in one of the namespaces already.
    pub fn cross(&self, name: &str, program: &Path) -> Command {
        // They share their user namespace, which no process can enter a second time.
        enter(&self.nodes[self.index(name)].holder, &["--net"], program)
    }

    /// The address of a namespace.
    pub fn address(&self, name: &str) -> Ipv4Addr {
        address(self.index(name))
    }

    /// Drops what comes from the namespace, or goes to it, from now on.
    ///
    /// # Panics
    /// If that cannot be done, or was done before.
    pub fn cut(&self, name: &str, cut: Cut) {
        self.change("add", name, cut);
    }

    /// Takes a [cut](Network::cut) back.
    ///
    /// # Panics
    /// If there was none.
    pub fn heal(&self, name: &str, cut: Cut) {
        self.change("delete", name, cut);
    }

    fn change(&self, verb: &str, name: &str, cut: Cut) {
        let index = self.index(name);
        let sends = format!(
            "ip rule {verb} priority {} iif to{index} blackhole",
            100 + index
        );
        let receives = format!(
            "ip rule {verb} priority {} to {} blackhole",
            200 + index,
            address(index)
        );
        let script = match cut {
            Cut::Sends => sends,
            Cut::Receives => receives,
            Cut::Both => format!("{sends} && {receives}"),
        };
        let done = self.router.shell(&script);
        done.unwrap_or_else(|said| panic!("{script}: {said}"));
    }

    fn index(&self, name: &str) -> usize {
        let index = self.names.iter().position(|known| known == name);
        index.unwrap_or_else(|| panic!("no namespace {name} among {:?}", self.names))
    }
}

impl Namespace {
    fn hold(unshare: &mut Command, way: Way) -> Result<Self, String> {
        let command = unshare.args(["sh", "-c", HOLDER]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|e| e.to_string())?;
        let input = child.stdin.take().expect("a pipe");
        let mut line = String::new();
        let output = child.stdout.take().expect("a pipe");
        let read = BufReader::new(output).read_line(&mut line);
        if read.is_ok() && line == "here\n" {
            return Ok(Self {
                _input: input,
                holder: Process::from(child),
                way,
            });
        }
        drop(input);
        let ended = child.wait_with_output().map_err(|e| e.to_string())?;
        Err(crate::namespace::one_line(&ended))
    }

    fn enter(&self, program: &Path) -> Command {
        enter(&self.holder, self.way.nsenter, program)
    }

    fn shell(&self, script: &str) -> Result<(), String> {
        let mut command = self.enter(Path::new("sh"));
        command.args(["-c", script]);
        crate::namespace::attempt(command)
    }
}

fn enter(holder: &Process, options: &[&str], program: &Path) -> Command {
    let mut command = Command::new("nsenter");
    command.args(["--target", &holder.id().to_string()]);
    command.args(options).arg("--").arg(program);
    command
}

fn address(index: usize) -> Ipv4Addr {
    Ipv4Addr::from([10, 77, u8::try_from(index).expect("few namespaces"), 1])
}

fn gateway(index: usize) -> Ipv4Addr {
    Ipv4Addr::from([10, 77, u8::try_from(index).expect("few namespaces"), 254])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::namespace::not_run;
    use std::time::{Duration, Instant};

    /// How many datagrams came for a port at which nobody listens.
    fn received(network: &Network, name: &str) -> u64 {
        let mut command = network.enter(name, Path::new("cat"));
        let output = command.arg("/proc/net/snmp").output().expect("cat starts");
        let text = String::from_utf8(output.stdout).expect("UTF-8");
        let mut lines = text.lines().filter_map(|line| line.strip_prefix("Udp: "));
        let names = lines.next().expect("names").split(' ');
        let mut fields = names.zip(lines.next().expect("numbers").split(' '));
        let (_, count) = fields
            .find(|(name, _)| *name == "NoPorts")
            .expect("a field");
        count.parse().expect("a number")
    }

    /// Whether a datagram arrives.
    fn arrives(network: &Network, from: &str, to: &str) -> bool {
        let before = received(network, to);
        let mut command = network.enter(from, Path::new("bash"));
        command
            .args(["-c", "echo > \"/dev/udp/$0/9\""])
            .arg(network.address(to).to_string());
        assert!(
            command.status().expect("bash starts").success(),
            "{from} to {to}"
        );
        // The kernel delivers at once, or a little later if it is busy.
        let began = Instant::now();
        while began.elapsed() < Duration::from_millis(300) {
            if received(network, to) > before {
                return true;
            }
        }
        false
    }

    // Claim: what is cut is silent in the directions that were named and in no other, and a cut can be
    // taken back. Method: datagrams between three namespaces, counted by the kernel, before, during and
    // after each cut.
    #[test]
    fn cuts_are_one_way_or_both() {
        let network = match Network::new(&["a", "b", "c"]) {
            Ok(network) => network,
            Err(reason) => return not_run("cuts_are_one_way_or_both", &reason),
        };
        let arrives = |(from, to): (&str, &str)| arrives(&network, from, to);
        let all = [("a", "b"), ("b", "a"), ("a", "c"), ("c", "a"), ("b", "c")];
        let seen = || all.map(arrives);
        assert_eq!(seen(), [true; 5]);
        for (cut, expected) in [
            (Cut::Sends, [false, true, false, true, true]),
            (Cut::Receives, [true, false, true, false, true]),
            (Cut::Both, [false, false, false, false, true]),
        ] {
            network.cut("a", cut);
            assert_eq!(seen(), expected, "{cut:?}");
            network.heal("a", cut);
        }
        assert_eq!(seen(), [true; 5]);
    }
}
