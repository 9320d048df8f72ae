// Command build builds a real kubelet in a directory, from the Go module
// k8s.io/kubernetes: build [-version V] DIR makes DIR/kubelet-V, unless it is
// there. It takes some minutes and two gigabytes of memory.
//
// Kubernetes' module names its staging modules v0.0.0 and replaces them by its
// own folders, which a module that depends on it does not see. So the module
// made here replaces each by its published version, v0.X.Y for v1.X.Y.
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

const kubernetes = "k8s.io/kubernetes"

func main() {
	version := flag.String("version", "v1.36.3", "of Kubernetes")
	flag.Parse()
	if flag.NArg() != 1 {
		fmt.Fprintln(os.Stderr, "usage: build [-version V] DIR")
		os.Exit(2)
	}
	if err := build(*version, flag.Arg(0)); err != nil {
		fmt.Fprintln(os.Stderr, "build kubelet:", err)
		os.Exit(1)
	}
}

func build(version, dir string) error {
	dir, err := filepath.Abs(dir) // go build runs in it
	if err != nil {
		return err
	}
	target := filepath.Join(dir, "kubelet-"+version)
	if _, err := os.Stat(target); err == nil {
		return nil
	}
	staging, ok := strings.CutPrefix(version, "v1.")
	if !ok {
		return fmt.Errorf("version %q: not v1.X.Y", version)
	}
	modules, err := stagingModules(version)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	var mod strings.Builder
	fmt.Fprintf(&mod, "module kubelet\n\ngo 1.26.0\n\nrequire %s %s\n\nreplace (\n", kubernetes, version)
	for _, m := range modules {
		fmt.Fprintf(&mod, "\t%s => %s v0.%s\n", m, m, staging)
	}
	mod.WriteString(")\n")
	if err := errors.Join(
		os.WriteFile(filepath.Join(dir, "go.mod"), []byte(mod.String()), 0o644),
		os.WriteFile(filepath.Join(dir, "tools.go"), []byte("//go:build tools\n\npackage tools\n\nimport _ \""+kubernetes+"/cmd/kubelet\"\n"), 0o644),
	); err != nil {
		return err
	}
	fmt.Fprintf(os.Stderr, "building kubelet %s in %s: this takes some minutes\n", version, dir)
	half := target + ".half"
	cmd := exec.Command("go", "build", "-mod=mod", "-trimpath", "-o", half,
		"-ldflags", "-s -w -X k8s.io/component-base/version.gitVersion="+version, kubernetes+"/cmd/kubelet")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off", "GOFLAGS=")
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("go build: %w", err)
	}
	return os.Rename(half, target)
}

// stagingModules are those that the module replaces by folders of its own.
func stagingModules(version string) ([]string, error) {
	var module struct{ GoMod string }
	if err := goJSON(&module, "mod", "download", "-json", kubernetes+"@"+version); err != nil {
		return nil, err
	}
	var mod struct {
		Replace []struct{ Old, New struct{ Path string } }
	}
	if err := goJSON(&mod, "mod", "edit", "-json", module.GoMod); err != nil {
		return nil, err
	}
	var names []string
	for _, r := range mod.Replace {
		if strings.HasPrefix(r.New.Path, "./staging/") {
			names = append(names, r.Old.Path)
		}
	}
	if len(names) == 0 {
		return nil, fmt.Errorf("%s: no staging module is replaced there", module.GoMod)
	}
	return names, nil
}

func goJSON(into any, args ...string) error {
	cmd := exec.Command("go", args...)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err == nil {
		err = json.Unmarshal(out, into)
	}
	if err != nil {
		return fmt.Errorf("go %s: %w", strings.Join(args, " "), err)
	}
	return nil
}
