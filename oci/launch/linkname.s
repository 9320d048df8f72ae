// This file is empty: it lets fork.go declare functions without bodies, which
// go:linkname takes from the runtime.
