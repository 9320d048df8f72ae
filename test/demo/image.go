package main

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/strake-containers/strake/test/registry"
)

// busybox is where Debian's busybox-static puts its one program.
const busybox = "/bin/busybox"

// applets are the names under which the image has busybox.
var applets = []string{"sh", "cat", "echo", "hostname", "id", "ls", "ps", "sleep", "uname", "wget"}

// serveImage makes an image of three layers, busybox and the two examples, which
// it compiles into dir, and serves it from a registry on loopback. The layers are
// compressed in the ways that are found in the wild, and the last one deletes a
// file of the first. It returns the image's name.
func serveImage(ctx context.Context, dir string) (string, error) {
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags=-s -w", "-o", dir+"/", "./examples/...")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build ./examples/...: %w\n%s", err, out)
	}
	base := []entry{
		{name: "bin/", mode: 0o755}, {name: "etc/", mode: 0o755}, {name: "tmp/", mode: 0o1777},
		{name: "bin/busybox", mode: 0o755, file: busybox},
		{name: "etc/passwd", mode: 0o644, text: "root:x:0:0:root:/:/bin/sh\nweb:x:1000:1000::/:/bin/sh\n"},
		{name: "etc/group", mode: 0o644, text: "root:x:0:\nweb:x:1000:\n"},
		{name: "etc/motd", mode: 0o644, text: "a later layer deletes this\n"},
	}
	for _, a := range applets {
		base = append(base, entry{name: "bin/" + a, link: "busybox"})
	}
	image := registry.Image{Config: v1.ImageConfig{
		Env:          []string{"PATH=/app:/bin"},
		Entrypoint:   []string{"/app/web"},
		User:         "web",
		ExposedPorts: map[string]struct{}{"8080/tcp": {}},
	}}
	for _, l := range []struct {
		compression registry.Compression
		entries     []entry
	}{
		{registry.Gzip, base},
		{registry.Gzip, []entry{{name: "app/", mode: 0o755}, {name: "app/web", mode: 0o755, file: filepath.Join(dir, "web")}}},
		{registry.Zstd, []entry{{name: "app/client", mode: 0o755, file: filepath.Join(dir, "client")}, {name: "etc/.wh.motd"}}},
	} {
		content, err := archive(l.entries)
		if err != nil {
			return "", err
		}
		image.Layers = append(image.Layers, registry.Layer{Tar: content, Compression: l.compression})
	}
	r := registry.New()
	if _, err := r.Add("examples/web", "1", image); err != nil {
		return "", err
	}
	server, err := r.Start("127.0.0.1:0") // it ends with the program
	if err != nil {
		return "", err
	}
	return server.Addr + "/examples/web:1", nil
}

// entry is a file of a layer: a directory if the name ends in a slash, a link if
// it has one, else a file with the content of another or with text.
type entry struct {
	name       string
	mode       int64
	file, text string
	link       string
}

func archive(entries []entry) ([]byte, error) {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, e := range entries {
		content := []byte(e.text)
		if e.file != "" {
			var err error
			if content, err = os.ReadFile(e.file); err != nil {
				return nil, err
			}
		}
		h := &tar.Header{Name: e.name, Mode: e.mode, Size: int64(len(content)), Linkname: e.link, Typeflag: tar.TypeReg}
		switch {
		case e.link != "":
			h.Typeflag = tar.TypeSymlink
		case e.name[len(e.name)-1] == '/':
			h.Typeflag = tar.TypeDir
		}
		if err := w.WriteHeader(h); err != nil {
			return nil, err
		}
		if _, err := w.Write(content); err != nil {
			return nil, err
		}
	}
	return buf.Bytes(), w.Close()
}
