//! VXLAN encapsulation.
