package main

import (
	"encoding/json"
	"io"
	"os"
	"slices"
	"testing"

	"github.com/containerd/containerd/api/types"
	"github.com/opencontainers/runtime-spec/specs-go/features"
	"google.golang.org/protobuf/proto"
)

// What containerd reads of -info: with it, it tells the kubelet that pods can have
// user namespaces and recursive read-only mounts.
func TestInfo(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout := os.Stdout
	os.Stdout = w
	err = printInfo() // less than a pipe holds
	os.Stdout = stdout
	_ = w.Close()
	if err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	var info types.RuntimeInfo
	if err := proto.Unmarshal(data, &info); err != nil {
		t.Fatal(err)
	}
	if info.Name != "io.containerd.strake.v2" || info.Features.GetTypeUrl() != featuresType {
		t.Errorf("%v", &info)
	}
	var f features.Features
	if err := json.Unmarshal(info.Features.GetValue(), &f); err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(f.MountOptions, "rro") || !slices.Contains(f.Linux.Namespaces, "user") || !*f.Linux.MountExtensions.IDMap.Enabled {
		t.Errorf("%+v", f)
	}
}
