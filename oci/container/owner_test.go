package container

import (
	"os"
	"path/filepath"
	"testing"
)

// TestOwner: a container is the user's whose its state directory is, for State and for List.
func TestOwner(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, to give a directory away")
	}
	root := t.TempDir()
	for id, c := range map[string]struct {
		uid  int
		want string
	}{
		"ours":    {0, "root"},
		"known":   {65534, "nobody"},
		"unknown": {3999999999, "#3999999999"},
	} {
		box := &Container{id: id, dir: filepath.Join(root, id)}
		must(t, box.makeDir(root))
		must(t, box.save(&record{Version: recordVersion, ID: id, Bundle: "/b", Rootfs: "/b"}))
		must(t, os.Chown(box.dir, c.uid, -1))
		if s, err := box.State(); err != nil || s.Owner != c.want {
			t.Errorf("%s: owner %q, %v; want %q", id, s.Owner, err, c.want)
		}
	}
	list, err := List(root)
	must(t, err)
	owners := map[string]string{}
	for _, s := range list {
		owners[s.ID] = s.Owner
	}
	if len(owners) != 3 || owners["ours"] != "root" || owners["known"] != "nobody" || owners["unknown"] != "#3999999999" {
		t.Errorf("list: %v", owners)
	}
}

func TestNameIn(t *testing.T) {
	const accounts = "root:x:0:0:root:/root:/bin/sh\n#gone:x:7:7::/:\n+nis:x:7:7::/:\n:x:7:7::/:\nshort:x:7\nme:x:7:8::/:\nme2:x:7:8::/:\nlast:x:9:9"
	for uid, want := range map[string]string{"0": "root", "7": "me", "8": "", "9": "last", "": "", "07": ""} {
		if got := nameIn(accounts, uid); got != want {
			t.Errorf("%s: %q, want %q", uid, got, want)
		}
	}
}
