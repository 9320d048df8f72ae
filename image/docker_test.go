package image

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/strake-containers/strake/internal/testutil"
)

// TestDocker has Debian's Docker load what is saved here, and loads what it saves: the image
// is the same, and so is its archive afterwards.
func TestDocker(t *testing.T) {
	testutil.RequireRoot(t, "starts dockerd")
	testutil.CheckLeaks(t)
	docker := startDocker(t)
	reg := startRegistry(t)
	base := tarOf(t, "d/", "d/f="+strings.Repeat("f", 5000))
	add(t, reg, "a", "1", base, tarOf(t, "d/implied=1"), tarOf(t, "d/.wh.f", "g=2"))
	ref := reg.Addr + "/a:1"
	for _, keep := range []bool{false, true} {
		s := openStore(t, t.TempDir(), Options{KeepLayerBlobs: keep})
		img := pullImage(t, s, ref)
		archive := save(t, s, DockerArchive, ref)
		docker(archive, "load")
		if id := docker(nil, "image", "inspect", "--format", "{{.Id}} {{len .RootFS.Layers}}", ref); string(id) != img.ID+" 3\n" {
			t.Errorf("Docker has loaded %s, not %s with 3 layers", id, img.ID)
		}
		other := openStore(t, t.TempDir(), Options{KeepLayerBlobs: keep})
		images, err := other.Load(t.Context(), bytes.NewReader(docker(nil, "save", ref)), "")
		if err != nil || len(images) != 1 || images[0].ID != img.ID || strings.Join(images[0].RepoTags, " ") != ref {
			t.Fatalf("of what Docker saved: %+v, %v", images, err)
		}
		if again := save(t, other, DockerArchive, ref); !bytes.Equal(again, archive) {
			t.Errorf("another archive after it was Docker's: %s, %s", digest.FromBytes(again), digest.FromBytes(archive))
		}
		// What a container of it would be, as a tar, goes there and back as well.
		imported, err := other.Import(t.Context(), bytes.NewReader(base), "local/imported:1", "", img.Config)
		if err != nil {
			t.Fatal(err)
		}
		docker(save(t, other, DockerArchive, imported.ID), "load")
		if id := docker(nil, "image", "inspect", "--format", "{{.Id}}", imported.ID); string(id) != imported.ID+"\n" {
			t.Errorf("Docker has loaded %s, not %s", id, imported.ID)
		}
		docker(nil, "rmi", ref, imported.ID)
	}
}

// startDocker starts a dockerd with directories and a network namespace of its own, and
// returns its command line, with standard input.
func startDocker(t *testing.T) func(stdin []byte, args ...string) []byte {
	t.Helper()
	const program = "/usr/bin/docker" // Debian's
	if _, err := exec.LookPath("dockerd"); err != nil {
		t.Skip("needs dockerd (package docker.io)")
	}
	if _, err := os.Stat(program); err != nil {
		t.Skip("needs Debian's docker (package docker.io)")
	}
	dir := t.TempDir()
	socket := "unix://" + filepath.Join(dir, "docker.sock")
	var log bytes.Buffer
	daemon := exec.Command("dockerd", "--data-root", filepath.Join(dir, "data"), "--exec-root", filepath.Join(dir, "exec"),
		"-H", socket, "--pidfile", filepath.Join(dir, "pid"), "--iptables=false", "--ip6tables=false", "--bridge", "none", "--storage-driver", "vfs")
	daemon.Stdout, daemon.Stderr = &log, &log
	daemon.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS}
	if err := daemon.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = daemon.Process.Signal(syscall.SIGTERM) // if it has not ended by itself, which is told below
		if err := daemon.Wait(); err != nil || t.Failed() {
			t.Errorf("dockerd: %v\n%s", err, log.String())
		}
	})
	docker := func(stdin []byte, args ...string) ([]byte, error) {
		cmd := exec.Command(program, append([]string{"-H", socket}, args...)...)
		cmd.Stdin, cmd.Stderr = bytes.NewReader(stdin), &log
		return cmd.Output()
	}
	for deadline := time.Now().Add(time.Minute); ; <-time.After(100 * time.Millisecond) {
		if _, err := docker(nil, "version"); err == nil {
			break
		} else if time.Now().After(deadline) {
			t.Fatalf("dockerd does not answer: %v", err)
		}
	}
	return func(stdin []byte, args ...string) []byte {
		t.Helper()
		out, err := docker(stdin, args...)
		if err != nil {
			t.Fatalf("docker %v: %v", args, err)
		}
		return out
	}
}
