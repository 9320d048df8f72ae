package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

type rec struct {
	Name string `json:"name"`
	Fill string `json:"fill,omitempty"`
}

type testStore = Store[rec, rec]

func open(t *testing.T, root string) *testStore {
	t.Helper()
	s, err := Open[rec, rec](root)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func id(c string) string { return strings.Repeat(c, idLength) }

func load1(t *testing.T, s *testStore) Pod[rec, rec] {
	t.Helper()
	pods, _, err := s.Load()
	if err != nil || len(pods) != 1 {
		t.Fatalf("%d pods, %v", len(pods), err)
	}
	return pods[0]
}

func TestRoundTrip(t *testing.T) {
	root := t.TempDir()
	s := open(t, root)
	if err := s.AddPod(id("a")); err != nil {
		t.Fatal(err)
	}
	// Before its record is written, a pod is one that was never finished.
	if p := load1(t, s); !errors.Is(p.Err, fs.ErrNotExist) || p.Record != nil {
		t.Errorf("without a record: %+v", p)
	}
	for _, durable := range []bool{false, true} {
		if err := s.SavePod(id("a"), &rec{Name: fmt.Sprint(durable)}, durable); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.AddContainer(id("a"), id("c")); err != nil {
		t.Fatal(err)
	}
	if err := s.AddContainer(id("a"), id("c")); !errors.Is(err, fs.ErrExist) {
		t.Errorf("a container twice: %v", err)
	}
	if err := s.SaveContainer(id("a"), id("c"), &rec{Name: "con"}, true); err != nil {
		t.Fatal(err)
	}
	p := load1(t, open(t, root))
	if p.Err != nil || p.Record.Name != "true" || len(p.Containers) != 1 || p.Containers[0].Record.Name != "con" {
		t.Errorf("%+v", p)
	}
	for range 2 {
		if err := s.RemoveContainer(id("a"), id("c")); err != nil {
			t.Fatal(err)
		}
	}
	if p := load1(t, s); len(p.Containers) != 0 {
		t.Errorf("%+v", p)
	}
	for range 2 {
		if err := s.RemovePod(id("a")); err != nil {
			t.Fatal(err)
		}
	}
	if entries, err := os.ReadDir(filepath.Join(root, "pods")); err != nil || len(entries) != 0 {
		t.Errorf("left: %v, %v", entries, err)
	}
}

// What a start would not read back is refused while the caller can still hear it.
func TestTooLarge(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pod.json")
	record := struct{ Text string }{strings.Repeat("<", maxRecord/4)} // six bytes each in JSON
	if err := save(path, &record, false); err == nil || !strings.Contains(err.Error(), "limit") {
		t.Errorf("save: %v", err)
	}
}

func TestUnreadable(t *testing.T) {
	root := t.TempDir()
	s := open(t, root)
	for name, content := range map[string]string{
		id("1"): "", id("2"): "{", id("3"): `{"version":0,"record":{}}`, id("4"): `{"version":1}`, id("5"): `{"version":1,"record":7}`,
	} {
		if err := s.AddPod(name); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(s.PodDir(name), podFile), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	// What is no pod at all goes aside at once; a removal that broke off is finished.
	for _, name := range []string{"lost+found", removing + id("9")} {
		if err := os.MkdirAll(filepath.Join(root, "pods", name, "x"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	pods, _, err := s.Load()
	if err != nil || len(pods) != 5 {
		t.Fatalf("%d pods, %v", len(pods), err)
	}
	for _, p := range pods {
		if p.Err == nil || errors.Is(p.Err, fs.ErrNotExist) || p.Record != nil {
			t.Errorf("%s: %+v", p.ID, p)
		}
		to, err := s.SetPodAside(p.ID)
		if err != nil || !strings.HasPrefix(to, filepath.Join(root, "unreadable")) {
			t.Errorf("set aside to %q, %v", to, err)
		}
	}
	if pods, _, err := s.Load(); err != nil || len(pods) != 0 {
		t.Errorf("%d pods, %v", len(pods), err)
	}
	if entries, _ := os.ReadDir(filepath.Join(root, "unreadable")); len(entries) != 6 {
		t.Errorf("set aside: %v", entries)
	}
	if _, err := os.Stat(filepath.Join(root, "pods", removing+id("9"))); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("removal was not finished: %v", err)
	}
}

func TestNewerVersionStopsLoad(t *testing.T) {
	s := open(t, t.TempDir())
	if err := s.AddPod(id("a")); err != nil {
		t.Fatal(err)
	}
	for _, record := range []string{"{}", `["may be anything"]`} {
		if err := os.WriteFile(filepath.Join(s.PodDir(id("a")), podFile), []byte(`{"version":2,"record":`+record+`}`), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, _, err := s.Load(); !errors.Is(err, ErrNewer) {
			t.Errorf("%s: %v", record, err)
		}
	}
}

// A writer that is killed leaves the old record or the new one, never less.
func TestKilledWriter(t *testing.T) {
	if root := os.Getenv("STRAKE_STORE_WRITER"); root != "" {
		writeForEver(t, root) // before it has a directory of its own, which nobody would remove
	}
	root := t.TempDir()
	s := open(t, root)
	if err := s.AddPod(id("a")); err != nil {
		t.Fatal(err)
	}
	if err := s.SavePod(id("a"), &rec{Name: "first"}, false); err != nil {
		t.Fatal(err)
	}
	for range 20 {
		writer := exec.Command(os.Args[0], "-test.run=^TestKilledWriter$")
		writer.Env = append(os.Environ(), "STRAKE_STORE_WRITER="+root)
		out, err := writer.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := writer.Start(); err != nil {
			t.Fatal(err)
		}
		_, _ = out.Read(make([]byte, 1)) // it writes
		time.Sleep(time.Millisecond)
		_ = writer.Process.Kill()
		_ = writer.Wait() // killed
		p := load1(t, open(t, root))
		if p.Err != nil || p.Record.Name != "first" && len(p.Record.Fill) < 10000 {
			t.Fatalf("after a kill: %v, %+v", p.Err, p.Record)
		}
		entries, err := os.ReadDir(s.PodDir(id("a")))
		if err != nil || len(entries) != 2 {
			t.Fatalf("left behind: %v, %v", entries, err)
		}
	}
}

func writeForEver(t *testing.T, root string) {
	s := open(t, root)
	fmt.Print("x")
	for i := 0; ; i++ {
		if err := s.SavePod(id("a"), &rec{Name: "n", Fill: strings.Repeat("x", 10000+i%100000)}, i%2 == 0); err != nil {
			t.Fatal(err)
		}
	}
}
