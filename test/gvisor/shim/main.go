// Command shim is gVisor's containerd-shim-runsc-v1.
package main

import "gvisor.dev/gvisor/shim/v1/cli"

func main() { cli.Main() }
