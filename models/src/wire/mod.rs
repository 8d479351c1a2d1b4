//! Floor 1: what travels, and what can be said about it.
//!
//! Reading order: [`packet`] (frames and headers), [`message`] (what applications say, [`http`] among it), [`mod@tuple`] (the name of a
//! flow), [`size`] (bytes and MTU), [`place`] (where something happens), [`code`] (how it can end), [`step`] (one
//! decision).

pub mod packet;
pub mod message;
pub mod http;
pub mod tuple;
pub mod size;
pub mod place;
pub mod code;
pub mod step;

pub use code::{Code, CodePage};
pub use http::{HttpAnswer, HttpPages};
pub use message::{Dns, DnsRecord, DnsResponse, Message, RecordData, RecordType, ResponseCode};
pub use packet::{
    Arp, ArpOp, Body, Data, FlowKey, Fragment, Frame, Icmp, IcmpError, Packet, PacketId, Payload,
    Quoted, QuotedTransport, Sctp, SctpChunk, Tcp, TcpFlags, Transport, Udp, Vxlan,
};
pub use place::{DevIndex, NetnsId, Place, Stage};
pub use step::{Action, Counted, Decider, DeciderKind, Head, Manip, NoRecorder, Recorder, Step};
pub use tuple::{FiveTuple, L4};
