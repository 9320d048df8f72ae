package main

import (
	"encoding/json"
	"os"

	"github.com/strake-containers/strake/internal/pb"
	"github.com/strake-containers/strake/internal/version"
	"github.com/strake-containers/strake/oci/features"
	"github.com/strake-containers/strake/oci/host"
	"github.com/strake-containers/strake/shim/wire"
)

// runtimeInfo is containerd.types.RuntimeInfo, of which containerd asks each shim that
// is configured: by the features it tells the kubelet what pods can have.
type runtimeInfo struct {
	Name     string          `pb:"1"`
	Version  *runtimeVersion `pb:"2"`
	Features *wire.Any       `pb:"4"`
}

type runtimeVersion struct {
	Version string `pb:"1"`
}

// featuresType is how containerd names the JSON of the runtime specification's
// features.Features (github.com/containerd/typeurl).
const featuresType = "types.containerd.io/opencontainers/runtime-spec/1/features/Features"

// printInfo writes it to the standard output. The options that containerd sends are
// for shims that call another program.
func printInfo() error {
	h, err := host.Facts()
	if err != nil {
		return err
	}
	value, err := json.Marshal(features.Of(h))
	if err != nil {
		return err
	}
	data, err := pb.Marshal(&runtimeInfo{
		Name: "io.containerd.strake.v2", Version: &runtimeVersion{version.Version},
		Features: &wire.Any{TypeURL: featuresType, Value: value},
	})
	if err == nil {
		_, err = os.Stdout.Write(data)
	}
	return err
}
