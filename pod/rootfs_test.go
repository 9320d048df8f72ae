package pod

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/strake-containers/strake/internal/testutil"
)

// layers makes directories out of "path: content" lines; "path -> target" is a
// link, "path !" a whiteout, "path/ *" an opaque directory.
func makeLayers(t *testing.T, layers ...[]string) []string {
	t.Helper()
	var dirs []string
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, lines := range layers {
		dir := t.TempDir()
		dirs = append(dirs, dir)
		for _, l := range lines {
			f := strings.SplitN(l, " ", 2)
			path := filepath.Join(dir, strings.TrimSuffix(f[0], ":"))
			must(os.MkdirAll(filepath.Dir(path), 0o755))
			switch {
			case f[1] == "!":
				must(syscall.Mknod(path, syscall.S_IFCHR, 0))
			case f[1] == "*":
				must(os.MkdirAll(path, 0o755))
				must(syscall.Setxattr(path, "trusted.overlay.opaque", []byte("y"), 0))
			case strings.HasPrefix(f[1], "-> "):
				must(os.Symlink(f[1][3:], path))
			default:
				must(os.WriteFile(path, []byte(f[1]), 0o644))
			}
		}
	}
	return dirs
}

func TestAccountsOfLayers(t *testing.T) {
	testutil.RequireRoot(t, "whiteouts are devices")
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("host's"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		layers [][]string // topmost first
		want   string
		err    string
	}{
		"one layer":            {[][]string{{"etc/passwd: a"}}, "a", ""},
		"topmost wins":         {[][]string{{"etc/passwd: b"}, {"etc/passwd: a"}}, "b", ""},
		"from below":           {[][]string{{"etc/group: g"}, {"etc/passwd: a"}}, "a", ""},
		"none":                 {[][]string{{"etc/group: g"}}, "", ""},
		"whited out":           {[][]string{{"etc/passwd !"}, {"etc/passwd: a"}}, "", ""},
		"directory whited out": {[][]string{{"etc !"}, {"etc/passwd: a"}}, "", ""},
		"opaque":               {[][]string{{"etc/ *"}, {"etc/passwd: a"}}, "", ""},
		"opaque and new":       {[][]string{{"etc/ *", "etc/passwd: b"}, {"etc/passwd: a"}}, "b", ""},
		"directory replaced":   {[][]string{{"etc: file"}, {"etc/passwd: a"}}, "", ""},
		"relative link":        {[][]string{{"etc/passwd -> ../usr/lib/pw"}, {"usr/lib/pw: a"}}, "a", ""},
		"absolute link":        {[][]string{{"etc/passwd -> /usr/lib/pw", "usr/lib/pw: a"}}, "a", ""},
		"linked directory":     {[][]string{{"etc -> usr/etc"}, {"usr/etc/passwd: a"}}, "a", ""},
		"link out":             {[][]string{{"etc/passwd -> " + secret}}, "", ""},
		"link up and out":      {[][]string{{"etc/passwd -> ../../../../../../../../.." + secret}}, "", ""},
		"linked directory out": {[][]string{{"etc -> " + filepath.Dir(secret)}}, "", ""},
		"loop":                 {[][]string{{"etc/passwd -> passwd"}}, "", "too many symbolic links"},
		"directory":            {[][]string{{"etc/passwd/x: a"}}, "", ""},
		"too large":            {[][]string{{"etc/passwd: " + strings.Repeat("x", maxAccounts+1)}}, "", "larger than"},
	} {
		t.Run(name, func(t *testing.T) {
			a, err := readAccounts(makeLayers(t, c.layers...))
			if c.err != "" {
				if err == nil || !strings.Contains(err.Error(), c.err) {
					t.Fatalf("error %v, want %q", err, c.err)
				}
				return
			}
			if err != nil || string(a.Passwd) != c.want {
				t.Errorf("%q, %v, want %q", a.Passwd, err, c.want)
			}
		})
	}
}

func TestSubPath(t *testing.T) {
	testutil.RequireRoot(t, "whiteouts are devices")
	l := makeLayers(t,
		[]string{"a/b/c: x", "link -> /etc", "gone !", "o/ *", "o/new: n"},
		[]string{"a/b/d: y", "a/f: z", "gone/x: 1", "o/old: o"})
	for sub, want := range map[string][]string{
		"": l, ".": l, "a/b": {l[0] + "/a/b", l[1] + "/a/b"}, "a/b/c": {l[0] + "/a/b/c"}, "a/f": {l[1] + "/a/f"},
		"o": {l[0] + "/o"},
	} {
		if got, err := subPath(l, sub); err != nil || !slices.Equal(got, want) {
			t.Errorf("%q: %q, %v, want %q", sub, got, err, want)
		}
	}
	for _, sub := range []string{"link", "link/passwd", "missing", "gone", "gone/x", "o/old", "a/b/c/d"} {
		if got, err := subPath(l, sub); !errors.Is(err, ErrInvalid) {
			t.Errorf("%q: %q, %v", sub, got, err)
		}
	}
}

func TestHostParsers(t *testing.T) {
	info := []byte(`22 1 0:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
23 22 0:2 / /mnt rw - tmpfs tmpfs rw
24 23 0:3 / /mnt/a\040b rw master:2 - tmpfs tmpfs rw
25 22 0:4 / /mnt rw shared:9 - tmpfs tmpfs rw
`)
	for path, want := range map[string]string{"/x": "/ shared:1", "/mnt/c": "/mnt shared:9", "/mnt/a b/c": "/mnt/a b master:2", "/mnty": "/ shared:1"} {
		point, tags := mountOf(info, path)
		if got := point + " " + tags; got != want {
			t.Errorf("%s: %q, want %q", path, got, want)
		}
	}
	dev := parseNetDev([]byte("Inter-| Receive\n face |bytes\n  lo: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n eth0:100 2 3 4 0 0 0 0 900 10 11 12 0 0 0 0\n"))
	if len(dev) != 1 || dev[0].Name != "eth0" || dev[0].RxBytes != 100 || dev[0].TxBytes != 900 || dev[0].TxDrops != 12 {
		t.Errorf("%+v", dev)
	}
	for _, c := range []struct {
		dev          uint64
		major, minor int64
	}{{0x0103, 1, 3}, {0x8800, 136, 0}, {0x10_0801_00, 0x801, 0x1_0000}} {
		if major, minor := deviceNumber(c.dev); major != c.major || minor != c.minor {
			t.Errorf("%#x: %d:%d, want %d:%d", c.dev, major, minor, c.major, c.minor)
		}
	}
}

func TestWalkUsage(t *testing.T) {
	dir := makeLayers(t, []string{"a/b: " + strings.Repeat("x", 8192), "c: y"})[0]
	if err := os.Link(filepath.Join(dir, "a/b"), filepath.Join(dir, "hard")); err != nil {
		t.Fatal(err)
	}
	if u := walkUsage(dir); u.Inodes != 4 || u.Bytes < 8192 || u.Bytes > 64<<10 {
		t.Errorf("%+v", u)
	}
}
