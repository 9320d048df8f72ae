// Package gvisor pins the gVisor that `make test-handlers` builds and runs
// untrusted pods in: runsc and containerd-shim-runsc-v1. It is a module of its own,
// so that nothing of gVisor is among Strake's dependencies.
package gvisor
