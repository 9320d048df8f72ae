// Package strakev1 is the wire form of strake.v1, the small service that
// straked has beside CRI. strake.proto is its source; nothing else here is
// written by hand.
package strakev1

//go:generate sh -c "cd ../../../.. && protoc --plugin=$(go tool -n protoc-gen-go) --plugin=$(go tool -n protoc-gen-go-grpc) --go_out=. --go_opt=module=github.com/strake-containers/strake --go-grpc_out=. --go-grpc_opt=module=github.com/strake-containers/strake server/api/strake/v1/strake.proto"
