// Strake is the command line of the stack; package cli is all of it.
package main

import (
	"context"
	"os"

	"github.com/strake-containers/strake/cli"
)

func main() {
	os.Exit(cli.Main(context.Background(), os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}
