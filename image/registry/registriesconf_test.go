package registry

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	fake "github.com/strake-containers/strake/test/registry"
)

func writeConf(t *testing.T, files map[string]string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "registries.conf")
	if err := os.Mkdir(path+".d", 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range files {
		if err := os.WriteFile(path+name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return path
}

func TestRegistriesConf(t *testing.T) {
	path := writeConf(t, map[string]string{"": `
unqualified-search-registries = ["docker.io", "quay.io"]
[[registry]]
prefix = "example.com/team"
location = "internal.example:5000/x"
[[registry.mirror]]
location = "mirror.example/y"
pull-from-mirror = "digest-only"
[[registry.mirror]]
location = "127.0.0.1:5001"
insecure = true
pull-from-mirror = "tag-only"
[[registry]]
prefix = "*.bad.example"
blocked = true
[[registry]]
location = "replaced.example"
blocked = true
[aliases]
"debian" = "example.com/debian"
`, ".d/10-a.conf": `
[[registry]]
location = "replaced.example"
insecure = true
`, ".d/20-b.conf": `
[aliases]
"tool" = "quay.io/x/tool"
`, ".d/ignored": "["})
	c := New(Config{RegistriesConf: path})
	digest := "@sha256:" + strings.Repeat("0", 64)
	for ref, want := range map[string]string{
		"example.com/team/app:1":      "https://mirror.example/v2/y/app - https://127.0.0.1:5001/v2/app resolve http://127.0.0.1:5001/v2/app resolve https://internal.example:5000/v2/x/app resolve,upstream,push",
		"example.com/team/a" + digest: "https://mirror.example/v2/y/a - https://internal.example:5000/v2/x/a resolve,upstream,push",
		"example.com/teams/app:1":     "https://example.com/v2/teams/app resolve,upstream,push",
		"replaced.example/a:1":        "https://replaced.example/v2/a resolve,upstream,push http://replaced.example/v2/a resolve,upstream,push",
	} {
		parsed, err := ParseReference(ref)
		if err != nil {
			t.Fatal(err)
		}
		repo, err := c.Repository(parsed, nil)
		if err != nil {
			t.Fatal(err)
		}
		var have []string
		for _, h := range repo.hosts {
			var can []string
			for what, is := range map[string]bool{"resolve": h.resolve} {
				if is {
					can = append(can, what)
				}
			}
			if h.upstream {
				can = append(can, "upstream")
			}
			if h.push {
				can = append(can, "push")
			}
			if can == nil {
				can = []string{"-"}
			}
			have = append(have, h.base.String()+"/"+repo.path(h), strings.Join(can, ","))
		}
		if got := strings.Join(have, " "); got != want {
			t.Errorf("%s:\n%s, want\n%s", ref, got, want)
		}
		repo.Close()
	}
	if _, err := c.Repository(Reference{Domain: "x.bad.example", Path: "a", Tag: "1"}, nil); !errors.Is(err, ErrBlocked) {
		t.Errorf("blocked: %v", err)
	}
	for name, want := range map[string]string{
		"debian:12": "example.com/debian:12", "tool": "quay.io/x/tool", "localhost/x": "localhost/x", "a.b/c": "a.b/c",
	} {
		if got, err := c.Expand(name); err != nil || got != want {
			t.Errorf("%s: %s, %v", name, got, err)
		}
	}
	if _, err := c.Expand("unknown"); !errors.Is(err, ErrInvalidReference) || !strings.Contains(err.Error(), "docker.io, quay.io") {
		t.Errorf("ambiguous: %v", err)
	}
	for text, want := range map[string]string{
		"[[registry]]\nlocaton = 'x'":                                                             "unknown key",
		"additional-layer-store-auth-helper = 'x'":                                                "no additional layer stores",
		"[registries.search]\nregistries = ['x']":                                                 "version 1",
		"[[registry]]\nblocked = true":                                                            "neither prefix nor location",
		"[[registry]]\nprefix = 'a.*.b'\nlocation = 'x'":                                          "beginning of a host name",
		"[[registry]]\nlocation='x'\n[[registry]]\nprefix='x'":                                    "twice",
		"[[registry]]\nlocation='x'\n[[registry.mirror]]\nlocation='y'\npull-from-mirror='never'": "not one of all",
		"[[registry]]\nlocation='x'\n[[registry.mirror]]\nlocation='http://y'":                    "not HOST",
	} {
		c := New(Config{RegistriesConf: writeConf(t, map[string]string{"": text})})
		if _, err := c.Repository(Reference{Domain: "x", Path: "a", Tag: "1"}, nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %s", text, err, want)
		}
	}
	if got, err := New(Config{RegistriesConf: "/nonexistent/registries.conf"}).Expand("x"); err != nil || got != "x" {
		t.Errorf("no file: %s, %v", got, err)
	}
}

// A pull goes to the mirror under the path that it has there, and on to the
// location when the mirror has it not.
func TestRegistriesConfPull(t *testing.T) {
	mirror, own := startFake(t), startFake(t)
	if _, err := mirror.Add("cache/app", "1", fake.Image{}); err != nil {
		t.Fatal(err)
	}
	if _, err := own.Add("real/other", "1", fake.Image{}); err != nil {
		t.Fatal(err)
	}
	c := New(Config{RegistriesConf: writeConf(t, map[string]string{"": `
[[registry]]
prefix = "name.example"
location = "` + own.Addr + `/real"
[[registry.mirror]]
location = "` + mirror.Addr + `/cache"
`})})
	defer c.Close()
	for name, at := range map[string]*fake.Server{"app": mirror, "other": own} {
		repo, err := c.Repository(Reference{Domain: "name.example", Path: name, Tag: "1"}, nil)
		if err != nil {
			t.Fatal(err)
		}
		if d, err := repo.Resolve(t.Context()); err != nil || d.Digest == "" {
			t.Errorf("%s: %v, %v", name, d, err)
		}
		if q := at.Requests(); len(q) != 1 {
			t.Errorf("%s: %v", name, q)
		}
		mirror.Requests()
		repo.Close()
	}
}

func startFake(t *testing.T) *fake.Server {
	t.Helper()
	s, err := fake.New().Start("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}
