// Package strakev1 is the wire form of strake.v1, the small service that
// straked has beside CRI. strake.proto is its source; only this file is
// written by hand besides.
package strakev1

//go:generate sh -c "cd ../../../.. && protoc --plugin=$(go tool -n protoc-gen-go) --plugin=$(go tool -n protoc-gen-go-grpc) --go_out=. --go_opt=module=github.com/strake-containers/strake --go-grpc_out=. --go-grpc_opt=module=github.com/strake-containers/strake server/api/strake/v1/strake.proto"

// Annotations of pods and containers that the daemon acts on.
const (
	// AutoRemove, "true" on a pod, has it removed when its containers have all
	// ended: `strake run --rm`.
	AutoRemove = "strake.containers/auto-remove"
	// Owner on a pod is the token of the Hold of who makes it, the client: the pod
	// is removed if that goes away before a container of it has been started.
	Owner = "strake.containers/run"
	// PodNetwork, "none" on a pod, gives it a network of its own with a loopback
	// interface and nothing else.
	PodNetwork = "strake.containers/network"
	// LogDriver on a container names its log driver, and LogOptions has the options
	// for it, as a JSON object of strings. One that names a place for its log has none.
	LogDriver  = "strake.containers/log-driver"
	LogOptions = "strake.containers/log-options"
)
