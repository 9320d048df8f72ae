package image

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"syscall"
	"testing"

	"github.com/strake-containers/strake/image/registry"
	"github.com/strake-containers/strake/internal/testutil"
)

// TestDockerRegistry pushes to Debian's docker-registry, which is not ours, and
// pulls from there: by tag, by digest, mounted from another repository, and with
// skopeo.
func TestDockerRegistry(t *testing.T) {
	testutil.RequireRoot(t, "layers have owners")
	testutil.CheckLeaks(t)
	for _, program := range []string{"docker-registry", "skopeo"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("needs %s", program)
		}
	}
	addr := startDockerRegistry(t)
	from := startRegistry(t)
	top := add(t, from, "a", "1", tarOf(t, "d/", "d/f=1"), tarOf(t, "g=2"), tarOf(t, "h=3"))
	s := openStore(t, t.TempDir(), Options{KeepLayerBlobs: true, Registry: registry.Config{UserAgent: "strake-test"}})
	img := pullImage(t, s, from.Addr+"/a:1")
	for _, to := range []string{"/x/y:1", "/x/y:2", "/other:1"} {
		d, err := s.Push(t.Context(), img.ID, PushOptions{To: addr + to})
		if err != nil || d != top.Digest {
			t.Fatalf("push to %s: %s, want %s: %v", to, d, top.Digest, err)
		}
	}
	for _, ref := range []string{"/x/y:1", "/other@" + top.Digest.String()} {
		other := openStore(t, t.TempDir(), Options{})
		if got := pullImage(t, other, addr+ref); got.ID != img.ID || got.Manifest != top.Digest {
			t.Errorf("%s: %+v", ref, got)
		}
		if err := other.Verify(t.Context(), "", func(f Finding) {
			if f.Problem != nil {
				t.Error(f.Problem)
			}
		}); err != nil {
			t.Error(err)
		}
	}
	// What skopeo brings there, we pull; what we push, it reads.
	archive := filepath.Join(t.TempDir(), "a.tar")
	if err := os.WriteFile(archive, save(t, s, DockerArchive, from.Addr+"/a:1"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"copy", "--dest-tls-verify=false", "docker-archive:" + archive, "docker://" + addr + "/skopeo:1"},
		{"copy", "--src-tls-verify=false", "docker://" + addr + "/x/y:2", "oci-archive:" + archive + ".oci"},
	} {
		if out, err := exec.Command("skopeo", append([]string{"--insecure-policy"}, args...)...).CombinedOutput(); err != nil {
			t.Fatalf("skopeo %v: %v: %s", args, err, out)
		}
	}
	if got := pullImage(t, openStore(t, t.TempDir(), Options{}), addr+"/skopeo:1"); got.ID != img.ID {
		t.Errorf("from skopeo: %+v", got)
	}
	data, err := os.ReadFile(archive + ".oci")
	if err != nil {
		t.Fatal(err)
	}
	if images, err := s.Load(t.Context(), bytes.NewReader(data), ""); err != nil || len(images) != 1 || images[0].ID != img.ID { // it packs the plain layer
		t.Errorf("through skopeo: %+v, %v", images, err)
	}
	if _, err := s.Pull(t.Context(), addr+"/nosuch:1", PullOptions{}); !errors.Is(err, ErrNotFound) {
		t.Error(err)
	}
}

// startDockerRegistry runs one until the test ends.
func startDockerRegistry(t *testing.T) (addr string) {
	t.Helper()
	dir := t.TempDir()
	config := filepath.Join(dir, "config.yml")
	if err := os.WriteFile(config, fmt.Appendf(nil, "version: 0.1\nlog: {level: info}\nstorage: {filesystem: {rootdirectory: %s/data}}\nhttp: {addr: \"127.0.0.1:0\"}\n", dir), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("docker-registry", "serve", config)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := make(chan string)
	go func() {
		defer close(lines)
		said := regexp.MustCompile(`listening on ([0-9.]+:[0-9]+)`)
		for in := bufio.NewScanner(out); in.Scan(); {
			if m := said.FindStringSubmatch(in.Text()); m != nil {
				lines <- m[1]
			}
		}
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have exited
		for range lines {      // nobody listens any more
		}
		_ = cmd.Wait() // by the signal
	})
	addr, ok := <-lines
	if !ok {
		t.Fatal("docker-registry does not start")
	}
	if _, _, err := net.SplitHostPort(addr); err != nil {
		t.Fatal(err)
	}
	return addr
}
