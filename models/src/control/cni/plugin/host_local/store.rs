//! The files of one network: an address's file says who holds it, and one file per set which address was the last.

use std::net::IpAddr;

use super::super::Files;

const DATA_DIR: &str = "/var/lib/cni/networks";

/// The directory of one network.
#[derive(Debug)]
pub(super) struct Store<'a> {
    files: &'a mut Files,
    dir: String,
}

impl<'a> Store<'a> {
    /// Opens the directory, which leaves a lock file in it.
    pub(super) fn open(files: &'a mut Files, data_dir: &str, network: &str) -> Self {
        let data_dir = if data_dir.is_empty() {
            DATA_DIR
        } else {
            data_dir
        };
        let dir = format!("{}/{network}/", data_dir.trim_end_matches('/'));
        files.entry(format!("{dir}lock")).or_default();
        Self { files, dir }
    }

    /// Takes an address if nobody has it, and remembers it as the last of its set.
    pub(super) fn reserve(&mut self, id: &str, ifname: &str, ip: IpAddr, set: usize) -> bool {
        let path = format!("{}{ip}", self.dir);
        if self.files.contains_key(&path) {
            return false;
        }
        self.files.insert(path, holder(id, ifname));
        self.files.insert(self.last_path(set), ip.to_string());
        true
    }

    /// Returns the address a set handed out last, even if it was given back since.
    pub(super) fn last_reserved(&self, set: usize) -> Option<IpAddr> {
        self.files.get(&self.last_path(set))?.parse().ok()
    }

    /// Returns whether an interface of a container holds an address.
    pub(super) fn holds(&self, id: &str, ifname: &str) -> bool {
        let held = |by: &str| self.own().any(|(_, content)| content.trim() == by);
        held(&holder(id, ifname)) || held(id.trim())
    }

    /// Returns the addresses an interface of a container holds, in the order of the files' names.
    pub(super) fn addresses(&self, id: &str, ifname: &str) -> Vec<IpAddr> {
        let by = holder(id, ifname);
        self.own()
            .filter(|(_, content)| content.trim() == by || content.trim() == id.trim())
            .filter_map(|(path, _)| path.rsplit('/').next()?.parse().ok())
            .collect()
    }

    /// Gives back what an interface of a container holds; files of very old plugins name the container alone.
    pub(super) fn release(&mut self, id: &str, ifname: &str) {
        if !self.remove(&holder(id, ifname)) {
            self.remove(id.trim());
        }
    }

    fn remove(&mut self, by: &str) -> bool {
        let before = self.files.len();
        let dir = &self.dir;
        self.files
            .retain(|path, content| !path.starts_with(dir) || content.trim() != by);
        self.files.len() != before
    }

    fn own(&self) -> impl Iterator<Item = (&String, &String)> {
        self.files
            .range(self.dir.clone()..)
            .take_while(|(path, _)| path.starts_with(&self.dir))
    }

    fn last_path(&self, set: usize) -> String {
        format!("{}last_reserved_ip.{set}", self.dir)
    }
}

fn holder(id: &str, ifname: &str) -> String {
    format!("{}\r\n{ifname}", id.trim())
}
