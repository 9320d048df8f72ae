package task

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/strake-containers/strake/internal/pb"
	"github.com/strake-containers/strake/oci/cgroup"
	"github.com/strake-containers/strake/shim/foreign"
	"github.com/strake-containers/strake/shim/program"
	"github.com/strake-containers/strake/shim/wire"
)

// handlerFile, in a pod's bundle, says who makes its containers, if not this
// program: it is there before anything that they would have to remove.
const handlerFile = "handler.json"

// handler is strake.monitor.v1.Handler: who makes a pod's containers. Its zero
// value is this process.
type handler struct {
	Program       string   `pb:"1" json:"program,omitempty"`
	ProgramArgs   []string `pb:"2" json:"programArgs,omitempty"`
	ProgramRoot   string   `pb:"3" json:"programRoot,omitempty"`
	Shim          string   `pb:"4" json:"shim,omitempty"`
	OptionsURL    string   `pb:"5" json:"optionsURL,omitempty"`
	Options       []byte   `pb:"6" json:"options,omitempty"`
	ShimSandboxes bool     `pb:"7" json:"shimSandboxes,omitempty"`
	Events        string   `pb:"8" json:"events,omitempty"`

	Endpoint foreign.Endpoint `json:"endpoint,omitzero"` // of Shim, once it is started
}

const handlerURL = "strake.monitor.v1.Handler"

// decodeHandler reads the options of CreateSandbox. Those of somebody else than
// straked mean nothing here: containerd sends the runtime's.
func decodeHandler(a *wire.Any) (handler, error) {
	var h handler
	if a == nil || a.TypeURL[strings.LastIndexByte(a.TypeURL, '/')+1:] != handlerURL {
		return h, nil
	}
	if err := pb.Unmarshal(a.Value, &h); err != nil {
		return h, err
	}
	if h.Program != "" && h.Shim != "" {
		return h, errors.New("a handler is a program or a shim, not both")
	}
	return h, nil
}

// native: this process makes the containers.
func (h *handler) native() bool { return h.Program == "" && h.Shim == "" }

// any is the options that the shim gets.
func (h *handler) any() *wire.Any {
	if h.OptionsURL == "" {
		return nil
	}
	return &wire.Any{TypeURL: h.OptionsURL, Value: h.Options}
}

func (h *handler) save(bundle string) error {
	if h.native() {
		return nil
	}
	return writeRecord(filepath.Join(bundle, handlerFile), h)
}

// loadHandler reads a pod's; without a record it is this program.
func loadHandler(bundle string) (handler, error) {
	var h handler
	if err := readRecord(filepath.Join(bundle, handlerFile), &h); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return h, err
	}
	return h, nil
}

// runtime is the OCI runtime's program, for containers with that cgroupsPath.
func (h *handler) runtime(cgroupsPath string, start func(*exec.Cmd) (func(), error)) *program.Runtime {
	return &program.Runtime{
		Path: h.Program, Args: h.ProgramArgs, Root: h.ProgramRoot, SystemdCgroup: cgroup.IsScope(cgroupsPath), Start: start,
	}
}

// shim is the foreign shim's program.
func (h *handler) shim(namespace, publisher string, debug bool, start func(*exec.Cmd) (func(), error)) *foreign.Shim {
	return &foreign.Shim{Path: h.Shim, Namespace: namespace, Events: h.Events, Publisher: publisher, Debug: debug, Start: start}
}

// podHandler is who makes the containers of a pod; nil is no pod.
func podHandler(pod *sandbox) *handler {
	if pod == nil {
		return &handler{}
	}
	return &pod.handler
}

// cgroupsPathOf is where the spec in a bundle has its processes be.
func cgroupsPathOf(bundle string) (string, error) {
	spec, err := readSpec(bundle)
	if err != nil {
		return "", err
	}
	if spec.Linux == nil {
		return "", fmt.Errorf("%s: its config has no linux section", bundle)
	}
	return spec.Linux.CgroupsPath, nil
}

// removeHandled ends and removes what a monitor that is gone has left of a
// container, or of a pod's sandbox, that another handler has made, and says how it
// ended, if the handler knows.
func removeHandled(ctx context.Context, h handler, namespace, id, bundle string) (*deleteResponse, error) {
	start := func(cmd *exec.Cmd) (func(), error) { return func() {}, cmd.Start() }
	if h.Program != "" {
		path, err := cgroupsPathOf(bundle)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		return nil, program.Open(h.runtime(path, start), id, bundle, path).Delete(ctx)
	}
	return removeForeign(ctx, h, h.shim(namespace, "", false, start), id, bundle)
}

// marshalAny encodes an Any for a shim's standard input; nil stays nil.
func marshalAny(a *wire.Any) ([]byte, error) {
	if a == nil {
		return nil, nil
	}
	return pb.Marshal(a)
}

// jsonAny packs JSON as containerd does.
func jsonAny(kind string, v any) (*wire.Any, error) {
	data, err := json.Marshal(v)
	return &wire.Any{TypeURL: "types.containerd.io/opencontainers/runtime-spec/1/" + kind, Value: data}, err
}
