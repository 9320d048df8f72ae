// Package version holds what the linker says of this build.
package version

// Version is `git describe` of the tree the program was built from; the
// Makefile sets it. "dev" is a build by plain go build.
var Version = "dev"
