// Command runsc is gVisor's OCI runtime.
package main

import "gvisor.dev/gvisor/runsc/cli"

func main() { cli.Main() }
