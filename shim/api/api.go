// Package api is the wire form of strake.monitor.v1, the service that straked's
// monitor has beside containerd's. monitor.proto is its source; nothing here is
// written by hand.
package api

//go:generate sh -c "cd ../.. && protoc --plugin=$(go tool -n protoc-gen-go) --plugin=$(go tool -n protoc-gen-go-ttrpc) --go_out=. --go_opt=module=github.com/strake-containers/strake --go-ttrpc_out=. --go-ttrpc_opt=module=github.com/strake-containers/strake shim/api/monitor.proto"
