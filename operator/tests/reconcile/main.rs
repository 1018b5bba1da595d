//! The operator as a process, on a real kube-apiserver and etcd. There is no kubelet: what one would
//! do for a pod, `pod` does, with the real data plane.
//!
//! All tests share one control plane; each has a namespace, and an operator of its own in namespaced
//! mode, with the rights that the chart gives it. So the audit log tells who wrote what.

mod admission;
mod bed;
mod children;
mod crash;
mod environments;
mod expose;
mod exposure;
mod fallback;
mod faults;
mod foreign;
mod gate;
mod gateway;
mod hostile;
mod leadership;
mod neighbours;
mod operator;
mod pod;
mod policies;
mod preview;
mod rbac;
mod rest;
mod restored;
mod schema;
mod sidecar;
mod storms;
mod unread;
mod wrong;
