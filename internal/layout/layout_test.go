// Package layout holds no code: its test is the architecture's import table.
// What a package may import is data here, and an import that is not listed
// fails; see ARCHITECTURE.md for the drawing.
package layout

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"path"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/strake-containers/strake/"

// allowed lists, for each of our packages (or each below a folder, with /...),
// which of our other packages its code may import. The first pattern that fits
// counts. Tests are free: they may look behind the walls.
var allowed = []struct {
	pkg     string
	imports []string
}{
	{"internal/...", []string{"internal/..."}},

	{"oci/spec", []string{"internal/abi", "internal/leanjson"}},
	{"oci/seccomp", []string{"internal/abi"}},
	{"oci/plan", []string{"oci/spec", "oci/seccomp", "internal/abi"}},
	{"oci/host", []string{"oci/plan", "internal/..."}},
	{"oci/cgroup", []string{"internal/..."}},
	{"oci/resctrl", []string{"internal/..."}},
	{"oci/launch", []string{"oci/plan", "internal/..."}}, // and plan never imports launch
	{"oci/criu", []string{"internal/..."}},
	{"oci/early", []string{"internal/filelimit", "oci/launch"}}, // and what of it needs no Go runtime, as of Go itself
	{"oci/container", []string{"oci/...", "internal/..."}},
	{"oci/features", []string{"oci/...", "internal/..."}},

	{"shim/api/...", nil},
	{"shim/reap", []string{"oci/cgroup", "internal/..."}},
	{"shim/wire", []string{"internal/pb"}},
	{"shim/stdio", []string{"shim/wire", "internal/..."}},
	{"shim/client", []string{"shim/api/...", "shim/wire", "internal/..."}},
	{"shim/foreign", []string{"shim/wire", "internal/..."}},
	{"shim/program", []string{"oci/container", "oci/cgroup", "internal/..."}},
	{"shim/task", []string{"shim/...", "oci/container", "oci/cgroup", "oci/host", "oci/seccomp", "internal/..."}},

	{"image/registry", []string{"image/...", "internal/..."}},
	{"image", []string{"image/...", "internal/..."}},
	{"image/rootfs", []string{"image/layer", "internal/..."}},
	{"image/...", []string{"internal/..."}},

	{"network", []string{"internal/..."}},
	{"network/netns", []string{"internal/..."}},
	{"network/...", []string{"network", "network/netns", "internal/..."}},

	{"pod/store", []string{"internal/..."}},
	{"pod/bundle", []string{"internal/abi"}},
	{"pod/hooks", []string{"internal/..."}},
	{"pod/nri", []string{"internal/..."}},
	// The Task API is the wall: pod never imports oci.
	{"pod", []string{"pod/...", "image", "image/rootfs", "network", "network/netns", "shim/client", "internal/..."}},

	{"config", []string{"internal/..."}},
	{"server/api/...", nil},
	{"server/stream", []string{"internal/..."}},
	{"server/metrics", []string{"internal/..."}},
	{"server/tracing", []string{"internal/..."}},
	{"server/...", []string{"server/...", "pod", "pod/bundle", "image", "internal/..."}},
	{"cli/...", []string{"cli/...", "server/api/...", "internal/..."}},

	{"cmd/strake", []string{"cli/...", "server/api/...", "internal/..."}},
	{"cmd/strake-runtime", []string{"oci/...", "internal/..."}},
	{"cmd/containerd-shim-strake-v2", []string{"shim/task", "shim/wire", "oci/features", "oci/host", "internal/..."}},
	// The one place where concrete types are put together.
	{"cmd/straked", []string{"config", "server/...", "pod/...", "image/...", "network/...", "shim/client", "internal/..."}},

	{"test/bench/runtime", []string{"oci/seccomp"}},
	{"test/...", []string{"test/...", "cli/...", "server/...", "config", "network/...", "internal/..."}},
	{"examples/...", nil},
}

// pure packages decide and compute; what they would need from these is an
// argument. Tests of theirs read their golden files, and may.
var pure = []string{"oci/spec", "oci/plan", "oci/seccomp", "pod/bundle", "internal/abi", "internal/annotation", "internal/leanjson", "internal/pb"}

// net/netip only computes.
var impure = []string{"os", "os/...", "net", "net/http/...", "time", "syscall", "golang.org/x/sys/..."}

// only says who alone may import a package of somebody else's, and why.
var only = []struct {
	imported string
	by       []string
	why      string
}{
	{"golang.org/x/sys/unix", []string{"internal/sys", "oci/launch"}, "system calls are wrapped once"},
	{"unsafe", []string{"internal/sys", "oci/launch", "oci/early", "shim/api", "server/api/..."}, "raw memory stays where the kernel is spoken to; and in generated code"},
	{"github.com/vishvananda/netlink", []string{"network/..."}, "links and routes are the network's"},
	{"github.com/google/nftables", []string{"network/..."}, "firewall tables are the network's"},
	{"github.com/cilium/ebpf/...", []string{"oci/cgroup"}, "the device filter is the only BPF program"},
	{"github.com/spf13/cobra", []string{"cmd/strake", "cmd/straked", "cli/..."}, "the small programs parse their own flags"},
	{"go.opentelemetry.io/otel/sdk/...", []string{"server/tracing"}, "spans are begun by internal/span, and exported in one place"},
	{"k8s.io/cri-api/...", []string{"server/...", "cli/...", "cmd/strake", "cmd/straked", "test/..."}, "CRI is a front; pod has types of its own"},
}

// lean programs must not link these: their start-up time and memory are
// multiplied by the number of containers.
var lean = []struct {
	program string
	without []string
}{
	{"cmd/strake-runtime", []string{
		"google.golang.org/...", "k8s.io/...", "github.com/containerd/...", "github.com/godbus/...", "go.opentelemetry.io/...",
		"net", "net/http", "os/signal", "os/user", "log", "log/slog", "flag", "regexp", "text/template", "html/template", "encoding/xml",
	}},
	// Not even protobuf and ttrpc: shim/wire says why.
	{"cmd/containerd-shim-strake-v2", []string{"google.golang.org/...", "net/http", "regexp", "text/template", "html/template", "k8s.io/...", "github.com/containerd/...", "go.opentelemetry.io/..."}},
}

type goPackage struct {
	ImportPath string
	Imports    []string
	Deps       []string
}

func TestImports(t *testing.T) {
	for _, p := range list(t) {
		from := strings.TrimPrefix(p.ImportPath, module)
		for _, full := range p.Imports {
			to, ours := strings.CutPrefix(full, module)
			if ours && !mayImport(t, from, to) {
				t.Errorf("%s imports %s: not in the import table", from, to)
			}
			if !ours && slices.Contains(pure, from) && matchAny(impure, full) {
				t.Errorf("%s is pure and imports %s: take what it needs as an argument", from, full)
			}
			for _, o := range only {
				if match(o.imported, full) && !matchAny(o.by, from) {
					t.Errorf("%s imports %s: only %v may; %s", from, full, o.by, o.why)
				}
			}
		}
		for _, l := range lean {
			if from != l.program {
				continue
			}
			for _, dep := range p.Deps {
				if matchAny(l.without, dep) {
					t.Errorf("%s links %s", from, dep)
				}
			}
		}
	}
}

func mayImport(t *testing.T, from, to string) bool {
	t.Helper()
	for _, a := range allowed {
		if match(a.pkg, from) {
			return matchAny(a.imports, to)
		}
	}
	t.Errorf("%s is not in the import table", from)
	return true
}

func matchAny(patterns []string, pkg string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool { return match(p, pkg) })
}

// match reports whether pkg is the pattern, or at or below a folder for DIR/... .
func match(pattern, pkg string) bool {
	dir, below := strings.CutSuffix(pattern, "/...")
	return pkg == dir || below && strings.HasPrefix(pkg, dir+"/")
}

func list(t *testing.T) []goPackage {
	t.Helper()
	cmd := exec.Command("go", "list", "-json=ImportPath,Imports,Deps", "./...")
	cmd.Dir = path.Join("..", "..")
	out, err := cmd.Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			t.Fatalf("go list: %s", exit.Stderr)
		}
		t.Fatal(err)
	}
	var pkgs []goPackage
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p goPackage
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return pkgs
		} else if err != nil {
			t.Fatal(err)
		}
		pkgs = append(pkgs, p)
	}
}
