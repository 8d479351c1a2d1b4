//! TCP (RFC 9293) as Linux runs it: one request, one response, and everything that can go wrong in between.
//!
//! Reading order: [`TcpSettings`] (the sysctls), [`connection`] (one end of a connection), [`client`], [`server`].
//!
//! Schedules are computed from the settings: with the defaults of kernel 6.5 and later a SYN that nobody answers
//! leaves at 0, 1, 2, 3, 4, 5, 7, 11, 19, 35 and 67 s, and `connect` fails at 131 s.

use std::fmt;
use std::time::Duration;

use podwire_models::kernel::sysctl::SynSchedule;

pub mod client;
pub mod connection;
pub mod server;

pub use client::{ClientSettings, TcpClient};
pub use server::{ServerSettings, TcpServer};

/// The part of `net.ipv4.tcp_*` that decides when something is sent again, and when the kernel gives up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpSettings {
    /// Retransmission timeout before anything was measured (`TCP_TIMEOUT_INIT`).
    pub rto_initial: Duration,
    /// Smallest retransmission timeout (`tcp_rto_min_us`).
    pub rto_min: Duration,
    /// Largest retransmission timeout (`tcp_rto_max_ms`).
    pub rto_max: Duration,
    /// SYN retransmissions. A client gets those of its machine when its socket is made.
    pub syn: SynSchedule,
    /// SYN-ACK retransmissions (`tcp_synack_retries`).
    pub synack_retries: u32,
    /// Retransmissions of data, turned into a time (`tcp_retries2`).
    pub retries2: u32,
    /// The same once the application has closed (`tcp_orphan_retries`, where 0 means 8).
    pub orphan_retries: u32,
    /// How long FIN-WAIT-2 lasts without an application (`tcp_fin_timeout`).
    pub fin_timeout: Duration,
    /// How long TIME-WAIT lasts (`TCP_TIMEWAIT_LEN`).
    pub time_wait: Duration,
    /// Initial congestion window in segments (`TCP_INIT_CWND`).
    pub initial_window: u32,
    /// Advertised window in bytes.
    pub receive_window: u32,
}

impl Default for TcpSettings {
    fn default() -> Self {
        Self {
            rto_initial: Duration::from_secs(1),
            rto_min: Duration::from_millis(200),
            rto_max: Duration::from_secs(120),
            syn: SynSchedule::default(),
            synack_retries: 5,
            retries2: 15,
            orphan_retries: 8,
            fin_timeout: Duration::from_secs(60),
            time_wait: Duration::from_secs(60),
            initial_window: 10,
            receive_window: 65_535,
        }
    }
}

impl TcpSettings {
    /// Returns how long to wait for a SYN-ACK after `sent` retransmissions, or `None` to give up now.
    pub fn syn_timeout(&self, sent: u32) -> Option<Duration> {
        let last = self.syn.retries + self.syn.linear;
        let doublings = sent.saturating_sub(self.syn.linear);
        (sent <= last).then(|| self.doubled(self.rto_initial, doublings))
    }

    /// Returns how long to wait for the handshake's last ACK after `sent` retransmissions of the SYN-ACK.
    pub fn synack_timeout(&self, sent: u32) -> Option<Duration> {
        (sent <= self.synack_retries).then(|| self.doubled(self.rto_initial, sent))
    }

    /// Returns how long data may stay unacknowledged before the connection ends (`tcp_model_timeout` of
    /// `net/ipv4/tcp_timer.c`): 924.6 s for 15 retries.
    pub fn give_up(&self, retries: u32) -> Duration {
        let sum = |n: u32| (0..=n).map(|k| self.doubled(self.rto_min, k)).sum();
        sum(retries)
    }

    /// Returns `timeout` doubled `times` times, at most the maximum.
    fn doubled(&self, timeout: Duration, times: u32) -> Duration {
        let factor = 1_u32.checked_shl(times).unwrap_or(u32::MAX);
        timeout.saturating_mul(factor).min(self.rto_max)
    }
}

/// States of a connection, named as in RFC 9293 §3.3.2.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "named as in RFC 9293")]
pub enum TcpState {
    Closed,
    Listen,
    SynSent,
    SynReceived,
    Established,
    FinWait1,
    FinWait2,
    CloseWait,
    Closing,
    LastAck,
    TimeWait,
}

impl fmt::Display for TcpState {
    /// As `ss` prints it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Closed => "UNCONN",
            Self::Listen => "LISTEN",
            Self::SynSent => "SYN-SENT",
            Self::SynReceived => "SYN-RECV",
            Self::Established => "ESTAB",
            Self::FinWait1 => "FIN-WAIT-1",
            Self::FinWait2 => "FIN-WAIT-2",
            Self::CloseWait => "CLOSE-WAIT",
            Self::Closing => "CLOSING",
            Self::LastAck => "LAST-ACK",
            Self::TimeWait => "TIME-WAIT",
        })
    }
}

#[cfg(test)]
mod tests;
