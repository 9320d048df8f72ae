package rootfs

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/strake-containers/strake/image/layer"
	"github.com/strake-containers/strake/internal/sys"
	"github.com/strake-containers/strake/internal/testutil"
)

// inUserNS makes the test binary run the contract of overlay-userxattr in a user
// namespace, below the directory that it names.
const inUserNS = "STRAKE_TEST_ROOTFS_USERNS"

// place is a directory where a driver is tried.
type place struct {
	name   string
	driver string
	dir    func(t testing.TB) string
}

var places = []place{
	{"overlay", Overlay, testing.TB.TempDir},
	{"overlay-userxattr", OverlayUserXattr, testing.TB.TempDir},
	{"btrfs", Btrfs, testutil.Btrfs},
	{"copy", Copy, testing.TB.TempDir},
	{"copy on btrfs", Copy, testutil.Btrfs},
	{"overlay on btrfs", Overlay, testutil.Btrfs},
}

// entry of a layer: a kind, a name, and content or target.
type entry struct {
	kind    byte
	name    string
	content string
	mode    int64
	uid     int
	xattr   string // of user.test, or NAME=VALUE
}

var old = time.Date(2001, 2, 3, 4, 5, 6, 0, time.UTC)

func tarOf(t *testing.T, entries []entry) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, e := range entries {
		h := tar.Header{Typeflag: e.kind, Name: e.name, Mode: e.mode, Uid: e.uid, Gid: e.uid, ModTime: old}
		switch e.kind {
		case tar.TypeReg:
			h.Size = int64(len(e.content))
		case tar.TypeSymlink, tar.TypeLink:
			h.Linkname = e.content
		}
		if h.Mode == 0 {
			h.Mode = 0o755
		}
		if e.xattr != "" {
			attr, value, named := strings.Cut(e.xattr, "=")
			if !named {
				attr, value = "user.test", e.xattr
			}
			h.PAXRecords = map[string]string{"SCHILY.xattr." + attr: value}
			h.Format = tar.FormatPAX
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if e.kind == tar.TypeReg {
			if _, err := io.WriteString(w, e.content); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// image unpacks layers, lowest first, as the store does, and flattens them if the
// driver wants that. It returns the lower directories, topmost first.
func image(t *testing.T, d Driver, dir string, layers ...[]entry) []string {
	t.Helper()
	var lowers []string
	for i, entries := range layers {
		data, to := tarOf(t, entries), filepath.Join(dir, "layer"+strconv.Itoa(i))
		if err := os.Mkdir(to, 0o755); err != nil {
			t.Fatal(err)
		}
		r, err := layer.Unpack(t.Context(), to, layer.Source{
			Open:   func(context.Context) (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil },
			Digest: digest.FromBytes(data), DiffID: digest.FromBytes(data), Size: int64(len(data)), Form: d.Form(),
		}, layer.Limits{})
		if err == nil {
			err = layer.Inherit(to, r.Implied, lowers, d.Form())
		}
		if err != nil {
			t.Fatal(err)
		}
		lowers = append([]string{to}, lowers...)
	}
	if !d.Flat() {
		return lowers
	}
	root := filepath.Join(dir, "flat")
	if err := d.MakeDir(root); err != nil {
		t.Fatal(err)
	}
	if _, err := layer.Flatten(root, lowers, d.Form()); err != nil {
		t.Fatal(err)
	}
	return []string{root}
}

// container prepares a root and mounts it; the directory is what to remove.
func container(t *testing.T, d Driver, dir, name string, lowers []string) (mounted, own string) {
	t.Helper()
	own, mounted = filepath.Join(dir, name), filepath.Join(dir, "mnt-"+name)
	if err := errors.Join(os.Mkdir(own, 0o755), os.Mkdir(mounted, 0o755)); err != nil {
		t.Fatal(err)
	}
	m, err := d.Prepare(lowers, own)
	if err != nil {
		t.Fatal(err)
	}
	attach(t, m, mounted)
	return mounted, own
}

func attach(t *testing.T, m Mount, at string) {
	t.Helper()
	mount, err := m.Open()
	if err != nil {
		t.Fatal(err)
	}
	if err := sys.MountOn(mount, at); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := sys.Unmount(at); err != nil {
			t.Error(err)
		}
	})
}

// show lists a tree: type and mode, owner, name, content or target, attribute.
func show(t *testing.T, root string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		st := info.Sys().(*syscall.Stat_t)
		rel, _ := filepath.Rel(root, path)
		fmt.Fprintf(&b, "%v %d %s", info.Mode(), st.Uid, rel)
		switch {
		case info.Mode().IsRegular():
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			fmt.Fprintf(&b, " =%q links %d", data, st.Nlink)
			value := make([]byte, 100)
			if n, err := syscall.Getxattr(path, "user.test", value); err == nil {
				fmt.Fprintf(&b, " user.test=%q", value[:n])
			}
		case info.Mode()&fs.ModeSymlink != 0:
			to, err := os.Readlink(path)
			if err != nil {
				return err
			}
			fmt.Fprintf(&b, " -> %s", to)
		}
		if !info.ModTime().Equal(old) && rel != "." {
			fmt.Fprintf(&b, " of %v", info.ModTime())
		}
		b.WriteByte('\n')
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

var stack = [][]entry{
	{
		{tar.TypeDir, "etc/", "", 0o755, 0, ""}, {tar.TypeReg, "etc/os", "one", 0o640, 7, "a"},
		{tar.TypeDir, "tmp/", "", 0o1777, 0, ""},
		{tar.TypeReg, "gone", "x", 0, 0, ""}, {tar.TypeReg, "file-then-dir", "x", 0, 0, ""},
		{tar.TypeDir, "dir-then-file/", "", 0, 0, ""}, {tar.TypeReg, "dir-then-file/x", "x", 0, 0, ""},
		{tar.TypeDir, "opaque/", "", 0, 0, ""}, {tar.TypeReg, "opaque/lower", "x", 0, 0, ""},
		{tar.TypeDir, "again/", "", 0, 0, ""}, {tar.TypeReg, "again/lower", "x", 0, 0, ""},
		{tar.TypeReg, "suid", "s", 0o4755, 3, ""}, {tar.TypeLink, "suid-too", "suid", 0, 0, ""},
		{tar.TypeSymlink, "link", "/etc/os", 0, 5, ""}, {tar.TypeFifo, "fifo", "", 0o600, 0, ""},
		{tar.TypeReg, "new\nline", "n", 0, 0, ""},
	},
	{
		{tar.TypeReg, ".wh.gone", "", 0, 0, ""}, {tar.TypeReg, "tmp/implied", "i", 0, 0, ""},
		{tar.TypeReg, ".wh.file-then-dir", "", 0, 0, ""}, {tar.TypeDir, "file-then-dir/", "", 0, 0, ""},
		{tar.TypeReg, ".wh.dir-then-file", "", 0, 0, ""}, {tar.TypeReg, "dir-then-file", "f", 0, 0, ""},
		{tar.TypeDir, "opaque/", "", 0o711, 0, ""}, {tar.TypeReg, "opaque/.wh..wh..opq", "", 0, 0, ""}, {tar.TypeReg, "opaque/upper", "u", 0, 0, ""},
		{tar.TypeReg, ".wh.again", "", 0, 0, ""},
	},
	{
		{tar.TypeDir, "again/", "", 0o700, 0, ""}, {tar.TypeReg, "again/top", "t", 0, 0, ""},
		{tar.TypeDir, "etc/", "", 0o750, 2, ""}, {tar.TypeReg, "etc/os", "three", 0, 0, "b"},
	},
}

const merged = `drwxr-xr-x 0 .
drwx------ 0 again
-rwxr-xr-x 0 again/top ="t" links 1
-rwxr-xr-x 0 dir-then-file ="f" links 1
drwxr-x--- 2 etc
-rwxr-xr-x 0 etc/os ="three" links 1 user.test="b"
prw------- 0 fifo
drwxr-xr-x 0 file-then-dir
Lrwxrwxrwx 5 link -> /etc/os
-rwxr-xr-x 0 new
line ="n" links 1
drwx--x--x 0 opaque
-rwxr-xr-x 0 opaque/upper ="u" links 1
urwxr-xr-x 3 suid ="s" links 2
urwxr-xr-x 3 suid-too ="s" links 2
dtrwxrwxrwx 0 tmp
-rwxr-xr-x 0 tmp/implied ="i" links 1
`

// TestContract is what every driver promises.
func TestContract(t *testing.T) {
	testutil.RequireRoot(t, "mounts")
	for _, p := range places {
		t.Run(p.name, func(t *testing.T) {
			testutil.CheckLeaks(t)
			contract(t, p.driver, p.dir(t))
		})
	}
	t.Run("overlay-userxattr in a user namespace", func(t *testing.T) {
		dir := t.TempDir()
		const first, count = 100_000, 65_536
		if err := os.Chown(dir, first, first); err != nil {
			t.Fatal(err)
		}
		for d := dir; d != "/" && d != os.TempDir(); d = filepath.Dir(d) { // its parents are searched by somebody else
			if err := os.Chmod(d, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		cmd := exec.Command("/proc/self/exe", "-test.run=^TestInUserNS$", "-test.v")
		cmd.Env = append(os.Environ(), inUserNS+"="+dir, "TMPDIR="+dir)
		ids := []syscall.SysProcIDMap{{ContainerID: 0, HostID: first, Size: count}}
		cmd.SysProcAttr = &syscall.SysProcAttr{
			Cloneflags: syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS, UidMappings: ids, GidMappings: ids,
			GidMappingsEnableSetgroups: true, Credential: &syscall.Credential{},
		}
		if out, err := cmd.CombinedOutput(); err != nil || !bytes.Contains(out, []byte("--- PASS: TestInUserNS")) {
			t.Errorf("%v\n%s", err, out)
		}
	})
}

// TestInUserNS is the contract where nobody is the host's root.
func TestInUserNS(t *testing.T) {
	dir := os.Getenv(inUserNS)
	if dir == "" {
		t.Skip("TestContract starts it")
	}
	auto, err := Open(Auto, dir)
	if err != nil || auto.Name() != OverlayUserXattr {
		t.Errorf("auto is %v, %v", auto, err)
	}
	if _, err := Open(Overlay, dir); err == nil {
		t.Error("overlay with trusted.* works")
	}
	for _, driver := range []string{OverlayUserXattr, Copy} {
		if err := os.Mkdir(filepath.Join(dir, driver), 0o755); err != nil {
			t.Fatal(err)
		}
		contract(t, driver, filepath.Join(dir, driver))
	}
}

func contract(t *testing.T, driver, dir string) {
	d, err := Open(driver, dir)
	if err != nil {
		t.Fatal(err)
	}
	if d.Name() != driver {
		t.Errorf("%s says it is %s", driver, d.Name())
	}
	if rest, err := filepath.Glob(dir + "/.strake-*"); err != nil || len(rest) > 0 {
		t.Errorf("the probe left %q, %v", rest, err)
	}
	lowers := image(t, d, dir, stack...)
	before := show(t, lowers[0])

	// A container sees what the layers say.
	a, own := container(t, d, dir, "a", lowers)
	if got := show(t, a); got != merged {
		t.Errorf("a container sees\n%s\nwant\n%s", got, merged)
	}
	// It writes, deletes and replaces; the image and others see nothing of it.
	for _, err := range []error{
		os.WriteFile(a+"/etc/os", []byte("written"), 0o644), os.Remove(a + "/suid"), os.RemoveAll(a + "/opaque"),
		os.Mkdir(a+"/opaque", 0o755), os.Rename(a+"/tmp/implied", a+"/etc/moved"), os.WriteFile(a+"/own", nil, 0o600),
	} {
		if err != nil {
			t.Error(err)
		}
	}
	b, _ := container(t, d, dir, "b", lowers)
	if got := show(t, b); got != merged {
		t.Errorf("another container sees\n%s", got)
	}
	if got := show(t, lowers[0]); got != before {
		t.Errorf("the image has become\n%s", got)
	}
	// What it wrote is found without a mount.
	seen := map[string]string{}
	err = layer.Walk(Dirs(lowers, own), d.Form(), func(e layer.Entry) error {
		seen[e.Path] = ""
		if e.Stat.IsRegular() {
			f, err := sys.OpenFileAt(e.Dir, e.Name)
			if err != nil {
				return err
			}
			defer f.Close()
			data, err := io.ReadAll(f)
			seen[e.Path] = string(data)
			return err
		}
		return nil
	})
	var have []string
	if e := filepath.WalkDir(a, func(path string, _ fs.DirEntry, err error) error {
		rel, _ := filepath.Rel(a, path)
		have = append(have, strings.TrimPrefix(rel, "."))
		return err
	}); e != nil {
		t.Fatal(e)
	}
	if err != nil || len(seen) != len(have) || seen["etc/os"] != "written" || seen["etc/moved"] != "i" {
		t.Errorf("walked %q, %v; the container has %q", seen, err, have)
	}
	for _, name := range have {
		if _, ok := seen[name]; !ok {
			t.Errorf("%s is not walked", name)
		}
	}
	// What it changed, and its tar, which makes the same tree.
	shared := len(lowers)
	if d.Flat() {
		shared = 0
	}
	mine := layer.Tree{Dirs: Dirs(lowers, own), Form: d.Form()}
	changes, err := mine.Diff(t.Context(), layer.Tree{Dirs: lowers, Form: d.Form()}, shared)
	var list []string
	for _, c := range changes {
		list = append(list, string(c.Kind)+" "+c.Path)
	}
	if want := []string{"C /etc", "A /etc/moved", "C /etc/os", "C /opaque", "D /opaque/upper", "A /own", "D /suid", "C /tmp", "D /tmp/implied"}; err != nil || !slices.Equal(list, want) {
		t.Errorf("changed %q, %v; want %q", list, err, want)
	}
	var exported bytes.Buffer
	if err := mine.Export(t.Context(), &exported); err != nil {
		t.Error(err)
	}
	again := filepath.Join(dir, "again")
	if err := os.Mkdir(again, 0o755); err != nil {
		t.Fatal(err)
	}
	blob := digest.FromBytes(exported.Bytes())
	if _, err := layer.Unpack(t.Context(), again, layer.Source{
		Open:   func(context.Context) (io.ReadCloser, error) { return io.NopCloser(&exported), nil },
		Digest: blob, DiffID: blob, Size: int64(exported.Len()), Form: d.Form(),
	}, layer.Limits{}); err != nil {
		t.Error(err)
	}
	one := strings.NewReplacer("links 2", "links 1") // an overlay counts the name that was removed
	if got, want := one.Replace(show(t, again)), one.Replace(show(t, a)); got != want {
		t.Errorf("exported and unpacked:\n%s\nwant\n%s", got, want)
	}
	// A view is read-only.
	view := filepath.Join(dir, "view")
	attach(t, View(lowers, d.Form()), view)
	if got := show(t, view); got != merged {
		t.Errorf("a view shows\n%s", got)
	}
	if err := os.WriteFile(view+"/x", nil, 0o600); !errors.Is(err, syscall.EROFS) {
		t.Errorf("written to a view: %v", err)
	}
	// Prepare fails where something is in the way, and all goes by removing.
	if _, err := d.Prepare(lowers, own); !errors.Is(err, fs.ErrExist) {
		t.Errorf("prepared twice: %v", err)
	}
	for _, name := range []string{"a", "b"} {
		if err := sys.Unmount(filepath.Join(dir, "mnt-"+name)); err != nil {
			t.Fatal(err)
		}
		if err := os.RemoveAll(filepath.Join(dir, name)); err != nil {
			t.Error(err)
		}
	}
	if err := sys.Unmount(view); err != nil {
		t.Fatal(err)
	}
	// An image without layers has an empty root.
	empty := filepath.Join(dir, "empty")
	if err := os.Mkdir(empty, 0o755); err != nil {
		t.Fatal(err)
	}
	none := image(t, d, empty, nil)
	c, _ := container(t, d, dir, "c", none)
	if list, err := os.ReadDir(c); err != nil || len(list) != 0 {
		t.Errorf("an image without layers: %v, %v", list, err)
	}
	if err := os.WriteFile(c+"/x", nil, 0o600); err != nil {
		t.Error(err)
	}
	longChain(t, d, filepath.Join(dir, "long"))
}

// longChain has more layers than a page of mount options holds, or 128.
func longChain(t *testing.T, d Driver, dir string) {
	t.Helper()
	dir = filepath.Join(dir, strings.Repeat("n", 60), "with:colon")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	const layers = 140
	var list [][]entry
	for i := range layers {
		n := strconv.Itoa(i)
		list = append(list, []entry{{tar.TypeReg, "f" + n, n, 0, 0, ""}, {tar.TypeReg, "top", n, 0, 0, ""}})
	}
	root, _ := container(t, d, dir, "l", image(t, d, dir, list...))
	files, err := os.ReadDir(root)
	if err != nil || len(files) != layers+1 {
		t.Errorf("%d files of %d layers, %v", len(files), layers, err)
	}
	if top, err := os.ReadFile(root + "/top"); string(top) != strconv.Itoa(layers-1) {
		t.Errorf("top is of layer %s, %v", top, err)
	}
}

func TestOpen(t *testing.T) {
	if _, err := Open("zfs", t.TempDir()); err == nil || !strings.Contains(err.Error(), `"overlay"`) {
		t.Error(err)
	}
	if _, err := Open(Btrfs, "/proc"); err == nil || !strings.Contains(err.Error(), "/proc") {
		t.Error(err)
	}
	testutil.RequireRoot(t, "mounts")
	d, err := Open(Auto, t.TempDir())
	if err != nil || d.Name() != Overlay {
		t.Errorf("%v, %v", d, err)
	}
	if !slices.Contains(Names, d.Name()) {
		t.Error(d.Name())
	}
	// What it was given comes apart again.
	lowers := []string{"/a:b", `/c\d`, "/e"}
	list := strings.TrimPrefix(lowerOptions(lowers, layer.Trusted)[0], "lowerdir=")
	if got := splitLowers(list); !slices.Equal(got, lowers) {
		t.Errorf("%s is %q", list, got)
	}
}

// BenchmarkPrepare: the root of a container of an image of 60 layers. Its CPU time
// is measured apart: a busy machine stretches the rest.
func BenchmarkPrepare(b *testing.B) {
	testutil.RequireRoot(b, "mounts")
	dir := b.TempDir()
	var lowers []string
	for i := range 60 {
		l := filepath.Join(dir, "layer"+strconv.Itoa(i))
		if err := os.Mkdir(l, 0o755); err != nil {
			b.Fatal(err)
		}
		lowers = append(lowers, l)
	}
	d := Default()
	runtime.LockOSThread()
	n, used := 0, time.Duration(0)
	for b.Loop() {
		n++
		own := filepath.Join(dir, "c"+strconv.Itoa(n))
		if err := os.Mkdir(own, 0o755); err != nil {
			b.Fatal(err)
		}
		before := threadCPU(b)
		m, err := d.Prepare(lowers, own)
		if err != nil {
			b.Fatal(err)
		}
		mount, err := m.Open()
		if err != nil {
			b.Fatal(err)
		}
		used += threadCPU(b) - before
		if err := mount.Close(); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(used.Microseconds())/1000/float64(n), "cpu-ms/op")
}

func threadCPU(b *testing.B) time.Duration {
	b.Helper()
	const thread = 1 // RUSAGE_THREAD
	var u syscall.Rusage
	if err := syscall.Getrusage(thread, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
