package layer

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"

	"github.com/strake-containers/strake/internal/sys"
	"github.com/strake-containers/strake/internal/testutil"
)

// tarOf makes a tar of headers; a regular file's content is its name, unless
// contents has another.
func tarOf(tb testing.TB, contents map[string]string, hdrs ...tar.Header) []byte {
	tb.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, h := range hdrs {
		var body string
		if h.Typeflag == 0 || h.Typeflag == tar.TypeReg {
			h.Typeflag = tar.TypeReg
			var ok bool
			if body, ok = contents[h.Name]; !ok {
				body = h.Name
			}
			h.Size = int64(len(body))
		}
		if h.Mode == 0 {
			h.Mode = 0o644
			if h.Typeflag == tar.TypeDir {
				h.Mode = 0o755
			}
		}
		if h.PAXRecords != nil {
			h.Format = tar.FormatPAX
		}
		if err := w.WriteHeader(&h); err != nil {
			tb.Fatal(err)
		}
		if _, err := io.WriteString(w, body); err != nil {
			tb.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		tb.Fatal(err)
	}
	return buf.Bytes()
}

func gzipped(tb testing.TB, data []byte) []byte {
	tb.Helper()
	var buf bytes.Buffer
	z := gzip.NewWriter(&buf)
	if _, err := z.Write(data); err != nil {
		tb.Fatal(err)
	}
	if err := z.Close(); err != nil {
		tb.Fatal(err)
	}
	return buf.Bytes()
}

func sourceOf(blob, plain []byte) Source {
	return Source{
		Open: func(context.Context) (io.ReadCloser, error) {
			return io.NopCloser(bytes.NewReader(blob)), nil
		},
		Digest: digest.FromBytes(blob), DiffID: digest.FromBytes(plain), Size: int64(len(blob)),
	}
}

// unpack unpacks a plain tar into a directory beside which a canary lies, and
// checks that nothing outside was touched.
func unpack(tb testing.TB, data []byte, limits Limits) (dir string, r Result, err error) {
	tb.Helper()
	outer := tb.TempDir()
	canary := filepath.Join(outer, "canary")
	if err := os.WriteFile(canary, []byte("alive"), 0o644); err != nil {
		tb.Fatal(err)
	}
	dir = filepath.Join(outer, "layer")
	if err := os.Mkdir(dir, 0o755); err != nil {
		tb.Fatal(err)
	}
	r, err = Unpack(tb.Context(), dir, sourceOf(data, data), limits)
	if body, e := os.ReadFile(canary); e != nil || string(body) != "alive" {
		tb.Fatalf("the canary beside the layer: %q, %v", body, e)
	}
	if entries, e := os.ReadDir(outer); e != nil || len(entries) != 2 {
		tb.Fatalf("beside the layer: %v, %v", entries, e)
	}
	return dir, r, err
}

func mustUnpack(tb testing.TB, data []byte) (string, Result) {
	tb.Helper()
	dir, r, err := unpack(tb, data, Limits{})
	if err != nil {
		tb.Fatal(err)
	}
	return dir, r
}

func stat(tb testing.TB, path string) syscall.Stat_t {
	tb.Helper()
	var st syscall.Stat_t
	if err := syscall.Lstat(path, &st); err != nil {
		tb.Fatalf("%s: %v", path, err)
	}
	return st
}

func xattrs(tb testing.TB, dir string) map[string][]byte {
	tb.Helper()
	f, err := os.Open(dir)
	if err != nil {
		tb.Fatal(err)
	}
	defer f.Close()
	attrs, err := sys.XattrsFd(int(f.Fd()))
	if err != nil {
		tb.Fatal(err)
	}
	return attrs
}

func TestUnpackKeepsEverything(t *testing.T) {
	testutil.RequireRoot(t, "owners, devices and capabilities")
	testutil.CheckLeaks(t)
	old := time.Date(2001, 2, 3, 4, 5, 6, 789, time.UTC)
	// A v2 capability set: cap_net_raw, effective.
	capability := "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
	data := tarOf(t, map[string]string{"bin/ping": "elf", "big": strings.Repeat("x", 3*chunkSize+5)},
		tar.Header{Name: "./", Typeflag: tar.TypeDir, Mode: 0o750, Uid: 3, Gid: 4, ModTime: old},
		tar.Header{Name: "bin/", Typeflag: tar.TypeDir, Mode: 0o2775, Gid: 50, ModTime: old},
		tar.Header{Name: "bin/ping", Mode: 0o4711, Uid: 7, Gid: 8, ModTime: old,
			PAXRecords: map[string]string{"SCHILY.xattr.security.capability": capability, "SCHILY.xattr.user.note": "hello"}},
		tar.Header{Name: "bin/plain", Mode: 0o644, ModTime: old},
		tar.Header{Name: "big", Mode: 0o666, ModTime: old},
		tar.Header{Name: "link", Typeflag: tar.TypeSymlink, Linkname: "/etc/../nowhere", Uid: 9, ModTime: old},
		tar.Header{Name: "hard", Typeflag: tar.TypeLink, Linkname: "./bin/ping"},
		tar.Header{Name: "fifo", Typeflag: tar.TypeFifo, Mode: 0o600, ModTime: old},
		tar.Header{Name: "null", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 3, Mode: 0o666, ModTime: old},
		tar.Header{Name: "new\nline", Mode: 0o600},
		tar.Header{Name: "locked/", Typeflag: tar.TypeDir, Mode: 0o500, ModTime: old},
		tar.Header{Name: "locked/in", Mode: 0o400},
	)
	dir, r := mustUnpack(t, data)

	if st := stat(t, dir); st.Mode&permBits != 0o750 || st.Uid != 3 || st.Gid != 4 || st.Mtim.Sec != old.Unix() {
		t.Errorf("root: %+v", st)
	}
	if st := stat(t, dir+"/bin"); st.Mode&permBits != 0o2775 || st.Gid != 50 || st.Mtim.Sec != old.Unix() {
		t.Errorf("bin: mode %o, group %d, mtime %d", st.Mode, st.Gid, st.Mtim.Sec)
	}
	if st := stat(t, dir+"/bin/ping"); st.Mode&permBits != 0o4711 || st.Uid != 7 || st.Gid != 8 || st.Mtim.Nano() != old.UnixNano() || st.Nlink != 2 {
		t.Errorf("bin/ping: %+v", st)
	}
	if a := xattrs(t, dir+"/bin/ping"); string(a["security.capability"]) != capability || string(a["user.note"]) != "hello" {
		t.Errorf("bin/ping: xattrs %q", a)
	}
	if st := stat(t, dir+"/bin/plain"); st.Gid != 0 {
		t.Errorf("bin/plain took the group %d of its setgid directory", st.Gid)
	}
	if st := stat(t, dir+"/big"); st.Mode&permBits != 0o666 || st.Size != 3*chunkSize+5 {
		t.Errorf("big: mode %o, size %d", st.Mode, st.Size)
	}
	if to, _ := os.Readlink(dir + "/link"); to != "/etc/../nowhere" || stat(t, dir+"/link").Uid != 9 || stat(t, dir+"/link").Mtim.Sec != old.Unix() {
		t.Errorf("link: %q %+v", to, stat(t, dir+"/link"))
	}
	if stat(t, dir+"/hard").Ino != stat(t, dir+"/bin/ping").Ino {
		t.Error("hard is another file")
	}
	if st := stat(t, dir+"/null"); st.Mode != syscall.S_IFCHR|0o666 || st.Rdev != 1<<8|3 {
		t.Errorf("null: %+v", st)
	}
	if st := stat(t, dir+"/fifo"); st.Mode != syscall.S_IFIFO|0o600 || st.Mtim.Sec != old.Unix() {
		t.Errorf("fifo: %+v", st)
	}
	if st := stat(t, dir+"/locked"); st.Mode&permBits != 0o500 || st.Mtim.Sec != old.Unix() {
		t.Errorf("locked: %+v", st)
	}
	stat(t, dir+"/new\nline")
	// bin, locked; ping, plain, big, link, fifo, null, newline, in.
	if r.Inodes != 10 || r.Bytes != 2*4096+4*4096+onDisk(3*chunkSize+5)+0 {
		t.Errorf("counted %d inodes, %d bytes", r.Inodes, r.Bytes)
	}
	if len(r.Implied) != 0 || r.OpaqueRoot {
		t.Errorf("%+v", r)
	}
}

func TestUnpackWhiteouts(t *testing.T) {
	testutil.RequireRoot(t, "whiteouts are devices")
	isWhiteout := func(path string) bool {
		st := stat(t, path)
		return st.Mode&syscall.S_IFMT == syscall.S_IFCHR && st.Rdev == 0
	}
	isOpaque := func(path string) bool { return string(xattrs(t, path)[Trusted.opaque()]) == "y" }
	dir, r := mustUnpack(t, tarOf(t, nil,
		tar.Header{Name: "a/", Typeflag: tar.TypeDir},
		tar.Header{Name: "a/.wh.gone"},
		tar.Header{Name: "b/", Typeflag: tar.TypeDir},
		tar.Header{Name: "b/new"},
		tar.Header{Name: "b/.wh..wh..opq"},
		tar.Header{Name: "b/.wh..wh.plnk"},
		// Whiteout and entry of one name: the lower one is hidden, ours stays.
		tar.Header{Name: ".wh.c"}, tar.Header{Name: "c/", Typeflag: tar.TypeDir}, tar.Header{Name: "c/x"},
		tar.Header{Name: "d/", Typeflag: tar.TypeDir}, tar.Header{Name: "d/x"}, tar.Header{Name: ".wh.d"},
		tar.Header{Name: ".wh.e"}, tar.Header{Name: "e/implied"},
		tar.Header{Name: "f"}, tar.Header{Name: ".wh.f"},
		tar.Header{Name: ".wh.g"}, tar.Header{Name: "g"},
	))
	if !isWhiteout(dir + "/a/gone") {
		t.Error("a/gone is no whiteout")
	}
	for _, name := range []string{"b", "c", "d", "e"} {
		if !isOpaque(filepath.Join(dir, name)) {
			t.Errorf("%s is not opaque", name)
		}
	}
	for _, name := range []string{"b/new", "c/x", "d/x", "e/implied", "f", "g"} {
		if st := stat(t, filepath.Join(dir, name)); st.Mode&syscall.S_IFMT != syscall.S_IFREG {
			t.Errorf("%s: %+v", name, st)
		}
	}
	if isOpaque(dir+"/a") || r.OpaqueRoot {
		t.Error("opaque without reason")
	}
	if entries, _ := os.ReadDir(dir + "/b"); len(entries) != 1 {
		t.Errorf("b has %v", entries)
	}

	_, r = mustUnpack(t, tarOf(t, nil, tar.Header{Name: ".wh..wh..opq"}, tar.Header{Name: "x"}))
	if !r.OpaqueRoot {
		t.Error("an opaque root is not reported")
	}
}

func TestUnpackReplaces(t *testing.T) {
	testutil.RequireRoot(t, "owners")
	testutil.CheckLeaks(t)
	dir, r := mustUnpack(t, tarOf(t, map[string]string{"file": "second"},
		tar.Header{Name: "file", Typeflag: tar.TypeSymlink, Linkname: "../canary"}, tar.Header{Name: "file"},
		tar.Header{Name: "tree/", Typeflag: tar.TypeDir}, tar.Header{Name: "tree/sub/", Typeflag: tar.TypeDir},
		tar.Header{Name: "tree/sub/f"}, tar.Header{Name: "tree/implied/f"},
		tar.Header{Name: "tree"},
		tar.Header{Name: "link", Typeflag: tar.TypeSymlink, Linkname: "real"},
		tar.Header{Name: "real/", Typeflag: tar.TypeDir},
		tar.Header{Name: "link/through"},
		tar.Header{Name: "link/", Typeflag: tar.TypeDir}, tar.Header{Name: "link/inside"},
		tar.Header{Name: "self"}, tar.Header{Name: "self", Typeflag: tar.TypeLink, Linkname: "self"},
	))
	for _, name := range []string{"file", "tree", "real/through", "link/inside", "self"} {
		if st := stat(t, filepath.Join(dir, name)); st.Mode&syscall.S_IFMT != syscall.S_IFREG {
			t.Errorf("%s: %+v", name, st)
		}
	}
	if body, _ := os.ReadFile(dir + "/file"); string(body) != "second" {
		t.Errorf("file: %q", body)
	}
	// file, tree, real, real/through, link, link/inside, self.
	if r.Inodes != 7 || len(r.Implied) != 0 || r.Bytes != 7*4096 {
		t.Errorf("%+v", r)
	}
}

// hostile is the corpus of layers that try to get out or to break the unpacker.
// An entry either fails with the class or harms nothing; the canary decides.
var hostile = []struct {
	name  string
	class error // nil: it is harmless inside
	hdrs  []tar.Header
}{
	{"parent", ErrInvalid, []tar.Header{{Name: "../canary"}}},
	{"deep parent", ErrInvalid, []tar.Header{{Name: "a/../../canary"}}},
	{"absolute", nil, []tar.Header{{Name: "/canary"}}},
	{"dots inside", nil, []tar.Header{{Name: "a/../b"}}},
	{"the root as a file", ErrInvalid, []tar.Header{{Name: "."}}},
	{"the root as a link", ErrInvalid, []tar.Header{{Name: "./", Typeflag: tar.TypeSymlink, Linkname: ".."}}},
	{"symlinked parent out", ErrInvalid, []tar.Header{
		{Name: "out", Typeflag: tar.TypeSymlink, Linkname: "../"}, {Name: "out/canary/x"}, {Name: "canary"},
		{Name: "dir", Typeflag: tar.TypeSymlink, Linkname: "missing"}, {Name: "dir/x"}}},
	{"symlinked parent stays in", nil, []tar.Header{
		{Name: "out", Typeflag: tar.TypeSymlink, Linkname: "../../../.."}, {Name: "out/canary"}}},
	{"absolute symlink stays in", nil, []tar.Header{
		{Name: "etc/", Typeflag: tar.TypeDir},
		{Name: "out", Typeflag: tar.TypeSymlink, Linkname: "/etc"}, {Name: "out/strake-hostile"}}},
	{"magic link", ErrInvalid, []tar.Header{
		{Name: "out", Typeflag: tar.TypeSymlink, Linkname: "/proc/self/cwd"}, {Name: "out/x"}}},
	{"loop", syscall.ELOOP, []tar.Header{
		{Name: "a", Typeflag: tar.TypeSymlink, Linkname: "b"}, {Name: "b", Typeflag: tar.TypeSymlink, Linkname: "a"}, {Name: "a/x"}}},
	{"file as parent", ErrInvalid, []tar.Header{{Name: "f"}, {Name: "f/x"}}},
	{"hard link out", ErrInvalid, []tar.Header{{Name: "x", Typeflag: tar.TypeLink, Linkname: "../canary"}}},
	{"hard link through a link", ErrInvalid, []tar.Header{
		{Name: "out", Typeflag: tar.TypeSymlink, Linkname: ".."}, {Name: "x", Typeflag: tar.TypeLink, Linkname: "out/canary"}}},
	{"write through a hard-linked symlink", nil, []tar.Header{
		{Name: "s", Typeflag: tar.TypeSymlink, Linkname: "../canary"}, {Name: "h", Typeflag: tar.TypeLink, Linkname: "s"}, {Name: "h"}}},
	{"hard link to a directory", ErrInvalid, []tar.Header{
		{Name: "d/", Typeflag: tar.TypeDir}, {Name: "x", Typeflag: tar.TypeLink, Linkname: "d"}}},
	{"hard link over its own parent", ErrInvalid, []tar.Header{
		{Name: "d/f"}, {Name: "d", Typeflag: tar.TypeLink, Linkname: "d/f"}}},
	{"hard link to the root", ErrInvalid, []tar.Header{{Name: "x", Typeflag: tar.TypeLink, Linkname: "/"}}},
	{"whiteout of the parent", ErrInvalid, []tar.Header{{Name: "d/.wh..."}}},
	{"whiteout of itself", ErrInvalid, []tar.Header{{Name: "d/.wh.."}}},
	{"whiteout of nothing", ErrInvalid, []tar.Header{{Name: ".wh."}}},
	{"whiteout through a link", nil, []tar.Header{
		{Name: "out", Typeflag: tar.TypeSymlink, Linkname: ".."}, {Name: "out/.wh.canary"}}},
	{"opaque mark through a link", nil, []tar.Header{
		{Name: "out", Typeflag: tar.TypeSymlink, Linkname: ".."}, {Name: "out/.wh..wh..opq"}}},
	{"overlay's own attributes", nil, []tar.Header{{Name: "d/", Typeflag: tar.TypeDir, PAXRecords: map[string]string{
		"SCHILY.xattr.trusted.overlay.redirect": "/etc", "SCHILY.xattr.trusted.overlay.opaque": "y",
		"SCHILY.xattr.user.overlay.redirect": "/etc", "SCHILY.xattr.security.selinux": "x"}}}},
	{"a name too long", syscall.ENAMETOOLONG, []tar.Header{{Name: strings.Repeat("x", 300)}}},
	{"too deep", ErrInvalid, []tar.Header{{Name: strings.Repeat("d/", maxDepth+2) + "x"}}},
	{"too deep by links", ErrInvalid, []tar.Header{
		{Name: strings.Repeat("d/", maxDepth-2), Typeflag: tar.TypeDir},
		{Name: "s", Typeflag: tar.TypeSymlink, Linkname: strings.Repeat("d/", maxDepth-2)}, {Name: "s/a/b/c/d/e"}}},
	{"a device number too large", ErrInvalid, []tar.Header{{Name: "x", Typeflag: tar.TypeChar, Devmajor: 1 << 20}}},
	{"a device as a whiteout", nil, []tar.Header{{Name: "x", Typeflag: tar.TypeChar}}},
	{"names with newlines and dots", nil, []tar.Header{
		{Name: "..\n/x"}, {Name: "\n../x"}, {Name: "a\n/../..\n/y"}, {Name: "esc\x1b[2J"}, {Name: " "}, {Name: "-rf"}, {Name: "\xff\xfe"}}},
	{"a newline hides a way out", ErrInvalid, []tar.Header{{Name: "a\n/../../canary"}}},
	{"overlay's attributes of a file", nil, []tar.Header{{Name: "d/f", PAXRecords: map[string]string{
		"SCHILY.xattr.trusted.overlay.metacopy": "", "SCHILY.xattr.trusted.overlay.redirect": "/../../canary",
		"SCHILY.xattr.user.overlay.whiteout": "y", "SCHILY.xattr.user.overlay.opaque": "y", "SCHILY.xattr.security.ima": "x", "SCHILY.xattr.system.other": "x"}}}},
	{"an attribute that is too large", syscall.E2BIG, []tar.Header{{Name: "x", PAXRecords: map[string]string{"SCHILY.xattr.user.a": strings.Repeat("x", 1<<16+1)}}}},
	{"an attribute with a name too long", syscall.ERANGE, []tar.Header{{Name: "x", PAXRecords: map[string]string{"SCHILY.xattr.user." + strings.Repeat("x", 300): "v"}}}},
	{"no capability set", syscall.EINVAL, []tar.Header{{Name: "x", PAXRecords: map[string]string{"SCHILY.xattr.security.capability": "nonsense"}}}},
	{"a whiteout that is a directory", nil, []tar.Header{{Name: ".wh.d/", Typeflag: tar.TypeDir}, {Name: ".wh.d/x"}}},
	{"a whiteout that is a link", nil, []tar.Header{{Name: "a"}, {Name: ".wh.b", Typeflag: tar.TypeLink, Linkname: "a"}}},
	{"a whiteout below a whiteout", nil, []tar.Header{{Name: ".wh.a"}, {Name: "a/.wh.b"}, {Name: "a/b/.wh.c"}, {Name: "a/b/c/d"}}},
	{"a whiteout of the mark", nil, []tar.Header{{Name: "d/", Typeflag: tar.TypeDir}, {Name: "d/.wh..wh..wh..opq"}, {Name: "d/.wh..wh..opq"}, {Name: "d/.wh..opq"}}},
	{"an opaque mark that is a link", nil, []tar.Header{{Name: "d/", Typeflag: tar.TypeDir},
		{Name: "d/.wh..wh..opq", Typeflag: tar.TypeSymlink, Linkname: "../../canary"}}},
	{"a block device with a huge number", ErrInvalid, []tar.Header{{Name: "x", Typeflag: tar.TypeBlock, Devmajor: 8, Devminor: 1 << 20}}},
	{"a hard link to a device", nil, []tar.Header{{Name: "x", Typeflag: tar.TypeBlock, Devmajor: 8}, {Name: "y", Typeflag: tar.TypeLink, Linkname: "x"}, {Name: "y"}}},
	{"an owner that is nobody", ErrInvalid, []tar.Header{{Name: "x", Uid: 1<<32 - 1, Format: tar.FormatPAX}}},
	{"a FIFO as a parent", ErrInvalid, []tar.Header{{Name: "p", Typeflag: tar.TypeFifo}, {Name: "p/x"}}},
	{"an unknown type", ErrInvalid, []tar.Header{{Name: "x", Typeflag: 'Z'}}},
}

func TestUnpackHostile(t *testing.T) {
	testutil.RequireRoot(t, "devices and owners")
	testutil.CheckLeaks(t)
	for _, h := range hostile {
		t.Run(h.name, func(t *testing.T) {
			dir, _, err := unpack(t, tarOf(t, nil, h.hdrs...), Limits{})
			if !errors.Is(err, h.class) {
				t.Fatalf("error %v, want %v", err, h.class)
			}
			for _, a := range []string{"trusted.overlay.redirect", "user.overlay.redirect", "trusted.overlay.opaque", "security.selinux"} {
				if _, e := os.Stat(dir + "/d"); e == nil && h.name == "overlay's own attributes" && xattrs(t, dir+"/d")[a] != nil {
					t.Errorf("%s was set", a)
				}
			}
			checkAttributes(t, dir)
			if err := os.RemoveAll(dir); err != nil {
				t.Errorf("what it left cannot be removed: %v", err)
			}
		})
	}
}

// checkAttributes: nothing but an opaque mark of ours is overlayfs's, or the host's.
func checkAttributes(t *testing.T, dir string) {
	t.Helper()
	_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() && !d.IsDir() {
			return err
		}
		for attr, value := range xattrs(t, path) {
			user := strings.HasPrefix(attr, "user.") && !own(attr)
			if !user && attr != "security.capability" && (attr != Trusted.opaque() || string(value) != "y" || !d.IsDir()) {
				t.Errorf("%s has %s=%q", path, attr, value)
			}
		}
		return nil
	})
}

// forever is a tar that has one more entry whenever it is read.
type forever struct {
	t    testing.TB
	next int
	buf  bytes.Buffer
}

func (f *forever) Read(b []byte) (int, error) {
	if f.buf.Len() == 0 {
		f.next++
		w := tar.NewWriter(&f.buf)
		if err := w.WriteHeader(&tar.Header{Name: "d/" + strconv.Itoa(f.next), Mode: 0o600}); err != nil {
			f.t.Error(err)
		}
	}
	return f.buf.Read(b)
}

// TestUnpackForever: a billion entries, of which nobody takes more than the limit.
func TestUnpackForever(t *testing.T) {
	testutil.RequireRoot(t, "owners")
	testutil.CheckLeaks(t)
	src := sourceOf(nil, nil)
	src.Size = 1 << 50
	src.Open = func(context.Context) (io.ReadCloser, error) { return io.NopCloser(&forever{t: t}), nil }
	if _, err := Unpack(t.Context(), t.TempDir(), src, Limits{Entries: 3000}); !errors.Is(err, ErrLimit) {
		t.Errorf("error %v", err)
	}
}

func TestUnpackVerifies(t *testing.T) {
	testutil.CheckLeaks(t)
	plain := tarOf(t, nil, tar.Header{Name: "f"})
	blob := gzipped(t, plain)
	good := sourceOf(blob, plain)
	for _, c := range []struct {
		name  string
		class error
		edit  func(*Source)
	}{
		{"good", nil, func(*Source) {}},
		{"blob digest", ErrDigestMismatch, func(s *Source) { s.Digest = digest.FromString("x") }},
		{"diffID", ErrDigestMismatch, func(s *Source) { s.DiffID = digest.FromString("x") }},
		{"size", ErrDigestMismatch, func(s *Source) { s.Size++ }},
		{"no digest", ErrInvalid, func(s *Source) { s.Digest = "" }},
		{"truncated", ErrInvalid, func(s *Source) { *s = sourceOf(blob[:len(blob)-9], plain); s.DiffID = good.DiffID }},
		{"truncated tar", ErrInvalid, func(s *Source) { *s = sourceOf(plain[:512], plain[:512]) }},
		{"zstd:chunked", nil, func(s *Source) { *s = sourceOf(chunked(t, plain), plain) }},
		{"zstd:chunked, truncated", ErrInvalid, func(s *Source) { *s = sourceOf(chunked(t, plain[:512]), plain[:512]) }},
		{"not compressed by any", nil, func(s *Source) { *s = sourceOf(plain, plain) }},
		{"open fails", io.ErrNoProgress, func(s *Source) {
			s.Open = func(context.Context) (io.ReadCloser, error) { return nil, io.ErrNoProgress }
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			src := good
			c.edit(&src)
			if _, err := Unpack(t.Context(), t.TempDir(), src, Limits{}); !errors.Is(err, c.class) {
				t.Errorf("error %v, want %v", err, c.class)
			}
		})
	}
}

// chunked packs a tar as zstd:chunked does: in several frames, with skippable ones around
// them that hold a table of contents (RFC 8878, 3.1.2).
func chunked(tb testing.TB, plain []byte) []byte {
	tb.Helper()
	z, err := zstd.NewWriter(nil)
	if err != nil {
		tb.Fatal(err)
	}
	skipped := []byte("\x50\x2a\x4d\x18\x05\x00\x00\x00table")
	blob := bytes.Clone(skipped)
	for half := range slices.Chunk(plain, len(plain)/2+1) {
		blob = z.EncodeAll(half, blob)
	}
	return append(blob, skipped...)
}

// endless is a source that never ends unless its context does.
type endless struct{ ctx context.Context }

func (e endless) Read([]byte) (int, error) { <-e.ctx.Done(); return 0, e.ctx.Err() }
func (e endless) Close() error             { return nil }

func TestUnpackCancel(t *testing.T) {
	testutil.CheckLeaks(t)
	ctx, cancel := context.WithCancel(t.Context())
	src := sourceOf(nil, nil)
	src.Open = func(ctx context.Context) (io.ReadCloser, error) {
		cancel()
		return endless{ctx}, nil
	}
	if _, err := Unpack(ctx, t.TempDir(), src, Limits{}); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
}

func TestUnpackLimits(t *testing.T) {
	testutil.CheckLeaks(t)
	data := tarOf(t, map[string]string{"a": strings.Repeat("x", 1000)}, tar.Header{Name: "a"}, tar.Header{Name: "b"})
	for _, l := range []Limits{{Bytes: 1000}, {Entries: 1}} {
		if _, _, err := unpack(t, data, l); !errors.Is(err, ErrLimit) {
			t.Errorf("%+v: error %v", l, err)
		}
	}
	if _, _, err := unpack(t, data, Limits{Bytes: 1001, Entries: 2}); err != nil {
		t.Error(err)
	}
	// What cannot be within them is not begun with.
	src := sourceOf(data, data)
	src.Size = 1 << 40
	src.Open = func(context.Context) (io.ReadCloser, error) { t.Error("fetched"); return nil, io.ErrNoProgress }
	if _, err := Unpack(t.Context(), t.TempDir(), src, Limits{}); !errors.Is(err, ErrLimit) {
		t.Errorf("a terabyte: error %v", err)
	}
}

// zeros is a tar of one large file, which compresses a thousandfold.
func TestUnpackBomb(t *testing.T) {
	if testing.Short() {
		t.Skip("unpacks a gigabyte")
	}
	var bomb bytes.Buffer
	z := gzip.NewWriter(&bomb)
	w := tar.NewWriter(z)
	const size = ratioFree + 512<<20
	if err := w.WriteHeader(&tar.Header{Name: ".wh..wh.skipped", Size: size, Typeflag: tar.TypeReg, Mode: 0o644}); err != nil {
		t.Fatal(err)
	}
	block := make([]byte, 1<<20)
	for range size / len(block) {
		if _, err := w.Write(block); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(w.Close(), z.Close()); err != nil {
		t.Fatal(err)
	}
	_, err := Unpack(t.Context(), t.TempDir(), sourceOf(bomb.Bytes(), nil), Limits{})
	if !errors.Is(err, ErrLimit) {
		t.Errorf("error %v", err)
	}
}

// TestUnpackHoles: a sparse file announces content that is nowhere in the tar.
func TestUnpackHoles(t *testing.T) {
	testutil.RequireRoot(t, "files of other owners")
	const size = 8 << 20
	data := tarOf(t, map[string]string{"bomb": ""}, tar.Header{Name: "bomb", Format: tar.FormatGNU})
	old := bytes.Clone(data) // as GNU tar writes one
	old[156] = tar.TypeGNUSparse
	copy(old[386:], fmt.Sprintf("%011o\x00%011o\x00", size, 0)) // its last fragment: nothing, at the end
	copy(old[483:], fmt.Sprintf("%011o\x00", size))
	sum := 8 * int(' ') // what stands for the checksum itself
	for i, b := range old[:512] {
		if i < 148 || i >= 156 {
			sum += int(b)
		}
	}
	copy(old[148:], fmt.Sprintf("%06o\x00 ", sum))

	if _, _, err := unpack(t, old, Limits{Holes: size - 1<<20}); !errors.Is(err, ErrLimit) {
		t.Errorf("more holes than allowed: error %v", err)
	}
	dir, _, err := unpack(t, old, Limits{})
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(dir + "/bomb"); err != nil || info.Size() != size {
		t.Errorf("a sparse file of %d bytes: %v, %v", size, info, err)
	}
}

func TestInherit(t *testing.T) {
	testutil.RequireRoot(t, "owners and whiteouts")
	testutil.CheckLeaks(t)
	base, _ := mustUnpack(t, tarOf(t, nil,
		tar.Header{Name: "tmp/", Typeflag: tar.TypeDir, Mode: 0o1777, PAXRecords: map[string]string{"SCHILY.xattr.user.a": "b"}},
		tar.Header{Name: "home/", Typeflag: tar.TypeDir, Mode: 0o711, Uid: 5, Gid: 6},
		tar.Header{Name: "gone/", Typeflag: tar.TypeDir, Mode: 0o700},
		tar.Header{Name: "opaque/", Typeflag: tar.TypeDir}, tar.Header{Name: "opaque/sub/", Typeflag: tar.TypeDir, Mode: 0o700}))
	middle, _ := mustUnpack(t, tarOf(t, nil, tar.Header{Name: ".wh.gone"},
		tar.Header{Name: "opaque/", Typeflag: tar.TypeDir, Mode: 0o770}, tar.Header{Name: "opaque/.wh..wh..opq"}))
	top, r := mustUnpack(t, tarOf(t, nil, tar.Header{Name: "tmp/f"}, tar.Header{Name: "home/f"},
		tar.Header{Name: "gone/f"}, tar.Header{Name: "opaque/sub/f"}, tar.Header{Name: "nowhere/f"}))
	if want := "gone home nowhere opaque opaque/sub tmp"; strings.Join(r.Implied, " ") != want {
		t.Fatalf("implied %v, want %s", r.Implied, want)
	}
	if err := Inherit(top, r.Implied, []string{middle, base}, Trusted); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]uint32{"tmp": 0o1777, "home": 0o711, "gone": impliedMode, "opaque": 0o770, "opaque/sub": impliedMode, "nowhere": impliedMode} {
		if st := stat(t, filepath.Join(top, name)); st.Mode&permBits != want {
			t.Errorf("%s has mode %o, want %o", name, st.Mode&permBits, want)
		}
	}
	if st := stat(t, top+"/home"); st.Uid != 5 || st.Gid != 6 {
		t.Errorf("home belongs to %d:%d", st.Uid, st.Gid)
	}
	if a := xattrs(t, top+"/tmp"); string(a["user.a"]) != "b" {
		t.Errorf("tmp has %q", a)
	}
}

// FuzzUnpack: whatever a tar holds, nothing outside changes, nothing leaks, and
// what is left can be removed.
func FuzzUnpack(f *testing.F) {
	testutil.RequireRoot(f, "devices and owners")
	for _, h := range hostile {
		f.Add(tarOf(f, nil, h.hdrs...))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		dir, r, err := unpack(t, data, Limits{Bytes: 1 << 20, Entries: 1000})
		if err == nil {
			checkCount(t, dir, r)
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Errorf("what it left cannot be removed: %v", err)
		}
	})
}

// FuzzEntries makes well-formed tars of few names, so that entries meet: each
// byte triple is a type, a name and a link's target.
func FuzzEntries(f *testing.F) {
	testutil.RequireRoot(f, "devices and owners")
	types := []byte{tar.TypeReg, tar.TypeDir, tar.TypeSymlink, tar.TypeLink, tar.TypeChar, tar.TypeFifo}
	names := []string{"a", "b", "a/b", "a/b/c", "b/a", "a/../b", "../a", "/b/b", ".", "a/c/d/e", "..", "../canary",
		".wh.a", ".wh.b", "a/.wh.b", "a/.wh..wh..opq", ".wh..wh..opq", "b/.wh.a", "a/b/../../.."}
	f.Add([]byte{1, 0, 0, 0, 2, 0, 2, 1, 2, 0, 4, 0, 3, 1, 2, 0, 12, 0})
	f.Add([]byte{2, 0, 6, 0, 2, 0, 3, 1, 11, 1, 0, 0, 0, 9, 0, 0, 13, 0, 1, 1, 0})
	f.Fuzz(func(t *testing.T, data []byte) {
		var hdrs []tar.Header
		for ; len(data) >= 3 && len(hdrs) < 200; data = data[3:] {
			hdrs = append(hdrs, tar.Header{
				Typeflag: types[int(data[0])%len(types)], Name: names[int(data[1])%len(names)], Linkname: names[int(data[2])%len(names)],
			})
		}
		dir, r, err := unpack(t, tarOf(t, nil, hdrs...), Limits{})
		if err != nil {
			return
		}
		checkCount(t, dir, r)
		flat := t.TempDir()
		if _, err := Flatten(flat, []string{dir}, Trusted); err != nil {
			t.Fatal(err)
		}
		if err := Same(flat, []string{dir}, Trusted); err != nil {
			t.Error(err)
		}
	})
}

// checkCount compares the account with a walk.
func checkCount(t *testing.T, dir string, r Result) {
	t.Helper()
	inodes := map[uint64]bool{}
	var bytes int64
	err := filepath.Walk(dir, func(path string, info os.FileInfo, err error) error {
		if err != nil || path == dir {
			return err
		}
		st := stat(t, path)
		if inodes[st.Ino] {
			return nil
		}
		inodes[st.Ino] = true
		switch {
		case info.IsDir():
			bytes += blockSize
		case info.Mode().IsRegular():
			bytes += onDisk(st.Size)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if r.Inodes != int64(len(inodes)) || r.Bytes != bytes {
		t.Errorf("counted %d inodes and %d bytes, there are %d and %d", r.Inodes, r.Bytes, len(inodes), bytes)
	}
}

// BenchmarkUnpack: 4,000 small files in 200 directories and one of 32 MB.
func BenchmarkUnpack(b *testing.B) {
	testutil.RequireRoot(b, "owners")
	contents := map[string]string{"big": strings.Repeat("0123456789abcdef", 2<<20)}
	var hdrs []tar.Header
	for i := range 200 {
		dir := "d" + strconv.Itoa(i) + "/"
		hdrs = append(hdrs, tar.Header{Name: dir, Typeflag: tar.TypeDir})
		for j := range 20 {
			name := dir + strconv.Itoa(j)
			hdrs = append(hdrs, tar.Header{Name: name})
			contents[name] = strings.Repeat(name, 400)
		}
	}
	plain := tarOf(b, contents, append(hdrs, tar.Header{Name: "big"})...)
	src := sourceOf(gzipped(b, plain), plain)
	b.SetBytes(int64(len(plain)))
	for b.Loop() {
		if _, err := Unpack(b.Context(), b.TempDir(), src, Limits{}); err != nil {
			b.Fatal(err)
		}
	}
}

// unpackStored unpacks a tar into a store, with its recipe, under its diffID.
func unpackStored(t *testing.T, s *Store, data []byte) Key {
	t.Helper()
	d, err := s.NewDraft(nil)
	if err != nil {
		t.Fatal(err)
	}
	src := sourceOf(data, data)
	src.Recipe = d.Recipe()
	r, err := Unpack(t.Context(), d.Path(), src, Limits{})
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Publish(DiffKey(src.DiffID), src.DiffID, r); err != nil {
		t.Fatal(err)
	}
	return DiffKey(src.DiffID)
}

// TestTarAgain makes tars again bit for bit, and notices every change.
func TestTarAgain(t *testing.T) {
	testutil.RequireRoot(t, "layers have owners")
	testutil.CheckLeaks(t)
	s, err := OpenStore(filepath.Join(t.TempDir(), "layers"), Trusted, slog.New(slog.DiscardHandler), func() {})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	long := strings.Repeat("0123456789", 20)
	contents := map[string]string{"a/big": strings.Repeat("x", 3*chunkSize+1), "a/empty": ""}
	good := tarOf(t, contents,
		tar.Header{Name: "./", Typeflag: tar.TypeDir}, tar.Header{Name: "a/", Typeflag: tar.TypeDir},
		tar.Header{Name: "a/big", Uid: 5, Mode: 0o4755}, tar.Header{Name: "a/empty"}, tar.Header{Name: "/abs/" + long},
		tar.Header{Name: "a/sym", Typeflag: tar.TypeSymlink, Linkname: "big"},
		tar.Header{Name: "a/hard", Typeflag: tar.TypeLink, Linkname: "a/big"},
		tar.Header{Name: "link", Typeflag: tar.TypeSymlink, Linkname: "a"}, tar.Header{Name: "link/through"},
		tar.Header{Name: "a/.wh.gone"}, tar.Header{Name: "x", PAXRecords: map[string]string{"SCHILY.xattr.user.a": "b"}})
	good = append(good, make([]byte, 8192)...) // what follows the end mark is part of it
	key := unpackStored(t, s, good)
	again := func() ([]byte, error) {
		r, err := s.Tar(key)
		if err != nil {
			return nil, err
		}
		defer r.Close()
		if r.Size != int64(len(good)) {
			t.Errorf("size %d, want %d", r.Size, len(good))
		}
		return io.ReadAll(r)
	}
	got, err := again()
	if err != nil || !bytes.Equal(got, good) {
		t.Fatalf("%d bytes, want %d: %v", len(got), len(good), err)
	}
	if err := s.Verify(key); err != nil {
		t.Error(err)
	}
	file := filepath.Join(s.Path(key), "a/big")
	restore := func() {
		if err := os.Chown(file, 5, 0); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(file, 0o755|os.ModeSetuid); err != nil {
			t.Fatal(err)
		}
		if err := s.Verify(key); err != nil {
			t.Fatal(err)
		}
	}
	for what, change := range map[string]func() error{
		"owner": func() error { return os.Chown(file, 6, 0) },
		"mode":  func() error { return os.Chmod(file, 0o700) },
	} {
		if err := change(); err != nil {
			t.Fatal(err)
		}
		if err := s.Verify(key); !errors.Is(err, ErrDigestMismatch) {
			t.Errorf("%s changed: %v", what, err)
		}
		restore()
	}
	for _, change := range []func() error{
		func() error { return os.WriteFile(file, []byte("y"+contents["a/big"][1:]), 0o755) },
		func() error { return os.Truncate(file, 10) },
		func() error { return os.Remove(file) },
		func() error { return os.Symlink("/etc/passwd", file) },
	} {
		if err := change(); err != nil {
			t.Fatal(err)
		}
		if _, err := again(); !errors.Is(err, ErrDigestMismatch) {
			t.Errorf("changed: %v", err)
		}
	}
	// A content that is in no file any more: no recipe, and nothing pretends.
	key = unpackStored(t, s, tarOf(t, map[string]string{}, tar.Header{Name: "f"}, tar.Header{Name: "f"}))
	if _, err := again(); !errors.Is(err, ErrNoRecipe) {
		t.Errorf("twice in the tar: %v", err)
	}
	if _, err := os.Stat(filepath.Join(s.root, string(key), recipeFile)); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}
