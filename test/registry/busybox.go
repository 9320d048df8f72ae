package registry

import (
	"archive/tar"
	"bytes"
	"fmt"
	"os"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// busyboxPath is where Debian's busybox-static has its program.
const busyboxPath = "/bin/busybox"

// applets are the commands that the image has; each is a link to busybox.
var applets = []string{
	"cat", "date", "dd", "df", "echo", "env", "false", "grep", "head", "hostname", "httpd", "id", "ip", "kill", "ln",
	"ls", "mkdir", "mount", "nc", "ping", "printf", "ps", "pwd", "rm", "sed", "sh", "sleep", "sort", "stat", "stty",
	"tail", "test", "touch", "tr", "true", "tty", "umount", "uname", "wc", "wget", "yes",
}

// Busybox is a small image made of Debian's busybox-static: commands, users
// root and nobody, a /tmp for all. It runs sleep if nobody says otherwise.
func Busybox() (Image, error) {
	program, err := os.ReadFile(busyboxPath)
	if err != nil {
		return Image{}, fmt.Errorf("the busybox image: %w; install Debian's busybox-static", err)
	}
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	add := func(h tar.Header, content []byte) {
		h.Size = int64(len(content))
		if err == nil {
			err = w.WriteHeader(&h)
		}
		if err == nil {
			_, err = w.Write(content)
		}
	}
	for _, dir := range []string{"bin", "dev", "etc", "proc", "root", "sys", "var"} {
		add(tar.Header{Typeflag: tar.TypeDir, Name: dir + "/", Mode: 0o755}, nil)
	}
	add(tar.Header{Typeflag: tar.TypeDir, Name: "tmp/", Mode: 0o1777}, nil)
	add(tar.Header{Name: "etc/passwd", Mode: 0o644}, []byte("root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n"))
	add(tar.Header{Name: "etc/group", Mode: 0o644}, []byte("root:x:0:\nnogroup:x:65534:\n"))
	add(tar.Header{Name: "bin/busybox", Mode: 0o755}, program)
	for _, name := range applets {
		add(tar.Header{Typeflag: tar.TypeLink, Name: "bin/" + name, Linkname: "bin/busybox", Mode: 0o755}, nil)
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		return Image{}, fmt.Errorf("the busybox image: %w", err)
	}
	return Image{
		Layers: []Layer{{Tar: b.Bytes()}},
		Config: v1.ImageConfig{
			Env: []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
			Cmd: []string{"sleep", "1000000"},
		},
	}, nil
}

// ServeBusybox serves the busybox image as reference, on a free port of loopback.
// The caller closes the server.
func ServeBusybox() (s *Server, reference string, err error) {
	image, err := Busybox()
	if err != nil {
		return nil, "", err
	}
	r := New()
	if _, err := r.Add("test/busybox", "1", image); err != nil {
		return nil, "", err
	}
	if s, err = r.Start("127.0.0.1:0"); err != nil {
		return nil, "", err
	}
	return s, s.Addr + "/test/busybox:1", nil
}
