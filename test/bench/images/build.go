package main

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/strake-containers/strake/test/registry"
)

// layerPackages are the Debian packages in each layer of the image above the
// first: programs, libraries, sources and headers, so that it has large files
// and many small ones, as images do.
var layerPackages = [][]string{
	{"libllvm14"}, {"gcc-12", "cpp-12"}, {"golang-1.19-go"}, {"golang-1.19-src"},
	{"perl-modules-5.36", "libperl5.36", "libpython3.11-stdlib"}, {"git", "libicu72"}, {"vim-runtime"}, {"linux-headers"},
}

// compressions are what each image is packed with, and its tags.
var compressions = []registry.Compression{registry.Gzip, registry.Zstd}

// headers is the package with the headers of the kernel that this Debian has.
func headers(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "apt-cache", "depends", "linux-headers-amd64").Output()
	if err != nil {
		return "", fmt.Errorf("apt-cache: %w", err)
	}
	for line := range strings.Lines(string(out)) {
		if name, ok := strings.CutPrefix(strings.TrimSpace(line), "Depends: "); ok {
			return strings.TrimSuffix(name, "-amd64") + "-common", nil
		}
	}
	return "", errors.New("apt-cache: linux-headers-amd64 depends on nothing")
}

// download fetches a package to dir, unless it is there, and returns its file.
func download(ctx context.Context, dir, name string) (string, error) {
	find := func() (string, error) {
		found, err := filepath.Glob(filepath.Join(dir, name+"_*.deb"))
		if err != nil || len(found) == 0 {
			return "", errors.Join(err, fmt.Errorf("package %s: not downloaded", name))
		}
		return found[0], nil
	}
	if file, err := find(); err == nil {
		return file, nil
	}
	cmd := exec.CommandContext(ctx, "apt-get", "-qq", "-o", "APT::Sandbox::User=root", "download", name)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("package %s: %w: %s", name, err, out)
	}
	return find()
}

// layerTar is one tar of the files of packages.
func layerTar(ctx context.Context, dir string, packages []string) ([]byte, error) {
	var all bytes.Buffer
	w := tar.NewWriter(&all)
	for _, name := range packages {
		if name == "linux-headers" {
			var err error
			if name, err = headers(ctx); err != nil {
				return nil, err
			}
		}
		file, err := download(ctx, dir, name)
		if err != nil {
			return nil, err
		}
		plain, err := exec.CommandContext(ctx, "dpkg-deb", "--fsys-tarfile", file).Output()
		if err != nil {
			return nil, fmt.Errorf("dpkg-deb %s: %w", file, err)
		}
		if err := appendTar(w, plain); err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
	}
	err := w.Close() // before the bytes are taken: it writes the end
	return all.Bytes(), err
}

func appendTar(w *tar.Writer, plain []byte) error {
	r := tar.NewReader(bytes.NewReader(plain))
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := w.WriteHeader(h); err != nil {
			return err
		}
		if _, err := io.Copy(w, r); err != nil {
			return err
		}
	}
}

// serve makes the images and serves them on address; packages are kept in dir.
// bench/big has a layer for each line of layerPackages, bench/more is the same with
// one small layer more, bench/one has all files in one layer; their tags are the
// compressions.
func serve(ctx context.Context, dir, address string) (*registry.Server, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	base, err := registry.Busybox()
	if err != nil {
		return nil, err
	}
	layers := base.Layers
	var all bytes.Buffer
	one := tar.NewWriter(&all)
	for _, packages := range layerPackages {
		plain, err := layerTar(ctx, dir, packages)
		if err == nil {
			err = appendTar(one, plain)
		}
		if err != nil {
			return nil, err
		}
		layers = append(layers, registry.Layer{Tar: plain})
	}
	var own bytes.Buffer
	w := tar.NewWriter(&own)
	if err := w.WriteHeader(&tar.Header{Name: "own", Mode: 0o644}); err != nil {
		return nil, err
	}
	if err := errors.Join(w.Close(), one.Close()); err != nil {
		return nil, err
	}
	r := registry.New()
	for name, layers := range map[string][]registry.Layer{
		"bench/big":  layers,
		"bench/more": append(slices.Clone(layers), registry.Layer{Tar: own.Bytes()}),
		"bench/one":  {{Tar: all.Bytes()}},
	} {
		for _, c := range compressions {
			for i := range layers {
				layers[i].Compression = c
			}
			if _, err := r.Add(name, string(c), registry.Image{Config: base.Config, Layers: layers}); err != nil {
				return nil, err
			}
		}
	}
	return r.Start(address)
}
